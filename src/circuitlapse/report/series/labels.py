"""Names of things on the page, signs of categories, and a short glossary with sources."""

from circuitlapse.graph import place_of

TASKS = {"ioi2": "2-name IOI", "ioi3": "3-name IOI"}

# A sign for the map's cells, and what it means.
CATEGORIES = {
    "kept": ("=", "used by the base; no change shown"),
    "strengthened": ("↑", "used by the base; larger effect after fine-tuning"),
    "weakened": ("↓", "used by the base; smaller effect after fine-tuning"),
    "repurposed": ("⇄", "sign changed, or larger on one task and smaller on the other"),
    "recruited": ("+", "not used by the base, used after fine-tuning"),
    "retired": ("\u00d7", "used by the base, not after fine-tuning"),
    "unused": ("", "not used by the base; no new use beyond noise and placebo"),
}

MEASURES = {
    "pearson": "Pearson correlation",
    "spearman": "Spearman correlation",
    "weighted_jaccard": "weighted Jaccard",
}

SPLITS = {"test": "held-out name pairs", "test_templates": "held-out templates"}


def task_title(name: str) -> str:
    """Return a task's name on the page; one that is not built in keeps its own."""
    return TASKS.get(name, name)


def side_label(side: str, old: str, new: str) -> str:
    """Return ``base:old`` for ``base:ioi2``: readers compare roles, whatever the tasks are."""
    model, _, task = side.partition(":")
    return ":".join((model, {old: "old", new: "new"}.get(task, task)))


def node_label(node: str) -> str:
    """Return the field's name of a node: ``a2.h3`` is ``2.3`` and ``m1`` is ``MLP 1``."""
    place = place_of(node)
    if place is None:
        return node
    return f"{place.layer}.{place.head}" if place.head >= 0 else f"MLP {place.layer}"


DEFINITIONS: list[tuple[str, str, str]] = [
    (
        "Old and new task",
        "The base solves the old task before fine-tuning. Fine-tuning teaches the new task. Each "
        "has prompts with one determinable answer.",
        "",
    ),
    (
        "Logit difference",
        "The answer\u2019s logit minus the mean logit of the distractors, at the last token. All "
        "effects on this page are changes of it, in logits.",
        "Wang et al. 2022",
    ),
    (
        "Clean and corrupted prompt",
        "Two prompts of equal token length that differ in one causal variable. The type of the "
        "counterfactual names the variable: subject replaces who acts, names replaces every name.",
        "Wang et al. 2022",
    ),
    (
        "Patching effect",
        "The metric on the clean prompt minus the metric when the output of one head or MLP is "
        "patched with its output on the corrupted prompt, mean over prompts. Positive: the model "
        "needs the component for this task. Negative: it works against the answer.",
        "Wang et al. 2022",
    ),
    (
        "Edge score",
        "EAP-IG-inputs: the first-order estimate of the same effect for every edge between "
        "components, with the gradient averaged along the path from corrupted to clean embeddings.",
        "Syed et al. 2023; Hanna et al. 2024",
    ),
    (
        "Patching by activation type",
        "The same effect for one kind of activation: the residual stream before a layer, the "
        "output of attention or of the MLP, each at one named position; or a head\u2019s output, "
        "its value or its attention pattern at all positions. Mean over a dozen prompts.",
        "Meng et al. 2022; Zhang and Nanda 2024",
    ),
    (
        "Logit lens, direct attribution",
        "The lens reads the logit difference from the residual stream before each layer, as if "
        "the model stopped there. Direct attribution is what each component adds to the final "
        "logit difference, with the last normalisation frozen.",
        "nostalgebraist 2020; Elhage et al. 2021",
    ),
    (
        "Head profile",
        "A head\u2019s attention between named positions, its copy score and negative copy score, "
        "and its induction, duplicate-token and previous-token scores on repeated random tokens.",
        "Wang et al. 2022; Olsson et al. 2022",
    ),
    (
        "Faithfulness",
        "(m(C) \u2212 m(\u2205)) / (m(M) \u2212 m(\u2205)): the part of the whole model\u2019s "
        "metric that a circuit C keeps when every other edge is corrupted. It is not clamped, and "
        "not reported where the interval of the denominator includes zero.",
        "Mueller et al. 2025",
    ),
    (
        "Overlap, permutation null",
        "Similarity of two vectors of importances. The null is the similarity of nodes when head "
        "labels are permuted within each layer. Compare an overlap with it.",
        "Phipson and Smyth 2010",
    ),
    (
        "Change category",
        "The change of a head\u2019s effects between base and last checkpoint, compared with the "
        "intervals over prompts and with the change that the placebo causes.",
        "",
    ),
    (
        "Weights put back, grafted",
        "Put back: what the fine-tuned model loses with the base\u2019s weights of one group or "
        "layer. Grafted: how much the base improves with the fine-tuned weights there. The parts "
        "need not add up.",
        "Panigrahi et al. 2023",
    ),
    (
        "Placebo",
        "A control fine-tune of the same length that cannot teach the new task, for example with "
        "shuffled answers. Its changes are the noise floor of training.",
        "Zhang et al. 2017; Hewitt and Liang 2019",
    ),
    (
        "Invariance check",
        "A change to the prompt that leaves the answer as it was, such as the order of a list. Its "
        "expected effect is 0, and it never serves as a denominator.",
        "Ribeiro et al. 2020",
    ),
    (
        "Interval",
        "All intervals are 95 % intervals over prompts; those of several fine-tunes together are "
        "over prompts and seeds. Intervals of dated changes are wider, so that those of all heads "
        "hold together (Bonferroni).",
        "",
    ),
]
