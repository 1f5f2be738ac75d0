"""Each training diagnostic, on a training that really shows it."""

from dataclasses import replace

import polars as pl
import pytest
import torch
from rich.console import Console
from transformers import AutoModelForCausalLM, AutoTokenizer

import circuitlapse as cl
from circuitlapse.cli.summary import flag_lines, print_summary
from circuitlapse.config.finetune import Finetune
from circuitlapse.config.toml import to_toml
from circuitlapse.errors import CircuitlapseError
from circuitlapse.pipeline.job import Progress
from circuitlapse.pipeline.plan.plan import plan_jobs
from circuitlapse.pipeline.run.execute import execute, work
from circuitlapse.records.figures import Figures, Split, flagged
from circuitlapse.records.store import Store
from circuitlapse.tasks.registry import get_task
from circuitlapse.training.examples import encode
from circuitlapse.training.finetune import finetune
from circuitlapse.training.training_eval import EvaluationSet, evaluate
from command_line import command
from small_run import needed, small_experiment

pytestmark = pytest.mark.usefixtures("unchecked")


def figures(step=8, split: Split = "validation", **values) -> Figures:
    """Figures with an interval of .05 to each side."""
    found = {"loss": 3.0, "accuracy": 0.5, "end_of_text": 0.0, **values}
    spread = {
        f"{name}{end}": value + shift
        for name, value in found.items()
        for end, shift in (("", 0), ("_low", -0.05), ("_high", 0.05))
    }
    return Figures(step, split, "ioi3", 64, **spread)


@pytest.mark.parametrize(
    ("split", "base", "tuned", "flags"),
    [
        ("validation", {}, {"end_of_text": 0.6, "loss": 1.0}, "end_of_text"),
        ("validation", {}, {"end_of_text": 0.54, "loss": 1.0}, ""),
        ("validation", {}, {}, "not_learning"),
        ("validation", {}, {"loss": 2.89}, ""),
        ("validation", {}, {"loss": 2.91}, "not_learning"),
        ("validation", {}, {"accuracy": 0.61}, ""),
        ("validation", {}, {"loss": 9.0, "end_of_text": 1.0}, "end_of_text,not_learning"),
        ("old_task", {"accuracy": 0.95}, {"accuracy": 0.66}, "old_task_lost"),
        ("old_task", {"accuracy": 0.95}, {"accuracy": 0.68}, ""),
        ("old_task", {"accuracy": 0.0}, {"accuracy": 0.0}, ""),
    ],
)
def test_flags_at_the_last_step(split, base, tuned, flags):
    start, end = figures(0, split, **base), figures(8, split, **tuned)
    assert [flag for _, flag in flagged([start, end])] == ["", flags]


def test_overfitting_is_a_gap_between_prompts_that_were_and_were_not_trained_on():
    start = [figures(0, "train"), figures(0)]
    for gap, flags in ((0.11, "overfit"), (0.09, "")):
        end = [figures(8, "train", accuracy=0.5 + gap), figures(8, loss=1.0)]
        assert [flag for _, flag in flagged([*start, *end])][2:] == [flags, ""]


def test_not_learning_is_said_at_the_last_step_only():
    history = [figures(step) for step in (0, 4, 8)]
    assert [flag for _, flag in flagged(history)] == ["", "", "not_learning"]


def test_figures_are_those_of_one_prompt_at_a_time(tiny_model):
    """A twin of ``look`` without batches, padding or masks."""
    model = AutoModelForCausalLM.from_pretrained(tiny_model).train()
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    items = get_task("ioi2").items("validation", 20)
    items[3] = items[3].model_copy(update={"answer": " Mary and Paul"})
    state = torch.random.get_rng_state()
    found = evaluate(model, tokenizer, EvaluationSet("validation", "ioi2", items), 4)
    assert model.training
    assert torch.equal(state, torch.random.get_rng_state())
    losses = []
    for item, example in zip(items, encode(items, tokenizer), strict=True):
        start = len(tokenizer(item.prompt)["input_ids"])
        with torch.no_grad():
            logits = model(torch.tensor([example["input_ids"]])).logits[0]
        answer = example["input_ids"][start:]
        scored = logits[start - 1 : -1].log_softmax(-1)
        losses.append(-sum(float(scored[i, t]) for i, t in enumerate(answer)) / len(answer))
    assert found.loss == pytest.approx(sum(losses) / len(losses), abs=1e-5)
    assert found.loss_low < found.loss < found.loss_high
    assert (found.step, found.n, found.accuracy) == (4, 20, 0.0)


def _tune(base, items, held_out, **recipe):
    notices: list[str] = []
    settings = {"steps": 30, "save_every": 10, "batch_size": 8, "learning_rate": 3e-2, **recipe}
    found = finetune(
        base,
        items,
        lambda *a: None,
        Finetune.model_validate(settings),
        seed=0,
        device="cpu",
        evaluated=[
            EvaluationSet("train", "ioi3", items[:32]),
            EvaluationSet("validation", "ioi3", held_out),
        ],
        notice=notices.append,
    )
    return flagged(found), notices


def test_a_collapse_to_the_end_of_text_is_named_while_it_happens(tiny_model):
    """Answers that are the end of text: what a trainer that appends it makes of short answers."""
    task = get_task("ioi3")
    stops = [
        item.model_copy(update={"answer": "<|endoftext|>"}) for item in task.items("train", 240)
    ]
    found, notices = _tune(tiny_model, stops, task.items("validation", 32))
    validation = [(each, flags) for each, flags in found if each.split == "validation"]
    assert validation[0][0].end_of_text < 0.1
    assert validation[-1][0].end_of_text > 0.9
    assert "end_of_text" in validation[-1][1]
    (notice,) = [text for text in notices if "end-of-text" in text]
    assert notice.startswith("step 10: collapse to the end-of-text token: it follows ")


