from inspect import unwrap
from typing import Any

import pytest
import torch

import circuitlapse as cl
from circuitlapse.errors import CircuitlapseError
from circuitlapse.models.engine.behaviour import behaviour
from circuitlapse.models.files.load import load_model
from circuitlapse.prompts.metrics import check_metric, compute_metric, logit_difference
from circuitlapse.prompts.pairs import PromptPairs
from circuitlapse.reading.lens import logit_lens
from twins_engine import Literal, random_pairs, tiny_gpt2

NAMES = ["logit_diff", "logit_diff_hardest", "prob", "log_prob", "neg_kl", "accuracy"]


def long_answers(seed: int = 4, n: int = 6) -> PromptPairs:
    """Pairs whose answers have one to three tokens."""
    pairs = random_pairs(seed, n=n, longest=6)
    generator = torch.Generator().manual_seed(seed)
    answers = torch.randint(0, 23, (n, 3), generator=generator)
    answers[::3, 1:] = -1
    answers[1::3, 2:] = -1
    mask = (torch.arange(pairs.clean.shape[1]) < pairs.lengths[:, None]).long()
    return PromptPairs.from_tensors(
        pairs.clean, pairs.corrupt, answers, attention_mask=mask, positions=pairs.positions
    )


def literal(name: str, logits: torch.Tensor, clean: torch.Tensor, answer: int, wrong: list[int]):
    """A metric by its definition, for one prompt with a one-token answer."""
    p = torch.softmax(logits, dim=0)
    if name == "logit_diff":
        return logits[answer] - sum(logits[w] for w in wrong) / len(wrong)
    if name == "logit_diff_hardest":
        return logits[answer] - max(logits[w] for w in wrong)
    if name == "prob":
        return p[answer]
    if name == "log_prob":
        return p[answer].log()
    if name == "neg_kl":
        q = torch.softmax(clean, dim=0)
        return -sum(q[i] * (q[i] / p[i]).log() for i in range(len(p)))
    others = torch.cat([logits[:answer], logits[answer + 1 :]])
    return (logits[answer] > others.max()).to(logits.dtype)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("batch_size", [None, 2])
def test_the_empty_circuit_has_the_corrupt_prompts_metric(name, batch_size):
    hf, pairs = tiny_gpt2(), random_pairs(3, n=7)
    twin, model = Literal(hf), load_model(hf)
    empty = cl.Circuit(model.graph, torch.zeros_like(model.graph.edges))
    result = cl.evaluate_circuit(model, empty, pairs, metric=name, batch_size=batch_size)
    for row, (clean, corrupt, _) in enumerate(twin.prompts(pairs)):
        with torch.no_grad():
            before, after = twin.plain(clean)[0], twin.plain(corrupt)[0]
        answer, wrong = int(pairs.answers[row]), pairs.distractors[row].tolist()
        for got, logits in ((result.clean, before), (result.metric, after)):
            expected = float(literal(name, logits, before, answer, wrong))
            assert float(got[row]) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("name", ["logit_diff_hardest", "prob", "log_prob", "neg_kl"])
def test_attribution_follows_the_metrics_own_gradient(name):
    hf, pairs = tiny_gpt2(), random_pairs(3)
    twin = Literal(hf)

    class Named(Literal):
        def prompts(self, pairs) -> Any:
            for row, (clean, corrupt, _) in enumerate(super().prompts(pairs)):
                with torch.no_grad():
                    before = twin.plain(clean)[0]
                answer, wrong = int(pairs.answers[row]), pairs.distractors[row].tolist()
                yield (
                    clean,
                    corrupt,
                    lambda logits, b=before, a=answer, w=wrong: literal(name, logits, b, a, w),
                )

    scores = cl.attribute(load_model(hf), pairs, steps=2, metric=name)
    expected = Named(hf).scores(pairs, [0.0, 0.5]).mean(dim=0)
    torch.testing.assert_close(scores.mean.double(), expected, rtol=1e-4, atol=1e-5)


