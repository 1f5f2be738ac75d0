"""What things are called on the page, and the signs that stand for them."""

from circuitlapse.records.documents import Cause, Group, Label
from circuitlapse.records.nodes import place_of

TASKS = {"ioi2": "2-name IOI", "ioi3": "3-name IOI"}

LABELS: dict[Label, str] = {
    "elicited": "the new task's circuit was in the base, and fine-tuning turned it up",
    "transformed": "the gain comes from changes to the old task's circuit",
    "formed": "the gain comes from heads that the old task did not use",
    "mixed": "no single origin accounts for the gain",
    "no_gain": "fine-tuning did not teach the new task, so there is nothing to explain",
    "undetermined": "this run does not decide between elicited, transformed and formed",
}

CAUSES: dict[Cause, str] = {
    "elicited": "elicited: the base\u2019s own components, louder or softer",
    "transformed": "transformed: the old circuit\u2019s heads",
    "formed": "formed: recruited heads",
    "elsewhere": "elsewhere: other heads, MLPs, shared parameters",
}

GROUPS: dict[Group, str] = {
    "old_heads": "old circuit\u2019s heads",
    "recruited_heads": "recruited heads",
    "other_heads": "other heads",
    "mlps": "MLPs",
    "shared": "shared parameters",
}

# A sign for the map's cells, and what it means.
FATES = {
    "kept": ("=", "used by the base; no change shown"),
    "strengthened": ("↑", "used by the base, and more so after"),
    "weakened": ("↓", "used by the base, and less so after"),
    "repurposed": ("⇄", "sign flipped, or up on one task and down on the other"),
    "recruited": ("+", "not used by the base, used after"),
    "retired": ("\u00d7", "used by the base, not after"),
    "unused": ("", "not used by the base; no use gained beyond noise and placebo"),
}

QUANTITIES = {
    "first_in": "First in: alone, into the base",
    "last_in": "Last in: what taking it back costs",
    "shapley": "Shapley: mean over all orders",
}

MEASURES = {
    "pearson": "Pearson correlation",
    "spearman": "Spearman correlation",
    "weighted_jaccard": "weighted Jaccard",
}

SPLITS = {"test": "held-out name pairs", "test_templates": "held-out templates"}

# The section that shows each table: where a claim of the verdict leads.
SECTIONS = {
    "behaviour": "learning", "nodes": "map", "edges": "map", "overlap": "overlap",
    "fates": "fates", "grafts": "grafts", "faithfulness": "faithfulness",
    "controls": "controls", "placebo": "placebo", "readings": "lens", "patching": "patching",
}  # fmt: skip

# What a claim is about, by the table that it comes from.
SUBJECTS = {
    "behaviour": "Behaviour", "placebo": "Behaviour", "shortcuts": "Behaviour",
    "overlap": "Wiring", "nodes": "Wiring", "edges": "Wiring", "faithfulness": "Wiring",
    "fates": "Function", "roles": "Function", "readings": "Function", "controls": "Function",
    "grafts": "Causes, by weights", "gains": "Causes, by weights",
    "mediation": "Causes, by activations", "crosspatch": "Causes, by activations",
    "patching": "Causes, by activations", "dynamics": "Time", "training": "Time",
    "elicitable": "Context",
}  # fmt: skip


def task_title(name: str) -> str:
    """Return the reader's name of a task; one that is not built in keeps its own."""
    return TASKS.get(name, name)


def side_label(side: str, old: str, new: str) -> str:
    """Turn ``base:ioi2`` into ``base:old``: readers compare roles, whatever the tasks are."""
    model, _, task = side.partition(":")
    return ":".join((model, {old: "old", new: "new"}.get(task, task)))


def node_label(node: str) -> str:
    """Turn a graph's node name into the field's: ``a2.h3`` is ``2.3`` and ``m1`` is ``MLP 1``."""
    place = place_of(node)
    if place is None:
        return node
    return f"{place.layer}.{place.head}" if place.head >= 0 else f"MLP {place.layer}"
