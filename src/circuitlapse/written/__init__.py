"""Which prompts that people or language models wrote can be used, and why not the others?"""
