"""How sure is a number? Intervals, ratios, similarities and random baselines, on plain arrays."""
