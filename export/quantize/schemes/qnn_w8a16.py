"""ONNX Runtime with QNN, Qualcomm's NPU (Hexagon): uint16 activations, int8 weights, plain QDQ.

"w8a16" is what Qualcomm calls it. All else is as in `qnn`, but that ranges are as wide as all that
was seen: see `candidates`.
"""

import dataclasses

from edgeseed.export.quantize.scheme import UINT16
from edgeseed.export.quantize.schemes.qnn import SCHEME as EIGHT_BITS

SCHEME = dataclasses.replace(
    EIGHT_BITS,
    name="qnn-w8a16",
    activation=dataclasses.replace(UINT16, unit_end=65535 / 65536),
    first_calibrator="minmax",
)
