"""The jobs that count bits: each pass is kept, and one that cannot be measured says why."""

from collections.abc import Sequence
from pathlib import Path

import pytest

import circuitlapse as cl
from circuitlapse.analyses.analysis import RunData
from circuitlapse.analyses.carriers import BITS
from circuitlapse.config.finetune import Finetune
from circuitlapse.errors import CircuitlapseError
from circuitlapse.pipeline.measure import bits as module
from circuitlapse.pipeline.run.execute import work
from circuitlapse.pipeline.run.run import jobs_of, looked_up
from circuitlapse.records.bits_ratio import BITS_BATCH, BitsPass, BitsPasses
from circuitlapse.records.items import Item, write_items
from circuitlapse.records.store import Store
from small_run import needed, small_experiment


def with_bits(base: Path, **finetune) -> cl.Experiment:
    small = small_experiment(base, **finetune)
    compare = small.compare.model_copy(update={"bits": True})
    return small.model_copy(update={"compare": compare})


def do(out: Path, experiment: cl.Experiment, wanted: str, trained: Sequence[Item] = ()) -> Store:
    """Do a job and what it needs, as far as it is not there, with these training prompts."""
    experiment, store = looked_up(experiment), Store(out)
    for job in needed(jobs_of(experiment), wanted):
        if trained and job.name == "prompts finetune train":
            with store.write(job.outputs[0], job.key) as path:
                write_items(trained, path)
        elif any(store.state(output, job.key) != "ready" for output in job.outputs):
            work(job, store, experiment, lambda done, of, note="": None)
    return store


def passes(store: Store) -> BitsPasses:
    return BitsPasses.model_validate_json(store.read("bits/default.json"))


class Counted:
    """In place of ``bits_pass``: passes whose ratio is near the mark, and who asked for them."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, str]] = []
        self.recipe: Finetune | None = None
        self.left = 100

    def __call__(self, base, new, recipe, *, order, replay, **settings) -> BitsPass:
        self.left -= 1
        if not self.left:
            raise KeyboardInterrupt
        self.asked.append((order, new[0].answer))
        self.recipe = recipe
        assert len(replay) + len(new) == 32
        of_new = 60 if order % 2 else 20  # orders that disagree, about .6 of the reference's
        first = of_new if len(self.asked) % 2 else 60
        return BitsPass(order=order, curve=(first / 8 + 0.15, *[0.0] * 8), counts=(8,) * 9)


def test_an_interrupted_job_trains_no_pass_twice(tiny_model: Path, tmp_path: Path, monkeypatch):
    counted = Counted()
    monkeypatch.setattr(module, "bits_pass", counted)
    experiment = with_bits(tiny_model, steps=1, batch_size=32, save_every=1, replay_fraction=0.25)
    counted.left = 2  # in the middle of the first order
    with pytest.raises(KeyboardInterrupt):
        do(tmp_path, experiment, "bits default")
    counted.left = 11  # and in an order that was added because the ratio is not settled
    with pytest.raises(KeyboardInterrupt):
        do(tmp_path, experiment, "bits default")
    counted.left = 100
    found = passes(do(tmp_path, experiment, "bits default"))
    assert [each.order for each in found.new] == [*range(9)]
    assert [order for order, _ in counted.asked] == sorted([*range(9), *range(9)])
    assert counted.recipe is not None
    assert counted.recipe.batch_size == BITS_BATCH
    assert counted.recipe.steps == 4, "as many prompts as the fine-tune"


def test_too_few_prompts_are_a_reason_and_no_failed_run(tiny_model: Path, tmp_path: Path):
    experiment = with_bits(tiny_model)
    found = passes(do(tmp_path, experiment, "bits default"))
    assert found.new == ()
    assert "needs at least 8 batches (got '4 batches of 8, from 32 prompts" in found.not_reported
    assert found.ratio().not_reported == found.not_reported


def test_a_task_without_a_reference_says_so(tiny_model: Path, tmp_path: Path, monkeypatch):
    def none(items):
        raise CircuitlapseError("there is no reference task", fix="Use other prompts")

    task = cl.get_task("ioi3")
    monkeypatch.setattr(type(task), "reference_items", lambda self, items: none(items))
    monkeypatch.setattr(module, "bits_pass", Counted())
    experiment = with_bits(tiny_model)
    found = passes(do(tmp_path, experiment, "bits default"))
    assert found.not_reported == "there is no reference task. Use other prompts"


def test_a_users_models_are_trained_with_a_recipe_of_their_width(
    tiny_model: Path, tmp_path: Path, monkeypatch
):
    asked = {}

    def watched(base, new, recipe, **settings):
        asked.update(rate=recipe.learning_rate, prompts=len(new), base=base)
        return BitsPass(order=settings["order"], curve=(1.0,), counts=(8,))

    monkeypatch.setattr(module, "bits_pass", watched)
    described = {
        "checkpoints": {0: str(tiny_model), 1: str(tiny_model)},
        "base": {"path": str(tiny_model)},
        "compute": {"workers": 1, "device": "cpu"},
    }
    items = cl.get_task("ioi3").items("train", 8)
    store = do(tmp_path, cl.Experiment.model_validate(described), "bits default order 0", items)
    found = BitsPasses.model_validate_json(store.read("bits/default/new-0.json"))
    assert len(found.new) == 1
    assert asked["prompts"] == len(items)
    assert asked["rate"] == pytest.approx(1e-3 * 64 / cl.load_model(tiny_model).decoder.d_model)


def test_every_part_of_the_table_has_a_value_or_a_reason(tiny_model: Path, tmp_path: Path):
    experiment = with_bits(tiny_model, steps=16, save_every=16)
    store = do(tmp_path, experiment, "table bits")
    rows = RunData(store, experiment).table("bits", experiment.training_runs()[0])
    assert [row["which"] for row in rows] == [
        "new",
        "reference",
        "ratio",
        "right_before",
        "gain_on_right",
    ]
    for row in rows:
        assert (row["value"] is None) == bool(row["not_reported"]), row["which"]
        assert BITS.whole(row)["which"] == row["which"], "the judge reads every row"
    new, reference, ratio, right, _ = rows
    assert new["n"] == reference["n"] == ratio["n"] == 1, "one order shows it is not learned"
    assert new["bound"] is True
    assert new["learned"] is False
    assert right["n"] <= experiment.measure.prompts


def test_without_bits_there_is_a_reason_and_no_training(tiny_model: Path, tmp_path: Path):
    experiment = small_experiment(tiny_model)
    assert not any(job.kind.startswith("bits") for job in jobs_of(experiment))
    store = do(tmp_path, experiment, "table bits")
    rows = RunData(store, experiment).table("bits", experiment.training_runs()[0])
    reasons = [row["not_reported"] for row in rows[:3]]
    assert reasons == ["short trainings were left out (compare.bits = false)"] * 3