def teacher_forced(hf, tokens, answer) -> torch.Tensor:
    """Log probability of each of an answer's tokens, one forward each."""
    logs = []
    for k, token in enumerate(answer):
        given = torch.cat([tokens, torch.tensor(answer[:k], dtype=torch.long)])
        logs.append(hf(given[None]).logits[0, -1].log_softmax(dim=-1)[token])
    return torch.stack(logs)


@pytest.mark.parametrize("batch_size", [None, 1, 4])
def test_answers_of_several_tokens_are_read_one_after_the_other(batch_size):
    hf, pairs = tiny_gpt2(), long_answers()
    model = load_model(hf)
    empty = cl.Circuit(model.graph, torch.zeros_like(model.graph.edges))
    by_name = {
        name: cl.evaluate_circuit(model, empty, pairs, metric=name, batch_size=batch_size)
        for name in ("log_prob", "prob", "accuracy")
    }
    tokens, real = pairs.answer_tokens()
    for row in range(len(pairs)):
        answer, length = tokens[row, real[row]].tolist(), int(pairs.lengths[row])
        with torch.no_grad():
            clean = teacher_forced(hf, pairs.clean[row, :length], answer).sum()
            corrupt = teacher_forced(hf, pairs.corrupt[row, :length], answer).sum()
        result = by_name["log_prob"]
        assert float(result.clean[row]) == pytest.approx(float(clean), abs=1e-4)
        assert float(result.metric[row]) == pytest.approx(float(corrupt), abs=1e-4)
        assert float(by_name["prob"].clean[row]) == pytest.approx(float(clean.exp()), abs=1e-5)
    right = behaviour(model, pairs, batch_size).correct
    assert by_name["accuracy"].clean.bool().tolist() == right.tolist()


def test_the_whole_answer_is_right_only_where_every_token_is():
    hf = tiny_gpt2()
    prompt = torch.tensor([[3, 1, 4]])
    with torch.no_grad():
        first = int(hf(prompt).logits[0, -1].argmax())
        second = int(hf(torch.tensor([[3, 1, 4, first]])).logits[0, -1].argmax())
    answers = torch.tensor([[first, second], [first, (second + 1) % 23], [first, -1]])
    pairs = PromptPairs.from_tensors(prompt.repeat(3, 1), prompt.repeat(3, 1), answers)
    assert behaviour(load_model(hf), pairs).correct.tolist() == [True, False, True]


def test_a_callable_sees_the_logits_and_can_ask_for_the_prompts():
    model, pairs = load_model(tiny_gpt2()), random_pairs(2, n=7)

    def own(logits, pairs):
        return logit_difference(logits, pairs.answers, pairs.distractors)

    named = cl.patch(model, pairs, site="head_out")
    torch.testing.assert_close(cl.patch(model, pairs, metric=own, batch_size=2), named)
    entropy = cl.patch(model, pairs, metric=lambda logits: logits.logsumexp(dim=-1))
    assert entropy.shape == named.shape
    scores = cl.attribute(model, pairs, metric=lambda logits, scale=2.0: scale * logits[:, 3])
    assert float(scores.mean.abs().sum()) > 0


