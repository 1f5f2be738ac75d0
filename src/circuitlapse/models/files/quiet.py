"""Loading and saving models without the output of transformers."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from transformers.utils import logging


@contextmanager
def quiet() -> Iterator[None]:
    """Silence transformers' progress bars, advice and warnings; exceptions still propagate."""
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def save_model(model: Any, tokenizer: Any, directory: Path) -> None:
    """Save a ``transformers`` model with its tokenizer."""
    with quiet():
        model.save_pretrained(directory)
        tokenizer.save_pretrained(directory)
