"""The quantization core: one for every target, driven by the target's scheme."""

from edgeseed.core.lazy import attach

__getattr__, __all__ = attach(
    __name__, {"Quantized": ".run:Quantized", "quantize": ".run:quantize"}
)
