"""Reductions over axes, all of them where none is given."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from edgeseed.export.targets.coreml.interpreter.operations._arguments import (
    flag,
    integer,
    integers_or,
)

Reducer = Callable[[Tensor, list[int], bool], Tensor]


def _reduction(reducer: Reducer) -> Callable[..., Tensor]:
    """Gives a reducer the parameters that Core ML's files use."""

    def operation(x: Tensor, axes: Tensor | None = None, keep_dims: Tensor | None = None) -> Tensor:
        return reducer(x, integers_or(axes, range(x.ndim)), flag(keep_dims))

    return operation


def _mean(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    return x.float().mean(axes, keep)


def _sum(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    return x.sum(axes, keep)


def _product(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    # torch multiplies along one axis at a time; from the last back, so that the others keep their
    # place.
    for axis in sorted((axis % x.ndim for axis in axes), reverse=True):
        x = x.prod(axis, keep)
    return x


def _l2_norm(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    return x.float().square().sum(axes, keep).sqrt()


_REDUCERS: dict[str, Reducer] = {
    "reduce_l1_norm": lambda x, axes, keep: _sum(x.abs(), axes, keep),
    "reduce_l2_norm": _l2_norm,
    "reduce_log_sum": lambda x, axes, keep: _sum(x, axes, keep).log(),
    "reduce_log_sum_exp": lambda x, axes, keep: torch.logsumexp(x, axes, keep),
    "reduce_max": lambda x, axes, keep: torch.amax(x, axes, keep),
    "reduce_mean": _mean,
    "reduce_min": lambda x, axes, keep: torch.amin(x, axes, keep),
    "reduce_prod": _product,
    "reduce_sum": _sum,
    "reduce_sum_square": lambda x, axes, keep: _sum(x.square(), axes, keep),
}


def reduce_argmax(
    x: Tensor,
    axis: Tensor | None = None,
    keep_dims: Tensor | None = None,
    output_dtype: str = "int32",
) -> Tensor:
    """Where the largest element is along an axis, the last where none is given."""
    return torch.argmax(x, integer(axis, -1), flag(keep_dims))


def reduce_argmin(
    x: Tensor,
    axis: Tensor | None = None,
    keep_dims: Tensor | None = None,
    output_dtype: str = "int32",
) -> Tensor:
    """Where the smallest element is along an axis, the last where none is given."""
    return torch.argmin(x, integer(axis, -1), flag(keep_dims))


OPERATIONS: Mapping[str, Callable[..., Tensor]] = {
    **{name: _reduction(reducer) for name, reducer in _REDUCERS.items()},
    "reduce_argmax": reduce_argmax,
    "reduce_argmin": reduce_argmin,
}
