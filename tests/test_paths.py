import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from circuitlapse.errors import CircuitlapseError
from circuitlapse.models.files.load import load_model
from circuitlapse.patching.paths import patch_paths, sweep_paths
from families import every_family
from twins_engine import Literal, random_pairs, tiny, tiny_gpt2
from twins_patching import LiteralPatches


@torch.no_grad()
@settings(max_examples=2)
@given(
    st.integers(0, 1000),
    st.booleans(),
    st.sampled_from(["noising", "denoising"]),
    st.sampled_from([1, 10**9]),
)
@every_family
def test_paths_are_the_literal_ones(family, seed, mlps, direction, part):
    hf, pairs = tiny(family), random_pairs(seed, n=2, longest=4)
    model, twin = load_model(hf), LiteralPatches(hf)
    graph, generator = twin.graph, torch.Generator().manual_seed(seed)

    def some(names: tuple[str, ...]) -> list[str]:
        order = torch.randperm(len(names), generator=generator)
        return [names[index] for index in order[: 1 + seed % 4].tolist()]

    senders, receivers = ["input", *some(graph.nodes)], some(graph.readers[:-1])
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("circuitlapse.patching.partial_forward._PART_FLOATS", part)
        ours = patch_paths(model, pairs, senders, receivers, direction, through_mlps=mlps)
        each = sweep_paths(model, pairs, receivers, direction, through_mlps=mlps)
    for row, (clean, corrupt, metric) in enumerate(twin.prompts(pairs)):
        base, source = (clean, corrupt) if direction == "noising" else (corrupt, clean)
        before = metric(twin.plain(clean)[0])

        def effect(senders: set[str], base=base, source=source, metric=metric, before=before):
            return before - metric(twin.paths(base, source, senders, set(receivers), mlps))

        torch.testing.assert_close(
            ours[row].double(), effect(set(senders)), rtol=1e-4, atol=1e-5, check_dtype=False
        )
        for writer in (0, seed % len(graph.writers)):
            torch.testing.assert_close(
                each[row, writer].double(), effect({graph.writers[writer]}), rtol=1e-4, atol=1e-5
            )


@torch.no_grad()
@every_family
def test_one_sender_and_one_receiver_are_one_edge_patched_exactly(family):
    hf, pairs = tiny(family), random_pairs(2, n=1, longest=4)
    model, twin = load_model(hf), Literal(hf)
    graph = twin.graph
    edges = {
        (graph.writers[writer], graph.readers[reader])
        for writer, reader in graph.edges.nonzero().tolist()
    }
    clean, corrupt, metric = next(twin.prompts(pairs))
    before = metric(twin.plain(clean)[0])
    for reader in graph.readers[::-3]:
        ours = sweep_paths(model, pairs, [reader])[0]
        for index, writer in enumerate(graph.writers):
            edge = (writer, reader)
            if edge not in edges:
                assert float(ours[index]) == 0.0
            elif (index + graph.readers.index(reader)) % 2:
                after = metric(twin.circuit(clean, corrupt, edges - {edge}))
                torch.testing.assert_close(
                    ours[index].double(), before - after, rtol=1e-4, atol=1e-5
                )


def test_all_paths_to_the_logits_are_the_corrupt_run():
    model, pairs = load_model(tiny_gpt2()), random_pairs(0)
    effects = patch_paths(model, pairs, model.graph.writers, "logits")
    back = patch_paths(model, pairs, model.graph.writers, ["logits"], "denoising")
    torch.testing.assert_close(back, torch.zeros_like(back), rtol=0, atol=1e-5)
    assert float(effects.abs().max()) > 0.1


def test_a_head_stands_for_its_query_key_and_value():
    model, pairs = load_model(tiny("qwen2")), random_pairs(1)
    slots = ["a1.h3<q>", "a1.h1<k>", "a1.h1<v>"]
    torch.testing.assert_close(
        patch_paths(model, pairs, ["a0.h0", "m0"], "a1.h3"),
        patch_paths(model, pairs, ["a0.h0", "m0"], slots),
    )


def test_sweeps_do_not_depend_on_batches():
    model, pairs = load_model(tiny("llama"), dtype="float64"), random_pairs(0, n=7)
    whole = sweep_paths(model, pairs, ["a1.h0", "m1"], metric="log_prob", through_mlps=True)
    for size in (1, 3):
        again = sweep_paths(
            model, pairs, ["a1.h0", "m1"], metric="log_prob", batch_size=size, through_mlps=True
        )
        torch.testing.assert_close(again, whole, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("senders", "receivers", "text"),
    [
        (["a0.h9"], ["logits"], r"no such sender \(got 'a0.h9'\).*input, a0.h1, m0"),
        (["a0.h1<q>"], ["logits"], r"no such sender"),
        (["input"], ["a0.h1<z>"], r"no such receiver \(got 'a0.h1<z>'\).*or a0.h1"),
        (["input"], [], r"no receivers.*at least one"),
        ([], ["m0"], r"no senders.*at least one"),
        (["m1"], ["a1.h0", "m0"], r"no receiver comes after.*m1 → a1.h0, m0"),
        (["input"], ["m0", "logits"], r"logits can only be a receiver alone.*two calls"),
    ],
)
def test_paths_that_are_none_are_refused(senders, receivers, text):
    with pytest.raises(CircuitlapseError, match=text):
        patch_paths(load_model(tiny_gpt2()), random_pairs(0), senders, receivers)
