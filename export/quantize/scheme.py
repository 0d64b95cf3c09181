"""What a quantization scheme says: number formats, and which operators compute in them."""

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
    """A range of integers, and whether zero must be in its middle."""

    dtype: torch.dtype
    low: int
    high: int
    symmetric: bool
    scale_dtype: torch.dtype = torch.float32
    """What the runtime keeps scales in. A scale is rounded to it before the integers are made, so
    that they belong together."""
    unit_end: float = 1.0
    """What the greatest integer stands for in a table of a sigmoid."""

    @property
    def levels(self) -> int:
        """Number of steps between the ends."""
        return self.high - self.low

    @property
    def byte_steps(self) -> int:
        """How many steps one step of a photo's bytes is: as many as fit.

        A kernel that drops low bits of its sums then drops none of the photo's.
        """
        return max(1, self.levels // 255)


UINT8 = IntegerFormat(dtype=torch.uint8, low=0, high=255, symmetric=False)
UINT16 = IntegerFormat(dtype=torch.uint16, low=0, high=65535, symmetric=False)
INT8 = IntegerFormat(dtype=torch.int8, low=-128, high=127, symmetric=False)
INT8_SYMMETRIC = IntegerFormat(dtype=torch.int8, low=-127, high=127, symmetric=True)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Scheme:
    """How one kind of runtime computes in integers.

    Weights are always quantized per output channel, symmetrically.
    """

    name: str
    activation: IntegerFormat
    weight: IntegerFormat
    operators: frozenset[Operator]
    """Operators with an integer kernel. All others stay in float."""
    saturation_is_activation: bool
    """Whether ReLU, ReLU6, hard-sigmoid and hard-swish are made of the limits of the integers.

    It takes asymmetric activations, whose lowest integer can mean zero.
    """
    integer_bias: bool
    """Whether biases are int32 at the scale of the accumulator."""
    exact_image: bool
    """Whether the photo's own bytes are the first quantized tensor, not the normalised ones."""
    float_results: bool = False
    """Whether a layer may hand on its result in float, so that only what it reads is rounded."""
    single_positions: bool = True
    """Whether layers that see one position only, such as those of squeeze-and-excitation and the
    head behind a global pooling, compute in integers too."""
    float_embedding: bool = False
    """Whether the layer that makes the embedding hands it on in float. See `embedding`."""
    residual_skips: bool = False
    """Whether the sum of a layer's result and a skip connection belongs to that layer: the result
    comes to it in float, the skip in integers."""
    stem_channels: int = 0
    """Layers right behind the photo with at most so many channels stay in float at high
    resolutions; 0 for none. See `x86`."""
    gate_channels: int = 0
    """Gates of fewer channels are repeated along a row of the tensor that they multiply; 0 for
    none. See `x86`."""
    depthwise_multiple: int = 1
    """Number of channels that the runtime's depthwise kernel takes at a time."""
    byte_weights: bool = False
    """Whether the file can keep the weights of float layers in bytes, one scale an output channel.
    See `byte_weights`."""
    plain_qdq: bool = False
    """Whether every operator stands between reads and a store of its own, and every tensor has one
    scale and zero point: the only form that a compiler for NPUs takes. Outputs are stored too."""
    first_calibrator: str | None = None
    """The way of choosing ranges that is tried first, in place of the policy's."""
    float_layers: bool = True
    """Whether a layer with weights may stay in float because it loses much in integers."""
    pair_limit: int = 0
    """What two neighbouring weights of one sign may come to, so that a kernel that adds their
    products in 16 bits is exact; 0 for anything. See `pairs`."""
