"""Number formats; what each scheme says is held by schemes/test_contract.py."""

import pytest
import torch

from edgeseed.export.quantize.scheme import (
    ALL_OPERATORS,
    INT8,
    INT8_SYMMETRIC,
    UINT8,
    UINT16,
    IntegerFormat,
)


@pytest.mark.parametrize(
    ("number_format", "levels", "byte_steps"),
    [(UINT8, 255, 1), (INT8, 255, 1), (INT8_SYMMETRIC, 254, 1), (UINT16, 65535, 257)],
)
def test_a_photos_byte_takes_as_many_steps_as_fit(
    number_format: IntegerFormat, levels: int, byte_steps: int
) -> None:
    assert number_format.levels == levels
    assert number_format.byte_steps == byte_steps
    assert 255 * byte_steps <= max(levels, 255)


@pytest.mark.parametrize("number_format", [UINT8, UINT16, INT8, INT8_SYMMETRIC])
def test_a_format_fits_into_its_type(number_format: IntegerFormat) -> None:
    info = torch.iinfo(number_format.dtype)
    assert info.min <= number_format.low < number_format.high <= info.max
    if number_format.symmetric:
        assert number_format.low == -number_format.high


def test_operators_are_those_that_layouts_name() -> None:
    assert {"conv", "linear", "add", "mul"} <= ALL_OPERATORS
