"""A run's checkpoints as models, wherever they lie."""

from collections.abc import Mapping

from circuitlapse.config import Experiment
from circuitlapse.models import Model, load_model
from circuitlapse.pipeline import plan
from circuitlapse.pipeline.foreign import shelf
from circuitlapse.records import Store


def load(store: Store, experiment: Experiment, arm: str, step: int) -> Model:
    """Load one checkpoint."""
    if experiment.checkpoints:
        return shelf(store, experiment).model(step)
    directory = store.path(plan.checkpoint(arm, step))
    return load_model(directory, experiment.compute.device)


def load_several(
    store: Store, experiment: Experiment, places: Mapping[str, tuple[str, int]]
) -> dict[str, Model]:
    """Load checkpoints that are needed together.

    Args:
        store: The run's artifacts.
        experiment: What is run.
        places: Fine-tune and step of each, by what it is to be called.
    """
    if not experiment.checkpoints:
        return {name: load(store, experiment, *place) for name, place in places.items()}
    own = shelf(store, experiment)
    own.clear()
    return {name: own.only(step) for name, (_, step) in places.items()}
