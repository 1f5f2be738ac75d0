"""Have a language model write prompts; ended by the new room for such prompts."""
