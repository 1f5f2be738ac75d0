"""Thresholds on effects of heads, each with its reason."""

# A counterfactual that swaps the answer turns the metric's sign, so that a fiftieth of clean -
# corrupt is a twenty-fifth of the metric itself. On a trial organism the heads above it carried .92
# to .94 of all heads' absolute effect on the old task, those above a twentieth .84.
USED_FRACTION = 0.02


# Correcting for noise divides by the root of both reliabilities: below one half the correction is
# larger than what was measured.
LOWEST_RELIABILITY = 0.5


# A tenth of all attention, or of all names copied, in one feature alone.
SMALLEST_ROLE_CHANGE = 0.1
