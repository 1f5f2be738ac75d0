"""Which label, and why? The rule, its thresholds and its sentences."""
