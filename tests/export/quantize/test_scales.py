"""Real numbers as integers: the formula written out, zero, and scales as kernels store them."""

import dataclasses

import pytest
import torch

from edgeseed.export.quantize.scales import (
    in_stored_type,
    quantize_channels,
    quantizer_for_range,
    weight_scales,
)
from edgeseed.export.quantize.scheme import INT8, INT8_SYMMETRIC, UINT8, UINT16, IntegerFormat

FORMATS = [UINT8, UINT16, INT8, INT8_SYMMETRIC]


@pytest.mark.parametrize("number_format", FORMATS)
@pytest.mark.parametrize(("low", "high"), [(-1.0, 3.0), (0.0, 6.0), (-2.5, 0.0), (0.5, 4.0)])
def test_a_quantizer_spans_its_range_and_zero_is_exact(
    number_format: IntegerFormat, low: float, high: float
) -> None:
    found = quantizer_for_range(low, high, number_format)
    assert found.low <= found.zero_point <= found.high
    least, greatest = found.range
    # A shifted zero moves both ends by half a step at most.
    assert least <= min(low, 0) + found.scale / 2
    assert greatest >= max(high, 0) - found.scale / 2
    assert float(found.simulate(torch.zeros(1))) == 0


@pytest.mark.parametrize("number_format", FORMATS)
def test_values_are_rounded_to_the_nearest_step_and_saturate(number_format: IntegerFormat) -> None:
    found = quantizer_for_range(-1.0, 3.0, number_format)
    values = torch.linspace(-2, 4, 101)
    # The formula, one number after another.
    literal = []
    for value in values.tolist():
        integer = round(value / found.scale) + found.zero_point
        integer = min(max(integer, found.low), found.high)
        literal.append((integer - found.zero_point) * found.scale)
    torch.testing.assert_close(found.simulate(values), torch.tensor(literal), atol=1e-6, rtol=1e-5)
    operator = torch.ops.quantized_decomposed
    if number_format.dtype is not torch.uint16:
        integers = operator.quantize_per_tensor(values, *found.arguments)
        torch.testing.assert_close(
            operator.dequantize_per_tensor(integers, *found.arguments), found.simulate(values)
        )


def test_symmetric_numbers_have_their_zero_in_the_middle() -> None:
    found = quantizer_for_range(-1.0, 3.0, INT8_SYMMETRIC)
    assert found.zero_point == 0
    assert found.range == pytest.approx((-3.0, 3.0))


@pytest.mark.parametrize("number_format", FORMATS)
def test_a_tensor_that_is_always_zero_has_a_scale(number_format: IntegerFormat) -> None:
    found = quantizer_for_range(0.0, 0.0, number_format)
    assert found.scale > 0
    assert float(found.simulate(torch.zeros(1))) == 0


def test_a_scale_is_rounded_once_to_what_the_kernel_stores() -> None:
    half = dataclasses.replace(INT8_SYMMETRIC, scale_dtype=torch.float16)
    found = quantizer_for_range(-1.0, 1.0, half)
    assert found.scale == float(torch.tensor(1 / 127, dtype=torch.float16))
    assert found.scale != float(torch.tensor(1 / 127))
    stretched = found.stretched(3.0, torch.float16)
    assert stretched.scale == float(torch.tensor(found.scale * 3, dtype=torch.float16))
    assert stretched.zero_point == found.zero_point


def test_the_same_integers_can_be_read_as_other_numbers() -> None:
    found = quantizer_for_range(-1.0, 1.0, UINT8).read_as(scale=2.0, zero_point=3)
    assert (found.scale, found.zero_point, found.low, found.high) == (2.0, 3, 0, 255)
    assert found.levels == 255


def test_scales_in_half_are_never_zero() -> None:
    found = in_stored_type(torch.tensor([1e-20, 0.5]), torch.float16)
    assert found[0] > 0
    assert found[1] == 0.5
    same = torch.tensor([1e-20])
    assert in_stored_type(same, torch.float32) is same


def error(weight: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """(O,) squared error of each channel."""
    integers = quantize_channels(weight, scales, low=-127, high=127, dtype=torch.int8)
    restored = integers.float() * scales.view(-1, *[1] * (weight.dim() - 1))
    return ((restored - weight) ** 2).flatten(1).sum(1)


def test_every_output_channel_has_the_scale_of_least_error_among_those_tried() -> None:
    weight = torch.randn(8, 4, 3, 3, generator=torch.Generator().manual_seed(0))
    weight[3, 0, 0, 0] = 12.0  # a lone large weight
    weight[5] = 0.0
    scales = weight_scales(weight, INT8_SYMMETRIC)
    found = error(weight, scales)
    largest = weight.flatten(1).abs().amax(1).clamp(min=1e-9)
    for share in (1.0, 0.95, 0.9, 0.85, 0.8, 0.7):
        other = error(weight, share * largest / 127)
        assert bool((found <= other + 1e-6).all()), share
    assert scales[5] == pytest.approx(1 / 127)
    assert found[5] == 0


def test_neighbours_of_one_sign_are_limited_together() -> None:
    # A kernel that adds two products in 16 bits saturates beyond.
    weight = torch.full((1, 8), 1.0)
    scales = weight_scales(weight, INT8_SYMMETRIC, pair_limit=128)
    integers = quantize_channels(
        weight, scales, low=-127, high=127, dtype=torch.int8, pair_limit=128
    ).int()
    pairs = integers.view(-1, 2).sum(1)
    assert int(pairs.abs().max()) <= 128
    # Coarser steps lose less here than smaller neighbours would.
    restored = integers * scales
    assert float((restored - weight).abs().max()) < 0.1
