"""LiteRT with XNNPACK, on phones, boards and x86: int8 activations and weights.

XNNPACK's kernels are those of signed bytes, with a free zero point and one scale a weight channel,
and add products in 32 bits, so that no two weights are limited. A sigmoid is a table in steps of
1/256: the format fixes that. The first layer reads the photo's own
bytes where all colours have one mean (0.5 in many networks from TensorFlow). Else the photo is
normalised in float and rounded then: the channel of ones that `x86` has for the means would cost
here 13 % of EfficientNet-B0's time on one thread, by CPU time on AVX512-VNNI.
"""

import dataclasses

from edgeseed.export.quantize.scheme import ALL_OPERATORS, INT8, INT8_SYMMETRIC, Scheme

SCHEME = Scheme(
    name="litert",
    activation=dataclasses.replace(INT8, unit_end=255 / 256),
    weight=INT8_SYMMETRIC,
    operators=ALL_OPERATORS,
    saturation_is_activation=True,
    integer_bias=True,
    exact_image="one mean",
    float_embedding=True,
)
