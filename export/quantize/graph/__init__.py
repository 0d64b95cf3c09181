"""The float graph and its quantized twin: layers, rewriting, simulation."""
