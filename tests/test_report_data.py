"""What the page's script gets, against the tables that it comes from."""

from dataclasses import replace
from itertools import accumulate
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from circuitlapse.config.finetune import Finetune
from circuitlapse.report.series import checkpoint_details
from circuitlapse.report.series.grid import characters
from circuitlapse.report.series.marks import KINDS, Frame, edges_of
from circuitlapse.report.series.payload import payload
from circuitlapse.report.series.recipes import recipes
from circuitlapse.report.series.run_records import RunRecords, read_run
from report_synthetic import HEADS, LAYERS, write_run


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> RunRecords:
    return read_run(write_run(tmp_path_factory.mktemp("data") / "run", seeds=(0, 1), steps=16))


@pytest.fixture(scope="module")
def data(records: RunRecords) -> dict:
    return payload(records)


def _row(frame: pl.DataFrame, **wanted: object) -> dict:
    conditions = [pl.col(name) == value for name, value in wanted.items()]
    return frame.row(by_predicate=pl.all_horizontal(conditions), named=True)


def test_readings_stand_where_the_script_looks_for_them(records: RunRecords, data: dict):
    frame = records.tables["readings"].filter(pl.col("finetune_seed") == 1)
    at = {"step": 8, "task": "ioi3"}  # the second of three steps
    row = _row(frame, **at, reading="logit_lens", component="resid3")
    width = len(data["points"])
    assert width == LAYERS + 1
    found = [column[width + 3] for column in data["lens"]["1/ioi3"]]
    assert found == pytest.approx([row[f"value{end}"] for end in ("", "_low", "_high")], rel=1e-3)
    row = _row(frame, **at, reading="direct", component="a2.h3")
    place = len(data["components"]) + data["components"].index("a2.h3")
    assert data["direct"]["1/ioi3"][0][place] == pytest.approx(row["value"], rel=1e-3)
    row = _row(frame, **at, reading="attention", positions="END>S2", component="a2.h3")
    heads = [node["id"] for node in data["nodes"] if node["head"] >= 0]
    profile = data["profiles"]["1/ioi3/attention/END>S2"]
    letter = profile["values"][len(heads) + heads.index("a2.h3")]
    assert (ord(letter) - 0x23) / 63 == pytest.approx(row["value"], abs=0.5 / 63 + 1e-9)


def test_patches_and_edges_stand_where_the_script_looks_for_them(records: RunRecords, data: dict):
    frame = records.tables["patching"].filter(pl.col("finetune_seed") == 0)
    at = {"step": records.experiment.steps()[-1], "task": "ioi2"}
    row = _row(frame, **at, site="attn_out", layer=2, position="S_again")
    names = data["positions"]
    value, half = data["patching"]["0/ioi2/attn_out"]
    place = LAYERS * len(names) + 2 * len(names) + names.index("S_again")
    assert value[place] == pytest.approx(row["effect"], rel=1e-3)
    assert half[place] == pytest.approx(row["effect"] - row["effect_low"], rel=1e-3)
    row = _row(frame, **at, site="head_v", layer=1, head=5)
    place = LAYERS * HEADS + HEADS + 5
    assert data["patching"]["0/ioi2/head_v"][0][place] == pytest.approx(row["effect"], rel=1e-3)
    edges = records.tables["edges"].filter(
        (pl.col("finetune_seed") == 0)
        & (pl.col("step") == 16)
        & (pl.col("task") == "ioi2")
        & (pl.col("counterfactual") == "subject")
    )
    distances, scores = data["edges"]["series"]["0/ioi2/subject"][2]
    assert len(distances) == edges.height
    for place, score in zip(accumulate(distances), scores, strict=True):
        writer, node, slot, _ = data["edges"]["list"][place]
        row = _row(edges, writer=writer, reader=f"{node}<{slot}>" if slot else node)
        assert score == pytest.approx(row["score"], rel=1e-2)


