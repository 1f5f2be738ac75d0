import hashlib
from typing import NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM
from transformers.optimization import Adafactor

from circuitlapse.config.finetune import Finetune
from circuitlapse.errors import CircuitlapseError
from circuitlapse.models.engine.weights import SHARED, component_pieces
from circuitlapse.tasks.registry import get_task
from circuitlapse.training.finetune import finetune
from circuitlapse.training.restricted import KINDS, Frozen, Restriction, free_masks
from twins_engine import FAMILIES, tiny

OPTIMIZERS = {
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.1, weight_decay=0.5),
    "sgd": lambda p: torch.optim.SGD(p, lr=0.5, momentum=0.9, weight_decay=0.5),
    "adafactor": lambda p: Adafactor(
        p, lr=0.1, weight_decay=0.5, relative_step=False, scale_parameter=False
    ),
}
TOKENS = torch.tensor([[3, 1, 4, 1, 5, 9, 2, 6]])


class Place(NamedTuple):
    parameter: str
    slices: str
    component: str


def digest(tensor):
    return hashlib.sha256(tensor.detach().contiguous().numpy().tobytes()).hexdigest()


def hashes(hf):
    """The bytes of every piece, by where it is."""
    parameters = dict(hf.named_parameters())
    return {
        Place(piece.parameter, str(piece.index), piece.component): digest(
            parameters[piece.parameter][piece.index]
        )
        for piece in component_pieces(hf)
    }


def trained(hf, optimizer, held, clip=None, steps=3):
    optimizer = OPTIMIZERS[optimizer]([p for p in hf.parameters() if p.requires_grad])
    for _ in range(steps):
        optimizer.zero_grad()
        hf(input_ids=TOKENS, labels=TOKENS).loss.backward()
        torch.nn.utils.clip_grad_norm_(hf.parameters(), clip or float("inf"))
        optimizer.step()
        held.restore()


@pytest.mark.parametrize("family", FAMILIES)
def test_only_what_is_named_moves_and_all_else_keeps_its_bytes(family):
    for optimizer in OPTIMIZERS:
        hf = tiny(family)
        before = hashes(hf)
        held = Frozen(hf, free_masks(hf, ["a0.h1", "m1"]))
        trained(hf, optimizer, held)
        moved = {place for place, digested in hashes(hf).items() if before[place] != digested}
        assert moved == {place for place in before if place.component in ("a0.h1", "m1")}
        held.release()
        assert all(parameter.requires_grad for parameter in hf.parameters())


def test_what_is_free_is_trained_as_if_the_rest_were_not_there():
    """AdamW on the free numbers alone, as one flat vector with its own clipping, is the twin.

    In double precision, since the gradient of key biases is nothing but rounding.
    """
    hf, twin = tiny("gpt2").double(), tiny("gpt2").double()
    held = Frozen(hf, free_masks(hf, ["a0.h0", "a1.h1"]))
    trained(hf, "adamw", held, clip=0.05)

    masks = free_masks(twin, ["a0.h0", "a1.h1"])
    parameters = dict(twin.named_parameters())
    free = torch.nn.Parameter(torch.cat([parameters[n][m].detach() for n, m in masks.items()]))
    optimizer = OPTIMIZERS["adamw"]([free])
    for _ in range(3):
        twin.zero_grad()
        twin(input_ids=TOKENS, labels=TOKENS).loss.backward()
        free.grad = torch.cat([parameters[n].grad[m] for n, m in masks.items()])
        torch.nn.utils.clip_grad_norm_([free], 0.05)
        optimizer.step()
        done = 0
        with torch.no_grad():
            for name, mask in masks.items():
                n = int(mask.sum())
                parameters[name][mask] = free[done : done + n]
                done += n
    for name, parameter in hf.named_parameters():
        torch.testing.assert_close(parameter, parameters[name], rtol=1e-5, atol=1e-6)


@settings(max_examples=25)
@given(st.data())
def test_any_parts_and_their_complement_divide_the_model(data):
    family = data.draw(st.sampled_from(["gpt2", "pythia", "llama", "qwen3"]))
    hf = tiny(family)
    nodes = sorted({p.component for p in component_pieces(hf)} - {SHARED})
    parts = data.draw(st.sets(st.sampled_from([*nodes, *KINDS]), min_size=1))
    free, rest = free_masks(hf, parts), free_masks(hf, parts, freeze=True)
    shared = {p.parameter for p in component_pieces(hf) if p.sharers}
    for name, parameter in hf.named_parameters():
        assert free[name].shape == parameter.shape
        assert not bool((free[name] & rest[name]).any())
        if name not in shared:
            assert bool((free[name] | rest[name]).all())


