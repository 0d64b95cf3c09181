"""The quantization core."""
