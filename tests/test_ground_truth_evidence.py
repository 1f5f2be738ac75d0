"""The rule on the evidence of organisms with known ground truth, of development seeds.

``circuitlapse calibrate --n 1 --seed-from 0 --out OUT`` makes the files again, as OUT/evidence.
"""

from pathlib import Path

import pytest

from circuitlapse.analyses.grafts import read_evidence
from circuitlapse.records.documents import Precondition
from circuitlapse.verdict.decision import decide_causes

EVIDENCE = Path(__file__).parent / "data" / "ground_truth"
LABELS = {
    "elicited": "elicited",
    "formed": "formed",
    "nothing": "no_gain",
    "transformed": "transformed",
}


def decision(kind, *checks):
    (path,) = EVIDENCE.glob(f"{kind}-*.safetensors")
    return decide_causes([read_evidence(path.read_bytes()).run(checks)], seed=0)


@pytest.mark.parametrize(("kind", "label"), LABELS.items())
def test_each_organism_is_called_what_it_was_made_to_be(kind, label):
    found = decision(kind)
    assert found.label == label
    assert all(check.holds for check in found.checks)
    if label == kind:
        assert found.causes.shares is not None
        share = found.causes.shares[label]
        assert share.low > 0.5
        others = [each for cause, each in found.causes.shares.items() if cause != label]
        assert max(each.high for each in others) < share.low


def test_a_precondition_that_fails_silences_the_rule():
    check = Precondition(name="The tuned model solves the new task", holds=False, detail="")
    assert decision("formed", check).label == "undetermined"
