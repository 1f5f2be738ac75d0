"""Load a model, and compare its logits with those of ``transformers`` on a right-padded batch."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from circuitlapse.errors import CircuitlapseError
from circuitlapse.models.engine.context import Context
from circuitlapse.models.engine.decoder import Decoder
from circuitlapse.models.engine.model import Model
from circuitlapse.models.families.readers import reader_of
from circuitlapse.models.files.quiet import quiet
from circuitlapse.shapes import Float, Int

TOLERANCES = {torch.float64: 1e-4, torch.float32: 1e-4, torch.bfloat16: 2e-2, torch.float16: 2e-2}
"""Largest allowed difference of logits by dtype, relative to the largest logit above 1."""

_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "vocab.json", "tokenizer.model")

_CHECK_FILES = (
    "Check the name and the files; without a network, give the directory of a downloaded copy "
    "instead of a Hub name"
)


def load_model(
    source: str | Path | PreTrainedModel,
    device: str | torch.device = "auto",
    dtype: str | torch.dtype = torch.float32,
) -> Model:
    """Load a model, frozen and in eval mode, and check that the engine computes its logits.

    Args:
        source: A directory written by ``save_pretrained``, a name on the Hub, or a loaded
            ``transformers`` model, whose weights are shared unless its device or dtype has to
            change.
        device: ``auto`` takes a GPU where there is one, and leaves a loaded model where it is.
        dtype: Floating-point type of the weights, as a torch dtype or its name. In ``bfloat16`` and
            ``float16`` forward passes use that precision; metrics and scores use single precision.

    Raises:
        CircuitlapseError: If there is no such model, its family is not supported, it is no causal
            language model, its files are broken or lack weights, or the logits differ from those of
            ``transformers``.
    """
    dtype = _dtype(dtype)
    if isinstance(source, PreTrainedModel):
        hf, tokenizer = _placed(source, device, dtype), None
    elif isinstance(source, str | Path):
        hf, tokenizer = _from_files(source, place(device), dtype)
    else:
        raise CircuitlapseError(
            "a model is loaded from a directory, a Hub name or a transformers model",
            got=type(source).__name__,
            fix="Give the directory as text or a Path, or the model that from_pretrained returned",
        )
    model = Model(hf, reader_of(hf.config, "the model")(hf), tokenizer)
    _check_parity(model)
    return model


def place(device: str | torch.device) -> torch.device:
    """Return the device of that name; ``auto`` is a GPU where there is one.

    Raises:
        CircuitlapseError: If there is no such device.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        # A tensor's device includes its index, so it can be compared with a loaded model's.
        found = torch.empty(0, device=device).device
    except (RuntimeError, AssertionError):  # the latter if torch was built without this device
        found = None
    if found is None or found.type not in ("cpu", "cuda"):
        raise CircuitlapseError(
            "there is no such device", got=str(device), fix="Use auto, cpu or cuda"
        )
    return found


def _dtype(dtype: str | torch.dtype) -> torch.dtype:
    found = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if found not in TOLERANCES:
        raise CircuitlapseError(
            "models cannot run in this dtype",
            got=str(dtype),
            fix="Use " + ", ".join(str(each).removeprefix("torch.") for each in TOLERANCES),
        )
    return found


def _placed(hf: PreTrainedModel, device: str | torch.device, dtype: torch.dtype) -> PreTrainedModel:
    reader_of(hf.config, "the model")
    if hf.get_output_embeddings() is None:
        raise CircuitlapseError(
            "this model has no head that predicts next tokens",
            got=type(hf).__name__,
            fix="Load it as a causal language model, with AutoModelForCausalLM",
        )
    wanted = hf.device if device == "auto" else place(device)
    if hf.dtype == dtype and hf.device == wanted:
        return hf
    moved: Any = copy.deepcopy(hf)
    moved.to(device=wanted, dtype=dtype)
    # Rotary frequencies keep their precision, as when files are loaded in a dtype.
    for name, buffer in hf.named_buffers():
        if buffer.is_floating_point():
            owner, _, last = name.rpartition(".")
            setattr(moved.get_submodule(owner), last, buffer.to(wanted, copy=True))
    return moved


