import numpy as np
import pytest
import torch

from edgeseed.export.quantize.graph.layout import Kind
from edgeseed.export.quantize.ranges.observers import (
    METHODS,
    Method,
    Statistics,
    choose_quantizer,
    typical_photos,
)
from edgeseed.export.quantize.scheme import INT8_SYMMETRIC, UINT8


def seen(*batches: torch.Tensor) -> Statistics:
    statistics = Statistics()
    for batch in batches:
        statistics.add(batch)
    return statistics


def test_a_histogram_that_grew_counts_as_if_it_had_known_the_range() -> None:
    generator = torch.Generator().manual_seed(0)
    small, large = (
        torch.randn(20000, generator=generator),
        40 * torch.randn(20000, generator=generator),
    )
    centres, shares = seen(small, large).distribution()
    values = torch.cat([small, large]).numpy()
    assert shares.sum() == pytest.approx(1)
    assert np.sqrt(shares @ centres**2) == pytest.approx(np.sqrt((values**2).mean()), rel=1e-2)
    assert shares[np.abs(centres) < 3].sum() == pytest.approx((np.abs(values) < 3).mean(), abs=0.01)


def test_memory_does_not_grow_with_photos() -> None:
    statistics = seen(*(torch.randn(100, 5) for _ in range(50)))
    assert statistics.counts.numel() == 8192
    assert sum(map(len, statistics.extremes)) <= 4200


@pytest.mark.parametrize("method", METHODS)
def test_every_method_keeps_zero_exact(method: Method) -> None:
    statistics = seen(torch.rand(5000) * 3 - 1)
    quantizer = choose_quantizer(statistics, method, Kind.FREE, UINT8)
    assert float(quantizer.simulate(torch.zeros(1))) == 0.0


@pytest.mark.parametrize("method", METHODS)
def test_a_tensor_of_zeros_has_a_quantizer(method: Method) -> None:
    quantizer = choose_quantizer(seen(torch.zeros(100)), method, Kind.FREE, UINT8)
    assert quantizer.scale > 0


def test_fisher_cuts_outliers_off_where_the_algebra_says() -> None:
    """A share p of values at M, clipped at x, costs 8 p (M - x)^2 + (x / 255)^2 / 12.

    Eight, because what is cut off errs one way and adds up, where rounding averages out.
    """
    values = torch.rand(1, 60000, generator=torch.Generator().manual_seed(0))
    values[0, -1] = 20.0
    weights = torch.ones_like(values)
    weights[0, -1] = 0.01
    share, step_cost = 8 * 0.01 / 60000, 1 / (12 * 255**2)
    best = 20 * share / (share + step_cost)
    statistics = Statistics()
    statistics.add(values, weights)
    tops = {
        method: choose_quantizer(statistics, method, Kind.RELU, UINT8).range[1]
        for method in METHODS
    }
    assert tops["minmax"] == pytest.approx(20, rel=0.01)
    assert tops["fisher"] == pytest.approx(best, rel=0.06)


def test_fisher_is_nearer_than_minmax() -> None:
    values = torch.randn(60000, generator=torch.Generator().manual_seed(0)) ** 3
    errors = {}
    for method in ("minmax", "fisher"):
        quantizer = choose_quantizer(seen(values), method, Kind.FREE, UINT8)
        errors[method] = float(((quantizer.simulate(values) - values) ** 2).mean())
    assert errors["fisher"] < errors["minmax"]


def test_symmetric_formats_have_zero_point_zero() -> None:
    quantizer = choose_quantizer(
        seen(torch.rand(1000) * 5 - 1), "minmax", Kind.FREE, INT8_SYMMETRIC
    )
    assert quantizer.zero_point == 0
    assert quantizer.range[1] == pytest.approx(4.0, rel=0.01)


