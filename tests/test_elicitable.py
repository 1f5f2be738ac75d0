import numpy as np
import pytest

from circuitlapse.errors import CircuitlapseError
from circuitlapse.models.engine.behaviour import behaviour
from circuitlapse.models.files.load import load_model
from circuitlapse.reading.k_shot import few_shot
from circuitlapse.tasks.few_shot import with_examples
from circuitlapse.tasks.registry import get_task
from circuitlapse.tasks.tokenization import tokenize


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
    assert none.candidate_accuracy is not None
    assert none.candidate_accuracy.value == float(plain.candidate_correct.mean(dtype=np.float64))
    assert one.n_examples == 1
    assert many.candidate_accuracy is many.logit_diff is None
    assert "and the model reads 48" in many.not_reported
