"""Build a model from a checkpoint's tensors: merge adapters, drop extra rows of the vocabulary.

Reading is slow, building is not thread-safe. They are separate so that the next checkpoint can be
read in a thread.
"""

import copy
import re
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from circuitlapse.errors import CircuitlapseError
from circuitlapse.models.engine.model import Model
from circuitlapse.models.files.files import Files
from circuitlapse.models.files.load import load_model, place
from circuitlapse.models.files.quiet import quiet
from circuitlapse.models.files.reference import Reference
from circuitlapse.models.files.validate_checkpoint import ADAPTED, adapter_rows

_PROBE = (3, 12)  # prompts and tokens on which dropping rows must not change the logits

Tensors = dict[str, Tensor]


def read_tensors(files: Files) -> Tensors:
    """Read a checkpoint's weights in single precision; an adapter's are read when merged."""
    if files.kind == "adapter":
        return {}
    return {name: tensor.to(torch.float32, copy=True) for name, tensor in files.tensors()}


def build_model(
    files: Files, tensors: Tensors, base: Reference, device: str | torch.device = "auto"
) -> Model:
    """Build a validated checkpoint's model, with the base's vocabulary and tokenizer.

    Raises:
        CircuitlapseError: If weights are missing, an adapter cannot be merged, dropping the extra
            rows changes a logit, or ``load_model`` rejects the model.
    """
    with quiet():
        hf: Any = _merged(files, base) if files.kind == "adapter" else _filled(files, tensors, base)
        hf = _trimmed(hf, files, base)
    hf = hf.to(place(device)).eval().requires_grad_(False)
    return replace(load_model(hf), tokenizer=base.tokenizer)


def _filled(files: Files, tensors: Tensors, base: Reference) -> Any:
    config = copy.deepcopy(base.config)
    names = {canonical: tensors[name] for canonical, name in base.named(tensors).items()}
    config.vocab_size = len(names[base.vocabulary[0]])
    hf, found = type(base.skeleton).from_pretrained(
        None, config=config, state_dict=names, dtype=torch.float32, output_loading_info=True
    )
    missing = sorted(found["missing_keys"])
    if missing:
        raise CircuitlapseError(
            f"{files.name} lacks weights",
            got=missing[0],
            fix="Save this checkpoint again with save_pretrained",
        )
    return hf


def _merged(files: Files, base: Reference) -> Any:
    from peft import PeftModel

    hf = _filled(base.files, read_tensors(base.files), base)
    rows = adapter_rows(files.shapes(), base)
    if rows > base.rows:  # PEFT overwrites all rows, but does not add any
        hf.resize_token_embeddings(rows, mean_resizing=False)
    try:
        adapted: Any = PeftModel.from_pretrained(hf, str(files.directory))
        check_ties(
            adapted,
            f"the adapter {files.name}",
            "Save base and adapter with tie_word_embeddings = false, or merge it yourself into a "
            "model that has both tables",
        )
        return adapted.merge_and_unload()
    except (RuntimeError, ValueError, KeyError, TypeError, OSError) as error:
        raise CircuitlapseError(
            f"the adapter {files.name} cannot be merged into the base",
            got=" ".join(str(error).split())[:200],
            fix="Merge it where it was trained (merge_and_unload) and save the whole model",
        ) from error


def check_ties(model: nn.Module, what: str, fix: str) -> None:
    """Check that no adapter is on a weight that another module shares, which merging would change.

    Raises:
        CircuitlapseError: With ``what`` for the adapters, the weight, and ``fix``.
    """
    names: dict[int, list[str]] = {}
    for name, weight in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(weight), []).append(name.removeprefix(ADAPTED))
    for tied in names.values():
        # New rows for some tokens (token_adapter) are the same on all modules.
        adapted = [name for name in tied if re.search(r"(?<!token_adapter)\.base_layer\.", name)]
        if len(tied) > 1 and adapted:
            raise CircuitlapseError(
                f"{what} cannot be merged: it is on a weight that two modules share",
                got=" = ".join(tied).replace(".base_layer", ""),
                fix=fix,
            )


@torch.no_grad()
def _trimmed(hf: PreTrainedModel, files: Files, base: Reference) -> PreTrainedModel:
    """Drop the vocabulary's rows beyond the base's, and check that nothing else changed."""
    embedding: Any = hf.get_input_embeddings()
    if len(embedding.weight) == base.rows:
        return hf
    hf.eval()
    probe = torch.randint(base.rows, _PROBE, generator=torch.Generator().manual_seed(0))
    before = hf(probe).logits[..., : base.rows]
    hf.resize_token_embeddings(base.rows)
    after = hf(probe).logits
    # Only the rounding of the product with fewer rows may differ.
    if after.shape != before.shape or not torch.allclose(after, before, rtol=1e-5, atol=1e-5):
        raise CircuitlapseError(
            f"dropping the extra rows of {files.name} changes logits of the base's tokens",
            got=f"a difference of {float((after - before).abs().max()):.2g}",
            fix="Please report its config.json",
        )
    return hf
