"""ONNX Runtime with QNN, Qualcomm's NPU (Hexagon): uint8 activations, int8 weights, plain QDQ.

QNN gives each tensor of a graph one scale and one zero point. It computes an operator in integers
only where it finds `DequantizeLinear` before all that it reads and `QuantizeLinear` behind. So
nothing of what the schemes for CPUs do with bytes is in such a file: no bytes read in two ways, no
`Clip`, `Pad`, `Tile` or `Reshape` of bytes; a hard-swish is one operator. The two outputs are bytes
as well, which a last `DequantizeLinear` makes float32.

No layer with weights stays in float. When ONNX Runtime (1.21 and later) loads a file, it gives such
a layer between integers weights of eight bits with one scale for all channels, which is worse than
what it had. What loses too much in `qnn` is right in `qnn-w8a16`.
"""

import dataclasses

from edgeseed.export.quantize.scheme import ALL_OPERATORS, INT8_SYMMETRIC, UINT8, Scheme

SCHEME = Scheme(
    name="qnn",
    activation=dataclasses.replace(UINT8, unit_end=255 / 256),
    weight=INT8_SYMMETRIC,
    operators=ALL_OPERATORS,
    saturation_is_activation=True,
    integer_bias=True,
    exact_image="always",
    plain_qdq=True,
    float_layers=False,
)
