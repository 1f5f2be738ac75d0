"""The first screen of the report: its drawings and the heads in words."""

from math import inf, log2

import polars as pl
import pytest

from circuitlapse.heads.in_words import heads_in_words
from circuitlapse.report.pages import answer

CARRIERS = {
    "step": pl.Int64,
    "heads": pl.String,
    "measure": pl.String,
    "value": pl.Float64,
    "value_low": pl.Float64,
    "value_high": pl.Float64,
    "null_min": pl.Float64,
    "null_max": pl.Float64,
    "not_reported": pl.String,
}
BITS = {"which": pl.String, "value": pl.Float64, "value_low": pl.Float64, "value_high": pl.Float64}
DEPENDENCE = (8, "old", "dependence", 0.8, 0.7, 0.9, 0.1, 0.3, "")
CONTROL = (8, "relearned", "same_directions", 0.2, 0.1, 0.3, None, None, "")
SAME = (8, "old", "same_directions", 0.6, 0.5, 0.7, None, None, "")
NEW = (8, "new", "sufficiency", None, None, None, None, None, "there are no such heads")


def lines(*rows):
    found = answer.carried(pl.DataFrame(rows, schema=CARRIERS, orient="row"))
    ticks = {text: x for x, text in found["ticks"]}
    return {line["title"]: line for line in found["lines"]}, ticks


def test_measures_lie_on_one_scale_with_marks_groups_and_the_control():
    drawn, ticks = lines(DEPENDENCE, SAME, CONTROL, NEW)
    unit = ticks["1"] - ticks["0"]
    row = drawn["dependence on old-task heads"]
    (dot,) = row["dots"]
    for place, value in ((dot["at"], 0.8), (dot["low"], 0.7), (row["null"][1], 0.3)):
        assert place == pytest.approx(ticks["0"] + value * unit, abs=0.2)
    assert row["marks"] == [pytest.approx(ticks["0"] + 0.4 * unit, abs=0.2)]
    assert row["text"] == "0.80 [0.70, 0.90]"
    same = drawn["in the same directions"]
    assert same["control"] == pytest.approx(
        [ticks["0"] + end * unit for end in (0.1, 0.3)], abs=0.2
    )
    assert row["control"] is None


def test_without_the_control_late_writers_are_left_out_as_in_the_rule():
    early = (8, "early", "same_directions", 0.7, 0.6, 0.8, None, None, "")
    drawn, _ = lines(SAME, early)
    assert drawn["in the same directions"]["text"] == "0.70 [0.60, 0.80]"
    drawn, _ = lines(SAME, early, CONTROL)
    assert drawn["in the same directions"]["text"] == "0.60 [0.50, 0.70]"


def test_what_was_not_measured_is_said_and_has_no_dot():
    drawn, _ = lines(DEPENDENCE, NEW)
    assert drawn["new heads suffice"]["dots"] == []
    assert drawn["new heads suffice"]["text"] == "there are no such heads"
    assert drawn["variable moves the answer"]["text"] == "not measured"


def test_the_scale_includes_every_end_and_other_steps_are_not_drawn():
    far = (8, "", "variable_effect", 1.6, 1.4, 1.8, None, None, "")
    early = (0, "old", "dependence", 9.0, 9.0, 9.0, None, None, "")
    drawn, _ = lines(far, early, DEPENDENCE)
    places = [place for line in drawn.values() for dot in line["dots"] for place in dot.values()]
    assert max(places) <= answer.WIDTH
    assert len(drawn["dependence on old-task heads"]["dots"]) == 1


def test_bits_lie_on_a_scale_of_factors_of_two():
    def drawn(*rows):
        return answer.bits(pl.DataFrame(rows, schema=BITS, orient="row"))

    assert drawn() is None
    assert drawn(("ratio", None, None, None)) is None
    found = drawn(("ratio", 3.0, 2.0, inf), ("new", 99.6, 90.0, 110.0))
    assert found is not None
    ticks = {text: x for x, text in found["ticks"]}
    octave = ticks["2"] - ticks["1"]
    assert found["at"] == pytest.approx(ticks["1"] + log2(3) * octave, abs=0.2)
    assert found["high"] == pytest.approx(ticks["4"], abs=0.2)  # a bound has no upper end
    assert found["costs"] == [("new task", "100 [90, 110]")]


def test_a_head_is_described_by_attention_copying_effect_and_date():
    def read(step, task, reading, positions, value):
        return {
            "component": "a1.h0",
            "step": step,
            "task": task,
            "reading": reading,
            "positions": positions,
            "value": value,
        }

    change = {"node": "a1.h0", "step": 8, "base_new": 0.17, "tuned_new": 1.57}
    change |= {"category": "repurposed", "since": 4}
    readings = [
        read(0, "old", "attention", "END>S_again", 0.85),
        read(0, "old", "attention", "END>IO", 0.01),
        read(8, "new", "attention", "END>S1_again", 0.43),
        read(8, "new", "attention", "END>S2_again", 0.48),
        read(8, "new", "attention", "S1_again>S1", 0.9),
        read(8, "new", "negative_copying", "", 0.7),
    ]
    earlier = {**change, "step": 0, "tuned_new": 9.0}
    assert heads_in_words([change, earlier], readings, ("old", "new"), 8) == [
        "1.0: on the old task the base attends from the last token to the second mention of S "
        "(0.85), on the new task the tuned model to the second mention of S2 (0.48) and the second "
        "mention of S1 (0.43); suppresses what it attends to; effect on the new task 0.17 to 1.57 "
        "logits; repurposed since step 4."
    ]
