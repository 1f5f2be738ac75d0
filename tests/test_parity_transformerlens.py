"""Against TransformerLens, where it is installed: ``make parity`` installs it and runs this file.

Attribution is written here once more with its hooks, by the definition: what each writer's hook
changes by, times the gradient at each reader's hook.
"""

import copy
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import (
    AutoTokenizer,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

import circuitlapse as cl
from circuitlapse.models.engine.behaviour import logit_differences
from circuitlapse.models.engine.model import Model
from circuitlapse.models.files.transformerlens import export_transformerlens
from circuitlapse.organisms.tokenizer import build_tokenizer
from twins_engine import tiny_gpt2

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    pytest.importorskip("transformer_lens", reason="`make parity` installs TransformerLens")
    from transformer_lens import patching  # pyright: ignore[reportMissingImports]
    from transformer_lens.model_bridge import (  # pyright: ignore[reportMissingImports]
        TransformerBridge,
    )
    from transformer_lens.model_bridge.sources import (  # pyright: ignore[reportMissingImports]
        build_bridge_from_module,
    )

pytestmark = pytest.mark.filterwarnings("ignore")

_VOCAB: dict[str, Any] = {"vocab_size": 23, "bos_token_id": None, "eos_token_id": None}
_SIZES: dict[str, Any] = {
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "hidden_size": 32,
    "intermediate_size": 40,
}
_GROUPED = {**_VOCAB, **_SIZES, "num_key_value_heads": 2}


def _scrambled(model: Any) -> Any:
    """Let nothing be zero or one: biases and norms are random too."""
    with torch.no_grad():
        for name, weight in model.named_parameters():
            centre = 1.0 if "norm" in name and name.endswith("weight") else 0.0
            weight.copy_(centre + 0.3 * torch.randn_like(weight))
    return model.eval()


_FAMILIES: dict[str, Callable[[], Any]] = {
    "gpt2": lambda: tiny_gpt2(layers=3),
    "gpt_neox": lambda: _scrambled(
        GPTNeoXForCausalLM(GPTNeoXConfig(**_VOCAB, **_SIZES, max_position_embeddings=16))
    ),
    "gpt_neox-sequential": lambda: _scrambled(
        GPTNeoXForCausalLM(GPTNeoXConfig(**_VOCAB, **_SIZES, use_parallel_residual=False))
    ),
    "llama": lambda: _scrambled(LlamaForCausalLM(LlamaConfig(**_GROUPED))),
    "qwen2": lambda: _scrambled(Qwen2ForCausalLM(Qwen2Config(**_GROUPED))),
    "qwen3": lambda: _scrambled(Qwen3ForCausalLM(Qwen3Config(**_GROUPED, head_dim=8))),
}


@pytest.fixture(scope="module", params=list(_FAMILIES))
def both(request) -> tuple[Model, Any]:
    """The same weights in our model and in TransformerLens' bridge."""
    torch.manual_seed(0)
    hf = _FAMILIES[request.param]()
    wrapped = copy.deepcopy(hf)
    bridge: Any = build_bridge_from_module(wrapped, type(hf).__name__, hf_config=hf.config)
    bridge.eval()
    bridge.enable_compatibility_mode(no_processing=True)
    bridge.set_use_split_qkv_input(True)
    bridge.set_use_attn_result(True)
    bridge.set_use_hook_mlp_in(True)
    return cl.load_model(hf), bridge


@pytest.fixture(scope="module")
def pairs() -> cl.PromptPairs:
    generator = torch.Generator().manual_seed(3)
    clean = torch.randint(0, 23, (6, 7), generator=generator)
    corrupt = clean.clone()
    corrupt[:, 2:4] = torch.randint(0, 23, (6, 2), generator=generator)
    answers = torch.arange(6)
    return cl.PromptPairs.from_tensors(clean, corrupt, answers, answers[:, None] + 7)


def metric(pairs: cl.PromptPairs) -> Callable[[Tensor], Tensor]:
    rows = torch.arange(len(pairs))

    def compute(logits: Tensor) -> Tensor:
        last = logits[:, -1]
        return (last[rows, pairs.answers] - last[rows, pairs.distractors[:, 0]]).mean()

    return compute


def test_logits(both, pairs):
    model, bridge = both
    clean, corrupt = logit_differences(model, pairs)
    for ours, tokens in ((clean, pairs.clean), (corrupt, pairs.corrupt)):
        theirs = metric(pairs)(bridge(tokens))
        torch.testing.assert_close(ours.mean(), theirs, rtol=1e-4, atol=1e-4)


def _run(bridge: Any, tokens: Tensor, start: Tensor | None = None):
    """Run once; return logits and what every hook saw, with its place in the autograd graph.

    With ``start`` the embedding (positions aside, which both prompts share) is replaced by it.
    """
    seen: dict[str, Tensor] = {}

    def keep(x: Any, hook: Any) -> Any:
        if start is not None and hook.name == "hook_embed":
            x = start
        if hook.name.endswith("hook_mlp_in"):
            x = x.clone()  # what it gets is the stream itself, which others read too
        if isinstance(x, Tensor):
            seen[hook.name] = x
        return x

    return bridge.run_with_hooks(tokens, fwd_hooks=[(lambda _: True, keep)]), seen


def _written(graph: cl.Graph, seen: dict[str, Tensor]) -> Tensor:
    """Outputs of all writers, [writers, batch, pos, d_model], positions' embedding aside."""
    outputs = [seen["hook_embed"]]
    for layer in range(graph.n_layers):
        outputs += seen[f"blocks.{layer}.attn.hook_result"].unbind(2)
        outputs.append(seen[f"blocks.{layer}.hook_mlp_out"])
    return torch.stack(outputs).detach()


def _gradients(graph: cl.Graph, seen: dict[str, Tensor], loss: Tensor) -> Tensor:
    """Gradients at all readers, [readers, batch, pos, d_model]."""
    slots = [
        f"blocks.{layer}.hook_{slot}_input" for layer in range(graph.n_layers) for slot in "qkv"
    ]
    mlps = [f"blocks.{layer}.hook_mlp_in" for layer in range(graph.n_layers)]
    final = f"blocks.{graph.n_layers - 1}.hook_out"
    wanted = [*slots, *mlps, final]
    found = dict(
        zip(wanted, torch.autograd.grad(loss, [seen[name] for name in wanted]), strict=True)
    )
    gradients: list[Tensor] = []
    for layer in range(graph.n_layers):
        for slot in "qkv":
            gradients += found[f"blocks.{layer}.hook_{slot}_input"].unbind(2)
        gradients.append(found[f"blocks.{layer}.hook_mlp_in"])
    return torch.stack([*gradients, found[final]])


@pytest.mark.parametrize(
    ("method", "points"), [("eap", [1.0]), ("eap-ig-inputs", [0, 0.25, 0.5, 0.75])]
)
def test_attributions(both, pairs, method, points):
    model, bridge = both
    graph = model.graph
    with torch.no_grad():
        clean = _run(bridge, pairs.clean)[1]
        corrupt = _run(bridge, pairs.corrupt)[1]
    difference = _written(graph, corrupt) - _written(graph, clean)
    total = torch.zeros(len(graph.writers), len(graph.readers))
    for point in points:
        start = corrupt["hook_embed"].lerp(clean["hook_embed"], point).requires_grad_()
        logits, seen = _run(bridge, pairs.clean, start)
        gradients = _gradients(graph, seen, -metric(pairs)(logits))
        total += torch.einsum("wbpd,rbpd->wr", difference, gradients) / len(points)
    ours = cl.attribute(model, pairs, method=method, steps=len(points)).mean
    theirs = total.where(graph.edges, 0.0)
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4 * float(theirs.abs().max()))


