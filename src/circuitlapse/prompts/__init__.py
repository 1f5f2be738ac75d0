"""What does the engine take? Pairs of prompts as tensors, and the metric on their logits."""
