"""The result tables: names, columns and meaning. Everything that is read by others is here.

Effects are in logits: the mean over prompts of (metric on the clean prompt − metric when the node
carries its corrupted value), so that a positive effect means that the model needs the node.
``*_low`` and ``*_high`` bound 95 % intervals over prompts; those of a head's ``change`` in
``dynamics`` are wider, so that those of all heads hold together. ``head`` and ``layer`` count from
0; ``head`` is -1 for an MLP. A share or a ratio is null where its denominator is not clear of zero.
"""

from typing import Any

import polars as pl

_INT, _REAL, _TEXT, _BOOL = pl.Int64, pl.Float64, pl.String, pl.Boolean
# The run that a row is about. recipe: "default", or the values that differ in a grid of recipes.
_SEEDS = {"base_seed": _INT, "recipe": _TEXT, "finetune_seed": _INT}


def _interval(name: str) -> dict[str, Any]:
    return {name: _REAL, f"{name}_low": _REAL, f"{name}_high": _REAL}


# Random groups of as many heads, in every layer where there are enough such groups, beside a group
# of heads: how many, the mean, the smallest and the largest of their values, and the share of all
# groups, this one among them, that reach its value. Null where there are none.
_RANDOM = {
    "n_random": _INT,
    "null_mean": _REAL,
    "null_min": _REAL,
    "null_max": _REAL,
    "p_value": _REAL,
}

_BEHAVIOUR = {
    **_SEEDS,
    "step": _INT,
    "task": _TEXT,
    "split": _TEXT,
    "n": _INT,
    **_interval("accuracy"),
    **_interval("candidate_accuracy"),
    **_interval("logit_diff"),
}

