"""What things are called on the page, and the signs that stand for them.

The page's short glossary: what each number is, and whose definition it follows.
"""

from circuitlapse.graph import place_of
from circuitlapse.records.documents import Cause, Group, Label

TASKS = {"ioi2": "2-name IOI", "ioi3": "3-name IOI"}

LABELS: dict[Label, str] = {
    "elicited": "the new task's circuit was in the base, and fine-tuning turned it up",
    "transformed": "the improvement comes from changes to the old task's circuit",
    "formed": "the improvement comes from heads that the old task did not use",
    "mixed": "no single origin accounts for the improvement",
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
CATEGORIES = {
    "kept": ("=", "used by the base; no change shown"),
    "strengthened": ("↑", "used by the base, and more so after"),
    "weakened": ("↓", "used by the base, and less so after"),
    "repurposed": ("⇄", "sign changed, or up on one task and down on the other"),
    "recruited": ("+", "not used by the base, used after"),
    "retired": ("\u00d7", "used by the base, not after"),
    "unused": ("", "not used by the base; no new use beyond noise and placebo"),
}

QUANTITIES = {
    "add_one_in": "First in: alone, into the base",
    "leave_one_out": "Last in: what taking it back costs",
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
    "behaviour": "learning",
    "nodes": "map",
    "edges": "map",
    "overlap": "overlap",
    "head_changes": "head_changes",
    "grafts": "grafts",
    "faithfulness": "faithfulness",
    "invariance": "invariance",
    "placebo": "placebo",
    "readings": "lens",
    "patching": "patching",
}

# What a claim is about, by the table that it comes from.
SUBJECTS = {
    "behaviour": "Behaviour",
    "placebo": "Behaviour",
    "shortcuts": "Behaviour",
    "overlap": "Wiring",
    "nodes": "Wiring",
    "edges": "Wiring",
    "faithfulness": "Wiring",
    "head_changes": "Function",
    "roles": "Function",
    "readings": "Function",
    "invariance": "Function",
    "grafts": "Causes, by weights",
    "output_scales": "Causes, by weights",
    "mediation": "Causes, by activations",
    "crosspatch": "Causes, by activations",
    "patching": "Causes, by activations",
    "dynamics": "Time",
    "training": "Time",
    "elicitable": "Context",
}


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


DEFINITIONS: list[tuple[str, str, str]] = [
    (
        "Old and new task",
        "The old task is what the base does before fine-tuning; the new task is what the "
        "fine-tuning teaches. Each has prompts with one determinable answer.",
        "",
    ),
    (
        "Logit difference",
        "The answer\u2019s logit minus the mean logit of the distractors, at the last token. All "
        "effects on this page are changes of it, in logits.",
        "Wang et al. 2022",
    ),
    (
        "Clean and corrupt prompt",
        "Two prompts of equal token length that differ in one causal variable. The family names "
        "the variable: subject replaces who acts, names replaces every name.",
        "Wang et al. 2022",
    ),
    (
        "Patching effect",
        "The metric on the clean prompt minus the metric when one head or MLP carries its output "
        "on the corrupt prompt, mean over prompts, computed exactly. Positive: the model needs the "
        "component for this task. Negative: it works against the answer.",
        "Wang et al. 2022",
    ),
    (
        "Edge score",
        "EAP-IG-inputs: the first-order estimate of the same effect for every edge between "
        "components, with the gradient averaged along the path from corrupt to clean embeddings.",
        "Syed et al. 2023; Hanna et al. 2024",
    ),
    (
        "Patching by site",
        "The same effect for one kind of activation: the residual stream before a layer, what "
        "attention or the MLP adds to it, each at one named position; or a head\u2019s output, its "
        "value or its attention pattern at all positions. Mean over a dozen prompts.",
        "Meng et al. 2022; Zhang and Nanda 2024",
    ),
    (
        "Logit lens, direct attribution",
        "The lens reads the logit difference from the residual stream before each layer, as if "
        "the model stopped there. Direct attribution is what each component adds to the final "
        "logit difference, with the last normalisation held fixed.",
        "nostalgebraist 2020; Elhage et al. 2021",
    ),
    (
        "Role signature",
        "Where a head attends between named positions, whether what it writes copies or "
        "suppresses the token that it attends to, and how it treats random tokens that come "
        "twice.",
        "Wang et al. 2022; Olsson et al. 2022",
    ),
    (
        "Faithfulness",
        "(m(C) \u2212 m(\u2205)) / (m(M) \u2212 m(\u2205)): how much of the whole model\u2019s "
        "metric a circuit C keeps when every other edge is corrupted. It is not clamped, and not "
        "given where the denominator is not clear of zero.",
        "Mueller et al. 2025",
    ),
    (
        "Overlap, ceiling, null",
        "Similarity of two vectors of importances. The ceiling is what two disjoint halves of the "
        "prompts reach on the same model and task; the null is what nodes reach when head labels "
        "are permuted within each layer. An overlap says something only between the two.",
        "",
    ),
    (
        "Change",
        "What became of a head between the base and the last checkpoint, judged against the "
        "intervals over prompts and against the change that the placebo causes.",
        "",
    ),
    (
        "Graft",
        "The fine-tuned weights of one group of components put into the base (first in), or taken "
        "back out of the fine-tuned model (last in). The Shapley share averages a group\u2019s "
        "contribution over all orders, so that the shares add up to the improvement.",
        "Shapley 1953",
    ),
    (
        "Placebo",
        "A fine-tune of the same length that must not teach the new task. What it changes is the "
        "noise floor of training.",
        "",
    ),
    (
        "Invariance check",
        "A change to the prompt that leaves the answer as it was, such as the order of a list. Its "
        "expected effect is 0, and it never serves as a denominator.",
        "",
    ),
    (
        "Interval",
        "Intervals are 95 % intervals over prompts; those of several fine-tunes together, over "
        "prompts and seeds. The dated change of a head has a wider one, so that those of all heads "
        "hold together (Bonferroni).",
        "",
    ),
]