def test_shared_keys_and_values_move_only_with_all_their_heads():
    hf = tiny("llama")  # heads 0 and 1 share keys and values, heads 2 and 3 too
    name = "model.layers.0.self_attn.k_proj.weight"
    size = hf.config.head_dim

    def rows(parts, **options):
        mask = free_masks(hf, parts, **options)[name]
        return [bool(run.all()) for run in mask.split(size)]

    assert rows(["a0.h0", "a0.h2", "a0.h3"]) == [False, True]
    assert rows(["a0.h0"], freeze=True) == [False, True]
    query = free_masks(hf, ["a0.h0"])["model.layers.0.self_attn.q_proj.weight"]
    assert [bool(run.all()) for run in query.split(size)] == [True, False, False, False]


def test_kinds_hold_the_parameters_that_their_names_say():
    def names(family, kind):
        masks = free_masks(tiny(family), [kind])
        return {name for name, mask in masks.items() if bool(mask.any())}

    gpt2 = names("gpt2", "norms")
    assert gpt2 == {
        f"transformer.{m}.{p}"
        for p in ("weight", "bias")
        for m in ("h.0.ln_1", "h.0.ln_2", "h.1.ln_1", "h.1.ln_2", "ln_f")
    }
    assert names("gpt2", "embeddings") == {"transformer.wte.weight", "transformer.wpe.weight"}
    assert names("pythia", "embeddings") == {"gpt_neox.embed_in.weight", "embed_out.weight"} or (
        names("pythia", "embeddings") == {"gpt_neox.embed_in.weight", "lm_head.weight"}
    )
    assert names("llama", "embeddings") == {"model.embed_tokens.weight", "lm_head.weight"}
    assert "model.layers.0.self_attn.q_norm.weight" in names("qwen3", "norms")
    assert len(names("gpt2", "biases")) == 2 * 6 + 1


def test_a_trainer_with_weight_decay_clipping_and_accumulation_moves_one_head_only(tiny_model):
    base = AutoModelForCausalLM.from_pretrained(tiny_model)
    before, saved = hashes(base), {}
    recipe = Finetune.model_validate(
        {
            "steps": 4,
            "save_every": 2,
            "learning_rate": 1e-2,
            "batch_size": 8,
            "gradient_accumulation": 2,
            "trainer": {"weight_decay": 0.1},
        }
    )

    def save(step, model, tokenizer):
        saved[step] = hashes(model)

    finetune(
        tiny_model,
        get_task("ioi3").items("train", 32),
        save,
        recipe,
        seed=0,
        device="cpu",
        callbacks=[Restriction(["a1.h0"])],
    )
    for step in (2, 4):
        moved = {piece.component for piece in before if saved[step][piece] != before[piece]}
        assert moved == {"a1.h0"}
    assert saved[0] == before
    assert saved[4] != saved[2]


def test_a_gradient_that_is_not_finite_reaches_nothing_that_is_held():
    hf = tiny("gpt2")
    before = hashes(hf)
    held = Frozen(hf, free_masks(hf, ["a0.h1"]))
    weight = dict(hf.named_parameters())["transformer.h.0.attn.c_attn.weight"]
    (weight * torch.inf).sum().backward()
    torch.optim.SGD([weight], lr=1.0).step()
    held.restore()
    after = hashes(hf)
    assert all(after[p] == before[p] for p in before if p.component != "a0.h1")


def test_parts_that_do_not_exist_are_refused():
    hf = tiny("gpt2")
    with pytest.raises(CircuitlapseError, match=r"no such part to train .got 'a9.h0'.. Name heads"):
        free_masks(hf, ["a0.h1", "a9.h0"])
    with pytest.raises(CircuitlapseError, match="parts is empty"):
        free_masks(hf, [])
    with pytest.raises(CircuitlapseError, match="no such part to train .got 'shared'"):
        free_masks(hf, ["shared"])
