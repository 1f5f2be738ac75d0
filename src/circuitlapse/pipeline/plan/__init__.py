"""What is to be done, from what, in which order, and what does it cost? No torch here."""