def test_a_callable_may_index_prompts_by_row_if_one_batch_has_all():
    model, pairs = load_model(tiny_gpt2()), random_pairs(2, n=8)
    rows, wrong = torch.arange(8), pairs.distractors[:, 0]
    pairs = PromptPairs(pairs.clean, pairs.corrupt, pairs.lengths, pairs.answers, wrong[:, None])
    empty = cl.Circuit(model.graph, torch.zeros_like(model.graph.edges))

    def by_row(logits):
        return logits[rows, pairs.answers] - logits[rows, wrong]

    def by_first_rows(logits):
        n = torch.arange(len(logits))
        return logits[n, pairs.answers[: len(n)]] - logits[n, wrong[: len(n)]]

    for work in (cl.attribute, cl.node_effects, cl.patch, logit_lens):
        found, expected = work(model, pairs, metric=by_row), work(model, pairs)
        if isinstance(found, cl.Scores):
            found, expected = found.mean, expected.mean
        torch.testing.assert_close(found, expected)
    clean = cl.evaluate_circuit(model, empty, pairs, metric=by_row, batch_size=8).clean
    torch.testing.assert_close(clean, cl.evaluate_circuit(model, empty, pairs).clean)
    for batch_size in (1, 4):
        with pytest.raises(CircuitlapseError, match=rf"batch of {batch_size}.*second argument"):
            cl.attribute(model, pairs, metric=by_first_rows, batch_size=batch_size)
    with pytest.raises(CircuitlapseError, match="in one batch .*second argument, .*batch_size=len"):
        cl.patch(model, pairs[torch.arange(8).repeat(2)], metric=by_row, batch_size=8)


def test_a_callable_may_give_booleans_and_whole_numbers_where_no_gradient_is_needed():
    model, pairs = load_model(tiny_gpt2()), random_pairs(2, n=7)

    def leads(logits, pairs):
        return logits.argmax(dim=1) == pairs.answers

    empty = cl.Circuit(model.graph, torch.zeros_like(model.graph.edges))
    for metric in (leads, lambda logits, pairs: leads(logits, pairs).long()):
        for effects in (
            lambda metric: cl.node_effects(model, pairs, metric),
            lambda metric: cl.patch(model, pairs, "resid_pre", metric=metric),
            lambda metric: cl.patch_paths(model, pairs, ["a0.h0"], ["logits"], metric=metric),
            lambda metric: cl.attribute(model, pairs, "exact", metric=metric).mean,
            lambda metric: cl.evaluate_circuit(model, empty, pairs, metric=metric).metric,
        ):
            torch.testing.assert_close(effects(metric), effects("accuracy"))
        with pytest.raises(CircuitlapseError, match="no gradient to attribute"):
            cl.attribute(model, pairs, metric=metric)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"metric": "accuracy"}, "no gradient.*log_prob or .*method='exact', patch"),
        ({"metric": lambda logits: logits}, r"one number per prompt \(got \(5, 23\)\)"),
        ({"metric": lambda logits: 3.0}, r"one number per prompt \(got 'float'\)"),
        ({"metric": lambda logits: 1.0 * logits.argmax(dim=1)}, "no gradient .*method='exact'"),
    ],
)
def test_invalid_metrics_are_errors(arguments, message):
    with pytest.raises(CircuitlapseError, match=message):
        cl.attribute(load_model(tiny_gpt2()), random_pairs(1), batch_size=5, **arguments)


def test_neg_kl_without_a_reference_is_an_error():
    with pytest.raises(CircuitlapseError, match=r"clean model's logits .*no reference.*log_prob"):
        compute_metric("neg_kl", torch.zeros(5, 1, 23), random_pairs(1))


def test_an_unknown_metric_is_an_error_with_the_known_ones():
    unchecked: Any = unwrap(check_metric)
    with pytest.raises(CircuitlapseError, match=r"no such metric \(got 'nll'\).*log_prob"):
        unchecked("nll", random_pairs(1))


def test_metrics_that_do_not_fit_the_answers_are_errors():
    model = load_model(tiny_gpt2())
    with pytest.raises(CircuitlapseError, match="one token only .*up to 3 tokens.*log_prob"):
        cl.attribute(model, long_answers())
    pairs = random_pairs(1)
    bare = PromptPairs.from_tensors(pairs.clean, pairs.corrupt, pairs.answers)
    with pytest.raises(CircuitlapseError, match="logit_diff needs distractors"):
        cl.patch(model, bare)
    assert cl.patch(model, bare, metric="prob").shape == (2, 3)
