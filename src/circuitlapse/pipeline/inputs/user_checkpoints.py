"""Checkpoints that the user brought: looked up, checked before any work, and loaded one at a time.

They are not copied into the run, which records where each one is and the hash of its files, and
refuses to go on with others.

A run's checkpoints as models, wherever they lie.
"""

import json
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

import torch

from circuitlapse.config.base import Base
from circuitlapse.config.experiment import Experiment
from circuitlapse.config.finetune import ONLY, TrainingRun
from circuitlapse.errors import CircuitlapseError
from circuitlapse.models.engine.model import Model
from circuitlapse.models.files.checkpoints import absolute, find_checkpoints
from circuitlapse.models.files.files import Files, files_of
from circuitlapse.models.files.load import load_model
from circuitlapse.models.files.merge import Tensors, build_model, read_tensors
from circuitlapse.models.files.reference import Reference, reference
from circuitlapse.models.files.validate_checkpoint import validate_checkpoint
from circuitlapse.pipeline.inputs.base_files import base_directory, check_same_base
from circuitlapse.pipeline.job import Job
from circuitlapse.records import layout
from circuitlapse.records.store import Record, Store

_TRAINING_RUN = TrainingRun(ONLY, 0).name
_OTHER = "Bring it back as it was, or start a new run with another --out"


def look_up(experiment: Experiment) -> Experiment:
    """Return the experiment with the step and place of every checkpoint, the base being step 0.

    Raises:
        CircuitlapseError: If a name leads nowhere or has no step, two have the same one, or there
            is nothing but the base.
    """
    found = find_checkpoints(experiment.checkpoints)
    if experiment.base.path is not None:
        base = absolute(experiment.base.source)
        if found.get(0, base) != base:
            _check_same(files_of(found[0]), files_of(base))
    else:
        base = found.pop(min(found))
    found = {0: base, **{step: name for step, name in found.items() if step}}
    if len(found) == 1:
        raise CircuitlapseError(
            "there is nothing to compare: no checkpoint besides the base",
            got=base,
            fix="Name at least two checkpoints, or a base and one",
        )
    return experiment.model_copy(
        update={
            "checkpoints": found,
            "base": experiment.base.model_copy(update={"path": base}),
        }
    )


def _check_same(first: Files, base: Files) -> None:
    """Refuse a checkpoint of step 0 whose weights are not the base's."""
    model = reference(base)
    validate_checkpoint(first, model)
    wanted = dict(base.tensors())
    expected = {name: wanted[each] for name, each in model.named(wanted).items()}
    same = first.kind != "adapter"
    ours = {each: name for name, each in model.named(first.shapes()).items()} if same else {}
    for each, tensor in first.tensors() if same else ():
        there = expected.get(ours.get(each, ""))
        if there is not None:
            same &= torch.equal(tensor[: len(there)].float(), there.float())
    if not same:
        raise CircuitlapseError(
            "the checkpoint of step 0 is not the base",
            got=f"{first.name} and {base.name}",
            fix="Leave one of them out: step 0 is the base",
        )


def examined(experiment: Experiment) -> dict[int, dict[str, Any]]:
    """Check every checkpoint against the base, and say what each is.

    Returns:
        By step: its ``source``, the ``kind`` and ``sha256`` of its files, and ``notes`` that the
        user should read.

    Raises:
        CircuitlapseError: Naming the first that is broken or no relative of the base.
    """
    sources = cast(dict[int, str], experiment.checkpoints)  # looked up before
    base = reference(files_of(sources[0]))
    found = {}
    for step, source in sources.items():
        files = base.files if step == 0 else files_of(source)
        notes = validate_checkpoint(files, base)
        found[step] = {
            "source": source,
            "kind": files.kind,
            "sha256": files.sha256(),
            "notes": notes,
        }
    return found


def base_of(base: Base, identity: Mapping[str, Any]) -> dict[str, Any]:
    """Say what the base is, as :func:`circuitlapse.pipeline.inputs.base.base_identity` does."""
    return {"path": base.path, "sha256": identity["sha256"], "seed": base.seed}


def check_unchanged(jobs: list[Job], store: Store) -> None:
    """Refuse to go on with other checkpoints than the run began with.

    Raises:
        CircuitlapseError: Naming the checkpoint whose files differ.
    """
    for job in jobs:
        if job.kind == "checkpoint" and store.record(job.outputs[0]):
            before = json.loads(store.read(job.outputs[0]))
            if before["sha256"] != job.params["identity"]["sha256"]:
                raise _changed(before["source"])


def _changed(source: str) -> CircuitlapseError:
    return CircuitlapseError(
        "this checkpoint is not the one that the run began with: its files were changed",
        got=source,
        fix=_OTHER,
    )


