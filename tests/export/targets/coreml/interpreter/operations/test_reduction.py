"""Reductions of axes to one value: as torch has them, from a package that coremltools wrote."""

from typing import Any

import pytest
import torch
from support.coreml_operations import REDUCTIONS, Interpret, values


@pytest.mark.parametrize("keep", [False, True])
def test_reductions(interpret: Interpret, mb: Any, keep: bool) -> None:
    x = values(2, 3, 4, low=0.3, high=1.4)
    found = interpret(
        lambda x: [
            getattr(mb, name)(x=x, axes=[1, -1], keep_dims=keep, name=f"y_{name}")
            for name in REDUCTIONS
        ],
        x,
    )
    for name, value in zip(REDUCTIONS, found, strict=True):
        wanted = REDUCTIONS[name](x)
        wanted = wanted.reshape(2, 1, 1) if keep else wanted
        assert value.shape == wanted.shape, name
        torch.testing.assert_close(value, wanted, msg=name)
