"""What is said with a label: its sentence, its limits, both questions and the second opinion."""

from dataclasses import replace
from math import inf

import pytest

from circuitlapse.stats.measured import Measured
from circuitlapse.verdict.label import label
from circuitlapse.verdict.label_words import (
    Named,
    says_not,
    second_circuit,
    sentence,
    survival,
    was_it_there,
    what_carries_it,
    would_change,
)
from circuitlapse.verdict.measures import Measures
from test_labels import GENUINE, LOW_CONTROL, NOT_LEARNED, RETRAINED, between, some

NAMED = Named("demo", "ioi2", "ioi3")
TAUGHT, LATENT = some((3.2, 2.9, 3.6)), some((0.3, 0.2, 0.4))
EVIDENCE = {
    "no_gain": (
        {"gain": NOT_LEARNED},
        "Fine-tuning demo did not improve ioi3: the logit difference rose by 0.10 logits [-0.10, "
        "0.30], or 0.00 [-0.10, 0.10] standard deviations of the logits, and the candidate "
        "accuracy by 0 % [-2, 2].",
    ),
    "another_rule": (
        {"variable_effect": some((0.0, -0.01, 0.01))},
        "After fine-tuning, demo solves ioi3 by a rule that does not use the variable of ioi2: "
        "variable_effect is 0.00 [-0.01, 0.01].",
    ),
    "elicited": (
        {"bits_ratio": LATENT},
        "demo could do ioi3 before fine-tuning: learning it took 0.30 [0.20, 0.40] times the bits "
        "of the reference task.",
    ),
    "formed new_heads": (
        {"new_sufficiency": some((0.8, 0.7, 0.9))},
        "After fine-tuning, demo solves ioi3 with new heads, whose change alone brings 0.80 [0.70, "
        "0.90] of the improvement.",
    ),
    "formed in_place": (
        {"same_directions": RETRAINED, "relearned": LOW_CONTROL},
        "After fine-tuning, demo solves ioi3 with its heads for ioi2, in other directions than "
        "before (dependence 0.90 [0.88, 0.92], same_directions 0.05 [0.02, 0.08]).",
    ),
    "transformed": (
        {"bits_ratio": TAUGHT},
        "After fine-tuning, demo solves ioi3 with its heads for ioi2, in the same directions as "
        "before (dependence 0.90 [0.88, 0.92], same_directions 0.80 [0.75, 0.85]), and had to be "
        "taught it: learning took 3.20 [2.90, 3.60] times the bits of the reference task.",
    ),
    "reused": (
        {},
        "After fine-tuning, demo solves ioi3 with its heads for ioi2, in the same directions as "
        "before (dependence 0.90 [0.88, 0.92], same_directions 0.80 [0.75, 0.85]); whether it "
        "could do ioi3 before is open.",
    ),
    "not_old_heads": (
        {"dependence": some((0.2, 0.1, 0.3))},
        "After fine-tuning, demo solves ioi3 without its heads for ioi2 (dependence 0.20 [0.10, "
        "0.30]); what carries it was not found.",
    ),
    "undetermined": (
        {"same_directions": some((0.5, 0.47, 0.53)), "relearned": LOW_CONTROL},
        "The evidence does not decide how demo came to solve ioi3: same_directions low is 0.47, "
        "0.03 from 0.50.",
    ),
}


@pytest.mark.parametrize("name", EVIDENCE)
def test_each_label_has_its_sentence_and_says_what_it_does_not_say(name):
    changes, wanted = EVIDENCE[name]
    evidence = replace(GENUINE, **changes)
    found = label(evidence)
    assert " ".join(filter(None, (found.label, found.how))) == name
    assert sentence(found, [evidence], NAMED) == wanted
    limits = says_not(found, [evidence], NAMED)
    assert limits
    assert any("bottleneck" in each for each in limits) == (name != "not_old_heads")


def test_several_seeds_are_said_as_a_range():
    one = replace(GENUINE, bits_ratio=some((4, 4, inf)))
    two = replace(one, dependence=some((0.7, 0.6, 0.8)), bits_ratio=some((3, 3, inf)))
    said = sentence(label(one), [one, two], NAMED)
    assert "dependence 0.70 to 0.90 in 2 seeds" in said
    assert "learning took at least 3.00 times" in said
    gone = replace(GENUINE, gain=NOT_LEARNED)
    assert sentence(label(gone), [gone, gone], NAMED).endswith("rose by 0.10 to 0.10 in 2 seeds.")


def test_the_nearest_mark_is_named():
    assert (
        would_change(label(GENUINE))
        == "The nearest mark: same_directions low is 0.75, 0.25 from 0.50."
    )
    assert would_change(label(replace(GENUINE, gain=NOT_LEARNED))) == ""


def bits(ratio, **ranked):
    rows = {"new": None, "ratio": ratio, **ranked}
    return Measures.of_rows(
        [],
        [
            {"which": which, "value": value and between(*value), "not_reported": "left out"}
            for which, value in rows.items()
        ],
    )


