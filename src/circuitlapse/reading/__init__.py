"""What do activations say by themselves? Lens, attention, direct attribution and head scores."""
