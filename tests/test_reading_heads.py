"""What heads copy, look for and attend to: on a model made by hand, and against literal twins."""

import pytest
import torch

from circuitlapse.errors import CircuitlapseError
from circuitlapse.models.files.load import load_model
from circuitlapse.prompts.pairs import PromptPairs
from circuitlapse.reading import heads
from circuitlapse.reading.attention import attention_between
from circuitlapse.reading.direct import direct_logit_attribution
from circuitlapse.reading.heads import copying_scores, matching_scores
from circuitlapse.reading.repeats import repeat_scores, repeated_tokens
from families import every_family, three_families
from handmade import handmade, handmade_pairs
from twins_engine import Literal, random_pairs, tiny, tiny_gpt2
from twins_reading import patterns, streams


@pytest.fixture(scope="module")
def made():
    return load_model(handmade())


def best(scores: torch.Tensor) -> tuple[int, int]:
    layer, head = divmod(int(scores.argmax()), scores.shape[1])
    return layer, head


def test_the_handmade_heads_are_recognised_on_repeated_tokens(made):
    scores = repeat_scores(made, n_tokens=7)
    for name, head in {"previous": (0, 0), "duplicate": (0, 1), "induction": (1, 0)}.items():
        found = getattr(scores, name)
        assert best(found) == head
        assert found[head] > 0.99
        assert (found > 0.5).sum() == 1
    # Where nothing is preferred, query i gives each of its i + 1 keys the same weight.
    uniform = sum(1 / (i + 1) for i in range(1, 14)) / 13
    assert float(scores.previous[0, 2]) == pytest.approx(uniform, abs=1e-6)
    uniform = sum(1 / (i + 1) for i in range(7, 14)) / 7
    assert float(scores.duplicate[0, 2]) == pytest.approx(uniform, abs=1e-6)
    assert float(scores.induction[0, 2]) == pytest.approx(uniform, abs=1e-6)


@pytest.mark.parametrize("source", ["ids", "pairs"])
def test_the_handmade_copiers_copy(made, source):
    tokens, at = (torch.arange(16), ()) if source == "ids" else (handmade_pairs(), ("IO", "S"))
    expected = torch.tensor([[0.0, 0.0, 0.0], [1.0, 1.0, 0.0]])
    assert torch.equal(copying_scores(made, tokens, at), expected)
    negative = copying_scores(made, tokens, at, negative=True)
    assert torch.equal(negative, torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.0, 1.0]]))


def test_the_handmade_duplicate_head_matches_tokens(made):
    alone = matching_scores(made, torch.arange(16))
    assert alone[0, 1] == 1
    assert alone[0, 2] == 0.5
    in_prompts = matching_scores(made, handmade_pairs(), "S_again", "S")
    assert in_prompts[0, 1] == 1
    assert in_prompts[0, 2] == 0.5


def test_the_handmade_name_movers_are_read_in_every_way(made):
    pairs = handmade_pairs()
    assert attention_between(made, pairs, "END", "IO")[1, 1:].min() > 0.99
    assert attention_between(made, pairs, "S_again", "S")[0, 1] > 0.99
    assert attention_between(made, pairs, "S_again", "S+1")[1, 0] > 0.99
    assert attention_between(made, pairs, "S+1", "S")[0, 0] > 0.99
    contributions = direct_logit_attribution(made, pairs).heads
    assert best(contributions) == (1, 1)
    assert best(-contributions) == (1, 2)
    assert torch.allclose(contributions[1, 2], -contributions[1, 1] / 2, atol=1e-5)


@every_family
def test_repeat_scores_are_the_literal_ones(family):
    hf, n = tiny(family), 4
    found = repeat_scores(load_model(hf), n, sequences=3, seed=5)
    tokens = repeated_tokens(23, n, 3, seed=5)
    assert all(len(set(row.tolist())) == n for row in tokens)
    twin = Literal(hf)
    weights = torch.stack([patterns(twin, row) for row in tokens]).mean(dim=0)
    for name, offset, first in (("previous", 1, 1), ("duplicate", n, n), ("induction", n - 1, n)):
        queries = range(first, 2 * n)
        literal = torch.stack([weights[:, :, i, i - offset] for i in queries]).mean(dim=0)
        torch.testing.assert_close(getattr(found, name).double(), literal, rtol=1e-4, atol=1e-5)


