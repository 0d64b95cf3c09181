"""Orders, gathers and scatters: as torch has them, from a package that coremltools wrote."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from support.coreml_operations import Case, Interpret, check, values
from torch import Tensor

from edgeseed.core.errors import WorkError
from edgeseed.export.targets.coreml.interpreter.operations.indexing import classify

ORDERS_AND_SUMS_ALONG_AN_AXIS: dict[str, Case] = {
    "reduce_argmax": (lambda mb, x: mb.reduce_argmax(x=x, axis=1), lambda x: x.argmax(1)),
    "reduce_argmin": (
        lambda mb, x: mb.reduce_argmin(x=x, axis=-1, keep_dims=True),
        lambda x: x.argmin(-1, keepdim=True),
    ),
    "argsort": (
        lambda mb, x: mb.argsort(x=x, axis=1),
        lambda x: x.argsort(1, descending=True),
    ),
    "argsort:ascending": (
        lambda mb, x: mb.argsort(x=x, axis=-1, ascending=True),
        lambda x: x.argsort(-1),
    ),
    "topk": (lambda mb, x: mb.topk(x=x, k=2, axis=1), lambda x: x.topk(2, 1)),
    "topk:ascending": (
        lambda mb, x: mb.topk(x=x, k=3, axis=-1, ascending=True, return_indices=False),
        lambda x: x.topk(3, -1, largest=False).values,
    ),
    "cumsum": (lambda mb, x: mb.cumsum(x=x, axis=1), lambda x: x.cumsum(1)),
    "cumsum:exclusive": (
        lambda mb, x: mb.cumsum(x=x, axis=1, exclusive=True),
        lambda x: x.cumsum(1) - x,
    ),
    "cumsum:reverse": (
        lambda mb, x: mb.cumsum(x=x, axis=-1, reverse=True),
        lambda x: x.flip(-1).cumsum(-1).flip(-1),
    ),
    "band_part": (
        lambda mb, x: mb.band_part(x=x, lower=1, upper=0),
        lambda x: x.tril() - x.tril(-2),
    ),
    "band_part:upper": (lambda mb, x: mb.band_part(x=x, lower=0), lambda x: x.triu()),
    "non_zero": (
        lambda mb, x: mb.non_zero(x=mb.cast(x=mb.greater(x=x, y=1.0), dtype="fp32")),
        lambda x: (x > 1).nonzero(),
    ),
}


def test_orders_and_sums_along_an_axis(interpret: Interpret, mb: Any) -> None:
    check(interpret, mb, ORDERS_AND_SUMS_ALONG_AN_AXIS, values(3, 4, 5))


COMBINE: dict[str, Callable[[Tensor, float], Tensor]] = {
    "update": torch.full_like, "add": torch.add, "sub": torch.sub, "mul": torch.mul,
    "div": torch.div, "max": lambda old, new: old.clamp(min=new),
    "min": lambda old, new: old.clamp(max=new),
}  # fmt: skip


def scattered(x: Tensor, mode: str) -> Tensor:
    """Rows 2 and 0 combined with twos and threes, one after the other."""
    wanted = x.clone()
    for row, number in ((2, 2.0), (0, 3.0)):
        wanted[row] = COMBINE[mode](wanted[row].clone(), number)
    return wanted


UPDATES = np.repeat(np.array([[2.0], [3.0]], np.float32), 5, axis=1)


@pytest.mark.parametrize("mode", ["update", "add", "sub", "mul", "div", "max", "min"])
def test_scatters(interpret: Interpret, mb: Any, mode: str) -> None:
    x = values(4, 5, low=1.0, high=4.0)
    along = np.repeat(np.array([[2], [0]], np.int32), 5, axis=1)
    found = interpret(
        lambda x: [
            mb.scatter(data=x, indices=[2, 0], updates=UPDATES, axis=0, mode=mode),
            mb.scatter_nd(data=x, indices=[[2], [0]], updates=UPDATES, mode=mode),
            mb.scatter_along_axis(data=x, indices=along, updates=UPDATES, axis=0, mode=mode),
        ],
        x,
    )
    for value in found:
        torch.testing.assert_close(value, scattered(x, mode))


GATHERS: dict[str, Case] = {
    "gather": (
        lambda mb, x: mb.gather(x=x, indices=[[2, 0], [-1, 1]], axis=1),
        lambda x: x[:, torch.tensor([[2, 0], [-1, 1]])],
    ),
    "gather:scalar": (lambda mb, x: mb.gather(x=x, indices=1, axis=-1), lambda x: x[..., 1]),
    "gather:batch": (
        lambda mb, x: mb.gather(x=x, indices=[[2, 0], [1, 1]], axis=1, batch_dims=1),
        lambda x: torch.stack([x[0, [2, 0]], x[1, [1, 1]]]),
    ),
    "gather_along_axis": (
        lambda mb, x: mb.gather_along_axis(
            x=x, indices=np.arange(40, dtype=np.int32).reshape(2, 4, 5) % 5, axis=-1
        ),
        lambda x: x.gather(-1, torch.arange(40).reshape(2, 4, 5) % 5),
    ),
    "gather_nd": (
        lambda mb, x: mb.gather_nd(x=x, indices=[[1, 2], [0, -1]]),
        lambda x: torch.stack([x[1, 2], x[0, -1]]),
    ),
    "gather_nd:batch": (
        lambda mb, x: mb.gather_nd(x=x, indices=[[[2]], [[0]]], batch_dims=1),
        lambda x: torch.stack([x[0, [2]], x[1, [0]]]),
    ),
    "one_hot": (
        lambda mb, x: mb.one_hot(
            indices=mb.reduce_argmax(x=x, axis=-1), one_hot_vector_size=5, axis=1,
            on_value=2.0, off_value=-1.0,
        ),
        lambda x: 3.0 * F.one_hot(x.argmax(-1), 5).movedim(-1, 1) - 1.0,
    ),
}  # fmt: skip


def test_gathers(interpret: Interpret, mb: Any) -> None:
    check(interpret, mb, GATHERS, values(2, 4, 5))


def test_a_classifier_numbers_its_class() -> None:
    number, scores = classify(torch.tensor([[0.1, 0.7, 0.2]]), ("a", "b", "c"))
    assert number == 1
    assert scores.tolist() == pytest.approx([0.1, 0.7, 0.2])
    with pytest.raises(WorkError, match="3 probabilities for 2 classes"):
        classify(torch.tensor([[0.1, 0.7, 0.2]]), ("a", "b"))
