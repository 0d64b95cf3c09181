"""ONNX Runtime on Arm (Android, iOS, Jetson's CPU): int8 activations, int8 weights.

Arm's dot products (`sdot`, `smmla`) multiply bytes of the same sign, so ONNX Runtime's fast kernels
there are S8S8. Activations stay asymmetric: the zero point is free, only the sign of the bytes
differs from `x86`. What `x86` leaves in float for speed was not measured on Arm, so that here all
is in integers. Arm's products are added in 32 bits, so weights are free of the limit that pairs
have on x86.
"""

import dataclasses

from edgeseed.export.quantize.scheme import INT8
from edgeseed.export.quantize.schemes.x86 import SCHEME as X86

SCHEME = dataclasses.replace(X86, name="arm", activation=INT8, stem_channels=0, pair_limit=0)
