"""Thresholds on effects of heads, each with its reason."""

# A counterfactual that swaps the answer changes the metric's sign, so 2 % of clean - corrupt is 4 %
# of the metric. On one organism the heads above it had .92 to .94 of all heads' absolute effect on
# the old task, those above 5 % had .84.
USED_FRACTION = 0.02

# A tenth of all attention, or of all names copied, in one feature alone.
SMALLEST_ROLE_CHANGE = 0.1
