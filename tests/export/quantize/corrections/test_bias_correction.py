import dataclasses
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
import torch
from support.export import tiny_preprocess, tiny_student

from edgeseed.export.program import build_program, float_graph
from edgeseed.export.proof.reference import layer_names, layer_outputs
from edgeseed.export.quantize.corrections import bias_correction
from edgeseed.export.quantize.corrections.bias_correction import (
    Spread,
    correct,
    expected_spreads,
    layer_spreads,
)
from edgeseed.export.quantize.graph.layout import plan_layout
from edgeseed.export.quantize.graph.rewriting import insert_quantization
from edgeseed.export.quantize.graph.simulation import simulate
from edgeseed.export.quantize.ranges.statistics import calibrate, scales_by_method
from edgeseed.export.quantize.scheme import IntegerFormat, Scheme
from edgeseed.export.quantize.schemes import SCHEMES
from edgeseed.export.samples import Photos


@pytest.mark.slow
@pytest.mark.parametrize("gains", [False, True])
def test_corrected_layers_keep_their_means_and_with_gains_their_deviations(
    pixels: npt.NDArray[np.uint8], *, gains: bool
) -> None:
    """With coarse weights and narrow ranges, so that there is something to correct."""
    scheme: Scheme = SCHEMES.load("x86")
    coarse = IntegerFormat(dtype=scheme.weight.dtype, low=-7, high=7, symmetric=True)
    scheme = dataclasses.replace(scheme, weight=coarse)
    graph = float_graph(build_program(tiny_student(trained=False), tiny_preprocess()))
    layout = plan_layout(graph.graph, scheme)
    photos = Photos(pixels=pixels)
    scales = scales_by_method(calibrate(graph, layout, photos), layout, scheme, "photos")
    quantized = simulate(insert_quantization(graph, layout, scales, scheme))
    wanted = expected_spreads(layer_spreads(graph, layout.layers, photos), layout)
    found = correct(quantized, wanted, photos, gains=gains)
    assert bool(found.gains) == gains
    corrected = dataclasses.replace(scales, bias_corrections=found.biases, gains=found.gains)
    names = layer_names(graph)
    truth = layer_outputs(graph, pixels, names)
    shifts, shrinks = [], []
    for made in (scales, corrected):
        values = layer_outputs(
            simulate(insert_quantization(graph, layout, made, scheme)), pixels, names
        )
        last = names[-2]
        shifts.append(float(np.abs((values[last] - truth[last]).mean(axis=(0, 2, 3))).mean()))
        ratios = values[last].std(axis=(0, 2, 3)) / truth[last].std(axis=(0, 2, 3))
        shrinks.append(float(np.abs(np.log(ratios)).mean()))
    assert shifts[1] < 0.2 * shifts[0]
    assert (shrinks[1] < 0.2 * shrinks[0]) == gains


def test_a_gain_changes_scales_and_no_integers(pixels: npt.NDArray[np.uint8]) -> None:
    plain, gained, gain = with_gain(SCHEMES.load("x86"), pixels)
    assert torch.equal(gained["weight_integers"], plain["weight_integers"])
    torch.testing.assert_close(gained["weight_scales"], plain["weight_scales"] * gain)
    # The bias is multiplied like the output: its integers stay as well, but for rounding.
    assert (gained["bias_integers"] - plain["bias_integers"]).abs().max() <= 1


@pytest.mark.parametrize(
    ("wanted", "found", "gain"),
    [
        (1.0, 0.8, 1.25),
        (1.0, 0.1, 2.0),  # no more than twice
        (0.1, 1.0, 0.5),
        (1e-4, 2e-4, 1.0),  # beside one of 1.0 it is silent
        (0.0, 0.0, 1.0),
    ],
)
def test_gains_are_kept_in_bounds(wanted: float, found: float, gain: float) -> None:
    spreads = [
        Spread(torch.zeros(2), torch.tensor([1.0, deviation])) for deviation in (found, wanted)
    ]
    torch.testing.assert_close(bias_correction._gain(*spreads), torch.tensor([1.0, gain]))


