"""How operations read the arguments that are settings."""

import torch

from edgeseed.export.targets.coreml.interpreter.operations._arguments import (
    flag,
    flags,
    integer,
    integers,
    integers_or,
    per_channel,
    shape_tensor,
)

NUMBERS = torch.tensor([3, -1], dtype=torch.int32)


def test_numbers_are_pythons_and_a_default_stands_in() -> None:
    assert integers(NUMBERS) == [3, -1]
    assert integers_or(None, (1, 2)) == [1, 2]
    assert integers_or(NUMBERS, (1, 2)) == [3, -1]
    assert integer(None, 7) == 7
    assert integer(torch.tensor(5), 7) == 5


def test_flags_are_false_where_they_are_left_out() -> None:
    assert flag(None) is False
    assert flag(None, default=True) is True
    assert flag(torch.tensor(True)) is True
    assert flags(None, 3) == [False] * 3
    assert flags(torch.tensor([True, False]), 2) == [True, False]


def test_a_vector_is_laid_along_its_axis() -> None:
    values = torch.arange(3.0)
    assert per_channel(values, 4).shape == (1, 3, 1, 1)
    assert per_channel(values, 3, axis=2).shape == (1, 1, 3)
    torch.testing.assert_close(
        torch.zeros(2, 3, 4) + per_channel(values, 3), values.view(1, 3, 1).expand(2, 3, 4)
    )


def test_shapes_are_int32() -> None:
    assert shape_tensor((2, 3)).dtype == torch.int32
    assert integers(shape_tensor((2, 3))) == [2, 3]
