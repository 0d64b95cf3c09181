"""ONNX Runtime on x86-64: uint8 activations, int8 weights.

The order of signs is the hardware's: `vpdpbusd` (AVX-VNNI, AVX512-VNNI) and AMX multiply unsigned
by signed bytes, so that U8S8 is the one form with a direct kernel. A processor with AVX2 but no
VNNI adds pairs of products in 16 bits that saturate; there the gates of the device, not of this
machine, decide.
"""

from edgeseed.export.quantize.schemes._scheme import ALL_OPERATORS, INT8_SYMMETRIC, UINT8, Scheme

SCHEME = Scheme(
    name="x86",
    activation=UINT8,
    weight=INT8_SYMMETRIC,
    operators=ALL_OPERATORS,
    saturation_is_activation=True,
    integer_bias=True,
    exact_image=True,
    depthwise_multiple=16,
)
