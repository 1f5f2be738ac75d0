"""Every threshold of the verdict, each with its reason.

They were set before any organism of an unseen seed was scored, and not changed since.
docs/results/calibration.md says how often the labels are right.
"""

# Old-task heads can only be found in a model that solves the old task nearly always. The gate of
# the organisms is higher (0.98, point value); this leaves room for models trained elsewhere.
OLD_MASTERED = 0.90
# Beyond this there is little left to learn: the `natural` organism's own gate.
NEW_NOT_MASTERED = 0.75
# Halfway from chance to certainty: half of the answers known, the others guessed.
FAILED_AT_MOST = 0.5
# Three of four answers correct on held-out name pairs, far from chance of any task (1/3 or 1/2).
NEW_LEARNT = 0.75
# A placebo that makes more than a fifth of the improvement would make any share of it doubtful.
PLACEBO_LARGEST_SHARE = 0.2


# Ten percentage points of accuracy: less is no ability.
SMALLEST_ACCURACY_GAIN = 0.1
# Fewest seeds for a bootstrap over seeds: with four, one resample in 64 is a single seed repeated.
POOLED_SEEDS = 5
