"""Measure one job as users of TransformerLens do it, in a process of its own; print JSON.

    .venv-peers/bin/python benchmarks/transformerlens.py residual-sweep

Its own forward, and its own patching functions on the same random model and prompts as ours, on one
thread. A sweep takes minutes, so it is run once, layer by layer, with a forward of Hugging Face
between the layers to compare with.
"""

# pyright: reportMissingImports=false

import argparse
import dataclasses
import json
from functools import cache, partial
from importlib.metadata import version
from typing import Any

import pandas as pd
import torch
from clock import measure, measure_parts
from inputs import GPT2, random_model, random_tokens
from transformer_lens import patching
from transformer_lens.model_bridge.sources import build_bridge_from_module

_SWEEPS = {
    "head-sweep": ("z", "head_index", patching.layer_head_vector_patch_setter, GPT2.heads),
    "residual-sweep": ("resid_pre", "pos", patching.layer_pos_patch_setter, GPT2.length),
}


@cache
def _reference() -> Any:
    # Built when it is first needed: after the peak of memory was read.
    return random_model(GPT2)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("job", choices=["forward", *_SWEEPS])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    tokens = random_tokens(GPT2)
    hf = random_model(GPT2)
    model = build_bridge_from_module(hf, "GPT2LMHeadModel", hf_config=hf.config)
    model.eval()

    def reference() -> object:
        return _reference()(tokens.clean)

    if arguments.job == "forward":
        timing = measure(lambda: model(tokens.clean), reference)
    else:
        timing = _sweep(model, tokens, arguments.job, reference)
    print(json.dumps({**dataclasses.asdict(timing), "version": version("transformer-lens")}))


def _sweep(model: Any, tokens: Any, job: str, reference: Any) -> Any:
    name, axis, setter, size = _SWEEPS[job]
    rows = torch.arange(len(tokens.clean))

    def metric(logits: torch.Tensor) -> torch.Tensor:
        last = logits[:, -1]
        return (last[rows, tokens.answers] - last[rows, tokens.distractors]).mean()

    @cache
    def source() -> Any:
        return model.run_with_cache(tokens.corrupt)[1]

    def patch(layers: list[int], sites: int = size) -> object:
        index = pd.DataFrame(
            [(layer, site) for layer in layers for site in range(sites)], columns=["layer", axis]
        )
        return patching.generic_activation_patch(
            model, tokens.clean, source(), metric, setter, name, index_df=index
        )

    layers = [partial(patch, [layer]) for layer in range(GPT2.layers)]
    sample = partial(patch, [0], 1)
    return measure_parts([source.__wrapped__, *layers], sample, reference)


if __name__ == "__main__":
    main()
