"""How does a family store its weights? One reader for each."""
