"""Groups of prompts: several at once on several threads, kept in order, and nothing lost."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import circuitlapse as cl
from circuitlapse.errors import CircuitlapseError
from circuitlapse.models.engine import batches
from circuitlapse.models.engine.batches import alike, each_group
from circuitlapse.models.engine.behaviour import behaviour, logit_differences
from circuitlapse.models.files.load import load_model
from families import parametrize
from twins_engine import random_pairs, tiny, tiny_gpt2

WIDTHS = torch.tensor([40, 8, 30, 30, 8, 60, 20, 25, 70, 12, 33, 64])


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def grouped(work, keep, *, most: int = 3, **options) -> None:
    each_group(
        work, WIDTHS, torch.zeros_like(WIDTHS), lambda width, before: most, keep=keep, **options
    )


def threads_of_a_new_thread() -> int:
    """The number that torch gives a thread which asks for the first time."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(torch.get_num_threads).result()


@pytest.mark.usefixtures("two_threads")
def test_two_threads_work_at_once_and_are_kept_in_order():
    another, kept, keeping = threading.Event(), list[tuple[int, ...]](), set[int]()

    def work(rows: torch.Tensor) -> tuple[int, bool, int]:
        if 1 in rows:  # of the first group, which is done after another: there must be two at once
            assert another.wait(60)
        else:
            another.set()
        return torch.get_num_threads(), torch.is_grad_enabled(), int(WIDTHS[rows].max())

    def keep(rows: torch.Tensor, found: tuple[int, bool, int]) -> None:
        assert found == (1, False, int(WIDTHS[rows].max()))
        kept.append(tuple(rows.tolist()))
        keeping.add(threading.get_ident())

    with torch.no_grad():
        grouped(work, keep)
    assert 1 in kept[0]
    assert sorted(row for rows in kept for row in rows) == list(range(len(WIDTHS)))
    largest = [int(WIDTHS[list(rows)].max()) for rows in kept]
    assert largest == sorted(largest)
    assert keeping == {threading.get_ident()}
    assert threads_of_a_new_thread() == torch.get_num_threads() == 2


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize(
    ("sizes", "options"),
    [
        ({1}, {"batch_size": 3}),  # one row in each of two threads: never more than 3 at once
        ({1}, {"batch_size": 1}),
        ({2}, {"batch_size": 4}),
        ({12}, {"batch_size": 99, "parallel": False}),
        ({1}, {"most": 0}),
    ],
)
def test_no_more_rows_are_worked_on_at_once_than_asked_for(sizes, options):
    found, callers = set[int](), set[int]()

    def work(rows: torch.Tensor) -> int:
        callers.add(threading.get_ident())
        return len(rows)

    grouped(work, lambda rows, n: found.add(n), **options)
    assert found == sizes
    alone = options in ({"batch_size": 1}, {"most": 0}) or "parallel" in options
    assert (callers == {threading.get_ident()}) == alone


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize("options", [{"parallel": False}, {"keep": None}])
def test_what_is_not_up_to_it_is_called_by_one_thread_alone(options):
    callers = set[int]()

    def work(rows: torch.Tensor) -> None:
        callers.add(threading.get_ident())

    grouped(work, **{"keep": lambda rows, found: None} | options)
    assert callers == {threading.get_ident()}


@pytest.mark.usefixtures("two_threads")
def test_a_callers_metric_is_called_by_the_calling_thread_alone():
    model, pairs, callers = load_model(tiny_gpt2()), random_pairs(6, n=200), set[int]()

    def metric(logits: torch.Tensor) -> torch.Tensor:
        callers.add(threading.get_ident())
        return logits[:, 3]

    cl.attribute(model, pairs, metric=metric)
    assert callers == {threading.get_ident()}


