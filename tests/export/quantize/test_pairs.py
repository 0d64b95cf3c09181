"""No pair of weights of the x86 scheme can saturate a 16-bit sum, whoever makes the integers."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from edgeseed.export.program import float_graph, input_of, trace
from edgeseed.export.quantize.corrections.rounding import round_rows
from edgeseed.export.quantize.graph.layout import plan_layout
from edgeseed.export.quantize.pairs import count_overfull, limit_pairs, pair_limit_of, partners
from edgeseed.export.quantize.scales import quantize_channels, weight_scales
from edgeseed.export.quantize.schemes.arm import SCHEME as ARM
from edgeseed.export.quantize.schemes.x86 import SCHEME as X86
from edgeseed.export.quantize.search.recovery import rounded_weight

LIMIT = X86.pair_limit


def heavy_weights(*shape: int, seed: int = 0) -> Tensor:
    """Weights in which many neighbours are large and of one sign."""
    random = torch.Generator().manual_seed(seed)
    return torch.rand(shape, generator=random).sub(0.1)


def test_the_limit_is_the_largest_that_16_bits_hold() -> None:
    extremes = [-32768, 32767]
    worst = [255 * w for w in (-LIMIT, LIMIT)]
    assert extremes[0] <= worst[0] < worst[1] <= extremes[1]
    assert extremes[1] < 255 * (LIMIT + 1)


def test_pairs_are_neighbours_among_the_input_channels_of_each_tap() -> None:
    weight = torch.zeros(1, 4, 1, 2, dtype=torch.int8)
    weight[0, 0, 0, 0] = weight[0, 1, 0, 0] = 100
    assert count_overfull(weight, LIMIT) == 1
    weight = torch.zeros(1, 4, 1, 2, dtype=torch.int8)
    weight[0, 0, 0, 0] = weight[0, 0, 0, 1] = 100  # of two taps
    weight[0, 1, 0, 1] = -100  # of the other sign
    weight[0, 2, 0, 1] = 100  # of another pair
    assert count_overfull(weight, LIMIT) == 0


def test_an_odd_number_of_channels_pairs_across_taps() -> None:
    assert partners(torch.Size([1, 3])).tolist() == [1, 0, -1]
    places = partners(torch.Size([1, 3, 1, 2]))  # kernel order: a0 b0 c0 a1 b1 c1
    names = [f"{channel}{tap}" for channel in "abc" for tap in (0, 1)]
    found = {name: names[place] for name, place in zip(names, places.tolist(), strict=True)}
    assert found == {"a0": "b0", "b0": "a0", "c0": "a1", "a1": "c0", "b1": "c1", "c1": "b1"}


@given(
    first=st.floats(-127, 127),
    second=st.floats(-127, 127),
    shape=st.sampled_from([(1, 2), (1, 2, 1, 1)]),
)
def test_what_fits_is_unchanged_and_what_does_not_becomes_the_nearest_that_does(
    first: float, second: float, shape: tuple[int, ...]
) -> None:
    given_pair = torch.tensor([first, second], dtype=torch.float64).view(shape)
    found = limit_pairs(given_pair, LIMIT)
    too_much = abs(first) + abs(second) - LIMIT if first * second > 0 else 0.0
    if too_much <= 0:
        assert torch.equal(found, given_pair)
    else:
        taken = (given_pair - found).abs().flatten()
        assert taken.sum().item() == pytest.approx(too_much, abs=1.001)
        assert abs(taken[0].item() - taken[1].item()) <= 1.001
    assert count_overfull(found.round().to(torch.int8), LIMIT) == 0


def test_whole_numbers_stay_whole() -> None:
    found = limit_pairs(torch.tensor([[127, 126, -100, -29]], dtype=torch.int8), LIMIT)
    assert found.tolist() == [[64, 64, -99, -29]]
    assert found.dtype is torch.int8


@pytest.mark.parametrize("shape", [(8, 7), (8, 6, 3, 3), (8, 3, 3, 3), (8, 1, 5, 5)])
def test_no_way_of_rounding_makes_a_pair_that_saturates(shape: tuple[int, ...]) -> None:
    weight = heavy_weights(*shape)
    limits = {"low": -127, "high": 127}
    plain = weight_scales(weight, X86.weight)
    nearest = quantize_channels(weight, plain, **limits, dtype=torch.int8)
    assert count_overfull(nearest, LIMIT) > 0  # else it shows nothing
    scales = weight_scales(weight, X86.weight, pair_limit=LIMIT)
    steps = scales.view(-1, *[1] * (weight.dim() - 1))

    simple = quantize_channels(weight, scales, **limits, dtype=torch.int8, pair_limit=LIMIT)
    rows = (weight / steps).flatten(1).double().unsqueeze(0)
    inputs = torch.rand(500, rows.shape[2], generator=torch.Generator().manual_seed(1)).double()
    together = round_rows(
        rows, (inputs.T @ inputs / 500).unsqueeze(0), **limits,
        pair_limit=LIMIT, partners=partners(weight.shape),
    ).view(weight.shape)  # fmt: skip
    learnt = rounded_weight(weight, steps, torch.zeros_like(weight), **limits, pair_limit=LIMIT)

    for integers in (simple, together, (learnt / steps).round()):
        assert count_overfull(integers, LIMIT) == 0
        assert integers.abs().max() <= 127


def test_coarser_steps_lose_less_than_cutting_pairs_off() -> None:
    weight = heavy_weights(16, 32)

    def error(scales: Tensor) -> float:
        integers = quantize_channels(
            weight, scales, low=-127, high=127, dtype=torch.int8, pair_limit=LIMIT
        )
        return float((integers * scales.view(-1, 1) - weight).square().sum())

    limited = error(weight_scales(weight, X86.weight, pair_limit=LIMIT))
    assert limited < error(weight_scales(weight, X86.weight)) / 2
    seven_bits = error(weight.abs().amax(dim=1) / 64)
    assert limited < 0.95 * seven_bits


def test_rounding_together_makes_up_for_what_a_pair_had_to_give() -> None:
    """The error goes to the other inputs of the row, as that of rounding does."""
    random = torch.Generator().manual_seed(2)
    mixing = torch.randn(8, 8, generator=random).double()
    inputs = torch.randn(400, 8, generator=random).double() @ mixing
    moments = (inputs.T @ inputs / 400).unsqueeze(0)
    rows = torch.randint(-110, 110, (1, 50, 8), generator=random).double() + 0.3
    together = round_rows(
        rows, moments, low=-127, high=127, pair_limit=LIMIT, partners=partners(torch.Size([50, 8]))
    )
    alone = limit_pairs(rows[0], LIMIT).round().unsqueeze(0)

    def lost(found: Tensor) -> float:
        difference = (rows - found)[0]
        return float(((difference @ moments[0]) * difference).sum())

    assert count_overfull(together[0].long(), LIMIT) == 0
    assert lost(together) < 0.7 * lost(alone)


class Layers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.plain, self.depthwise = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, groups=8)
        self.doubled, self.head = nn.Conv2d(8, 16, 1, groups=8), nn.Linear(16, 2)

    def forward(self, image: Tensor) -> tuple[Tensor]:
        return (self.head(self.doubled(self.depthwise(self.plain(image))).mean((2, 3))),)


def test_only_depthwise_layers_are_free_and_only_x86_has_the_limit() -> None:
    graph = float_graph(trace(Layers().eval(), torch.zeros(1, 3, 9, 9), batch=1))
    layers = set(plan_layout(graph.graph, X86).layers)
    limits = []
    for node in graph.graph.nodes:
        if node.name in layers:
            weight = getattr(graph, str(input_of(node, 1).target), None)
            weight = (
                graph.get_parameter(str(input_of(node, 1).target)) if weight is None else weight
            )
            limits.append(pair_limit_of(node, weight, X86))
            assert pair_limit_of(node, weight, ARM) == 0
    # A kernel of ONNX Runtime's own takes one output a channel; two go the way of all others.
    assert limits == [LIMIT, 0, LIMIT, LIMIT]


def test_every_pair_of_bytes_is_computed_without_saturation() -> None:
    """The arithmetic of `vpmaddubsw`, with the greatest activations."""
    values = torch.arange(-127, 128, dtype=torch.int64)
    pairs = torch.cartesian_prod(values, values)
    fitted = limit_pairs(pairs, LIMIT)
    for activations in itertools.product((0, 255), repeat=2):
        sums = (fitted * torch.tensor(activations)).sum(dim=1)
        assert torch.equal(sums, sums.clamp(-32768, 32767))