def test_whether_it_was_there_is_always_answered():
    assert was_it_there([Measures({}, {})]) == "Not known: it was not measured."
    assert was_it_there([bits(None)]) == "Not known: left out."
    assert was_it_there([bits((0.3, 0.2, 0.4))]) == (
        "Yes, it was there: learning took 0.30 [0.20, 0.40] times the bits of the reference task "
        "(mark 0.60)."
    )
    ranked = {"right_before": (0.66, 0.6, 0.7), "gain_on_right": (0.5, 0.4, 0.6)}
    taught = bits((3.2, 2.9, 3.6), **ranked)
    said = was_it_there([taught])
    assert said.startswith("No, it had to be taught: learning took 3.20 [2.90, 3.60] times")
    assert said.endswith(
        " In 66 % [60, 70] of its failures the base prefers the right candidate; these prompts "
        "hold 50 % [40, 60] of the improvement."
    )
    assert was_it_there([taught, taught]).endswith("the base prefers the right candidate.")
    assert was_it_there([bits((0.6, 0.4, 0.8))]).startswith("The bits leave it open")


def test_what_carries_it_is_always_answered():
    said = {
        "transformed": "The old-task heads (dependence 0.90 [0.88, 0.92]), in the same directions "
        "as before (same_directions 0.80 [0.75, 0.85]); the change is spread out over the model.",
        "not_old_heads": "Not the old-task heads (dependence 0.20 [0.10, 0.30]).",
        "formed new_heads": "The old-task heads (dependence 0.90 [0.88, 0.92]), in the same "
        "directions as before (same_directions 0.80 [0.75, 0.85]); new heads, whose change alone "
        "brings 0.80 [0.70, 0.90] of the improvement.",
    }
    for name, wanted in said.items():
        evidence = replace(GENUINE, **EVIDENCE[name][0])
        assert what_carries_it(label(evidence), [evidence]) == wanted
    for changes, wanted in (
        ({"same_directions": RETRAINED}, "in other directions than before"),
        ({"same_directions": some((0.4, 0.35, 0.45))}, "partly in the same directions"),
        ({"same_directions": Measured()}, "whose directions were not measured"),
        ({"dependence": some((0.4, 0.35, 0.45))}, "Perhaps the old-task heads (dependence"),
        ({"dependence": Measured(not_reported="none")}, "Dependence was not measured: none"),
    ):
        evidence = replace(GENUINE, **changes)
        assert wanted in what_carries_it(label(evidence), [evidence])


def test_what_carries_several_seeds_holds_of_each():
    two = [GENUINE, replace(GENUINE, same_directions=some((0.5, 0.45, 0.55)))]
    assert what_carries_it(label(GENUINE), two).startswith(
        "The old-task heads (dependence 0.90 to 0.90 in 2 seeds), partly in the same directions as "
        "before (same_directions 0.50 to 0.80 in 2 seeds)"
    )
    two = [GENUINE, replace(GENUINE, dependence=Measured(not_reported="none"))]
    assert what_carries_it(label(GENUINE), two).startswith("Dependence was not measured: none")


def circuits(again, names="a0.h0 a0.h1 a0.h2 a1.h0"):
    found = {("old", "undone"): some((0.9, 0.85, 0.95)), ("without_best", "undone"): again}
    sets = {"old": ("a0.h0", "a0.h1", "a1.h1"), "without_best": tuple(names.split())}
    return Measures(found, sets)


def test_a_second_circuit_is_named_where_there_is_one():
    said = second_circuit(circuits(some((0.8, 0.75, 0.85))))
    assert said == (
        "There is a second faithful circuit of low overlap: 4 heads, 2 of them old-task heads, "
        "undo 0.80 [0.75, 0.85] of the variable's effect on the old task; the old-task heads undo "
        "0.90 [0.85, 0.95]."
    )
    for again, names in (((0.5, 0.4, 0.6), "a2.h0"), ((0.8, 0.75, 0.85), "a0.h0 a0.h1 a2.h0")):
        said = second_circuit(circuits(some(again), names))
        assert said.startswith("A second faithful circuit of low overlap was not found")
    said = second_circuit(circuits(some(None), ""))
    assert said.endswith("was not measured: there are no such heads.")


def test_whether_the_label_survives_other_choices_of_heads_is_said():
    found, same = label(GENUINE), {"half": "reused", "double": "reused", "without_best": "reused"}
    assert survival(label(replace(GENUINE, gain=NOT_LEARNED))) == ""
    assert survival(found.model_copy(update={"survives": same})) == (
        "The label is the same with half as many old-task heads, twice as many, others in place of "
        "the best half."
    )
    other = found.model_copy(update={"survives": {**same, "double": "not_old_heads"}})
    assert survival(other) == (
        "The label changes with other old-task heads: not old heads with twice as many."
    )
