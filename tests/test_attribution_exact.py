"""Exact scores: a model worked out by hand, dead components, progress."""

from inspect import unwrap
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from circuitlapse.attribution import exact
from circuitlapse.attribution.edges import attribute
from circuitlapse.attribution.exact import project_exact
from circuitlapse.models.engine.circuit import Graph
from circuitlapse.models.files.load import load_model
from circuitlapse.prompts.pairs import PromptPairs
from twins_engine import random_pairs, tiny_gpt2

ROOT = 5**0.5


def _copying_head() -> tuple[Any, PromptPairs]:
    """One head copies what it sees; all four embeddings are orthogonal with mean 0, variance 1.

    Clean A C, corrupt B C; the head attends evenly and writes the sum of both normalised
    embeddings, so that it adds A + C in the clean and B + C in the corrupt run.
    """
    config = GPT2Config(
        n_layer=1,
        n_head=1,
        n_embd=4,
        n_positions=2,
        vocab_size=3,
        layer_norm_epsilon=1e-12,
        bos_token_id=None,
        eos_token_id=None,
    )
    hf: Any = GPT2LMHeadModel(config)
    with torch.no_grad():
        for name, weight in hf.named_parameters():
            weight.fill_(1.0 if "ln" in name and "weight" in name else 0.0)
        hf.transformer.wte.weight.copy_(
            torch.tensor([[1, -1, 1, -1], [1, -1, -1, 1], [1, 1, -1, -1]])
        )
        attention = hf.transformer.h[0].attn
        attention.c_attn.weight[:, 8:] = torch.eye(4)  # values; queries and keys stay zero
        attention.c_proj.weight.copy_(2 * torch.eye(4))
    pairs = PromptPairs.from_tensors(
        torch.tensor([[0, 2]]), torch.tensor([[1, 2]]), torch.tensor([0]), torch.tensor([1])
    )
    return hf, pairs


# With f the last residual stream, σ² its variance and D = A − B, the metric is D·f/σ and its
# gradient g = (D − f (D·f) / (4 σ²)) / σ. Both scores are D·g at the points of the method, but into
# the value through the norm there: (D − x (D·x) / (4 s²)) · g / s, x its input, s² its variance.
#
# clean point: f = 2 C + A, σ² = 5, D·f = 4, g = (D − f/5)/√5, D·g = (8 − 4/5)/√5 = 7.2/√5; x = A,
#   s = 1: 7.2/√5 − A·g = 7.2/√5 − (4 − 4/5)/√5 = 4/√5.
# corrupt point: the same with A and B exchanged.
# half-way: x = (A + B)/2, s² = 1/2, f = 2 C + (A + B)/√2, σ² = 5, D·f = 0, D·g = 8/√5; D·x = 0, so
#   8/√5 · √2.
# exact: the metric is 4/√5 with A + C from the head and −4/√5 with B + C, along either edge. The
#   last norm is not linear: that is why EAP falls short of it even for an edge into the logits.
# activations, m = 1: three clean runs, each with one node held; the one that holds the head has no
#   gradient at the head's value.
@pytest.mark.parametrize(
    ("method", "steps", "to_logits", "to_value"),
    [
        ("eap", 1, 7.2 / ROOT, 4 / ROOT),
        ("eap-ig-inputs", 1, 7.2 / ROOT, 4 / ROOT),
        ("eap-ig-inputs", 2, 7.6 / ROOT, (2 + 4 * 2**0.5) / ROOT),
        ("eap-ig-activations", 1, 7.2 / ROOT, 8 / 3 / ROOT),
        ("exact", 1, 8 / ROOT, 8 / ROOT),
    ],
)
def test_a_model_worked_out_by_hand(method, steps, to_logits, to_value):
    hf, pairs = _copying_head()
    scores = attribute(load_model(hf), pairs, method, steps)
    table = {(row["writer"], row["reader"]): row["score"] for row in scores.to_frame().to_dicts()}
    assert table.pop(("a0.h0", "logits")) == pytest.approx(to_logits, rel=1e-5)
    assert table.pop(("input", "a0.h0<v>")) == pytest.approx(to_value, rel=1e-5)
    assert set(table.values()) == {0.0}
    assert torch.isnan(scores.halves[1]).all()


