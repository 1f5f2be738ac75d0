"""Groups of prompts: several at once on several threads, kept in order, and nothing lost."""

import threading
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import circuitlapse as cl
from circuitlapse.errors import CircuitlapseError
from circuitlapse.models import behaviour, load_model
from circuitlapse.models.groups import alike, each_group
from circuitlapse.tasks import PromptPairs
from twins_engine import random_pairs, tiny_gpt2

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


@pytest.mark.usefixtures("two_threads")
def test_two_threads_work_at_once_and_are_kept_in_order():
    meeting, kept, keeping = threading.Barrier(2, timeout=60), list[tuple[int, ...]](), set[int]()
    came = list[int]()

    def work(rows: torch.Tensor) -> tuple[int, bool, int]:
        came.append(1)
        if len(came) <= 2:
            meeting.wait()  # too long, if there were not two at once
        return torch.get_num_threads(), torch.is_grad_enabled(), int(WIDTHS[rows].max())

    def keep(rows: torch.Tensor, found: tuple[int, bool, int]) -> None:
        assert found == (1, False, int(WIDTHS[rows].max()))
        kept.append(tuple(rows.tolist()))
        keeping.add(threading.get_ident())

    with torch.no_grad():
        grouped(work, keep)
    assert sorted(row for rows in kept for row in rows) == list(range(len(WIDTHS)))
    largest = [int(WIDTHS[list(rows)].max()) for rows in kept]
    assert largest == sorted(largest)
    assert keeping == {threading.get_ident()}
    assert torch.get_num_threads() == 2


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize("options", [{"side_by_side": False}, {"keep": None}])
def test_what_is_not_up_to_it_is_called_by_one_thread_alone(options):
    callers = set[int]()

    def work(rows: torch.Tensor) -> None:
        callers.add(threading.get_ident())

    grouped(work, **{"keep": lambda rows, found: None} | options)
    assert callers == {threading.get_ident()}


@pytest.mark.usefixtures("two_threads")
def test_a_callers_metric_is_called_by_the_calling_thread_alone():
    model, pairs, callers = load_model(tiny_gpt2()), random_pairs(6, n=60), set[int]()

    def metric(logits: torch.Tensor) -> torch.Tensor:
        callers.add(threading.get_ident())
        return logits[:, 3]

    cl.attribute(model, pairs, metric=metric)
    assert callers == {threading.get_ident()}


@pytest.mark.usefixtures("two_threads")
def test_groups_that_do_not_fit_beside_others_are_done_alone_and_in_halves():
    kept, done = list[int](), list[int]()

    def work(rows: torch.Tensor) -> int:
        if len(rows) > 1:
            raise MemoryError
        done.extend(rows.tolist())
        return int(rows)

    grouped(work, lambda rows, found: kept.append(found), most=4)
    assert sorted(kept) == sorted(done) == list(range(len(WIDTHS)))
    assert torch.get_num_threads() == 2


@pytest.mark.usefixtures("two_threads")
def test_an_error_in_a_thread_ends_the_work():
    def work(rows: torch.Tensor) -> None:
        raise CircuitlapseError("this cannot be")

    with pytest.raises(CircuitlapseError, match="this cannot be"):
        grouped(work, lambda rows, found: None)
    assert torch.get_num_threads() == 2


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
            lambda rows: rows.tolist(), wide, torch.zeros_like(wide), lambda *_: most,
            keep=lambda rows, found: kept.extend(found),
        )  # fmt: skip
    finally:
        torch.set_num_threads(before)
    assert sorted(kept) == list(range(len(widths)))


def test_alike_rows_come_together_even_ones_first():
    starts = torch.zeros_like(WIDTHS)
    groups = [rows.tolist() for rows in alike(WIDTHS, starts, lambda width, before: 5)]
    assert groups == [[4, 6, 1, 9, 7], [2, 10, 0, 3, 5], [8, 11]]


def test_results_are_the_same_on_one_thread_and_on_two():
    model, pairs = load_model(tiny_gpt2(layers=3), dtype="float64"), random_pairs(6, n=60)
    circuit = cl.attribute(model, pairs).top(n_edges=60)
    groups = [(0, [1, 3]), (1, [0])]

    def results(pairs: PromptPairs) -> list[torch.Tensor]:
        evaluated = cl.evaluate_circuit(model, circuit, pairs)
        return [
            *(cl.attribute(model, pairs, method).mean for method in ("eap", "eap-ig-inputs",
                                                                    "eap-ig-activations")),
            *(cl.patch(model, pairs, site) for site in ("head_out", "resid_pre")),
            cl.node_effects(model, pairs),
            cl.neuron_effects(model, pairs, groups),
            cl.neuron_scores(model, pairs),
            cl.patch_paths(model, pairs, ["a0.h0"], ["logits"]),
            evaluated.metric, evaluated.clean, evaluated.empty,
            behaviour(model, pairs).logit_diff,
        ]  # fmt: skip

    before, found = torch.get_num_threads(), []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        found.append(results(pairs))
    torch.set_num_threads(before)
    for one, two in zip(*found, strict=True):
        largest = float(one.abs().max())
        assert largest > 0
        torch.testing.assert_close(two / largest, one / largest, rtol=0, atol=1e-6)