SCHEMAS: dict[str, dict[str, Any]] = {
    # How well each checkpoint does each task. split: test (held-out name pairs in known templates)
    # or test_templates (held-out name pairs in held-out templates). accuracy is over the whole
    # vocabulary, candidate_accuracy over the names listed in the prompt.
    "behaviour": _BEHAVIOUR,
    # The same for the placebo fine-tunes, at their last step; placebo names the kind, and
    # finetune_seed is the placebo's own. rise: of the logit difference over the base's.
    "placebo": {"placebo": _TEXT, **_BEHAVIOUR, **_interval("rise")},
    # What rules reach that need no understanding (first listed, last mentioned …), on the prompts
    # of behaviour. margin: accuracy among the candidates at the last step minus the rule's, on the
    # same prompts.
    "shortcuts": {
        **_SEEDS,
        "step": _INT,
        "task": _TEXT,
        "split": _TEXT,
        "rule": _TEXT,
        "n": _INT,
        **_interval("accuracy"),
        **_interval("margin"),
    },
    # How training went. split: train (prompts that were trained on), validation (held-out prompts
    # of the same task) or old_task. loss: of the answer, in nats per token; end_of_text: share of
    # prompts after which that token is predicted. flags: the traps that the row shows, joined by
    # commas: end_of_text, overfit, old_task_lost, not_learning, and diverged where the training
    # blew up after it; empty where there is none.
    "training": {
        **_SEEDS,
        "step": _INT,
        "split": _TEXT,
        "task": _TEXT,
        "n": _INT,
        **_interval("loss"),
        **_interval("accuracy"),
        **_interval("end_of_text"),
        "flags": _TEXT,
    },
    # Exact patching effect and attribution total of every head and MLP.
    # counterfactual: a family (subject, names) or one of its variants (s1_to_io, s2_to_io).
    "nodes": {
        **_SEEDS,
        "step": _INT,
        "task": _TEXT,
        "counterfactual": _TEXT,
        "node": _TEXT,
        "kind": _TEXT,
        "layer": _INT,
        "head": _INT,
        **_interval("effect"),
        "attribution": _REAL,
    },
    # The strongest edges by absolute attribution score.
    "edges": {
        **_SEEDS,
        "step": _INT,
        "task": _TEXT,
        "counterfactual": _TEXT,
        "writer": _TEXT,
        "reader": _TEXT,
        "score": _REAL,
    },
    # m(circuit) for growing circuits; clean and corrupt are the whole model's and the empty
    # circuit's metric. faithfulness is null without a sound denominator; not_reported says why.
    "faithfulness": {
        **_SEEDS,
        "step": _INT,
        "task": _TEXT,
        "counterfactual": _TEXT,
        "fraction": _REAL,
        "n_edges": _INT,
        "metric": _REAL,
        "clean": _REAL,
        "corrupt": _REAL,
        "faithfulness": _REAL,
        "not_reported": _TEXT,
    },
    # Invariance checks: metric change under a change of the prompt that should change nothing.
    # effect is the signed mean, which is 0 for any model because arrangements are balanced (a
    # check of the prompts); size is the mean absolute change (a check of the model).
    "invariance": {
        **_SEEDS,
        "step": _INT,
        "task": _TEXT,
        "check": _TEXT,
        "n": _INT,
        **_interval("effect"),
        **_interval("mean_abs_effect"),
    },
    # Similarity of two importance vectors. left and right are model:task, such as base:old;
    # unit is nodes or edges; measure is pearson, spearman or weighted_jaccard. ceiling is what two
    # disjoint halves of the prompts reach on the same model and task (the lower of both sides);
    # corrected is a correlation corrected for the noise of both sides; where it is null,
    # why_not_corrected says why. for nodes, null_* is the distribution when head labels are
    # permuted within each layer. not_reported says why value is null, and is empty where it is not.
    # beside is empty for base and tuned model on the two tasks; else it says what the right
    # side is: unrelated_task (base:induction, under that task's own counterfactual), placebo
    # (shuffled_answers-0:ioi3, kind and seed).
    "overlap": {
        **_SEEDS,
        "step": _INT,
        "counterfactual": _TEXT,
        "unit": _TEXT,
        "compared_with": _TEXT,
        "left": _TEXT,
        "right": _TEXT,
        "measure": _TEXT,
        **_interval("value"),
        "ceiling": _REAL,
        "corrected": _REAL,
        "why_not_corrected": _TEXT,
        "null_mean": _REAL,
        "null_low": _REAL,
        "null_high": _REAL,
        "p_value": _REAL,
        "not_reported": _TEXT,
    },
    # What became of each head between the base and a step, since which step it is that without a
    # break, and the effects that say so; of the placebos their mean. threshold: the smallest effect
    # that counts as use, in logits; used_in_base, used_in_tuned: whether the base uses the head on
    # the old task, and whether the step's model does so, too.
    "head_changes": {
        **_SEEDS,
        "step": _INT,
        "counterfactual": _TEXT,
        "node": _TEXT,
        "layer": _INT,
        "head": _INT,
        "category": _TEXT,
        "since": _INT,
        "threshold": _REAL,
        "used_in_base": _BOOL,
        "used_in_tuned": _BOOL,
        **_interval("base_old"),
        **_interval("base_new"),
        **_interval("tuned_old"),
        **_interval("tuned_new"),
        **_interval("placebo_old"),
        **_interval("placebo_new"),
    },
    # What each head does on each task, by numbers between 0 and 1. role: the first that fits of
    # mover, negative mover, induction, duplicate token, previous token, reader and none
    # (compare.role_names defines them); since: the step since which it is that without a break.
    # attends: the named positions with the most attention
    # (END>IO), attention: its mean. copying to induction: as in readings. q_reads and so on: the
    # writer with the largest share of the absolute edge scores into that slot, and that share;
    # empty where halves of the prompts show no more than noise there.
    # distance: of the signature (attention and scores) from the base's; noise: its largest distance
    # between halves of the base's prompts and between base and placebo; changed: beyond noise and
    # minimum. features: what changed most. source: the head whose role in the base appeared here
    # (empty: none), approach: by how much nearer this head came to it; moves_p: one p for all moves
    # of the step and task.
    "roles": {
        **_SEEDS,
        "step": _INT,
        "task": _TEXT,
        "node": _TEXT,
        "layer": _INT,
        "head": _INT,
        "role": _TEXT,
        "since": _INT,
        "attends": _TEXT,
        "attention": _REAL,
        "copying": _REAL,
        "suppressing": _REAL,
        "previous": _REAL,
        "duplicate": _REAL,
        "induction": _REAL,
        "q_reads": _TEXT,
        "q_share": _REAL,
        "k_reads": _TEXT,
        "k_share": _REAL,
        "v_reads": _TEXT,
        "v_share": _REAL,
        "distance": _REAL,
        "noise": _REAL,
        "changed": _BOOL,
        "features": _TEXT,
        "source": _TEXT,
        "approach": _REAL,
        "moves_p": _REAL,
    },
    # Weight grafts. origin: whose weights the tuned ones are grafted into, those of the base or of
    # the rescaled base (the base with one fitted scale per head and MLP). quantity: add_one_in,
    # leave_one_out or shapley; improvement in logits, share of the whole improvement G. group:
    # old_heads, recruited_heads, other_heads, mlps, shared, whose heads were chosen on validation
    # prompts; or output_scales and non_negative_scales, what the fitted scales alone bring to the
    # base. part: whole, or the query and key weights (qk) or value and output weights (ov) of the
    # group's heads alone.
    "grafts": {
        **_SEEDS,
        "step": _INT,
        "origin": _TEXT,
        "group": _TEXT,
        "part": _TEXT,
        "heads": _TEXT,
        "quantity": _TEXT,
        "n_parameters": _INT,
        **_interval("improvement"),
        **_interval("share"),
        **_RANDOM,
    },
    # The improvement that is left when all heads outside a group are held at the base's
    # activations. group: no heads, old_heads, recruited_heads, other_heads, all heads.
    "mediation": {
        **_SEEDS,
        "step": _INT,
        "group": _TEXT,
        "heads": _TEXT,
        "n_heads": _INT,
        **_interval("improvement"),
        **_interval("share"),
        **_RANDOM,
    },
    # A group's activations of the tuned model in the base's run of the same prompt (direction
    # tuned_into_base: what they bring), or the reverse (base_into_tuned: what is lost), at one
    # named position or everywhere. group: of heads, or mlps; heads: its heads and MLPs. accuracy:
    # the patched model's, among the names.
    "crosspatch": {
        **_SEEDS,
        "step": _INT,
        "group": _TEXT,
        "heads": _TEXT,
        "position": _TEXT,
        "direction": _TEXT,
        **_interval("improvement"),
        **_interval("share"),
        "accuracy": _REAL,
        **_RANDOM,
    },
    # What each head's and MLP's output is multiplied by in the rescaled base, fitted to what is
    # read of the same component in the tuned model.
    "output_scales": {
        **_SEEDS,
        "step": _INT,
        "node": _TEXT,
        "layer": _INT,
        "head": _INT,
        "scale": _REAL,
    },
    # When things changed from the first checkpoint to the last. kind head: a head's mean effect;
    # behaviour: the task's mean logit difference. before, after: at these checkpoints, in logits;
    # step_of_90: step with 90 % of the change, null where its interval includes zero;
    # sign_changed: the sign changed, beyond both intervals; seeds_with_sign_change: in how many of
    # the recipe's seeds; behaviour_correlation: correlation with the behaviour over the
    # checkpoints; epoch_steps: steps in which every training item is seen once.
    "dynamics": {
        **_SEEDS,
        "step": _INT,
        "task": _TEXT,
        "counterfactual": _TEXT,
        "kind": _TEXT,
        "node": _TEXT,
        "layer": _INT,
        "head": _INT,
        "before": _REAL,
        "after": _REAL,
        **_interval("change"),
        "step_of_90": _REAL,
        "sign_changed": _BOOL,
        "seeds_with_sign_change": _INT,
        "behaviour_correlation": _REAL,
        "epoch_steps": _INT,
    },
    # What the base can be brought to, which enters no share. control: everything (the fine-tune
    # itself), old_circuit, random_set (repeat says which), mlps, biases, output_scales, rank_1, or
    # parts joined by spaces: fine-tunes in which nothing else moves, at every step that has a
    # checkpoint; or few_shot: the base behind so many solved examples, without a step. share: of
    # the whole fine-tune's improvement G. step_of_90: the first step at which nine tenths of G are
    # reached; null if never. not_reported says why figures are missing.
    "elicitable": {
        **_SEEDS,
        "control": _TEXT,
        "repeat": _INT,
        "parts": _TEXT,
        "n_parameters": _INT,
        "step": _INT,
        "examples": _INT,
        "n": _INT,
        **_interval("candidate_accuracy"),
        **_interval("logit_diff"),
        **_interval("share"),
        "step_of_90": _INT,
        "not_reported": _TEXT,
    },
    # What each checkpoint says directly, without any intervention. reading: logit_lens and direct
    # (direct logit attribution, component constant being what no node owns), in logits; attention
    # from one named position to another (positions END>IO), copying, negative_copying and matching
    # scores, and attention on random tokens that come twice (previous_token, duplicate_token,
    # induction; of no task), all between 0 and 1. component: a head or MLP, input, constant, or
    # resid0 … for the residual stream before each layer and at the end. Readings that are no mean
    # over prompts have no interval.
    "readings": {
        **_SEEDS,
        "step": _INT,
        "task": _TEXT,
        "reading": _TEXT,
        "positions": _TEXT,
        "component": _TEXT,
        "layer": _INT,
        "head": _INT,
        **_interval("value"),
    },
    # Effect of patching one kind of activation, over a dozen prompts. site: resid_pre, attn_out or
    # mlp_out at one named position (head is -1), or head_out, head_v or head_pattern at all
    # positions (position is empty). With grouped keys and values, head counts key-value heads for
    # head_v.
    "patching": {
        **_SEEDS,
        "step": _INT,
        "task": _TEXT,
        "counterfactual": _TEXT,
        "site": _TEXT,
        "layer": _INT,
        "head": _INT,
        "position": _TEXT,
        **_interval("effect"),
    },
}


def table(name: str, rows: list[dict]) -> pl.DataFrame:
    """Build the table ``name`` from rows, refusing missing or unknown columns."""
    schema = SCHEMAS[name]
    for row in rows:
        if row.keys() != schema.keys():
            raise KeyError(f"{name}: columns differ: {sorted(row.keys() ^ schema.keys())}")
    return pl.DataFrame(rows, schema=schema)
