import dataclasses
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
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


class Windows(torch.nn.Module):
    """A linear layer that reads photos in another shape."""

    def __init__(self, width: int, arrange: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(width, 5)
        self.arrange = arrange

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.layer(self.arrange(image))


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
    means = layer_means(graph, [name], Photos(pixels=pixels))[name]
    wanted = module(torch.from_numpy(pixels).float()).flatten(0, -2).mean(dim=0)
    torch.testing.assert_close(means, wanted)
