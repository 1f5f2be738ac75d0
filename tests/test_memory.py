"""Memory: the same results whatever fits, halved batches when it runs out, and a plain message."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import circuitlapse as cl
from circuitlapse.attribution import eap, exact
from circuitlapse.errors import CircuitlapseError
from circuitlapse.models.engine import batches, decoder
from circuitlapse.models.engine.behaviour import behaviour, behaviours
from circuitlapse.models.engine.context import Context
from circuitlapse.models.engine.shared_prefix import Suffixes, each_batch
from circuitlapse.models.files.load import load_model
from circuitlapse.patching import partial_forward
from circuitlapse.prompts.pairs import PromptPairs
from twins_engine import random_pairs, tiny, tiny_gpt2


def test_the_memory_budget_does_not_change_the_results(monkeypatch):
    # In double precision: in single, rounding alone comes near the millionth that is asked for.
    model, pairs = load_model(tiny_gpt2(layers=3), dtype="float64"), random_pairs(6, n=20)
    circuit = cl.attribute(model, pairs).top(n_edges=60)

    def results() -> list[torch.Tensor]:
        return [
            cl.attribute(model, pairs).mean,
            cl.node_effects(model, pairs),
            cl.patch(model, pairs, site="resid_pre"),
            cl.evaluate_circuit(model, circuit, pairs).metric,
        ]

    roomy = results()
    monkeypatch.setattr(batches, "PROCESSOR_BYTES", 2**17)
    for tight, wide in zip(results(), roomy, strict=True):
        largest = float(wide.abs().max())
        torch.testing.assert_close(tight / largest, wide / largest, rtol=0, atol=1e-6)


def test_a_gpus_batches_take_half_of_what_is_free(monkeypatch):
    gpu = torch.device("cuda", 1)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (2**34, 2**36))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 2**32)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 2**31)
    assert batches.max_batch_rows(gpu, 2**20)(1, 9) == (2**34 + 2**32 - 2**31) // 2**21
    assert batches.max_batch_rows(gpu, 2**20, 2**18)(1, 8) == (2**34 + 2**32 - 2**31) // 2**21 // 3
    cpu = torch.device("cpu")
    assert batches.max_batch_rows(cpu, 2**20)(4, 9) == 64
    assert batches.max_batch_rows(cpu, 2**10)(4, 9) == 256
    assert batches.max_batch_rows(cpu, 2**10, 2**20)(4, 8) == 31
    assert batches.max_variants(gpu, 2**10, 2**12) > batches.max_variants(cpu, 2**10, 2**12) == 4
    assert batches.max_variants(cpu, 2**14, 2**12) == 1


def late_pairs(n: int, length: int = 200) -> PromptPairs:
    """Long prompts that differ in their last token only."""
    clean = torch.randint(0, 23, (n, length), generator=torch.Generator().manual_seed(0))
    corrupt = torch.cat([clean[:, :-1], (clean[:, -1:] + 1) % 23], dim=1)
    answers = torch.arange(n) % 22
    return PromptPairs.from_tensors(clean, corrupt, answers, answers + 1)


def test_the_cache_of_a_long_shared_prefix_is_part_of_the_budget(monkeypatch):
    model, pairs = load_model(tiny("llama", max_position_embeddings=256)), late_pairs(24)
    kept: list[int] = []

    def work(batch: Suffixes) -> None:
        past = [part for layer in batch.context.past for part in layer]
        kept.append(sum(part.numel() * part.itemsize for part in past))

    each_batch(model.decoder, pairs, 1, work)
    assert len(kept) == 1
    roomy = cl.node_effects(model, pairs)
    budget = kept.pop() // 3
    monkeypatch.setattr(batches, "PROCESSOR_BYTES", budget)
    each_batch(model.decoder, pairs, 1, work)
    assert len(kept) > 3
    assert max(kept) <= budget
    torch.testing.assert_close(cl.node_effects(model, pairs), roomy)


def test_few_variants_of_long_prompts_are_run_at_once(monkeypatch):
    """Each layer copies the prefix's keys and values for each of them."""
    hf = tiny("mistral", num_attention_heads=8, hidden_size=16, max_position_embeddings=256)
    hf.config.sliding_window = None
    model, pairs, copied = load_model(hf), late_pairs(1), list[int]()

    def seen(past: torch.Tensor, new: torch.Tensor) -> torch.Tensor:
        found = after(past, new)
        copied.append(found.numel())
        return found

    after = decoder._append
    monkeypatch.setattr(decoder, "_append", seen)
    for module in (partial_forward, exact, eap):
        monkeypatch.setattr(module, "_PART_FLOATS", 2**7)
    cl.node_effects(model, pairs)
    cl.attribute(model, pairs, "exact")
    cl.attribute(model, pairs, "eap", qk_fix=True)
    assert max(copied) == 200 * model.decoder.d_model  # one variant


def out_of_memory(kind: str) -> Exception:
    if kind == "cuda":
        return torch.OutOfMemoryError("CUDA out of memory.")
    if kind == "cublas":
        call = "cublasCreate(handle)"
        return RuntimeError(f"CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `{call}`")
    return MemoryError()


@pytest.mark.parametrize("kind", ["cuda", "cublas", "python"])
def test_a_batch_that_does_not_fit_is_halved_until_it_does(kind):
    model, pairs = load_model(tiny_gpt2()), random_pairs(6, n=21)
    seen: list[list[int]] = []

    def work(batch: Suffixes) -> None:
        if len(batch.rows) > 3:
            raise out_of_memory(kind)
        seen.append(batch.rows.tolist())

    each_batch(model.decoder, pairs, 1, work)
    assert sorted(row for rows in seen for row in rows) == list(range(21))
    assert all(sorted(rows, key=lambda row: row % 2) == rows for rows in seen)


