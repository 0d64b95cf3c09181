"""TensorRT on NVIDIA GPUs: int8 around zero, one scale a weight channel, scales in float16.

TensorRT has no zero points, and builds an integer kernel where it finds `DequantizeLinear` in front
of a convolution or matrix product and of its constant weights. NVIDIA's rules for the places of Q
and DQ, and what follows from them here:

* *Quantize what weighted layers read, not what they give.* Convolution, bias and activation become
  one kernel; the next layer's Q joins it from behind. So Q stands after the activation.
* *Quantize the skip of a residual sum.* The last convolution of the block adds it on the way; were
  its own result quantized too, the sum would be a kernel of its own (NVIDIA/TensorRT issues 1992,
  3270), and were the skip not, the convolution could not write int8.
* Squeeze-and-excitation, the head, and whatever else sees one position a photo stays in float16: it
  is bound by reading its weights and by starting its kernel, and a gate's error multiplies a whole
  channel.
* Biases stay float16; TensorRT takes no int32 bias.

Scales are float16 numbers, because in a strongly typed network the scale has the type of what is
read. They are rounded before the integers are made, so nothing is lost by it.

For CPUs this form is a bad one: ONNX Runtime runs it slower than float32 (measured: 2.2 times).
"""

import dataclasses

import torch

from edgeseed.export.quantize.scheme import INT8_SYMMETRIC, Scheme

_FORMAT = dataclasses.replace(INT8_SYMMETRIC, scale_dtype=torch.float16)

SCHEME = Scheme(
    name="tensorrt",
    activation=_FORMAT,
    weight=_FORMAT,
    operators=frozenset({"conv", "linear", "add"}),
    saturation_is_activation=False,
    integer_bias=False,
    exact_image="never",
    float_results=True,
    single_positions=False,
    residual_skips=True,
)