@pytest.mark.usefixtures("two_threads")
def test_groups_that_do_not_fit_with_others_are_run_alone_and_in_halves():
    kept, alone, failed, here = list[int](), set[int](), set[int](), threading.get_ident()

    def work(rows: torch.Tensor) -> int:
        if threading.get_ident() == here:
            alone.update(rows.tolist())
        elif len(rows) > 1:
            failed.update(rows.tolist())
        if len(rows) > 1:
            raise MemoryError
        return int(rows)

    grouped(work, lambda rows, found: kept.append(found), most=4)
    assert sorted(kept) == list(range(len(WIDTHS)))
    assert len(failed) > 1
    assert alone == failed
    assert threads_of_a_new_thread() == 2


@pytest.mark.usefixtures("two_threads")
def test_an_error_in_a_thread_ends_the_work():
    def work(rows: torch.Tensor) -> None:
        raise CircuitlapseError("this cannot be")

    with pytest.raises(CircuitlapseError, match="this cannot be"):
        grouped(work, lambda rows, found: None)
    assert threads_of_a_new_thread() == 2


@given(
    widths=st.lists(st.integers(1, 40), min_size=1, max_size=40),
    threads=st.integers(1, 9),
    most=st.integers(1, 30),
)
def test_every_row_is_worked_on_once_however_many_threads_there_are(widths, threads, most):
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        kept, wide = list[int](), torch.tensor(widths)
        each_group(
            lambda rows: rows.tolist(),
            wide,
            torch.zeros_like(wide),
            lambda *_: most,
            keep=lambda rows, found: kept.extend(found),
        )
    finally:
        torch.set_num_threads(before)
    assert sorted(kept) == list(range(len(widths)))


def test_alike_rows_come_together_even_ones_first():
    starts = torch.zeros_like(WIDTHS)
    groups = [rows.tolist() for rows in alike(WIDTHS, starts, lambda width, before: 5)]
    assert groups == [[4, 6, 1, 9, 7], [2, 10, 0, 3, 5], [8, 11]]


@parametrize("gpt2", "llama")
def test_results_are_the_same_on_one_thread_and_on_two(family, monkeypatch):
    model = load_model(tiny(family), dtype="float64")
    pairs, within = random_pairs(6, n=200), batches._within_memory
    circuit = cl.attribute(model, pairs, "eap").top(n_edges=60)
    callers = set[int]()

    def seen(work: Any, rows: torch.Tensor) -> Any:
        callers.add(threading.get_ident())
        return within(work, rows)

    monkeypatch.setattr(batches, "_within_memory", seen)

    def evaluated() -> torch.Tensor:
        found = cl.evaluate_circuit(model, circuit, pairs)
        return torch.stack([found.metric, found.clean, found.empty])

    works = [
        lambda: cl.attribute(model, pairs, "eap", qk_fix=True).mean,
        lambda: cl.attribute(model, pairs, "eap-ig-inputs").mean,
        lambda: cl.attribute(model, pairs, "eap-ig-activations", steps=2).mean,
        lambda: cl.patch(model, pairs, "head_out"),
        lambda: cl.patch(model, pairs, "resid_pre"),
        lambda: cl.patch(model, pairs, "head_v", "denoising", per_position=True),
        lambda: cl.node_effects(model, pairs),
        lambda: cl.neuron_effects(model, pairs, [(0, [1, 3]), (1, [0])]),
        lambda: cl.neuron_scores(model, pairs),
        lambda: cl.patch_paths(model, pairs, ["a0.h0"], ["logits"]),
        evaluated,
        lambda: cl.evaluate_circuit(model, circuit, pairs, ablation="mean").metric,
        lambda: torch.from_numpy(behaviour(model, pairs).logit_diff),
        lambda: torch.stack(logit_differences(model, pairs)),
    ]
    before = torch.get_num_threads()
    try:
        for work in works:
            torch.set_num_threads(1)
            callers.clear()
            one, alone = work(), set(callers)
            torch.set_num_threads(2)
            two = work()
            assert alone == {threading.get_ident()}
            assert len(callers) > 1
            largest = float(one.abs().max())
            assert largest > 0
            torch.testing.assert_close(two / largest, one / largest, rtol=0, atol=1e-6)
    finally:
        torch.set_num_threads(before)
