"""ONNX Runtime on x86-64: uint8 activations, int8 weights.

The order of signs is the hardware's: `vpdpbusd` (AVX-VNNI, AVX512-VNNI) and AMX multiply unsigned
by signed bytes, so that U8S8 is the one form with a direct kernel. A processor without VNNI (Intel
before Ice Lake and Cascade Lake, AMD before Zen 4) adds pairs of products in 16 bits, where what
does not fit is cut off. So no two neighbouring weights of one sign come to more than 128: then all
sums fit, and every x86 CPU computes the same integers. See `pairs`.

Layers of 16 channels at the photo's own resolution stay in float. An integer kernel reads a list of
addresses that is made anew at every run, nine for each pixel of a 3x3 kernel whatever the channels,
and its registers take 64 channels at a time; float kernels have neither. Measured on AVX512-VNNI,
one thread, MobileNetV3-L at 224 pixels, up to the end of the first block: 755 us in integers,
364 us in float and 127 us to become bytes behind it. With the 32 channels of EfficientNet the two
are equal, and integers stay.

The gate of squeeze-and-excitation is one byte a channel, and the kernel that multiplies takes as
many bytes at a time as both tensors have in a row without repetition: 32, in EfficientNet's first
block. So the gate is repeated along the width, a few thousand bytes that are soon made. Measured as
above: 32 channels at 112x112 274 us less, 96 at 56x56 40, 80 at 28x28 17, from 240 on nothing.
"""

from edgeseed.export.quantize.scheme import ALL_OPERATORS, INT8_SYMMETRIC, UINT8, Scheme

SCHEME = Scheme(
    name="x86",
    activation=UINT8,
    weight=INT8_SYMMETRIC,
    operators=ALL_OPERATORS,
    saturation_is_activation=True,
    integer_bias=True,
    exact_image="always",
    float_embedding=True,
    stem_channels=16,
    gate_channels=160,
    depthwise_multiple=16,
    byte_weights=True,
    pair_limit=128,
)