def test_the_sign_is_mibs_for_every_method():
    hf, pairs = _copying_head()
    swapped = PromptPairs(
        pairs.clean, pairs.corrupt, pairs.lengths, pairs.distractors[:, 0], pairs.answers[:, None]
    )
    for method in ("eap", "eap-ig-inputs", "eap-ig-activations", "exact"):
        scores = attribute(load_model(hf), pairs, method).mean
        assert float(scores.min()) >= 0 < float(scores.max())
        torch.testing.assert_close(attribute(load_model(hf), swapped, method).mean, -scores)


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("exact", {}),
        ("eap-ig-inputs", {}),
        ("eap-ig-activations", {"steps": 2}),
        ("eap", {"qk_fix": True}),
    ],
)
def test_dead_components_score_exactly_zero(method, options):
    hf = tiny_gpt2()
    with torch.no_grad():
        hf.transformer.h[0].attn.c_proj.weight[4:8] = 0  # head 1
        hf.transformer.h[1].mlp.c_proj.weight.zero_()
    scores = attribute(load_model(hf), random_pairs(0), method, **options)
    graph = scores.graph
    for dead in ("a0.h1", "m1"):
        assert (scores.mean[graph.writers.index(dead)] == 0).all()
        columns = [i for i, name in enumerate(graph.readers) if name.partition("<")[0] == dead]
        assert (scores.mean[:, columns] == 0).all()
    assert (scores.mean[graph.writers.index("a0.h0")] != 0).any()


def test_edges_into_the_logits_are_exact_where_the_last_norm_hardly_bends():
    """Far from zero a norm is almost linear: EAP and the exact effect agree on these edges."""
    hf = tiny_gpt2(3, layers=1)
    with torch.no_grad():
        hf.transformer.wpe.weight *= 1e4
    model, pairs = load_model(hf, dtype="float64"), random_pairs(4, n=3)
    exact, estimate = (attribute(model, pairs, method).mean[:, -1] for method in ("exact", "eap"))
    assert float(exact.abs().max()) > 0
    torch.testing.assert_close(estimate, exact, rtol=0.01, atol=1e-3 * float(exact.abs().max()))


def test_progress_counts_edges_times_pairs():
    model, pairs, seen = load_model(tiny_gpt2(layers=1)), random_pairs(2, n=4), []
    attribute(model, pairs, "exact", batch_size=3, progress=lambda *at: seen.append(at))
    total = len(pairs) * model.graph.n_edges
    assert seen[-1] == (total, total)
    assert [at for at, _ in seen] == sorted({at for at, _ in seen})


@pytest.mark.parametrize(("device", "writers"), [("cpu", 4), ("cuda", 9)])
def test_a_gpu_is_timed_with_all_its_work_done(device, writers, monkeypatch):
    """A clock that only a GPU's waiting moves, and work that only begins when it is called."""
    graph, seen, pending = Graph(3, 3), [], 0.0

    def effects(reader: int, n_writers: int) -> None:
        nonlocal pending
        pending += n_writers
        seen.append(n_writers)

    def waited(_: torch.device) -> None:
        nonlocal pending, clock
        clock, pending = clock + pending, 0.0

    clock = 0.0
    monkeypatch.setattr(torch.cuda, "synchronize", waited)
    monkeypatch.setattr("time.perf_counter", lambda: clock)
    before = SimpleNamespace(device=torch.device(device))
    runs = SimpleNamespace(graph=graph, before=before, effects=effects)
    found = unwrap(exact._seconds_per_edge)(runs, graph.slot_readers(2, "k").start)
    assert seen == [writers, writers]
    assert found == (1 if device == "cuda" else 0)


@pytest.mark.parametrize("layers", [1, 3])
def test_the_time_of_exact_scores_is_projected(layers):
    model = load_model(tiny_gpt2(layers=layers))
    few = project_exact(model, random_pairs(1, n=2))
    assert 0 < few < 60
    clean, corrupt = torch.randint(0, 23, (2, 800, 8))
    answers = torch.zeros(800).long()
    many = PromptPairs.from_tensors(clean, corrupt, answers, answers + 1)
    assert project_exact(model, many) > few
