"""The quantization core: one for every target, driven by the target's scheme."""
