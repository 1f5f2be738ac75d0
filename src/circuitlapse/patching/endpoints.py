"""Source and destination nodes of paths, by name."""

from collections.abc import Sequence

from circuitlapse.errors import CircuitlapseError
from circuitlapse.models.engine.circuit import Graph


def names_of(names: Sequence[str]) -> list[str]:
    """Return names as a list, also for a single name."""
    return [names] if isinstance(names, str) else list(names)


def find_senders(graph: Graph, senders: Sequence[str]) -> list[int]:
    """Find source nodes by name.

    Raises:
        CircuitlapseError: If there is no such node, or no name is given.
    """
    if not names_of(senders):
        raise CircuitlapseError("there are no senders", fix="Name at least one writer")
    for name in names_of(senders):
        if name not in graph.writers:
            raise CircuitlapseError(
                "there is no such sender",
                got=name,
                fix="Senders are named as in graph.writers: input, a0.h1, m0",
            )
    return [graph.writers.index(name) for name in names_of(senders)]


def find_receivers(graph: Graph, receivers: Sequence[str]) -> list[int]:
    """Find destination nodes by name, or by the name of a head for its query, key and value.

    Raises:
        CircuitlapseError: If there is no such node, no name is given, or the logits are among
            several.
    """
    found: set[int] = set()
    slots = graph.node_slots()
    for name in names_of(receivers):
        if name in graph.readers:
            found.add(graph.readers.index(name))
        elif name in graph.nodes:
            found.update(slots[graph.nodes.index(name)].nonzero()[:, 0].tolist())
        else:
            raise CircuitlapseError(
                "there is no such receiver",
                got=name,
                fix="Receivers are named as in graph.readers: a0.h1<q>, m0, logits; or a0.h1",
            )
    if len(found) > 1 and graph.logits_reader in found:
        raise CircuitlapseError(
            "logits can only be a receiver alone: if they are patched, no other receiver matters",
            got=", ".join(names_of(receivers)),
            fix="Patch the paths to the logits and those to the others in two calls",
        )
    if not found:
        raise CircuitlapseError("there are no receivers", fix="Name at least one reader")
    return sorted(found)
