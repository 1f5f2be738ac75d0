"""Which families of models a test takes."""

from collections.abc import Callable

import pytest

from twins_engine import FAMILIES

Decorator = Callable[[Callable[..., None]], Callable[..., None]]

# Shapes do not depend on the family, and are checked in GPT-2 alone. Where models are loaded and
# run (test_families.py, test_load.py) they are checked in all.
checked_in_gpt2 = pytest.mark.usefixtures("_checked_in_gpt2")


def parametrize(*families: str) -> Decorator:
    """Give a test these families."""
    return lambda test: checked_in_gpt2(pytest.mark.parametrize("family", families)(test))


every_family = parametrize(*FAMILIES)
# For what takes the engine as it is: biases and learned positions, gates and shared keys, and
# parallel blocks.
three_families = parametrize("gpt2", "llama", "pythia")
