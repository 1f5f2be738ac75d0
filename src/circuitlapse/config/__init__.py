"""What did the user ask for? An experiment, its sections and its file."""