@pytest.mark.parametrize(
    ("shape", "axis", "layout"),
    [
        ((7, 6, 5, 4), 1, torch.contiguous_format),
        ((7, 6, 5, 4), 1, torch.channels_last),
        ((7, 5, 4, 6), -1, torch.contiguous_format),
        ((7, 6), -1, torch.contiguous_format),
    ],
)
@pytest.mark.parametrize("piece", [1, 300, 1 << 20])
def test_a_spread_is_the_same_in_pieces(
    shape: tuple[int, ...],
    axis: int,
    layout: torch.memory_format,
    piece: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(bias_correction, "_PIECE", piece)
    value = torch.randn(shape, generator=torch.Generator().manual_seed(0)) + 3
    found = bias_correction._spread(value.contiguous(memory_format=layout), axis)
    channels = value.movedim(axis, 0).flatten(1).double()
    torch.testing.assert_close(found.mean.double(), channels.mean(dim=1))
    torch.testing.assert_close(found.deviation.double(), channels.std(dim=1, correction=0))


def test_batches_of_unlike_size_and_mean_are_put_together() -> None:
    rows = torch.randn(70, 3, generator=torch.Generator().manual_seed(0)) + torch.arange(3)
    rows[:64] += 2.0
    parts = [(bias_correction._spread(part, -1), len(part)) for part in (rows[:64], rows[64:])]
    together = bias_correction._together(parts)
    torch.testing.assert_close(together.mean, rows.mean(dim=0))
    torch.testing.assert_close(together.deviation, rows.std(dim=0, correction=0))


def test_a_gain_of_scales_that_are_stored_in_half_is_one_of_them(
    pixels: npt.NDArray[np.uint8],
) -> None:
    scheme: Scheme = SCHEMES.load("x86")
    scheme = dataclasses.replace(
        scheme, weight=dataclasses.replace(scheme.weight, scale_dtype=torch.float16)
    )
    plain, gained, gain = with_gain(scheme, pixels)
    scales = gained["weight_scales"]
    assert torch.equal(scales, scales.half().float())
    torch.testing.assert_close(scales, plain["weight_scales"] * gain, rtol=1e-3, atol=0)
    assert (gained["weight_integers"].int() - plain["weight_integers"].int()).abs().max() <= 1


def with_gain(
    scheme: Scheme, pixels: npt.NDArray[np.uint8]
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor], torch.Tensor]:
    """The constants of a layer, those of the same with a gain, and the gain."""
    graph = float_graph(build_program(tiny_student(), tiny_preprocess()))
    layout = plan_layout(graph.graph, scheme)
    scales = scales_by_method(
        calibrate(graph, layout, Photos(pixels=pixels)), layout, scheme, "minmax"
    )
    name = layout.layers[1]
    plain = constants_of(insert_quantization(graph, layout, scales, scheme), name)
    gain = torch.linspace(0.6, 1.7, len(plain["weight_scales"]))
    scales = dataclasses.replace(scales, gains={name: gain})
    return plain, constants_of(insert_quantization(graph, layout, scales, scheme), name), gain


def constants_of(graph_module: torch.fx.GraphModule, layer: str) -> dict[str, torch.Tensor]:
    parts = ("weight_integers", "weight_scales", "bias_integers", "bias_scales")
    return {part: getattr(graph_module, f"{layer}_{part}") for part in parts}


class Windows(torch.nn.Module):
    """A linear layer that reads photos in another shape."""

    def __init__(self, width: int, arrange: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(width, 5)
        self.arrange = arrange

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        sums: torch.Tensor = self.layer(self.arrange(image))
        return sums


@pytest.mark.parametrize(
    ("width", "arrange"),
    [
        # A Swin's are (N, H, W, C); taken for (N, C, H, W), its corrections had the wrong size.
        (3, lambda image: image.permute(0, 2, 3, 1)),
        # A MobileViT's are (N * patches, ...); taken for photos, its means were four times too
        # large.
        (6, lambda image: image.reshape(-1, 4, 6)),
    ],
)
def test_a_linear_layers_means_are_over_all_that_is_not_its_channels(
    width: int, arrange: Callable[[torch.Tensor], torch.Tensor]
) -> None:
    module = Windows(width, arrange)
    graph = torch.export.export(module, (torch.ones(2, 3, 4, 6),)).module()
    (name,) = layer_names(graph)
    pixels = np.random.default_rng(0).integers(0, 255, (2, 3, 4, 6)).astype(np.uint8)
    found = layer_spreads(graph, [name], Photos(pixels=pixels))[name]
    rows = module(torch.from_numpy(pixels).float()).flatten(0, -2)
    torch.testing.assert_close(found.mean, rows.mean(dim=0))
    torch.testing.assert_close(found.deviation, rows.std(dim=0, correction=0))