def _from_files(
    source: str | Path, device: torch.device, dtype: torch.dtype
) -> tuple[PreTrainedModel, Any]:
    directory = Path(source).expanduser()
    is_local = directory.is_dir()
    if not is_local and (isinstance(source, Path) or _looks_like_path(source)):
        raise CircuitlapseError(
            "there is no such model directory",
            got=str(source),
            fix="Give a directory written by save_pretrained, or a model's name on the Hub",
        )
    source = str(directory) if is_local else source
    if is_local and not (directory / "config.json").is_file():
        raise CircuitlapseError(
            "this directory holds no model: there is no config.json in it",
            got=source,
            fix="Give a directory written by save_pretrained",
        )
    with quiet():
        config = _or_explain(source, lambda: AutoConfig.from_pretrained(source))
        reader_of(config, str(source))
        hf, found = _or_explain(
            source,
            lambda: AutoModelForCausalLM.from_pretrained(
                source, config=config, dtype=dtype, output_loading_info=True
            ),
        )
        # transformers fills missing weights with random numbers; tied ones are not missing.
        missing = sorted(found["missing_keys"])
        if missing:
            raise CircuitlapseError(
                f"{source} lacks weights",
                got=missing[0],
                fix="Save it again with save_pretrained, as a causal language model and with the "
                "config that belongs to its weights",
            )
        tokenizer = None
        if not is_local or any((directory / name).is_file() for name in _TOKENIZER_FILES):
            fix = (
                "Save the tokenizer again with save_pretrained, or remove its files "
                f"({', '.join(_TOKENIZER_FILES)}) to work on token ids alone"
            )
            if not is_local:
                fix = _CHECK_FILES
            tokenizer = _or_explain(source, lambda: AutoTokenizer.from_pretrained(source), fix)
    return hf.to(device).eval().requires_grad_(False), tokenizer


def _looks_like_path(source: str) -> bool:
    return source.count("/") > 1 or source.startswith(("/", ".", "~"))


def _or_explain(source: object, load: Callable[[], Any], fix: str = _CHECK_FILES) -> Any:
    """Turn any loader's exception into one message that names the source."""
    try:
        return load()
    # Broken files raise anything from OSError to safetensors' and json's own types.
    except Exception as error:
        reason = " ".join(str(error).split())[:300]
        raise CircuitlapseError(
            f"the model could not be loaded: {reason}", got=str(source), fix=fix
        ) from error


@torch.no_grad()
def _check_parity(model: Model) -> None:
    decoder, training = model.decoder, model.hf.training
    width = min(12, decoder.n_positions)
    lengths = torch.tensor([width, max(1, width - 3), max(1, width // 2)])
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(len(decoder.W_E), (len(lengths), width), generator=generator)
    mask = (torch.arange(width) < lengths[:, None]).long()
    model.hf.eval()
    try:
        # The padding differs between the two, so a decoder that attends to it gives other logits.
        theirs = model.hf(
            (tokens * mask).to(model.device), attention_mask=mask.to(model.device)
        ).logits.float()
    finally:
        model.hf.train(training)
    if not bool(theirs.isfinite().all()):
        raise CircuitlapseError(
            "the model's own logits are not finite numbers on a probe batch",
            fix="Check that its training did not diverge and that its files are whole",
        )
    reads = lengths[:, None] - 1 - torch.arange(int(lengths.min()))
    ours = _logits(decoder, tokens.to(model.device), reads.to(model.device))
    found = ours.float().cpu().flatten(0, 1)
    wanted = theirs.cpu()[torch.arange(len(lengths))[:, None], reads].flatten(0, 1)
    worst, largest = float((found - wanted).abs().max()), max(1.0, float(wanted.abs().max()))
    allowed = TOLERANCES[model.hf.dtype] * largest
    best = wanted.topk(2, dim=1).values
    clear = best[:, 0] - best[:, 1] > allowed
    same = found.argmax(dim=1) == wanted.argmax(dim=1)
    if not worst <= allowed or not bool(same[clear].all()):
        raise CircuitlapseError(
            "the engine's logits differ from those of transformers on a probe batch",
            got=f"a difference of {worst:.2g} in logits up to {largest:.2g}",
            fix="This model uses an option that is not supported; please report its config.json",
        )


def _logits(
    decoder: Decoder, tokens: Int[Tensor, "prompts pos"], reads: Int[Tensor, "prompts reads"]
) -> Float[Tensor, "prompts reads vocab"]:
    return decoder.logits(decoder.run(decoder.embed(tokens), Context(reads)))
