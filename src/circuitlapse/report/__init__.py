"""What does a reader see? One page from a run's tables, and its pictures."""
