"""Arithmetic, comparison and selection, element by element, with numpy's broadcasting."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

Unary = Callable[[Tensor], Tensor]
Binary = Callable[[Tensor, Tensor], Tensor]


def _unary(function: Unary) -> Unary:
    """Gives torch's function the parameter name that Core ML's files use."""

    def operation(x: Tensor) -> Tensor:
        return function(x)

    return operation


def _binary(function: Binary) -> Binary:
    def operation(x: Tensor, y: Tensor) -> Tensor:
        return function(x, y)

    return operation


def _real_div(x: Tensor, y: Tensor) -> Tensor:
    """X / y; of integers, rounded towards zero as the declared integer result asks."""
    quotient = torch.true_divide(x, y)
    return quotient if x.is_floating_point() else quotient.trunc().to(x.dtype)


def clip(x: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    """min(max(x, alpha), beta)."""
    return torch.minimum(torch.maximum(x, alpha), beta)


def threshold(x: Tensor, alpha: Tensor) -> Tensor:
    """max(x, alpha)."""
    return torch.maximum(x, alpha)


def inverse(x: Tensor, epsilon: Tensor | None = None) -> Tensor:
    """1 / (x + epsilon); epsilon is 1e-4 where it is left out."""
    return torch.reciprocal(x + (1e-4 if epsilon is None else epsilon))


def log(x: Tensor, epsilon: Tensor | None = None) -> Tensor:
    """The natural logarithm of x + epsilon; epsilon is 1e-45 where it is left out."""
    return torch.log(x + (1e-45 if epsilon is None else epsilon))


def rsqrt(x: Tensor, epsilon: Tensor | None = None) -> Tensor:
    """1 / sqrt(x + epsilon); epsilon is 1e-12 where it is left out."""
    return torch.rsqrt(x + (1e-12 if epsilon is None else epsilon))


def select(cond: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """A where the condition holds, b elsewhere."""
    return torch.where(cond.bool(), a, b)


def cast(x: Tensor, dtype: str) -> Tensor:
    """Another type: to whole numbers by cutting towards zero, to truth values by `x != 0`."""
    if dtype == "bool":
        return x != 0
    if dtype.startswith(("fp", "float")):
        return x.float()
    return x.trunc().to(torch.int32) if x.is_floating_point() else x.to(torch.int32)


_UNARY: dict[str, Unary] = {
    "abs": torch.abs,
    "acos": torch.acos,
    "asin": torch.asin,
    "atan": torch.atan,
    "atanh": torch.atanh,
    "ceil": torch.ceil,
    "cos": torch.cos,
    "cosh": torch.cosh,
    "erf": torch.erf,
    "exp": torch.exp,
    "exp2": torch.exp2,
    "floor": torch.floor,
    "identity": lambda x: x,
    "logical_not": torch.logical_not,
    "round": torch.round,  # both round a half to the even neighbour
    "sign": torch.sign,
    "sin": torch.sin,
    "sinh": torch.sinh,
    "sqrt": torch.sqrt,
    "square": torch.square,
    "tan": torch.tan,
    "tanh": torch.tanh,
}
_BINARY: dict[str, Binary] = {
    "add": torch.add,
    "equal": torch.eq,
    "floor_div": torch.floor_divide,
    "greater": torch.gt,
    "greater_equal": torch.ge,
    "less": torch.lt,
    "less_equal": torch.le,
    "logical_and": torch.logical_and,
    "logical_or": torch.logical_or,
    "logical_xor": torch.logical_xor,
    "maximum": torch.maximum,
    "minimum": torch.minimum,
    "mod": torch.remainder,  # both take the sign of the divisor
    "mul": torch.mul,
    "not_equal": torch.ne,
    "pow": torch.pow,
    "real_div": _real_div,
    "sub": torch.sub,
}
OPERATIONS: Mapping[str, Callable[..., Tensor]] = {
    **{name: _unary(function) for name, function in _UNARY.items()},
    **{name: _binary(function) for name, function in _BINARY.items()},
    "cast": cast,
    "clip": clip,
    "inverse": inverse,
    "log": log,
    "rsqrt": rsqrt,
    "select": select,
    "threshold": threshold,
}
