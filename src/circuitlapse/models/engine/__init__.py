"""What does the model compute? One decoder for all families."""