@pytest.mark.parametrize("kind", ["cuda", "python"])
def test_behaviour_is_read_in_halves_where_memory_runs_out(kind):
    model, pairs = load_model(tiny_gpt2()), random_pairs(6, n=21)
    sizes: list[int] = []

    def run(batch: PromptPairs, context: Context) -> Iterator[torch.Tensor]:
        x = model.decoder.run(model.decoder.embed(batch.clean), context)
        yield x
        if len(batch) > 3:
            raise out_of_memory(kind)
        sizes.append(len(batch))
        yield 2 * x

    found, expected = behaviours(model, pairs, run), behaviour(model, pairs)
    assert (sum(sizes), len(found)) == (21, 2)
    torch.testing.assert_close(found[0].logit_diff, expected.logit_diff)
    assert found[0].correct.tolist() == expected.correct.tolist()

    def never(batch: PromptPairs, context: Context) -> Iterator[torch.Tensor]:
        raise out_of_memory(kind)

    with pytest.raises(CircuitlapseError, match="one prompt alone .*shorter prompts"):
        behaviours(model, pairs, never)


@pytest.mark.parametrize("metric", ["log_prob", "neg_kl", lambda logits: logits[:, 3]])
def test_logits_of_the_whole_vocabulary_are_part_of_the_budget(metric, monkeypatch):
    """A vocabulary that is large for its model makes batches smaller, and nothing else."""
    model, pairs = load_model(tiny_gpt2(vocab=2000)), random_pairs(6, n=12)

    def sizes(name: Any) -> list[int]:
        found: list[int] = []
        each_batch(
            model.decoder, pairs, 100, lambda batch: found.append(len(batch.rows)), metric=name
        )
        return found

    roomy = cl.node_effects(model, pairs, metric), cl.attribute(model, pairs, metric=metric).mean
    monkeypatch.setattr(batches, "PROCESSOR_BYTES", 2**18)
    assert len(sizes("logit_diff")) == 1
    assert len(sizes(metric)) >= 4
    tight = cl.node_effects(model, pairs, metric), cl.attribute(model, pairs, metric=metric).mean
    for ours, theirs in zip(tight, roomy, strict=True):
        largest = float(theirs.abs().max())
        torch.testing.assert_close(ours / largest, theirs / largest, rtol=0, atol=1e-5)


@pytest.mark.parametrize("nth", [1, 2, 3])
def test_a_half_that_fails_on_its_way_is_not_counted_twice(nth, monkeypatch):
    """Memory runs out in large batches at the metric, once some of them have been computed."""
    model, pairs, calls = load_model(tiny_gpt2()), random_pairs(6, n=12), dict[tuple, int]()
    circuit = cl.attribute(model, pairs).top(n_edges=40)
    metric = Suffixes.metric

    def tight(batch: Suffixes, *given: Any) -> torch.Tensor:
        found, key = metric(batch, *given), tuple(batch.rows.tolist())
        calls[key] = calls.get(key, 0) + 1
        if len(key) > 4 and calls[key] == nth:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return found

    for work in (
        lambda: cl.attribute(model, pairs, steps=4).mean,
        lambda: cl.attribute(model, pairs, "exact").mean,
        lambda: cl.patch(model, pairs),
        lambda: cl.patch(model, pairs, "resid_pre"),
        lambda: cl.evaluate_circuits(model, [circuit, circuit], pairs)[1].metric,
    ):
        monkeypatch.setattr(Suffixes, "metric", metric)
        expected = work()
        calls.clear()
        monkeypatch.setattr(Suffixes, "metric", tight)
        torch.testing.assert_close(work(), expected, rtol=1e-4, atol=1e-5)
        assert {len(key) for key in calls} == {12, 6, 3}


def test_a_single_pair_that_does_not_fit_ends_with_a_message():
    def work(batch: Suffixes) -> None:
        raise MemoryError

    with pytest.raises(CircuitlapseError, match="one prompt alone .*shorter prompts"):
        each_batch(load_model(tiny_gpt2()).decoder, random_pairs(6), 1, work)


def test_other_errors_come_through():
    def work(batch: Suffixes) -> None:
        raise RuntimeError("something else")

    with pytest.raises(RuntimeError, match="something else"):
        each_batch(load_model(tiny_gpt2()).decoder, random_pairs(6), 1, work)


_SCRIPT = """
import resource
import torch
from circuitlapse.models.files.load import load_model
from circuitlapse.models.engine.shared_prefix import each_batch
from twins_engine import random_pairs, tiny_gpt2

model, pairs = load_model(tiny_gpt2()), random_pairs(6, n=16)
sizes = []

def work(batch):
    torch.empty(len(batch.rows) * 2**28, dtype=torch.uint8)
    sizes.append(len(batch.rows))

used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 3 * 2**29, resource.RLIM_INFINITY))
each_batch(model.decoder, pairs, 1, work)
print(sum(sizes), max(sizes))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits of memory are set as on Linux")
def test_the_processors_own_allocator_is_understood():
    """A real limit on the process: 16 pairs of 256 MiB each in 1.5 GiB."""
    found = subprocess.run(
        [sys.executable, "-c", _SCRIPT],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parent,
    )
    assert found.returncode == 0, found.stderr
    total, largest = map(int, found.stdout.split())
    assert total == 16
    assert largest < 6
