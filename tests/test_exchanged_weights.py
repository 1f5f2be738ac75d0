"""Weights of one part put back in the tuned model, and grafted into the base."""

import copy

import numpy as np
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, OPTConfig, OPTForCausalLM

from circuitlapse.errors import CircuitlapseError
from circuitlapse.models.engine.behaviour import behaviour
from circuitlapse.models.engine.weights import component_pieces
from circuitlapse.models.files.load import load_model
from circuitlapse.prompts.pairs import PromptPairs
from circuitlapse.stats.intervals import mean_interval
from circuitlapse.two_models.exchanged_weights import weight_effects
from families import every_family
from twins_engine import Literal, tiny

OLD, NEW = ("a0.h1", "a1.h3"), ("a1.h0",)


def gpt2(seed, **options):
    torch.manual_seed(seed)
    config = GPT2Config(
        vocab_size=23,
        n_positions=16,
        n_embd=16,
        n_layer=2,
        n_head=4,
        initializer_range=0.3,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=0,
        eos_token_id=0,
        **options,
    )
    model = GPT2LMHeadModel(config)
    for parameter in model.parameters():  # fresh norms and biases are all ones and zeros
        parameter.data += 0.05 * torch.randn_like(parameter)
    return model.eval()


@pytest.fixture(scope="module")
def models():
    return load_model(gpt2(0)), load_model(gpt2(1))


@pytest.fixture(scope="module")
def pairs():
    generator = torch.Generator().manual_seed(0)
    clean, corrupt = torch.randint(23, (2, 12, 7), generator=generator)
    return PromptPairs.from_tensors(
        clean, corrupt, torch.full((12,), 3), torch.tensor([[4, 5]] * 12)
    )


def effects(models, pairs, old=OLD, new=NEW):
    base, tuned = models
    return {
        each.part: each for each in weight_effects(base, tuned, pairs, old_heads=old, new_heads=new)
    }


def with_tuned(base, tuned, wanted):
    """A copy of the base with the tuned weights of some components, loaded afresh."""
    hf, source = copy.deepcopy(base.hf), dict(tuned.hf.named_parameters())
    with torch.no_grad():
        for piece in component_pieces(hf):
            if wanted(piece.component):
                target = dict(hf.named_parameters())[piece.parameter]
                target[piece.index] = source[piece.parameter][piece.index]
    return load_model(hf)


def test_part_sizes_are_those_counted_by_hand(models, pairs):
    head = 16 * 4 * 3 + 4 * 3 + 4 * 16  # q, k, v weights and biases, rows of the output matrix
    mlp = 16 * 64 + 64 + 64 * 16 + 16
    norms_and_bias = 2 * (2 * 16 + 2 * 16 + 16) + 2 * 16
    assert {part: each.n_parameters for part, each in effects(models, pairs).items()} == {
        "old_heads": 2 * head,
        "new_heads": head,
        "other_heads": 5 * head,
        "mlps": 2 * mlp,
        "shared": norms_and_bias + 23 * 16 + 16 * 16,
        "layer 0": 4 * head + mlp,
        "layer 1": 4 * head + mlp,
    }


@pytest.mark.parametrize(
    ("part", "wanted"),
    [
        ("old_heads", lambda name: name in OLD),
        ("mlps", lambda name: name in ("m0", "m1")),
        ("shared", lambda name: name == "shared"),
        ("layer 1", lambda name: name.startswith(("a1", "m1"))),
    ],
)
def test_effects_are_those_of_models_loaded_afresh(models, pairs, part, wanted):
    base, tuned = models

    def value(model):
        return behaviour(model, pairs).logit_diff.astype(np.float64)

    found = effects(models, pairs)[part]
    assert found.grafted == mean_interval(value(with_tuned(base, tuned, wanted)) - value(base))
    assert found.put_back == mean_interval(value(tuned) - value(with_tuned(tuned, base, wanted)))


