"""Several right answers, different numbers of distractors, and candidates of several tokens."""

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import circuitlapse as cl
from circuitlapse.errors import CircuitlapseError
from circuitlapse.models.engine.behaviour import behaviour, logit_differences
from circuitlapse.models.files.load import load_model
from circuitlapse.organisms.tokenizer import build_tokenizer
from circuitlapse.prompts.metrics import candidate_mean, check_metric
from circuitlapse.prompts.pairs import PromptPairs
from circuitlapse.records.items import Item
from circuitlapse.tasks.tokenization import tokenize
from twins_engine import random_pairs, tiny_gpt2

VOCABULARY = 23


def ragged(seed: int, n: int = 6) -> PromptPairs:
    """Prompts with one to three right answers and one to four distractors."""
    plain, generator = random_pairs(seed, n=n, longest=6), torch.Generator().manual_seed(seed)
    answers, also, wrong = [], [], []
    for _ in range(n):
        tokens = torch.randperm(VOCABULARY, generator=generator).tolist()
        more, bad = (int(torch.randint(k, (1,), generator=generator)) for k in (3, 4))
        answers.append(tokens[0])
        also.append(tokens[1 : 1 + more] + [-1] * (2 - more))
        wrong.append(tokens[3 : 4 + bad] + [-1] * (3 - bad))
    mask = (torch.arange(plain.clean.shape[1]) < plain.lengths[:, None]).long()
    return PromptPairs.from_tensors(
        plain.clean,
        plain.corrupt,
        torch.tensor(answers),
        torch.tensor(wrong),
        mask,
        also=torch.tensor(also),
    )


def by_hand(name: str, logits: torch.Tensor, right: list[int], wrong: list[int]) -> float:
    good, bad = [float(logits[t]) for t in right], [float(logits[t]) for t in wrong]
    p = logits.double().softmax(dim=0)
    others = [float(x) for t, x in enumerate(logits) if t not in right]
    return {
        "logit_diff": sum(good) / len(good) - sum(bad) / len(bad),
        "logit_diff_hardest": max(good) - max(bad),
        "prob": float(p[right].sum()),
        "prob_diff": float(p[right].sum() - p[wrong].sum()),
        "log_prob": float(p[right].sum().log()),
        "accuracy": float(max(good) > max(others)),
    }[name]


@settings(max_examples=4)
@given(seed=st.integers(0, 99), batch_size=st.sampled_from([None, 2]))
def test_all_right_answers_count_and_missing_ones_do_not(seed: int, batch_size: int | None) -> None:
    hf, pairs = tiny_gpt2(), ragged(seed)
    model = load_model(hf)
    empty = cl.Circuit(model.graph, torch.zeros_like(model.graph.edges))
    shown = behaviour(model, pairs, batch_size)
    for name in ("logit_diff", "logit_diff_hardest", "prob", "prob_diff", "log_prob", "accuracy"):
        got = cl.evaluate_circuit(model, empty, pairs, metric=name, batch_size=batch_size).clean
        for row in range(len(pairs)):
            ids = pairs.clean[row, : pairs.lengths[row]]
            with torch.no_grad():
                logits = hf(ids[None]).logits[0, -1]
            right = [t for t in pairs.right()[row].tolist() if t >= 0]
            wrong = [t for t in pairs.distractors[row].tolist() if t >= 0]
            expected = by_hand(name, logits, right, wrong)
            assert float(got[row]) == pytest.approx(expected, abs=2e-4), name
            if name == "logit_diff":
                assert float(shown.logit_diff[row]) == pytest.approx(expected, abs=2e-4)
            if name == "accuracy":
                assert bool(shown.correct[row]) == bool(expected)
            if name == "logit_diff_hardest":
                assert bool(shown.candidate_correct[row]) == (expected > 0)


def test_components_add_up_to_the_logit_difference_of_all_answers() -> None:
    model, pairs = load_model(tiny_gpt2()), ragged(5)
    direct = cl.direct_logit_attribution(model, pairs)
    total = direct.writers.sum(dim=0) + direct.constant
    assert torch.allclose(total, torch.from_numpy(behaviour(model, pairs).logit_diff), atol=1e-4)
    assert torch.allclose(total, logit_differences(model, pairs)[0], atol=1e-4)


