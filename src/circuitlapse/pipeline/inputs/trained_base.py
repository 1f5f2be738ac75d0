"""The base as files that a training starts from, wherever it lies."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from circuitlapse.config.experiment import Experiment
from circuitlapse.models.files.quiet import save_model
from circuitlapse.pipeline.inputs.base_files import base_directory, check_same_base
from circuitlapse.pipeline.inputs.user_checkpoints import base_model
from circuitlapse.records.store import Store


@contextmanager
def base_to_train(store: Store, experiment: Experiment) -> Iterator[Path | str]:
    """Give the base as a directory; a user's checkpoint of any kind is saved in a temporary one."""
    if not experiment.checkpoints:
        base = base_directory(experiment)
        check_same_base(base, store)
        yield base
        return
    model = base_model(store, experiment)
    with TemporaryDirectory() as directory:
        save_model(model.hf, model.tokenizer, Path(directory))
        yield Path(directory)
