"""What does a part of one model do in the other? Patches from another run, and weights."""