def test_a_mean_over_all_candidates_is_the_plain_mean() -> None:
    values, tokens = torch.randn(5, 3, 2), torch.zeros(5, 3, dtype=torch.long)
    assert torch.equal(candidate_mean(values, tokens), values.mean(dim=1))


def item_of(answer: str, distractors: tuple[str, ...], **changes: object) -> Item:
    prompt = "Then, Mary and John went to the store. John gave a ring to"
    fields = {
        "prompt": prompt,
        "answer": answer,
        "distractors": distractors,
        "names": ("Mary", "John"),
        "template": "t",
        "split": "test",
        "spans": {"IO": (6, 10)},
        "corrupt": {"names": prompt.replace("John", "Paul")},
        "corrupt_answers": {"names": answer},
    }
    return Item.model_validate({**fields, **changes})


ITEMS = [
    item_of(" Mary Anna", (" John", " Mary John Tom")),
    item_of(" Mary", (" Paul Adam", " John")),
    item_of(" Lucy Tom Nick", (" Adam",)),
    item_of(" Lucy", (" Adam",)),
]


@pytest.mark.parametrize("batch_size", [None, 1])
def test_candidates_of_several_tokens_are_compared_as_sequences(
    tiny_model: Path, batch_size: int | None
) -> None:
    model, tokenizer = load_model(tiny_model), build_tokenizer()
    pairs = tokenize(ITEMS, tokenizer, "names")
    assert pairs.is_sequence
    shown = behaviour(model, pairs, batch_size)

    def log_prob(item: Item, word: str) -> float:
        before = len(tokenizer(item.prompt)["input_ids"])
        ids = torch.tensor(tokenizer(item.prompt + word)["input_ids"])
        with torch.no_grad():
            logs = model.hf(ids[None]).logits[0].log_softmax(dim=-1)
        return sum(float(logs[i - 1, ids[i]]) for i in range(before, len(ids)))

    for row, item in enumerate(ITEMS):
        right = log_prob(item, item.answer)
        wrong = [log_prob(item, word) for word in item.distractors]
        expected = right - sum(wrong) / len(wrong)
        assert float(shown.logit_diff[row]) == pytest.approx(expected, abs=1e-3)
        assert bool(shown.candidate_correct[row]) == all(right > one for one in wrong)


def test_sequences_of_one_token_have_the_plain_logit_difference(tiny_model: Path) -> None:
    model, tokenizer = load_model(tiny_model), build_tokenizer()
    alone = behaviour(model, tokenize(ITEMS[3:], tokenizer, "names"))
    among = behaviour(model, tokenize(ITEMS, tokenizer, "names"))
    assert float(among.logit_diff[3]) == pytest.approx(float(alone.logit_diff[0]), abs=1e-4)
    assert bool(among.candidate_correct[3]) == bool(alone.candidate_correct[0])


def test_a_metric_without_its_single_tokens_or_distractors_is_an_error() -> None:
    tokenizer = build_tokenizer()
    pairs = tokenize(ITEMS[1:2], tokenizer, "names")  # only a distractor is long
    for metric in ("logit_diff", "prob_diff"):
        with pytest.raises(CircuitlapseError, match="one token only .*up to 2 tokens"):
            check_metric(metric, pairs)
    check_metric("log_prob", pairs)
    gap = PromptPairs.from_tensors(
        torch.ones(2, 3, dtype=torch.long),
        torch.ones(2, 3, dtype=torch.long),
        torch.tensor([5, 6]),
        torch.tensor([[7], [-1]]),
    )
    with pytest.raises(CircuitlapseError, match=r"logit_diff needs distractors .*without any"):
        check_metric("logit_diff", gap)


def test_a_right_answer_among_the_distractors_is_an_error() -> None:
    ones = torch.ones(1, 3, dtype=torch.long)
    with pytest.raises(CircuitlapseError, match=r"among its own distractors \(got 'row 0'\)"):
        PromptPairs.from_tensors(
            ones, ones, torch.tensor([5]), torch.tensor([[7, 9]]), also=torch.tensor([[9, -1]])
        )
