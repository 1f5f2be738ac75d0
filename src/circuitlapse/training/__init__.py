"""How is a model fine-tuned?"""
