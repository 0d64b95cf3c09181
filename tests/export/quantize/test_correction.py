import dataclasses

import numpy as np
import numpy.typing as npt
import torch

from edgeseed.export.graph import build_program, float_graph
from edgeseed.export.quantize.calibration import calibrate, numbers_by_method
from edgeseed.export.quantize.correction import bias_corrections, layer_means, wanted_means
from edgeseed.export.quantize.insertion import insert_quantization
from edgeseed.export.quantize.layout import plan_layout
from edgeseed.export.quantize.schemes import SCHEMES
from edgeseed.export.quantize.schemes._scheme import IntegerFormat, Scheme
from edgeseed.export.quantize.simulation import simulate
from edgeseed.export.samples import Photos
from edgeseed.export.testing import tiny_preprocess, tiny_student
from edgeseed.export.verification.reference import layer_names, layer_outputs


def test_corrected_layers_keep_their_means(pixels: npt.NDArray[np.uint8]) -> None:
    """With coarse weights, so that there is something to correct."""
    scheme: Scheme = SCHEMES.load("x86")
    coarse = IntegerFormat(dtype=scheme.weight.dtype, low=-7, high=7, symmetric=True)
    scheme = dataclasses.replace(scheme, weight=coarse)
    graph = float_graph(build_program(tiny_student(trained=False), tiny_preprocess()))
    layout = plan_layout(graph.graph, scheme)
    photos = Photos(pixels=pixels)
    numbers = numbers_by_method(calibrate(graph, layout, photos), layout, scheme, "minmax")
    quantized = simulate(insert_quantization(graph, layout, numbers, scheme))
    corrections = bias_corrections(
        quantized, wanted_means(layer_means(graph, layout.layers, photos), layout), photos
    )
    corrected = dataclasses.replace(numbers, bias_corrections=corrections)
    names = layer_names(graph)
    truth = layer_outputs(graph, pixels, names)
    shifts = []
    for made in (numbers, corrected):
        values = layer_outputs(
            simulate(insert_quantization(graph, layout, made, scheme)), pixels, names
        )
        last = names[-2]
        shifts.append(float(np.abs((values[last] - truth[last]).mean(axis=(0, 2, 3))).mean()))
    assert shifts[1] < 0.2 * shifts[0]


def test_a_linear_layer_has_its_channels_last_in_any_number_of_dimensions() -> None:
    """A Swin's are (N, H, W, C); taken for (N, C, H, W), its corrections had the wrong size."""

    class Last(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(3, 5)

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return self.layer(image.permute(0, 2, 3, 1))

    exported = torch.export.export(Last(), (torch.ones(2, 3, 4, 6),))
    graph = exported.module()
    (layer,) = [n for n in graph.graph.nodes if n.target is torch.ops.aten.linear.default]
    photos = Photos(pixels=np.ones((2, 3, 4, 6), np.uint8))
    assert layer_means(graph, [layer.name], photos)[layer.name].shape == (5,)


def test_rows_that_are_windows_of_a_photo_are_counted_as_they_are() -> None:
    """Taken for photos, a MobileViT's patches made its means four times too large."""

    class Windows(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(6, 5)

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return self.layer(image.reshape(-1, 4, 6))

    module = Windows()
    graph = torch.export.export(module, (torch.ones(2, 3, 4, 6),)).module()
    (layer,) = [n for n in graph.graph.nodes if n.target is torch.ops.aten.linear.default]
    pixels = np.random.default_rng(0).integers(0, 255, (2, 3, 4, 6)).astype(np.uint8)
    means = layer_means(graph, [layer.name], Photos(pixels=pixels))[layer.name]
    torch.testing.assert_close(means, module(torch.from_numpy(pixels).float()).mean((0, 1)))
