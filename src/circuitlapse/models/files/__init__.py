"""Is this checkpoint sound? Loading, checking and writing model files."""
