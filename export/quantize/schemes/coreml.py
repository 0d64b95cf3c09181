"""Core ML from iOS 17 on: int8 activations with zero in their middle, int8 weights ("W8A8").

The Neural Engine of the A17 Pro, the M4 and later multiplies bytes where a convolution or linear
layer reads a dequantized activation and constant 8-bit weights. All else computes in float16 at its
full speed, and a layer's result is float16 until the next layer reads it: quantizing it before its
activation function, or before a residual sum, would cost accuracy and speed nothing up. Symmetric
ranges are the default of Apple's own `coremltools.optimize`; `coreml-affine` has the other kind.

The calibrated program comes from the shared quantization core and goes through
`coremltools.convert`, which takes PyTorch's `quantized_decomposed` operators. Apple's two own roads
were not taken: `linear_quantize_activations` needs Core ML's predictions and so a Mac, and
`LinearQuantizer` traces the network in training mode, which bakes the statistics of a batch into
timm's fused batch norms.
"""

import dataclasses

import torch

from edgeseed.export.quantize.scheme import INT8_SYMMETRIC, Scheme

# An int8 package computes in float16, and coremltools stores all scales in it. Channels of small
# weights have scales that float16 rounds coarsely, or to zero.
_FORMAT = dataclasses.replace(INT8_SYMMETRIC, scale_dtype=torch.float16)

SCHEME = Scheme(
    name="coreml",
    activation=_FORMAT,
    weight=_FORMAT,
    operators=frozenset({"conv", "linear", "relu"}),
    saturation_is_activation=False,
    integer_bias=False,
    exact_image="never",
    float_results=True,
)
