"""Prompts that a language model wrote."""
