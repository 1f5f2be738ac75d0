"""What does the shell call? Thin commands over the API, and the only place that prints."""
