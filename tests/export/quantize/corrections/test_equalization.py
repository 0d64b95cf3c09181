import dataclasses

import numpy as np
import numpy.typing as npt
import pytest
import torch
from support.export import tiny_preprocess, tiny_student
from torch import Tensor, fx, nn

from edgeseed.export.program import build_program, constant, float_graph, trace
from edgeseed.export.proof.reference import layer_outputs
from edgeseed.export.quantize.config import QuantizeConfig
from edgeseed.export.quantize.corrections.equalization import (
    Equalization,
    apply_factors,
    equalize_channels,
)
from edgeseed.export.quantize.quantize import quantize
from edgeseed.export.quantize.schemes import SCHEMES
from edgeseed.export.samples import Photos

Pixels = npt.NDArray[np.uint8]
SPREAD = torch.tensor([1.0, 1 / 4, 1 / 16, 1 / 2])


class Expanded(nn.Module):
    """Expansion with channels of unlike range, activation, depthwise layer, projection."""

    def __init__(self, activation: nn.Module, *, residual: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.expand = nn.Conv2d(3, 4, 1)
        self.activation = activation
        self.depthwise = nn.Conv2d(4, 4, 3, padding=1, groups=4)
        self.project = nn.Conv2d(4, 4, 1)
        self.last = nn.Conv2d(4, 2, 1)
        self.residual = residual
        with torch.no_grad():
            self.expand.weight.copy_(torch.rand(4, 3, 1, 1) * SPREAD.view(-1, 1, 1, 1))
            self.expand.bias.zero_()  # type: ignore[union-attr]  # pyright: ignore[reportOptionalMemberAccess]

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        x = self.activation(self.expand(image * 0.01))
        y = self.project(self.depthwise(x))
        return (self.last(x + y if self.residual else y).mean((2, 3)),)


def graph_of(module: nn.Module) -> fx.GraphModule:
    return float_graph(trace(module.eval(), torch.zeros(2, 3, 8, 8), batch="dynamic"))


def outputs(graph: fx.GraphModule, image: Tensor) -> tuple[Tensor, ...]:
    with torch.no_grad():
        found: tuple[Tensor, ...] = graph(image)
    return found


@pytest.fixture(scope="module")
def small() -> Photos:
    pixels = np.random.default_rng(0).integers(0, 256, (8, 3, 8, 8), dtype=np.uint8)
    return Photos(pixels=pixels)


def test_channels_in_front_of_a_depthwise_layer_get_the_same_range(small: Photos) -> None:
    graph = graph_of(Expanded(nn.ReLU()))
    image = torch.from_numpy(small.pixels).float()
    (before,) = outputs(graph, image)
    equalizations = equalize_channels(graph, small)
    (after,) = outputs(graph, image)
    assert float((after - before).abs().max()) < 1e-6 * float(before.abs().max())
    x = layer_outputs(graph, small.pixels, ["relu"])["relu"].max(axis=(0, 2, 3))
    assert x.max() / x.min() < 2**0.3  # 16 before; the steps are quarters of an octave
    assert equalizations["conv2d"].gain > 1.3


@pytest.mark.parametrize("activation", [nn.Hardswish(), nn.SiLU(), nn.ReLU6(), nn.Hardsigmoid()])
def test_what_bends_at_a_fixed_place_lets_no_factor_through(
    activation: nn.Module, small: Photos
) -> None:
    assert "conv2d" not in equalize_channels(graph_of(Expanded(activation)), small)


def test_a_skip_binds_what_is_added(small: Photos) -> None:
    """The expansion's output is read by the depthwise layer and by the sum: one group of three."""
    graph = graph_of(Expanded(nn.ReLU(), residual=True))
    image = torch.from_numpy(small.pixels).float()
    (before,) = outputs(graph, image)
    names = ["conv2d", "conv2d_2"]
    layers = layer_outputs(graph, small.pixels, names)
    equalizations = equalize_channels(graph, small)
    (after,) = outputs(graph, image)
    assert float((after - before).abs().max()) < 1e-5 * float(before.abs().max())
    assert equalizations
    now = layer_outputs(graph, small.pixels, names)
    first, second = (
        np.abs(layers[n]).max((0, 2, 3)) / np.abs(now[n]).max((0, 2, 3)) for n in names
    )
    np.testing.assert_allclose(first, second, rtol=1e-4)
    assert first.max() / first.min() > 1.5


def test_an_even_tensor_is_left_as_it_is(small: Photos) -> None:
    module = Expanded(nn.ReLU())
    with torch.no_grad():
        module.expand.weight.fill_(0.5)
        module.depthwise.weight.fill_(0.5)
        module.project.weight.fill_(0.5)
        module.last.weight.fill_(0.5)
    assert equalize_channels(graph_of(module), small) == {}


def test_recorded_factors_are_applied_again(small: Photos) -> None:
    graph, again = graph_of(Expanded(nn.ReLU())), graph_of(Expanded(nn.ReLU()))
    equalizations = equalize_channels(graph, small)
    apply_factors(
        again, {n: Equalization.from_dict(each.to_dict()) for n, each in equalizations.items()}
    )
    for left, right in zip(graph.graph.nodes, again.graph.nodes, strict=True):
        if left.op == "get_attr":
            assert constant(graph, left).equal(constant(again, right))


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "mobilenetv3_small_050",
        # Max pooling; `test_a_skip_binds_what_is_added` has the residual sum. And larger networks,
        # with nothing that these two have not.
        *(pytest.param(name, marks=pytest.mark.slow)
          for name in ("resnet10t", "mobilenetv3_small_100", "efficientnet_lite0")),
    ],
)  # fmt: skip
def test_real_networks_compute_what_they_did(name: str, pixels: Pixels) -> None:
    """Squeeze-and-excitation, residual sums, a pooled head, max pooling."""
    graph = float_graph(build_program(tiny_student(name, trained=False), tiny_preprocess()))
    image = torch.from_numpy(pixels[:8]).float()
    before = outputs(graph, image)
    assert equalize_channels(graph, Photos(pixels=pixels))
    after = outputs(graph, image)
    for value, truth in zip(after, before, strict=True):
        assert float((value - truth).abs().max()) < 1e-4 * float(truth.abs().max())


@pytest.mark.slow
def test_the_student_keeps_its_weights_and_the_record_has_the_factors(pixels: Pixels) -> None:
    network = tiny_student("test_resnet", trained=False)
    # Plain ranges: what is asked is what becomes of the weights, not which ranges are best.
    plainly = QuantizeConfig(calibrator="minmax", second_order=False, max_float_layers=0)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    made = quantize(
        build_program(network, tiny_preprocess()), SCHEMES.load("x86"), Photos(pixels=pixels),
        batch="dynamic", config=plainly,
    )  # fmt: skip
    assert all(before[name].equal(value) for name, value in network.state_dict().items())
    assert made.record["equalized"]
    plain = quantize(
        build_program(network, tiny_preprocess()), SCHEMES.load("x86"), Photos(pixels=pixels),
        batch="dynamic", config=dataclasses.replace(plainly, equalize=False),
    )  # fmt: skip
    assert plain.record["equalized"] == {}
