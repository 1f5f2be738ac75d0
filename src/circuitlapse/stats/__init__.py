"""Statistics on plain arrays: intervals, ratios, similarities and random baselines."""
