"""What does one activation do? Activation and path patching."""
