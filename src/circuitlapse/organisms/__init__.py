"""Which small model has a known answer? Recipes, corpora and pretraining."""
