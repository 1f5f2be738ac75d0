"""A time-lapse of the circuits in a language model while it is fine-tuned."""

__version__ = "0.1.0"
