"""The measures of what carries a new ability, against their definitions by plain hooks."""

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch

from circuitlapse.attribution.edges import attribute
from circuitlapse.carriers.dependence import dependence
from circuitlapse.carriers.late_writers import late_writers
from circuitlapse.carriers.measure_carriers import CarrierPrompts, carriers
from circuitlapse.carriers.new_heads import driving_heads, idle_heads, new_heads
from circuitlapse.carriers.old_task_heads import HeadEffects, head_effects, old_task_heads
from circuitlapse.carriers.same_directions import rank_of, relearned_control, same_directions
from circuitlapse.carriers.transplants import necessity, sufficiency
from circuitlapse.carriers.variable_effect import variable_effect
from circuitlapse.models.files.load import load_model
from circuitlapse.prompts.pairs import PromptPairs
from circuitlapse.records.carriers import Carriers
from circuitlapse.stats.apart_groups import Compared
from circuitlapse.stats.intervals import Estimate
from twins_engine import tiny
from twins_other_run import Hooked

N = 10


def task(seed: int, n: int = N, variants: int = 2) -> dict[str, PromptPairs]:
    """Random prompts of unequal lengths, each with some counterfactuals from its middle on."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(5, 9, (n,), generator=generator)
    clean = torch.randint(23, (n, 8), generator=generator)
    answers = torch.randint(20, (n,), generator=generator)
    wrong, index = answers[:, None] + torch.tensor([1, 2]), torch.arange(8)
    mask = (index < lengths[:, None]).long()
    found = {}
    for name in "uvw"[:variants]:
        other = torch.randint(1, 23, (n, 8), generator=generator)
        changed = torch.where(index >= 2, (clean + other) % 23, clean)
        found[name] = PromptPairs.from_tensors(clean, changed, answers, wrong, mask)
    return found


def last_logits(model, tokens, lengths):
    with torch.no_grad():
        rows = zip(tokens, lengths.tolist(), strict=True)
        return torch.stack([model.hf(row[None, :n]).logits[0, -1] for row, n in rows])


def preferred(variants, ours, theirs=None):
    """The prompts with the answers that a model prefers most, compared with another run.

    The other run is another model on the same prompts, or the same on the corrupted ones.
    """
    gaps = []
    for pairs in variants.values():
        tokens = pairs.corrupt if theirs is None else pairs.clean
        before = last_logits(ours if theirs is None else theirs, tokens, pairs.lengths)
        gaps.append(last_logits(ours, pairs.clean, pairs.lengths) - before)
    order = mean(gaps).argsort(dim=1)
    return {
        name: dataclasses.replace(pairs, answers=order[:, -1], distractors=order[:, :2])
        for name, pairs in variants.items()
    }


def models(family="gpt2", **options):
    """A base and a tuned model that differ a little, so that both use the same heads."""
    options = {"num_hidden_layers": 3, "num_attention_heads": 4, "hidden_size": 16} | options
    base, other = (load_model(tiny(family, seed, **options)) for seed in (0, 1))
    tuned = load_model(tiny(family, 0, **options))
    with torch.no_grad():
        for ours, theirs in zip(tuned.hf.parameters(), other.hf.parameters(), strict=True):
            ours += 0.3 * theirs
    return base, tuned


def prompts(base, tuned):
    old = [preferred(task(seed, variants=1), base) for seed in (1, 3)]
    new = [preferred(task(seed), tuned) for seed in (2, 4)]
    return CarrierPrompts(old[0], new[0], old[1], new[1], task(5))


class Twin:
    """v of patched runs of one model, prompt by prompt."""

    def __init__(self, model, pairs: PromptPairs, other=None):
        self.hooked, self.pairs = Hooked(model.hf), pairs
        source = self.hooked if other is None else Hooked(other.hf)
        tokens = pairs.corrupt if other is None else pairs.clean
        cut = [slice(0, int(length)) for length in pairs.lengths]
        self.clean = [row[each] for row, each in zip(pairs.clean, cut, strict=True)]
        self.runs = [source.run(row[each]) for row, each in zip(tokens, cut, strict=True)]
        self.own = [self.hooked.run(row) for row in self.clean]
        self.other_v = np.array([self.v(i, run[0]) for i, run in enumerate(self.runs)])
        self.own_v = np.array([self.v(i, run[0]) for i, run in enumerate(self.own)])

    def v(self, row, logits):
        return float(logits[self.pairs.answers[row]] - logits[self.pairs.distractors[row]].mean())

    def with_heads(self, heads, directions=None):
        """v with the outputs of some heads from the other run; directions may be one per prompt."""
        by_row = directions if isinstance(directions, list) else [directions] * len(self.clean)
        return np.array(
            [
                self.v(i, self.hooked.patched(row, self.runs[i][1], heads, None, by_row[i]))
                for i, row in enumerate(self.clean)
            ]
        )

    def differences(self, head):
        return [own[1][head] - run[1][head] for own, run in zip(self.own, self.runs, strict=True)]


def mean(values: list[Any]) -> Any:
    return sum(values) / len(values)


SETS = (("a0.h1", "a1.h0"), ("a1.h3",), ("a0.h0", "a1.h2", "a2.h1"))


def test_dependence_is_its_definition_and_zero_without_heads():
    model, _ = models("llama", num_key_value_heads=2)
    new = preferred(task(4), model)
    sets = [Compared(SETS[0], SETS[1:]), Compared(()), Compared(model.graph.heads)]
    found = dependence(model, new, sets)
    twins = [Twin(model, pairs) for pairs in new.values()]
    whole = mean([twin.own_v - twin.other_v for twin in twins]).mean()
    wanted = [
        mean([twin.own_v - twin.with_heads(heads) for twin in twins]).mean() / whole
        for heads in SETS
    ]
    assert found[0].estimate is not None, found[0].not_reported
    assert found[0].estimate.value == pytest.approx(wanted[0], abs=1e-3)
    assert found[0].groups == pytest.approx(wanted[1:], abs=1e-3)
    assert found[1].estimate is not None
    assert (found[1].estimate.low, found[1].estimate.high) == (0, 0)


def test_sufficiency_and_necessity_are_their_definitions():
    base, tuned = models()
    pairs = preferred(task(4), tuned, base)["u"]
    twin, heads = Twin(tuned, pairs, base), tuned.graph.heads
    improvement = (twin.own_v - twin.other_v).mean()
    kept = sufficiency(base, tuned, pairs, [Compared(s) for s in SETS] + [Compared(heads)])
    needed = necessity(base, tuned, pairs, [Compared(s) for s in SETS] + [Compared(())])
    for i, each in enumerate(SETS):
        outside = [head for head in heads if head not in each]
        for found, wanted in (
            (kept[i], twin.with_heads(outside) - twin.other_v),
            (needed[i], twin.own_v - twin.with_heads(each)),
        ):
            assert found.estimate is not None, found.not_reported
            assert found.estimate.value == pytest.approx(wanted.mean() / improvement, abs=1e-3)
    assert kept[-1].estimate is not None
    assert kept[-1].estimate.value == 1
    assert needed[-1].estimate is not None
    assert needed[-1].estimate.value == 0


def test_variable_effect_is_its_definition():
    base, tuned = models()
    old, new = preferred(task(3, 12, 1), base), preferred(task(4), tuned)
    found = variable_effect(base, tuned, old, new)
    below, above = (
        mean([t.own_v - t.other_v for t in [Twin(model, pairs) for pairs in each.values()]]).mean()
        for model, each in ((base, old), (tuned, new))
    )
    assert found.estimate is not None, found.not_reported
    assert found.estimate.value == pytest.approx(above / below, abs=1e-3)
    assert found.estimate.low < found.estimate.value < found.estimate.high


def leading(twins, head, rows, rank):
    """Leading eigenvectors in all dimensions of the stream, of outer products summed by hand."""
    gaps = torch.cat([gap for twin in twins for i in rows for gap in [twin.differences(head)[i]]])
    return torch.linalg.eigh(gaps.T @ gaps).eigenvectors[:, -rank:]


@pytest.mark.parametrize("heads", [("a0.h1", "a1.h0", "a1.h2"), ("a1.h1", "a2.h0"), ("a1.h0",)])
def test_same_directions_is_its_definition(heads):
    base, tuned = models()
    old, new = preferred(task(3, variants=1), base), preferred(task(4), tuned)
    ranked = ("a1.h0", "a0.h2", "a1.h1")
    (found,) = same_directions(base, tuned, old, new, [heads], ranked)
    rank = rank_of(4)
    assert found.rank == rank == 1
    was = [Twin(base, pairs) for pairs in old.values()]
    now = [Twin(tuned, pairs) for pairs in new.values()]
    shifts = [1, 2][: len(heads) - 1]
    donors = [{h: heads[i - s] for i, h in enumerate(heads)} for s in shifts] or [
        {"a1.h0": "a0.h2"}
    ]
    spaces = {"own": [{}, {}], "old": [{}, {}]} | {
        f"other{i}": [{}, {}] for i in range(len(donors))
    }
    for half in (0, 1):
        rows = range(half, N, 2)
        for head in heads:
            spaces["own"][half][head] = leading(now, head, rows, rank)
            spaces["old"][half][head] = leading(was, head, rows, rank)
            for i, given in enumerate(donors):
                spaces[f"other{i}"][half][head] = leading(was, given[head], rows, rank)
    x = {}
    for name, of_half in spaces.items():
        by_row = [of_half[1 - i % 2] for i in range(N)]
        x[name] = mean([twin.own_v - twin.with_heads(heads, by_row) for twin in now])
    other = mean([x[name] for name in x if name.startswith("other")])
    assert found.old is not None
    assert found.own is not None
    assert found.other is not None
    for estimate, values in ((found.old, x["old"]), (found.own, x["own"]), (found.other, other)):
        assert estimate.value == pytest.approx(values.mean(), abs=1e-3)
    if found.estimate is None:
        assert len(heads) > 1
        assert found.not_reported.startswith("own directions undo no more than another head's: ")
    else:
        ratio = (x["old"] - other).mean() / (x["own"] - other).mean()
        assert found.estimate.value == pytest.approx(ratio, rel=1e-2)


def test_without_another_head_same_directions_is_undefined():
    base, tuned = models()
    (found,) = same_directions(base, tuned, task(3), task(4), [("a0.h0",)], ["a0.h0"])
    assert found.estimate is None
    assert found.not_reported == "no other head has an effect on the old task"


def test_a_model_compared_with_itself_has_its_old_directions_and_no_improvement():
    base, _ = models()
    old = preferred(task(3), base)
    (found,) = same_directions(base, base, old, old, [base.graph.heads], base.graph.heads)
    assert found.estimate is not None
    assert found.estimate.value == pytest.approx(1)
    (kept,) = sufficiency(base, base, old["u"], [Compared(("a0.h0",))])
    assert kept.estimate is None
    assert kept.not_reported.startswith("the improvement G: the denominator is not clear of zero")
    effect = variable_effect(base, base, old, old)
    assert effect.estimate is not None
    assert effect.estimate.value == 1


def test_old_task_heads_are_the_fewest_that_hold_four_fifths():
    effects = HeadEffects(tuple("abcde"), np.array([0.1, -3.0, 2.0, 0.5, 0.4]))
    assert effects.fewest() == ("b", "c")
    assert effects.fewest(0.9) == ("b", "c", "d")
    assert effects.fewest(without=("b",)) == ("c", "d")
    assert effects.times(0.5) == ("b",)
    assert effects.times(2.0) == ("b", "c", "d", "e")
    assert effects.within(0.5) == {"a", "e"}
    assert HeadEffects(("a",), np.zeros(1)).fewest() == ()
    base, _ = models()
    old = preferred(task(1), base)
    found = head_effects(base, old)
    twins = [Twin(base, pairs) for pairs in old.values()]
    wanted = [
        mean([twin.own_v - twin.with_heads((head,)) for twin in twins]).mean()
        for head in base.graph.heads
    ]
    np.testing.assert_allclose(found.effects, wanted, atol=1e-3)
    assert old_task_heads(base, old) == found.fewest()


def test_screened_effects_are_patched_where_they_may_pass_a_mark(monkeypatch):
    base, _ = models()
    old = preferred(task(1), base)
    exact = head_effects(base, old)
    monkeypatch.setattr("circuitlapse.carriers.old_task_heads.ALL_PATCHED", 0)
    screened, most = head_effects(base, old), head_effects(base, old, mark=10.0)
    totals = [attribute(base, pairs).node_totals()[base.graph.head_nodes] for pairs in old.values()]
    estimated = HeadEffects(exact.heads, torch.stack(totals).mean(dim=0).numpy())
    sure = estimated.best(2 * len(estimated.fewest()))
    for i, head in enumerate(exact.heads):
        wanted = exact if head in sure else estimated
        assert screened.effects[i] == pytest.approx(wanted.effects[i], abs=1e-4)
        near = head in sure or 5 <= abs(estimated.effects[i]) < 20
        assert most.effects[i] == pytest.approx((exact if near else estimated).effects[i], abs=1e-4)
    assert len(sure) < len(exact.heads)


def test_late_writers_act_mostly_on_the_logits_directly():
    base, _ = models()
    old = preferred(task(1), base)
    effects = head_effects(base, old)
    twins = [Twin(base, pairs) for pairs in old.values()]
    wanted = []
    for head, effect in zip(effects.heads, effects.effects, strict=True):
        lost = []
        for twin in twins:
            body = twin.hooked.hf.transformer
            for row, tokens in enumerate(twin.clean):
                final = []
                hook = body.ln_f.register_forward_pre_hook(lambda _, x, to=final: to.append(x[0]))
                twin.hooked.run(tokens)
                hook.remove()
                moved = final[0][0, -1] - twin.differences(head)[row][-1]
                with torch.no_grad():
                    logits = twin.hooked.hf.lm_head(body.ln_f(moved))
                lost.append(twin.own_v[row] - twin.v(row, logits))
        if abs(np.mean(lost)) > 0.5 * abs(effect):
            wanted.append(head)
    found = late_writers(base, old, effects, effects.heads)
    assert list(found) == wanted
    assert set() < set(found) < set(effects.heads)


def test_the_relearned_control_is_same_directions_of_the_old_task_in_both_models():
    base, other = models()
    old, heads = preferred(task(3), base), base.graph.heads
    assert relearned_control(base, base, old, heads, heads).estimate == Estimate(
        value=1, low=1, high=1
    )
    found = relearned_control(base, other, old, heads, heads)
    assert found == same_directions(base, other, old, old, [heads], heads)[0]


def test_new_and_driving_heads_are_idle_in_the_base_and_no_old_task_heads():
    base, tuned = models()
    silent = ("a0.h2", "a1.h1", "a2.h3")
    with torch.no_grad():
        for name in silent:
            layer, head = int(name[1]), int(name[4])
            base.decoder.attention[layer].W_O[head] = 0
    old, new = preferred(task(1), base), preferred(task(2), tuned, base)
    idle = idle_heads(base, old, new)
    assert set(silent) <= idle.idle
    found = new_heads(tuned, new, idle.idle, ("a1.h1",))
    assert set(found) <= idle.idle - {"a1.h1"}
    drive = driving_heads(base, tuned, new["u"], idle.idle, ("a1.h1",))
    twin = Twin(tuned, new["u"], base)
    improvement = (twin.own_v - twin.other_v).mean()
    lost = {h: (twin.own_v - twin.with_heads((h,))).mean() for h in idle.idle}
    wanted = [h for h in base.graph.heads if h in lost and h != "a1.h1"]
    wanted = [h for h in wanted if improvement > 0 and lost[h] > 0.02 * improvement]
    assert list(drive) == wanted
    assert driving_heads(base, base, new["u"], idle.idle, ()) == ()


def test_all_measures_in_one_call_are_those_of_the_modules():
    base, tuned = models()
    asked = prompts(base, tuned)
    seen = []
    found = carriers(
        base,
        tuned,
        asked,
        n_groups=9,
        same_variable=False,
        advance=lambda *at: seen.append(at),
    )
    assert seen == [(done, 5) for done in range(1, 6)]
    assert isinstance(found, Carriers)
    assert found.variable_effect.estimate is None
    assert found.old.same_directions.not_reported == "the tasks' variables differ"
    assert set(found.old.heads) == set(old_task_heads(base, asked.old_validation))
    assert len(found.half.heads) == max(1, round(0.5 * len(found.old.heads)))
    assert not set(found.half.heads) & set(found.without_best.heads)
    assert not set(found.old.heads) & set(found.new.heads + found.driving.heads)
    (again,) = dependence(tuned, asked.new_test, [Compared(found.old.heads)])
    assert again.estimate is not None
    assert found.old.dependence.estimate is not None
    assert found.old.dependence.estimate.value == pytest.approx(again.estimate.value, abs=1e-4)
    assert Carriers.of_json(found.to_json()) == found
    rows = {(row["heads"], row["measure"]): row for row in found.rows()}
    assert len(rows) == len(found.rows()) == 24
    row = rows["old", "dependence"]
    assert row["value"] == found.old.dependence.estimate
    assert row["names"].split() == list(found.old.heads)
    groups = found.old.dependence.groups
    assert (row["n_random"], row["null_max"]) == (len(groups), max(groups))
    assert rows["", "variable_effect"]["not_reported"] == found.variable_effect.not_reported


def test_nothing_is_reported_where_the_variable_does_not_move_the_new_answer():
    base, tuned = models()
    asked = prompts(base, tuned)
    same = {name: dataclasses.replace(p, corrupt=p.clean) for name, p in asked.new_test.items()}
    found = carriers(base, tuned, dataclasses.replace(asked, new_test=same), n_groups=2)
    why = "the old task's variable does not move the new answer"
    for old in (found.old, found.half, found.double, found.without_best):
        for each in (old.dependence, old.same_directions, old.sufficiency):
            assert (each.estimate, each.not_reported) == (None, why)
    assert found.other_task.not_reported == why