def test_relu6_never_spans_more_than_six() -> None:
    quantizer = choose_quantizer(seen(torch.rand(1000) * 20), "minmax", Kind.RELU6, UINT8)
    assert quantizer.range == pytest.approx((0.0, 6.0))


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_every_channel_is_seen_in_either_order_of_memory(
    memory_format: torch.memory_format,
) -> None:
    """A stride that shares a divisor with the channels would skip most of them."""
    channels, side = 24, 96
    values = torch.arange(float(channels)).view(1, -1, 1, 1).expand(3, -1, side, side)
    statistics = Statistics()
    statistics.add(values.contiguous(memory_format=memory_format))
    _, shares = statistics.distribution()
    assert (statistics.low, statistics.high) == (0, channels - 1)
    assert len(shares) == channels
    assert shares.min() > 0.8 / channels


def _photos_with_one_in_fifty_far_out(factor: float) -> torch.Tensor:
    values = torch.randn(500, 8, 4, 4, generator=torch.Generator().manual_seed(0))
    values[::50] *= factor
    return values


def test_a_photo_far_from_the_others_counts_as_one() -> None:
    """Its values are two in a hundred, and it is one of fifty photos."""
    values = _photos_with_one_in_fifty_far_out(30)
    tops = {
        method: choose_quantizer(seen(*values.split(64)), method, Kind.FREE, UINT8).range[1]
        for method in ("photos", "minmax")
    }
    own = float(_photos_with_one_in_fifty_far_out(1).amax(dim=(1, 2, 3)).quantile(0.97))
    assert tops["photos"] == pytest.approx(own, rel=0.1)
    assert tops["minmax"] > 5 * own


@pytest.mark.parametrize(("factor", "expected"), [(30.0, 10), (1.0, 0)])
def test_photos_far_from_the_others_are_not_typical(factor: float, expected: int) -> None:
    calm = seen(*_photos_with_one_in_fifty_far_out(1).split(64))
    wild = seen(*_photos_with_one_in_fifty_far_out(factor).split(64))
    typical = typical_photos([calm, wild], 500)
    assert len(typical) == 500
    assert (~typical).sum() == expected
    assert expected == 0 or not typical[::50].any()


def test_a_tensor_that_is_always_zero_makes_no_photo_odd() -> None:
    assert typical_photos([seen(torch.zeros(40, 3))], 40).all()


def test_which_photos_are_typical_does_not_depend_on_the_order_of_memory() -> None:
    values = _photos_with_one_in_fifty_far_out(30)
    other = values.to(memory_format=torch.channels_last)
    assert (typical_photos([seen(values)], 500) == typical_photos([seen(other)], 500)).all()


def test_rows_that_are_no_photos_say_nothing_of_photos() -> None:
    """A Swin's windows: four rows a photo, the last photo's far out."""
    windows = torch.ones(160, 3)
    windows[-4:] = 100
    photos = torch.rand(40, 3, generator=torch.Generator().manual_seed(0))
    assert typical_photos([seen(photos), seen(windows)], 40).all()


def test_where_most_photos_are_odd_somewhere_all_are_typical() -> None:
    tensors = []
    for first in range(40):
        values = torch.ones(40, 3)
        values[first] = 100
        tensors.append(seen(values))
    assert typical_photos(tensors, 40).all()
    assert typical_photos(tensors[:5], 40).sum() == 35


def test_values_count_by_their_weights() -> None:
    values = torch.tensor([[0.5, -1.0, 2.0, 2.0]])
    statistics = Statistics()
    statistics.add(values, torch.tensor([[1.0, 2.0, 0.0, 5.0]]))
    centres, shares = statistics.distribution()
    np.testing.assert_allclose(centres, [-1.0, 0.5, 2.0], atol=1e-3)
    np.testing.assert_allclose(shares, [2 / 8, 1 / 8, 5 / 8])


@pytest.mark.parametrize(("of_the_large", "top"), [(0.0, 4.0), (1.0, 16.0)])
def test_fisher_cuts_off_what_moves_no_answer(of_the_large: float, top: float) -> None:
    values = torch.cat([torch.rand(1, 2000), torch.full((1, 20), 16.0)], dim=1)
    weights = torch.where(values > 1, of_the_large, 1.0)
    statistics = Statistics()
    statistics.add(values, weights)
    quantizer = choose_quantizer(statistics, "fisher", Kind.RELU, UINT8)
    assert quantizer.range[1] == pytest.approx(top, rel=0.01)
