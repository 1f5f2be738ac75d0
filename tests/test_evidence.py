import json

import numpy as np
import pytest

from circuitlapse.models.engine.behaviour import behaviour, logit_differences
from circuitlapse.models.engine.weights import component_pieces
from circuitlapse.models.files.load import load_model
from circuitlapse.stats.random_baseline import matched_heads
from circuitlapse.two_models.cause_evidence import EvidencePrompts, cause_evidence
from circuitlapse.two_models.fit_scales import ScaleFits, rescaled
from circuitlapse.two_models.grafts import Grafts
from circuitlapse.two_models.head_groups import choose_heads
from circuitlapse.two_models.mediation import behaviours_with_frozen_heads
from circuitlapse.verdict.decision import decide_causes
from circuitlapse.verdict.evidence import CauseEvidence
from twins_engine import random_pairs, tiny


def prompts_for(base):
    """Prompts whose counterfactual lowers the base's metric: a task that it does, more or less."""

    def lowered(seed):
        pairs = random_pairs(seed, n=120)
        clean, corrupt = logit_differences(base, pairs)
        return pairs[clean > corrupt + 0.2]

    return EvidencePrompts({"x": lowered(0), "y": lowered(0)}, {"x": lowered(1)}, random_pairs(2))


@pytest.fixture(scope="module")
def measured():
    wide = {"num_attention_heads": 4, "hidden_size": 16}
    base, tuned = load_model(tiny("gpt2", 0, **wide)), load_model(tiny("gpt2", 1, **wide))
    prompts, steps = prompts_for(base), []
    found = cause_evidence(
        base, tuned, prompts, n_random=3, advance=lambda done, of: steps.append((done, of))
    )
    return base, tuned, prompts, found, steps


def test_evidence_is_what_its_parts_measure(measured):
    base, tuned, prompts, found, steps = measured
    assert steps == [(i, 7) for i in range(1, len(steps) + 1)]
    assert found.choice == choose_heads(base, tuned, prompts.old, prompts.new)
    improvements = ScaleFits(base, tuned, prompts.new["x"]).fit()
    assert found.scales == {node: improvements.of(node) for node in base.graph.nodes}
    louder = rescaled(base, improvements)
    assert np.array_equal(found.hybrids[0], behaviour(louder, prompts.test).logit_diff)
    assert np.array_equal(found.hybrids[-1], behaviour(tuned, prompts.test).logit_diff)
    heads = found.choice.old_heads
    assert 0 < len(heads) < 8
    parts: dict[str, list] = {}
    for piece in component_pieces(base.hf):
        parts.setdefault(piece.component, []).append(piece)
    start = behaviour(louder, prompts.test).logit_diff.mean()
    sets = [heads, *matched_heads(base.graph, heads, 3)]
    for own, each in zip(found.graft["old_heads"], sets, strict=True):
        grafted = Grafts(louder, tuned, parts).write(each)
        rise = behaviour(grafted, prompts.test).logit_diff.mean() - start
        assert own == pytest.approx(float(rise), abs=1e-5)
    before = behaviour(base, prompts.test).logit_diff.mean()
    for own, each in zip(found.held["old_heads"], sets, strict=True):
        (answers,) = behaviours_with_frozen_heads(base, tuned, prompts.test, [each])
        assert own == pytest.approx(float(answers.logit_diff.mean() - before), abs=1e-5)
    support = found.support.grafts["old_heads"]
    assert support is not None
    assert support.n == 3


def test_a_graft_of_a_whole_group_is_that_of_the_grafted_models(measured):
    _, _, _, found, _ = measured
    rise = found.hybrids[1].mean() - found.hybrids[0].mean()  # the second set holds the old heads
    assert found.graft["old_heads"][0] == pytest.approx(rise, abs=1e-5)


def test_evidence_is_the_same_after_it_was_written_and_read(measured):
    found = measured[3]
    arrays, about = found.to_arrays()
    again = CauseEvidence.of_arrays(arrays, json.loads(json.dumps(about)))
    assert again.choice == found.choice
    assert again.support == found.support
    assert np.array_equal(again.base.logit_diff, found.base.logit_diff)
    decided = [decide_causes([each.run()], seed=0, repeats=50) for each in (found, again)]
    assert decided[0] == decided[1]


def test_a_base_without_the_old_task_has_no_old_heads(measured):
    base, tuned, prompts, _, _ = measured
    flat = {"x": random_pairs(3, n=3)}
    choice = choose_heads(base, tuned, flat, prompts.new)
    assert (choice.old_heads, choice.recruited_heads) == ((), ())
    assert "does not lower the base's metric on the old task" in choice.not_reported
