"""How good frozen features are: nearest neighbours and a linear probe, as functions of arrays."""
