"""The prefix cache changes no result, and no shared prefix is run twice."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from circuitlapse.attribution.edges import attribute
from circuitlapse.models.engine import prefix_cache
from circuitlapse.models.engine.behaviour import corrupt_logit_difference, logit_differences
from circuitlapse.models.engine.decoder import Decoder
from circuitlapse.models.files.load import load_model
from circuitlapse.patching.node_effects import node_effects
from circuitlapse.prompts.pairs import PromptPairs
from families import every_family
from twins_engine import FAMILIES, random_pairs, tiny, tiny_gpt2


def corrupted_from(pairs: PromptPairs, column: int) -> PromptPairs:
    """The same clean prompts; a counterfactual changes one column, or the last where shorter.

    So the shared beginnings of a batch differ in length where its prompts do.
    """
    where = torch.minimum(torch.full_like(pairs.lengths, column), pairs.lengths - 1)
    index = torch.arange(pairs.clean.shape[1])
    corrupt = torch.where(index == where[:, None], (pairs.clean + 1) % 23, pairs.clean)
    mask = (index < pairs.lengths[:, None]).long()
    return PromptPairs.from_tensors(pairs.clean, corrupt, pairs.answers, pairs.distractors, mask)


def columns_run(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Rows and columns that were run for their keys and values, each time."""
    seen: list[tuple[int, int]] = []
    run = Decoder._keys_and_values

    def counted(decoder, tokens, past):
        known = past[0][0].shape[1] if past else 0
        seen.append((len(tokens), tokens.shape[1] - known))
        return run(decoder, tokens, past)

    monkeypatch.setattr(Decoder, "_keys_and_values", counted)
    return seen


@settings(max_examples=25)
@given(
    st.sampled_from(sorted(FAMILIES)),
    st.lists(st.tuples(st.integers(1, 7), st.integers(1, 5), st.integers(0, 4)), max_size=5),
    st.sampled_from([0, 600, 2**20]),
)
def test_results_are_those_without_memory(family, calls, most_bytes):
    """Counterfactuals in any order, batches of any size, of any of the prompts, and any room."""
    model, prompts = load_model(tiny(family)), random_pairs(3)
    with_prefix_cache = model.with_prefix_cache()
    for column, batch_size, skip in calls:
        pairs = corrupted_from(prompts, column)[skip:]
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(prefix_cache, "_MOST_BYTES", most_bytes)
            found = logit_differences(with_prefix_cache, pairs, batch_size)
        for ours, plain in zip(found, logit_differences(model, pairs), strict=True):
            torch.testing.assert_close(ours, plain, rtol=1e-4, atol=1e-5)


@every_family
def test_scores_and_effects_are_those_without_memory(family):
    model, prompts = load_model(tiny(family)), random_pairs(4)
    with_prefix_cache = model.with_prefix_cache()
    for column in (6, 3, 7):
        pairs = corrupted_from(prompts, column)
        for measure in (node_effects, lambda *given: attribute(*given).mean):
            ours, plain = measure(with_prefix_cache, pairs), measure(model, pairs)
            torch.testing.assert_close(ours, plain, rtol=1e-4, atol=1e-5)


def even_prompts(seed: int) -> PromptPairs:
    """Four prompts of eight tokens."""
    pairs = random_pairs(seed, n=4)
    return PromptPairs.from_tensors(pairs.clean, pairs.corrupt, pairs.answers, pairs.distractors)


def test_only_what_is_not_known_is_run(monkeypatch):
    seen, model, prompts = columns_run(monkeypatch), load_model(tiny_gpt2()), even_prompts(5)
    with_prefix_cache = model.with_prefix_cache()
    for column in (5, 3, 7, 7):
        corrupt_logit_difference(with_prefix_cache, corrupted_from(prompts, column))
    assert seen == [(4, 5), (4, 2)]
    corrupt_logit_difference(model, corrupted_from(prompts, 5))
    corrupt_logit_difference(model.with_prefix_cache(), corrupted_from(prompts, 5))
    assert seen[2:] == [(4, 5), (4, 5)]  # a model without a cache, and one with an empty cache


def test_a_longer_beginning_is_kept_though_a_shorter_one_was_run(monkeypatch):
    seen, prompts = columns_run(monkeypatch), even_prompts(6)
    model = load_model(tiny_gpt2()).with_prefix_cache()
    one = prompts[torch.tensor([1])]
    corrupt_logit_difference(model, corrupted_from(one, 6))
    corrupt_logit_difference(model, corrupted_from(prompts, 4))  # the others are not known yet
    corrupt_logit_difference(model, corrupted_from(one, 6))
    assert seen == [(1, 6), (4, 4)]


def test_where_there_is_no_room_what_is_held_stays(monkeypatch):
    seen, model, prompts = columns_run(monkeypatch), load_model(tiny_gpt2()), even_prompts(6)
    pairs, decoder = corrupted_from(prompts, 5), model.decoder
    block = decoder.attention[0].W_O
    one = 2 * decoder.n_layers * 5 * block.shape[0] * block.shape[1] * block.itemsize
    monkeypatch.setattr(prefix_cache, "_MOST_BYTES", 3 * one)
    kept = model.with_prefix_cache()
    for row in (0, 1, 2, 3, 0, 1, 2, 3):
        corrupt_logit_difference(kept, pairs[torch.tensor([row])])
    assert len(seen) == 5  # all but the second time that each of the first three is asked for


def test_the_cache_counts_all_its_bytes():
    model = load_model(tiny_gpt2()).with_prefix_cache()
    for column in (3, 5):
        corrupt_logit_difference(model, corrupted_from(even_prompts(6), column))
    cache = model.decoder.prefix_cache
    assert cache is not None
    sizes = [row.untyped_storage().nbytes() for row in cache._kept.values()]
    assert len(sizes) == 4
    assert sum(sizes) == cache._bytes


def test_several_threads_share_one_cache():
    model, prompts = load_model(tiny_gpt2()), random_pairs(8, n=120)
    threads, with_prefix_cache = torch.get_num_threads(), model.with_prefix_cache()
    torch.set_num_threads(2)
    try:
        for column in (5, 3, 7):
            pairs = corrupted_from(prompts, column)
            found = corrupt_logit_difference(with_prefix_cache, pairs, batch_size=16)
            plain = corrupt_logit_difference(model, pairs, batch_size=16)
            torch.testing.assert_close(found, plain, rtol=1e-4, atol=1e-5)
    finally:
        torch.set_num_threads(threads)
