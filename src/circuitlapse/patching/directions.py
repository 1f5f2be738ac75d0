"""Noising and denoising: which run is patched, and which run the activations are taken from."""

from typing import Literal, NamedTuple, get_args

from torch import Tensor

from circuitlapse.errors import CircuitlapseError
from circuitlapse.models.engine.decoder import Decoder, Step
from circuitlapse.models.engine.shared_prefix import Suffixes
from circuitlapse.patching.partial_forward import PartialForward, trace_parts
from circuitlapse.shapes import Float

Direction = Literal["noising", "denoising"]


class Runs(NamedTuple):
    """The clean and the corrupt run of one batch, before any patch."""

    decoder: Decoder
    batch: Suffixes
    base: list[Step]  # of the run that is patched: the clean one for noising
    source: list[Step]  # of the other run, only the activations that are patched in
    unpatched: Float[Tensor, " batch"]  # metric of the base run
    clean: Float[Tensor, " batch"]  # metric of the clean run, from which effects are measured

    def forward(self) -> PartialForward:
        """Partial forward passes of the base run at all positions."""
        return PartialForward(self.decoder, self.batch, self.base)


def run_both(
    decoder: Decoder, batch: Suffixes, fields: tuple[str, ...], direction: str = "noising"
) -> Runs:
    """Run a batch's clean and corrupt prompts, and keep ``fields`` of the source run."""
    noising, inputs = direction == "noising", (batch.clean, batch.corrupt)
    ours, theirs = inputs if noising else inputs[::-1]
    base = decoder.trace(ours, batch.context)
    source, final = trace_parts(decoder, theirs, batch.context, fields)
    unpatched = batch.metric(decoder, base[-1].resid_post)
    clean = unpatched if noising else batch.metric(decoder, final)
    return Runs(decoder, batch, base, source, unpatched, clean)


def check_direction(direction: str) -> None:
    """Raise a CircuitlapseError unless a direction is ``noising`` or ``denoising``."""
    if direction not in get_args(Direction):
        raise CircuitlapseError(
            "direction must be noising or denoising",
            got=direction,
            fix="noising patches corrupt activations into the clean run, denoising the reverse",
        )
