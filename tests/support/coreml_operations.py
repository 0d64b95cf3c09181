"""What the tests of the interpreter's operations share."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

Interpret = Callable[..., list[Tensor]]
Case = tuple[Callable[[Any, Any], Any], Callable[[Tensor], Tensor | Sequence[Tensor]]]


def values(*shape: int, low: float = -2.0, high: float = 2.0, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.empty(shape).uniform_(low, high, generator=generator)


def check(interpret: Interpret, mb: Any, table: dict[str, Case], x: Tensor) -> None:
    """Every case of a table, all in one program: writing a package is what takes time."""
    counts: dict[str, int] = {}

    def build(x: Any) -> list[Any]:
        made = []
        for name, (build_one, _) in table.items():
            results = build_one(mb, x)
            results = list(results) if isinstance(results, list | tuple) else [results]
            counts[name] = len(results)
            made += results
        return made

    found = iter(interpret(build, x))
    for name, (_, expected) in table.items():
        wanted = expected(x)
        wanted = [wanted] if isinstance(wanted, Tensor) else list(wanted)
        assert counts[name] == len(wanted)
        for other, one in zip(wanted, found, strict=False):
            assert one.shape == other.shape, name
            torch.testing.assert_close(
                one,
                other.to(one.dtype),
                rtol=2e-6,
                atol=2e-6,
                msg=partial("{}: {}".format, name),
            )


def as_number(mb: Any, truth: Any) -> Any:
    """Core ML programs cannot give truth values to the outside."""
    return mb.cast(x=truth, dtype="int32")


UNARY: dict[str, Callable[[Tensor], Tensor]] = {
    "abs": torch.abs, "acos": torch.acos, "asin": torch.asin, "atan": torch.atan,
    "atanh": torch.atanh, "ceil": torch.ceil, "cos": torch.cos, "cosh": torch.cosh,
    "erf": torch.erf, "exp": torch.exp, "exp2": torch.exp2, "floor": torch.floor,
    "identity": lambda x: x, "sign": torch.sign, "sin": torch.sin, "sinh": torch.sinh,
    "square": torch.square, "tan": torch.tan, "tanh": torch.tanh, "relu": torch.relu,
    "relu6": lambda x: F.relu6(x), "sigmoid": torch.sigmoid, "silu": lambda x: F.silu(x),
    "softplus": lambda x: F.softplus(x), "softsign": lambda x: F.softsign(x),
}  # fmt: skip


BINARY: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "add": torch.add, "sub": torch.sub, "mul": torch.mul, "real_div": torch.div,
    "maximum": torch.maximum, "minimum": torch.minimum, "floor_div": torch.floor_divide,
    "mod": torch.remainder, "pow": torch.pow, "equal": torch.eq, "not_equal": torch.ne,
    "greater": torch.gt, "greater_equal": torch.ge, "less": torch.lt, "less_equal": torch.le,
}  # fmt: skip


REDUCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "reduce_l1_norm": lambda x: x.abs().sum((1, 2)),
    "reduce_l2_norm": lambda x: x.square().sum((1, 2)).sqrt(),
    "reduce_log_sum": lambda x: x.sum((1, 2)).log(),
    "reduce_log_sum_exp": lambda x: x.logsumexp((1, 2)),
    "reduce_max": lambda x: x.amax((1, 2)),
    "reduce_mean": lambda x: x.mean((1, 2)),
    "reduce_min": lambda x: x.amin((1, 2)),
    "reduce_prod": lambda x: x.prod(2).prod(1),
    "reduce_sum": lambda x: x.sum((1, 2)),
    "reduce_sum_square": lambda x: x.square().sum((1, 2)),
}


ALPHA = np.array([0.5, -0.25, 2.0], np.float32)
BETA = np.array([1.5, 0.5, 1.0], np.float32)


def kernel(*shape: int) -> Any:
    return values(*shape, seed=7).numpy()
