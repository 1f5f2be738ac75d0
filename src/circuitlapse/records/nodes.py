"""Names of the graph's nodes and reader slots: ``a3.h5``, ``a3.h5<q>``, ``m3``.

They are MIB's (Mueller et al. 2025). Tables and pages hold them as well as the graph, so that they
are written and read here, without torch.
"""

import re
from typing import NamedTuple

_NAME = re.compile(r"a(?P<layer>\d+)\.h(?P<head>\d+)(<(?P<slot>[qkv])>)?|m(?P<mlp>\d+)")


class Place(NamedTuple):
    """Where a node is.

    Attributes:
        layer: Its layer, from 0.
        head: Its number in the layer, from 0; −1 for an MLP.
        slot: ``q``, ``k`` or ``v`` for what a head reads by, else empty.
    """

    layer: int
    head: int = -1
    slot: str = ""


def head_name(layer: int, head: int, slot: str = "") -> str:
    """Name a head, or what it reads by: ``a3.h5``, ``a3.h5<q>``."""
    return f"a{layer}.h{head}" + (f"<{slot}>" if slot else "")


def mlp_name(layer: int) -> str:
    """Name an MLP: ``m3``."""
    return f"m{layer}"


def place_of(name: str) -> Place | None:
    """Read a name; None for what is in no layer (``input``, ``logits``) or is no name."""
    found = _NAME.fullmatch(name)
    if found is None:
        return None
    if found["mlp"]:
        return Place(int(found["mlp"]))
    return Place(int(found["layer"]), int(found["head"]), found["slot"] or "")


def head_of(name: str) -> Place | None:
    """Read the name of a head or of one of its slots; None for anything else."""
    place = place_of(name)
    return None if place is None or place.head < 0 else place
