"""How the operations read the arguments that are settings rather than data."""

from collections.abc import Sequence

import torch
from torch import Tensor


def integers(values: Tensor) -> list[int]:
    """The numbers of an integer vector, such as a shape."""
    numbers: list[int] = values.tolist()
    return numbers


def integers_or(values: Tensor | None, default: Sequence[int]) -> list[int]:
    """The numbers of an optional integer vector."""
    return list(default) if values is None else integers(values)


def integer(value: Tensor | None, default: int) -> int:
    """An optional integer scalar."""
    return default if value is None else int(value)


def flag(value: Tensor | None, *, default: bool = False) -> bool:
    """An optional truth value."""
    return default if value is None else bool(value)


def flags(values: Tensor | None, count: int) -> list[bool]:
    """An optional vector of truth values; all false where it is left out."""
    return [False] * count if values is None else [bool(value) for value in values.tolist()]


def per_channel(values: Tensor, rank: int, axis: int = 1) -> Tensor:
    """(C,) -> (1, C, 1, ...) with C at `axis`, so that it broadcasts over a tensor of that rank."""
    shape = [1] * rank
    shape[axis] = -1
    return values.reshape(shape)


def shape_tensor(sizes: Sequence[int]) -> Tensor:
    """Sizes as Core ML holds a shape: a vector of int32."""
    return torch.tensor(list(sizes), dtype=torch.int32)