class CheckpointLoader:
    """The checkpoint at hand, and the next one, which a thread reads meanwhile.

    Jobs end in no fixed order, so the next checkpoint is read ahead only where it is recorded. What
    was read ahead is used only if the reading succeeded and the record is still the same.

    There are never more than two checkpoints' weights in memory: before the next model is built,
    the one at hand is let go.
    """

    def __init__(self, store: Store, experiment: Experiment) -> None:
        """Name the run; nothing is loaded yet."""
        self.root = store.root
        self._store, self._device = store, experiment.compute.device
        self._steps = experiment.steps()
        self._tasks = (experiment.tasks.old, experiment.tasks.new)
        self._reference: Reference | None = None
        self._thread = ThreadPoolExecutor(1, "checkpoint")
        self._at_hand: tuple[int, Model] | None = None
        self._next: tuple[int, Record, Future[tuple[Files, Tensors]]] | None = None

    def model(self, step: int) -> Model:
        """Return the checkpoint of a step, and begin to read the one after it.

        Raises:
            CircuitlapseError: If it was changed since the run began, or is refused.
        """
        if self._at_hand is not None and self._at_hand[0] == step:
            return self._at_hand[1]
        self._at_hand = None
        model = self._build(*self._taken(step))
        self._at_hand = step, model
        after = next((each for each in self._steps if each > step), None)
        if after is not None and not self._measured(after):
            recorded = self._recorded(after)
            if recorded is not None:
                self._next = after, recorded, self._thread.submit(self._read, after)
        return model

    def only(self, step: int) -> Model:
        """Return the checkpoint of a step without keeping it."""
        return self._build(*self._read(step))

    def clear(self) -> None:
        """Let go of everything."""
        if self._next is not None and not self._next[2].cancel():
            self._next[2].exception()  # being read: wait for its end
        self._at_hand = self._next = None

    def close(self) -> None:
        """Let go of everything and end the thread."""
        self.clear()
        self._thread.shutdown()

    def _taken(self, step: int) -> tuple[Files, Tensors]:
        if self._next is not None and self._next[:2] == (step, self._recorded(step)):
            reading, self._next = self._next[2], None
            if reading.exception() is None:
                return reading.result()
            del reading  # and with it what was read before it failed
        self.clear()
        return self._read(step)

    def _recorded(self, step: int) -> Record | None:
        return self._store.record(layout.checkpoint_record(_TRAINING_RUN, step))

    def _measured(self, step: int) -> bool:
        names = (layout.scores(_TRAINING_RUN, step, task) for task in self._tasks)
        return all(self._store.record(name) for name in names)

    def _read(self, step: int) -> tuple[Files, Tensors]:
        files = self._unchanged(step)
        return files, read_tensors(files)

    def _unchanged(self, step: int) -> Files:
        document = self._store.read(layout.checkpoint_record(_TRAINING_RUN, step))
        known = json.loads(document)
        files = files_of(known["source"])
        if files.sha256() != known["sha256"]:
            raise _changed(known["source"])
        return files

    def _build(self, files: Files, tensors: Tensors) -> Model:
        if self._reference is None:
            self._reference = reference(self._unchanged(0))
        return build_model(files, tensors, self._reference, self._device)


_shelf: CheckpointLoader | None = None


def checkpoint_loader(store: Store, experiment: Experiment) -> CheckpointLoader:
    """The run's checkpoints in this process, which a job leaves for the next."""
    global _shelf
    if _shelf is None or _shelf.root != store.root:
        close_loader()
        _shelf = CheckpointLoader(store, experiment)
    return _shelf


def close_loader() -> None:
    """Let this process's checkpoints go."""
    global _shelf
    if _shelf is not None:
        _shelf.close()
    _shelf = None


def load_checkpoint(root: Path, experiment: Experiment, step: int, device: str) -> Model:
    """Load one of a run's checkpoints, after checking that it was not changed.

    Raises:
        CircuitlapseError: If it was, or is no longer there.
    """
    compute = experiment.compute.model_copy(update={"device": device})
    alone = CheckpointLoader(Store(root), experiment.model_copy(update={"compute": compute}))
    try:
        return alone.only(step)
    finally:
        alone.close()


def load(store: Store, experiment: Experiment, training_run: str, step: int) -> Model:
    """Load one checkpoint."""
    if experiment.checkpoints:
        return checkpoint_loader(store, experiment).model(step)
    directory = store.path(layout.checkpoint(training_run, step))
    return load_model(directory, experiment.compute.device)


def base_model(store: Store, experiment: Experiment) -> Model:
    """The base; not a fine-tune's first checkpoint, which may be lost or still be waited for."""
    if experiment.checkpoints:
        return checkpoint_loader(store, experiment).model(0)
    base = base_directory(experiment)
    check_same_base(base, store)
    return load_model(base, experiment.compute.device)


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
    own = checkpoint_loader(store, experiment)
    own.clear()
    return {name: own.only(step) for name, (_, step) in places.items()}
