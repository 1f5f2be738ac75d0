import numpy as np
import pytest
import torch

from circuitlapse.compare.elicitable import few_shot
from circuitlapse.compare.probes import answer_places, classify, probe_layers
from circuitlapse.errors import CircuitlapseError
from circuitlapse.models import behaviour, load_model
from circuitlapse.tasks import get_task, tokenize
from circuitlapse.tasks.fewshot import with_examples
from handmade import handmade, handmade_pairs


@pytest.fixture(scope="module")
def items():
    return get_task("ioi3").items("test", 12), get_task("ioi3").items("train", 60)


def test_examples_are_solved_share_no_name_and_move_every_span(items):
    asked, examples = items
    shown = with_examples(asked, examples, 2, seed=3)
    for before, after in zip(asked, shown, strict=True):
        lead = after.prompt.removesuffix(before.prompt)
        assert len(lead) + len(before.prompt) == len(after.prompt)
        used = [one for one in examples if f"{one.prompt}{one.answer}.\n" in lead]
        assert lead.count(".\n") == len(used) == 2
        assert not set(before.names) & {name for one in used for name in one.names}
        for name, (start, end) in after.spans.items():
            old = before.spans[name]
            assert after.prompt[start:end] == before.prompt[slice(*old)]
        assert after.corrupt.keys() == before.corrupt.keys()
        assert all(text.startswith(lead) for text in after.corrupt.values())
    assert with_examples(asked, examples, 0) == list(asked)
    with pytest.raises(CircuitlapseError, match="99 examples are needed that share no name"):
        with_examples(asked, examples, 99)


def test_few_shot_rows_are_the_models_answers_or_say_why_not(items, tiny_model):
    asked, examples = items
    model = load_model(tiny_model)
    none, one, many = few_shot(model, asked, examples, (0, 1, 8), separator=".")
    plain = behaviour(model, tokenize(asked, model.tokenizer, "names"))
    assert none.accuracy_among is not None
    assert none.accuracy_among.value == float(plain.correct_among.double().mean())
    assert one.n_examples == 1
    assert many.accuracy_among is many.logit_diff is None
    assert "and the model reads 48" in many.refused


def test_a_probe_finds_what_is_there_and_nothing_in_noise():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 300)
    signal = np.eye(3)[labels] @ rng.normal(size=(3, 20)) + 0.3 * rng.normal(size=(300, 20))
    assert (classify(signal[:200], labels[:200], signal[200:]) == labels[200:]).mean() > 0.95
    noise = rng.normal(size=(300, 20))
    assert (classify(noise[:200], labels[:200], noise[200:]) == labels[200:]).mean() < 0.5
    # As many dimensions as prompts: only the penalty keeps it from remembering them.
    wide = np.hstack([signal, rng.normal(size=(300, 150))])
    assert (classify(wide[:170], labels[:170], wide[170:]) == labels[170:]).mean() > 0.8


def test_the_ridge_solution_is_the_literal_one():
    rng = np.random.default_rng(1)
    x, labels = rng.normal(size=(40, 5)), rng.integers(0, 2, 40)
    z = (x - x.mean(axis=0)) / x.std(axis=0)
    y = np.eye(2)[labels]
    scores = {}
    for penalty in np.logspace(-3, 4, 15):
        inverse = np.linalg.inv(z.T @ z + penalty * np.eye(5))
        hat = z @ inverse @ z.T + 1 / 40
        left = y - hat @ y
        error = (left**2).sum() / (1 - np.trace(hat) / 40) ** 2
        scores[error] = (z @ inverse @ z.T @ (y - y.mean(axis=0)) + y.mean(axis=0)).argmax(axis=1)
    np.testing.assert_array_equal(classify(x, labels, x), scores[min(scores)])


def listed_pairs(n, seed):
    """The handmade prompts, with IO before or after S."""
    pairs = handmade_pairs(n, seed)
    swapped = torch.arange(n) % 2 == 1
    clean, positions = pairs.clean.clone(), {k: v.clone() for k, v in pairs.positions.items()}
    clean[swapped, 0], clean[swapped, 1] = pairs.clean[swapped, 1], pairs.clean[swapped, 0]
    positions["IO"][swapped], positions["S"][swapped] = 1, 0
    return type(pairs).from_tensors(
        clean, clean, pairs.answers, pairs.distractors, positions=positions
    )


def test_places_and_layers_of_a_model_that_is_known():
    train, test = listed_pairs(60, 0), listed_pairs(40, 1)
    assert answer_places(test, ("IO", "S")).tolist() == [0, 1] * 20
    model = load_model(handmade())
    torch.manual_seed(0)
    bare = load_model(type(model.hf)(model.hf.config).eval())
    rows = probe_layers(model, train, test, ("IO", "S"), seed=0, random_weights=bare, shuffles=5)
    assert [row.layer for row in rows] == [0, 1, 2]
    # END is the same token at the same place in every prompt: nothing to read before attention.
    assert rows[0].accuracy.value <= 0.6
    assert rows[0].shuffled <= rows[0].shuffled_high <= 1
    assert rows[-1].random_weights is not None


def test_probes_refuse_positions_without_the_answer():
    pairs = handmade_pairs()
    with pytest.raises(CircuitlapseError, match=r"no such position \(got 'S2'\)"):
        answer_places(pairs, ("IO", "S2"))
    with pytest.raises(CircuitlapseError, match="position S does not hold the answer"):
        answer_places(pairs, ("S", "IO"))