def test_repeat_scores_depend_on_their_seed_alone():
    model = load_model(tiny_gpt2())
    first, same, other = (repeat_scores(model, 5, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(first.induction, same.induction)
    assert not torch.equal(first.induction, other.induction)


def head_values(twin: Literal, layer: int, head: int, x: torch.Tensor, name: str) -> torch.Tensor:
    """What one head's query, key or value projection makes of one token's stream."""
    block = twin.blocks[layer]
    d_head = len(block.W_O) // twin.graph.n_heads
    which = head if name == "q" else twin.graph.kv_head(head)
    with torch.no_grad():
        value = block.project[name](block.norm(x[None]))[0]
    return value[which * d_head : (which + 1) * d_head]


@three_families
@pytest.mark.parametrize("negative", [False, True])
@pytest.mark.parametrize("samples", [(5, 8), (8,), (23,)])
def test_copying_scores_are_the_literal_ones(family, samples, negative, monkeypatch):
    monkeypatch.setattr(heads, "_MOST_LOGITS", 70)
    monkeypatch.setattr(heads, "_SAMPLES", samples)  # parts of the vocabulary first, or all
    hf, ids = tiny(family), torch.arange(3, 15)
    found = copying_scores(load_model(hf), ids, top=4, negative=negative)
    twin, expected = Literal(hf), torch.zeros_like(found)
    unembed = twin.hf.get_output_embeddings()
    for token in ids:
        x = streams(twin, token[None])[2][0]
        for layer, block in enumerate(twin.blocks):
            for head in range(twin.graph.n_heads):
                value = head_values(twin, layer, head, x, "v")
                rows = slice(head * len(value), (head + 1) * len(value))
                out = (-1 if negative else 1) * value @ block.W_O[rows]
                with torch.no_grad():
                    best = unembed(twin.norm(out)).argsort(descending=True)[:4]
                expected[layer, head] += (token in best) / len(ids)
    torch.testing.assert_close(found, expected)


@every_family
def test_matching_scores_are_the_literal_ones(family):
    hf, ids = tiny(family), torch.arange(2, 11)
    found = matching_scores(load_model(hf), ids, offset=5)
    twin, expected = Literal(hf), torch.zeros_like(found)
    x = [streams(twin, token[None])[2][0] for token in ids]
    for layer, block in enumerate(twin.blocks):
        for head in range(twin.graph.n_heads):

            def vector(i: int, name: str, position: int, layer=layer, head=head, block=block):
                value = head_values(twin, layer, head, x[i], name)
                value = block.head_norms.get(name, lambda y: y)(value)
                return block.place(value.expand(position + 1, -1))[position]

            with torch.no_grad():
                keys = [vector(i, "k", 0) for i in range(len(ids))]
                wins = [
                    float(vector(i, "q", 5) @ keys[i] > vector(i, "q", 5) @ keys[j])
                    for i in range(len(ids))
                    for j in range(len(ids))
                    if i != j
                ]
            expected[layer, head] = sum(wins) / len(wins)
    torch.testing.assert_close(found, expected)


@every_family
def test_in_prompts_the_stream_is_read_where_the_token_stands(family):
    hf, base = tiny(family), random_pairs(4, n=6)
    first = torch.zeros_like(base.lengths)
    mask = (torch.arange(base.clean.shape[1]) < base.lengths[:, None]).long()
    places = {"first": first, "END": base.lengths - 1}
    pairs = PromptPairs.from_tensors(
        base.clean, base.corrupt, base.answers, base.distractors, mask, places
    )
    model = load_model(hf)
    # Nothing stands to the left of a first token, so that it is like a prompt of its own.
    alone = copying_scores(model, pairs.clean[:, 0])
    torch.testing.assert_close(copying_scores(model, pairs, ["first"]), alone)
    twin, n_right = Literal(hf), 0
    unembed = twin.hf.get_output_embeddings()
    for clean, _, _ in twin.prompts(pairs):
        value = head_values(twin, 1, 1, streams(twin, clean)[2][-1], "v")
        with torch.no_grad():
            out = unembed(twin.norm(value @ twin.blocks[1].W_O[len(value) : 2 * len(value)]))
        n_right += int(clean[-1] in out.argsort(descending=True)[:5])
    assert float(copying_scores(model, pairs, ["END"])[1, 1]) == pytest.approx(n_right / len(pairs))


def test_what_cannot_be_scored_is_refused(made):
    pairs = handmade_pairs()
    with pytest.raises(CircuitlapseError, match=r"from 3 to 8 for this model \(got 9\)"):
        repeat_scores(made, 9)
    with pytest.raises(CircuitlapseError, match=r"sequences must be at least 1"):
        repeat_scores(made, 5, sequences=0)
    with pytest.raises(CircuitlapseError, match="names of positions"):
        copying_scores(made, pairs)
    with pytest.raises(CircuitlapseError, match=r"token ids take none \(got 'IO'\)"):
        copying_scores(made, torch.arange(4), ("IO",))
    with pytest.raises(CircuitlapseError, match=r"one dimension \(got \(2, 2\)\)"):
        copying_scores(made, torch.zeros(2, 2, dtype=torch.long))
    with pytest.raises(CircuitlapseError, match=r"same token .*S_again and IO.*two mentions"):
        matching_scores(made, pairs, "S_again", "IO")
    with pytest.raises(CircuitlapseError, match="at least two different tokens"):
        matching_scores(made, torch.tensor([3, 3]))