def test_overfitting_a_handful_of_prompts_is_named(tiny_model):
    task = get_task("ioi3")
    items = task.items("train", 8)
    found, notices = _tune(tiny_model, items, task.items("validation", 32), steps=60)
    last = {each.split: (each, flags) for each, flags in found if each.step == 60}
    assert last["train"][0].accuracy == 1.0
    assert "overfit" in last["train"][1]
    assert any("overfitting: 100% of 8 prompts trained on" in text for text in notices)


def test_a_training_that_blows_up_is_stopped(tiny_model):
    task = get_task("ioi3")
    with pytest.raises(
        CircuitlapseError, match=r"training diverged: at step 10 .*Lower finetune\.learning"
    ):
        _tune(
            tiny_model,
            task.items("train", 240),
            task.items("validation", 32),
            optimizer="sgd",
            learning_rate=1e30,
            trainer={"max_grad_norm": 0.0},
        )


def test_a_fine_tune_in_a_run_prints_its_flags_and_keeps_them(tiny_model, tmp_path):
    notes: list[str] = []

    def listen(event: Progress) -> None:
        if event.kind == "note":
            notes.append(event.text)

    experiment = small_experiment(
        tiny_model, learning_rate=1e-6, replay_fraction=0.25, placebo=False
    )
    jobs, store = needed(plan_jobs(experiment, {"path": "x"}), "table training"), Store(tmp_path)
    execute(jobs, jobs, store, experiment, work, listen)
    (note,) = notes
    assert note.startswith("fine-tune seed-0: step 4: ioi3 was not learnt")
    table = pl.read_parquet(store.read(jobs[-1].outputs[0]))
    assert table.select("step", "split").rows() == [
        (step, split) for step in (0, 2, 4) for split in ("train", "validation", "old_task")
    ]
    assert table.filter(pl.col("flags") != "").select("step", "split", "flags").rows() == [
        (4, "validation", "not_learning")
    ]
    # 24 of the 32 training prompts are of the new task, and those alone are looked at.
    assert set(table.filter(pl.col("split") == "train")["n"]) == {24}
    (line,) = flag_lines(table, several=False)
    assert line.startswith(
        "not_learning (seed 0, step 4): held-out loss and accuracy did not improve"
    )


def test_lines_say_since_when_and_how_often():
    rows = [
        {"recipe": "lr-0.1", "finetune_seed": 1, "step": step, "flags": flags}
        for step, flags in ((0, ""), (4, "overfit"), (6, ""), (8, "end_of_text,overfit"))
    ]
    assert [line.split(":")[0] for line in flag_lines(pl.DataFrame(rows), several=True)] == [
        "overfit (lr-0.1, seed 1, step 4 and 1 later)",
        "end_of_text (lr-0.1, seed 1, step 8)",
    ]


def test_figures_that_end_early_are_those_of_a_training_that_diverged():
    history = [figures(step, split) for step in (0, 8) for split in ("train", "validation")]
    assert [flag for _, flag in flagged(history, 16)] == ["", "", "diverged", "diverged"]
    assert [flag for _, flag in flagged(history, 8)][2] == ""


@pytest.mark.slow
def test_a_recipe_that_diverges_is_named_and_the_others_are_finished(tiny_model, tmp_path):
    """One of two recipes: its checkpoints, figures and name are there, the other's everything."""
    experiment = small_experiment(
        tiny_model,
        optimizer="sgd",
        trainer={"max_grad_norm": 0.0},
        placebo=False,
        grid={"learning_rate": [1e-3, 1e30]},
        seeds=[3],
    )
    (tmp_path / "experiment.toml").write_text(to_toml(experiment))
    out = tmp_path / "run"
    done = command("run", tmp_path / "experiment.toml", "--out", out)
    assert done.returncode == 2, done.stderr
    said = done.stderr
    assert "1 fine-tune(s) failed:\n  fine-tune lr-1e+30-seed-3: the training diverged" in said
    assert "The others are finished. Run the same command again to retry the failed ones" in said
    run = cl.load_run(out)
    assert list(run.recipes) == ["lr-0.001"]
    assert run.recipes["lr-0.001"].verdict.label
    assert run.recipes["lr-0.001"].report.exists()
    assert set(run.table("nodes")["recipe"]) == {"lr-0.001"}
    flags = run.table("training").filter(recipe="lr-1e+30")["flags"]
    assert all("diverged" in flag for flag in flags.tail(3))
    assert any(
        "diverged (lr-1e+30, seed 3" in line
        for line in flag_lines(run.table("training"), several=True)
    )
    print_summary(run, Console(width=120))
    # Started again, what was lost is tried again and nothing else that takes long.
    started: list[str] = []
    with pytest.raises(cl.CircuitlapseError, match="1 fine-tune"):
        cl.run_experiment(
            experiment, out, lambda e: started.append(e.job) if e.kind == "started" else None
        )
    kinds = {job.split()[0] for job in started}
    assert started[0] == "fine-tune lr-1e+30-seed-3"
    assert kinds == {"fine-tune", "table", "verdict", "provenance"}


def test_flags_do_not_depend_on_the_order_of_splits():
    history = [figures(step, split) for step in (0, 8) for split in ("train", "validation")]
    history[2] = replace(history[2], accuracy_low=0.9)
    flags = {each.split: flag for each, flag in flagged(history) if each.step == 8}
    assert flags == {each.split: flag for each, flag in flagged(history[::-1]) if each.step == 8}
