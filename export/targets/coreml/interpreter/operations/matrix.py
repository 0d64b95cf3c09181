"""Matrix products and attention."""

from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from edgeseed.export.targets.coreml.interpreter.operations._arguments import flag


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """X @ weight.T + bias. x: (..., D), weight: (D_out, D)."""
    return F.linear(x, weight, bias)


def matmul(
    x: Tensor, y: Tensor, transpose_x: Tensor | None = None, transpose_y: Tensor | None = None
) -> Tensor:
    """X @ y with numpy's broadcasting, either turned over its last two axes first."""
    left = x.transpose(-1, -2) if flag(transpose_x) and x.ndim > 1 else x
    right = y.transpose(-1, -2) if flag(transpose_y) and y.ndim > 1 else y
    return torch.matmul(left, right)


def einsum(values: Sequence[Tensor], equation: str) -> Tensor:
    """The sum of products that the equation names."""
    return torch.einsum(equation, *values)


def scaled_dot_product_attention(
    query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None
) -> Tensor:
    """softmax(Q K^T / sqrt(E) + mask) V; a mask of truth values says what takes part."""
    return F.scaled_dot_product_attention(query, key, value, attn_mask=attn_mask)


OPERATIONS: Mapping[str, Callable[..., Tensor]] = {
    "einsum": einsum,
    "linear": linear,
    "matmul": matmul,
    "scaled_dot_product_attention": scaled_dot_product_attention,
}