def test_a_map_draws_the_strongest_edges_and_differences_of_both_tasks(data: dict):
    def drawn(kind: str, edges: int = 200) -> list[tuple[int, float]]:
        return edges_of(kind, data, Frame(2, 0, "subject", edges))

    old, new, difference = (drawn(kind) for kind in KINDS)
    for found in (old, new, difference):
        sizes = [abs(score) for _, score in found]
        assert sizes == sorted(sizes, reverse=True)
    assert drawn("old", 7) == old[:7]
    both = {edge: score - dict(old)[edge] for edge, score in new if edge in dict(old)}
    assert dict(difference) == pytest.approx(both, rel=1e-2, abs=1e-9)
    assert edges_of("difference", data, Frame(2, 0, "s1_to_io")) == []  # of one task only


def test_key_value_heads_that_several_heads_share_are_repeated(tmp_path: Path):
    records = read_run(write_run(tmp_path / "run", steps=8))
    frame = records.tables["patching"]
    shared = frame.filter((pl.col("site") != "head_v") | (pl.col("head") < HEADS // 2))
    records.tables["patching"] = shared
    found = np.array(payload(records)["patching"]["0/ioi3/head_v"][0], dtype=float)
    pairs = found.reshape(2, LAYERS, HEADS // 2, 2)
    np.testing.assert_array_equal(pairs[..., 0], pairs[..., 1])
    row = _row(shared, step=8, task="ioi3", site="head_v", layer=3, head=2)
    assert pairs[1, 3, 2, 0] == pytest.approx(row["effect"], rel=1e-3)


def test_attention_is_kept_as_a_triangle_of_the_strongest_heads(records: RunRecords, data: dict):
    patterns = data["patterns"]
    assert len(patterns["heads"]) == LAYERS * HEADS
    sizes = (
        records.tables["nodes"]
        .filter(pl.col("kind") == "head")
        .group_by("node")
        .agg(pl.col("effect").abs().max())
    )
    order = dict(sizes.iter_rows())
    assert patterns["heads"][0] == max(order, key=lambda node: order[node])
    n = len(patterns["tokens"]["ioi2"][0])
    triangle = n * (n + 1) // 2
    text = patterns["weights"]["1/ioi2"][1]
    head, query, key = 3, 4, 2
    layer, number = (int(part) for part in patterns["heads"][head][1:].split(".h"))
    last = records.experiment.steps()[-1]
    assert set(records.patterns.weights) == {(seed, end) for seed in (0, 1) for end in (0, last)}
    exact = records.patterns.weights[1, last]["ioi2"][1, layer, number, query, key] / 255
    place = (len(patterns["heads"]) + head) * triangle + query * (query + 1) // 2 + key
    assert (ord(text[place]) - 0x23) / 63 == pytest.approx(exact, abs=0.5 / 63 + 1e-9)


def test_two_warnings_in_one_row_are_two(records: RunRecords):
    tune = Finetune.model_validate({"grid": {"method": ["full", "lora"]}})
    training = records.recipes["training"].with_columns(
        recipe=pl.lit("lora"),
        flags=pl.when(pl.col("step") == 16).then(pl.lit("overfit,diverged")).otherwise(pl.lit("")),
    )
    behaviour = records.recipes["behaviour"].with_columns(recipe=pl.lit("lora"))
    experiment = records.experiment.model_copy(update={"finetune": tune})
    grid = replace(
        records, experiment=experiment, recipes={"training": training, "behaviour": behaviour}
    )
    assert {each["name"]: each["flags"] for each in recipes(grid)} == {
        "full": [],
        "lora": [{"name": "overfit", "steps": [16]}, {"name": "diverged", "steps": [16]}],
    }


def test_patterns_leave_out_heads_where_they_take_too_much_room(
    records: RunRecords, monkeypatch: pytest.MonkeyPatch
):
    # Two ends, two seeds and two prompts of each task.
    per_head = 2 * 2 * 2 * sum(n * (n + 1) // 2 for n in (5, 16))
    monkeypatch.setattr(checkpoint_details, "_MOST_WEIGHTS", per_head * 7 + 1)
    assert len(payload(records)["patterns"]["heads"]) == 7


def test_weights_are_one_letter_each_and_a_blank_where_there_is_none():
    assert characters(np.array([0.0, 1.0, 0.5, np.nan, 1.7])) == "#bC b"
