"""What does one model's part do in the other? Grafts, output scales, mediation and patches."""
