"""What is a run? Jobs, their inputs, what they measure, and their order."""
