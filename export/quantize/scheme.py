"""The contract of a quantization scheme: integer formats, and the operators that compute in them.

A scheme describes one kind of runtime. Each is one file in `schemes/`, which ends with `SCHEME`;
`--scheme NAME` chooses it, and the manifest records it.
"""

import dataclasses
from typing import Literal, get_args

import torch

Operator = Literal[
    "conv", "linear", "add", "mul", "relu", "hardswish", "hardsigmoid", "sigmoid", "silu",
    "pool", "max_pool", "concat", "view",
]  # fmt: skip

ALL_OPERATORS: frozenset[Operator] = frozenset(get_args(Operator))


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class IntegerFormat:
    """An integer type with the range that is used of it.

    Attributes:
        dtype: The type in the file.
        low: The least integer that is used.
        high: The largest.
        symmetric: Whether the zero point is 0. If not, it is chosen for each tensor.
        scale_dtype: The type in which the runtime keeps scales. A scale is rounded to it before the
            integers are made, so that both fit together.
        unit_end: The real number that the largest integer stands for where a tensor holds a
            sigmoid, 0 to 1. LiteRT and QNN have steps of 1/256 there.
    """

    dtype: torch.dtype
    low: int
    high: int
    symmetric: bool
    scale_dtype: torch.dtype = torch.float32
    unit_end: float = 1.0

    @property
    def levels(self) -> int:
        """The number of steps from `low` to `high`."""
        return self.high - self.low

    @property
    def byte_steps(self) -> int:
        """The number of steps that a photo's byte takes: 1 for 8 bits, 257 for 16.

        As many as fit, because a kernel that drops low bits of its sums then drops none of the
        photo's.
        """
        return max(1, self.levels // 255)


UINT8 = IntegerFormat(dtype=torch.uint8, low=0, high=255, symmetric=False)
UINT16 = IntegerFormat(dtype=torch.uint16, low=0, high=65535, symmetric=False)
INT8 = IntegerFormat(dtype=torch.int8, low=-128, high=127, symmetric=False)
INT8_SYMMETRIC = IntegerFormat(dtype=torch.int8, low=-127, high=127, symmetric=True)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Scheme:
    """How one kind of runtime computes in integers.

    Weights have one scale for each output channel and zero point 0.
    """

    name: str
    """As `--scheme` and the manifest have it."""
    activation: IntegerFormat
    weight: IntegerFormat
    operators: frozenset[Operator]
    """Operators with an integer kernel. All others compute in float."""
    saturation_is_activation: bool
    """Whether the limits of the integers compute ReLU, ReLU6, hard-sigmoid and hard-swish, so that
    no operator is left of them (`graph/rewriting.py`). Only with asymmetric activations, whose
    least integer can mean zero."""
    integer_bias: bool
    """Whether biases are int32, in steps of the input's scale times the weights'."""
    exact_image: Literal["always", "one mean", "never"]
    """Where the first quantized tensor is the photo's own bytes, not the normalised photo. `one
    mean`: where all colours have one mean, so that no further channel is needed for the others
    (`graph/rewriting.py`)."""
    float_results: bool = False
    """Whether a layer gives its result in float, so that only what layers read is quantized."""
    single_positions: bool = True
    """Whether layers with one position a photo compute in integers: those of
    squeeze-and-excitation, and the head behind global pooling."""
    float_embedding: bool = False
    """Whether the layer that makes the embedding gives it in float
    (`corrections/float_embedding.py`)."""
    residual_skips: bool = False
    """Whether a residual sum is computed by the layer in front: that layer's result comes to the
    sum in float, the skip connection in integers."""
    stem_channels: int = 0
    """Layers that read the photo and have at most this many channels stay in float at high
    resolutions; 0 for none. For speed: see `schemes/x86.py`."""
    gate_channels: int = 0
    """Gates of squeeze-and-excitation with fewer channels are repeated along the width of what they
    multiply; 0 for none. For speed: see `schemes/x86.py`."""
    depthwise_multiple: int = 1
    """Depthwise layers get channels of zeros up to a multiple of this: the number that the
    runtime's kernel takes at a time (`corrections/widening.py`)."""
    byte_weights: bool = False
    """Whether weights of float layers may be stored as bytes with a scale for each output channel
    (`corrections/byte_weights.py`)."""
    plain_qdq: bool = False
    """Whether each operator has `DequantizeLinear` in front and `QuantizeLinear` behind, with one
    scale and zero point a tensor, outputs included. Compilers for NPUs take no other form."""
    first_calibrator: str | None = None
    """The calibrator that is tried first; None for `SearchPolicy.first`."""
    float_layers: bool = True
    """Whether the search may leave a layer with weights in float."""
    pair_limit: int = 0
    """The largest sum of two neighbouring weights of one sign, so that a kernel which adds their
    products in 16 bits is exact; 0 for no limit (`pairs.py`)."""
