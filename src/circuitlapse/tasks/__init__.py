"""Which prompts, which answer? Tasks write items and tokenise them."""
