"""How good features are: kNN, linear probe, few labels, and the score during training."""
