"""What Core ML's operations compute, in torch; one module a family.

Each function takes its arguments by the names that Core ML's files use, numbers as tensors and
choices as text, and computes in float32 what Apple's operation reference (coremltools, "MIL ops",
iOS 15 to iOS 18) says in words or as a formula.
"""

from collections.abc import Callable, Mapping
from typing import Any

from edgeseed.export.targets.coreml.interpreter.operations import (
    activation,
    convolution,
    elementwise,
    indexing,
    matrix,
    normalization,
    pooling,
    quantization,
    reduction,
    resizing,
    shaping,
)

OPERATIONS: Mapping[str, Callable[..., Any]] = {
    **activation.OPERATIONS,
    **convolution.OPERATIONS,
    **elementwise.OPERATIONS,
    **indexing.OPERATIONS,
    **matrix.OPERATIONS,
    **normalization.OPERATIONS,
    **pooling.OPERATIONS,
    **quantization.OPERATIONS,
    **reduction.OPERATIONS,
    **resizing.OPERATIONS,
    **shaping.OPERATIONS,
}
"""Operation type -> the function that computes it."""

TUPLES = frozenset({"values", "ref_tensors", "begins", "ends", "end_masks"})
"""Parameters that take any number of tensors."""