def test_neither_model_is_changed(models, pairs):
    before = [{k: v.clone() for k, v in each.hf.named_parameters()} for each in models]
    effects(models, pairs)
    for model, kept in zip(models, before, strict=True):
        assert all(torch.equal(kept[name], now) for name, now in model.hf.named_parameters())


def test_a_part_without_heads_has_no_row(models, pairs):
    assert "new_heads" not in effects(models, pairs, new=())


def test_wrong_heads_and_models_are_refused(models, pairs):
    with pytest.raises(CircuitlapseError, match=r"no such head \(got 'a2\.h0'\)\. Name heads"):
        effects(models, pairs, old=["a2.h0"])
    grown = load_model(gpt2(0, tie_word_embeddings=False))
    with pytest.raises(CircuitlapseError, match=r"shape of lm_head\.weight \(got 'nothing and"):
        effects((models[0], grown), pairs)


def test_models_that_cannot_be_divided_are_refused():
    hf = gpt2(0)
    hf.transformer.h[0].extra = torch.nn.Linear(2, 2)
    with pytest.raises(CircuitlapseError, match=r"no known component.*h\.0\.extra\.weight"):
        component_pieces(hf)
    config = OPTConfig(
        vocab_size=9,
        hidden_size=8,
        ffn_dim=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        word_embed_proj_dim=8,
    )
    with pytest.raises(CircuitlapseError, match=r"cannot be divided.*'opt'.*gpt2"):
        component_pieces(OPTForCausalLM(config))


@pytest.mark.parametrize("tied", [True, False])
def test_every_number_of_every_parameter_is_in_exactly_one_piece(tied):
    hf = gpt2(0, tie_word_embeddings=tied)
    counts = {name: torch.zeros_like(p) for name, p in hf.named_parameters()}
    for piece in component_pieces(hf):
        counts[piece.parameter][piece.index] += 1
    assert all(bool((count == 1).all()) for count in counts.values())
    assert ("lm_head.weight" in counts) is not tied


def test_a_heads_pieces_are_all_that_its_output_depends_on():
    """Changing a head's pieces changes that head's output and no other head's."""
    base = gpt2(0)
    changed = copy.deepcopy(base)
    own = [piece for piece in component_pieces(base) if piece.component == "a1.h2"]
    assert len(own) == 7
    for piece in own:
        dict(changed.named_parameters())[piece.parameter].data[piece.index] += 1.0
    tokens = torch.arange(10)[None]

    def head_outputs(hf):
        seen = []
        attention = hf.transformer.h[1].attn
        hook = attention.c_proj.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
        hf(tokens)
        hook.remove()
        z = seen[0].view(1, 10, 4, 4)
        return torch.einsum("bphd,hdm->bphm", z, attention.c_proj.weight.view(4, 4, 16))

    with torch.no_grad():
        difference = (head_outputs(base) - head_outputs(changed)).abs().amax(dim=(0, 1, 3))
    assert (difference > 0).tolist() == [False, False, True, False]


@every_family
def test_the_weights_of_a_head_change_that_head_alone(family):
    hf = tiny(family)
    pieces = component_pieces(hf)
    counts = {name: torch.zeros_like(p) for name, p in hf.named_parameters()}
    for piece in pieces:
        counts[piece.parameter][piece.index] += 1
    assert all(bool((count == 1).all()) for count in counts.values())

    tokens = torch.tensor([3, 1, 4, 1, 5])
    twin = Literal(hf)
    with torch.no_grad():
        _, before = twin.plain(tokens)
        for node in twin.graph.nodes:
            changed = copy.deepcopy(hf)
            weights = dict(changed.named_parameters())
            for piece in pieces:
                if piece.component == node:
                    weights[piece.parameter][piece.index] += 1
            _, after = Literal(changed).plain(tokens)
            layer = node[1:].split(".")[0]
            peers = [n for n in before if n[1:].split(".")[0] == layer and n[0] == "a"]
            moved = {n for n in {*peers, node} if not torch.allclose(before[n], after[n])}
            assert moved == {node}