@pytest.mark.parametrize("direction", ["noising", "denoising"])
@pytest.mark.parametrize("site", ["head_out", "resid_pre", "attn_out", "mlp_out"])
def test_patching(both, pairs, site, direction):
    model, bridge = both
    sweep = {
        "head_out": patching.get_act_patch_attn_head_out_all_pos,
        "resid_pre": patching.get_act_patch_resid_pre,
        "attn_out": patching.get_act_patch_attn_out,
        "mlp_out": patching.get_act_patch_mlp_out,
    }[site]
    base, source = pairs.clean, pairs.corrupt
    if direction == "denoising":
        base, source = source, base
    with torch.no_grad():
        _, cache = bridge.run_with_cache(source)
        patched = sweep(bridge, base, cache, metric(pairs))
        before = metric(pairs)(bridge(pairs.clean))
    ours = cl.patch(model, pairs, site=site, direction=direction)
    torch.testing.assert_close(ours, before - patched, rtol=1e-3, atol=1e-4)


def test_an_exported_checkpoint_loads(tmp_path, monkeypatch):
    tokenizer = build_tokenizer()
    size = len(tokenizer)
    tokenizer.add_special_tokens({"pad_token": "<pad>"})
    hf = tiny_gpt2(vocab=len(tokenizer))
    hf.config.eos_token_id = hf.config.bos_token_id = tokenizer.eos_token_id
    model = Model(hf, cl.load_model(hf).decoder, tokenizer)
    path = export_transformerlens(model, tmp_path / "out", vocab_size=size)
    bridge: Any = TransformerBridge.boot_transformers(str(path), device="cpu")
    assert bridge.cfg.d_vocab == size
    tokens = torch.randint(0, size, (2, 9), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(bridge(tokens), hf(tokens).logits[..., :size], rtol=1e-4, atol=1e-4)
    # TransformerLens puts the beginning-of-text token in front, as it does for every GPT-2.
    words = tokenizer.decode(tokens[0])
    expected = AutoTokenizer.from_pretrained(path)(words)["input_ids"]
    assert bridge.tokenizer(words, add_special_tokens=False)["input_ids"] == expected
