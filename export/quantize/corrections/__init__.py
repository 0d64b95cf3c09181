"""Changes to weights and biases that undo part of the rounding error."""
