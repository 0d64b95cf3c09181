"""The integer forms of activations lose the rounding of input and output, and nothing else."""

import dataclasses

import numpy as np
import numpy.typing as npt
import pytest
import torch
from support.export import tiny_preprocess, tiny_student
from torch import Tensor, fx, nn

from edgeseed.export.program import build_program, example_input, float_graph, trace
from edgeseed.export.quantize.graph.layout import Kind, Layout, plan_layout
from edgeseed.export.quantize.graph.rewriting import (
    POINT,
    TensorScales,
    insert_quantization,
    quantizer_of_kind,
)
from edgeseed.export.quantize.graph.simulation import fake_quantize, fake_quantize_, simulate
from edgeseed.export.quantize.ranges.observers import METHODS, Method
from edgeseed.export.quantize.ranges.statistics import calibrate, scales_by_method
from edgeseed.export.quantize.scales import ops
from edgeseed.export.quantize.scheme import IntegerFormat, Scheme
from edgeseed.export.quantize.schemes import SCHEMES
from edgeseed.export.samples import Photos

Pixels = npt.NDArray[np.uint8]
SCHEME: Scheme = SCHEMES.load("x86")
# So fine that only mistakes are left, not rounding. The limit of a pair is for bytes.
FINE = dataclasses.replace(
    SCHEME,
    pair_limit=0,
    activation=IntegerFormat(dtype=torch.int32, low=0, high=2**20 - 1, symmetric=False),
    weight=IntegerFormat(dtype=torch.int32, low=-(2**20), high=2**20, symmetric=True),
)
_QUANTIZE = ops.quantize_per_tensor.default
_ROUNDING = (fake_quantize, fake_quantize_)


class OneLayer(nn.Module):
    """A convolution, an activation, and a second layer that reads it in integers."""

    def __init__(self, activation: nn.Module) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.activation = activation
        self.second = nn.Conv2d(8, 4, 1)

    def forward(self, image: Tensor) -> tuple[Tensor]:
        return (self.second(self.activation(self.first(image / 32 - 4))),)


def quantized(
    graph: fx.GraphModule, scheme: Scheme, pixels: Pixels
) -> tuple[fx.GraphModule, Layout, TensorScales]:
    layout = plan_layout(graph.graph, scheme)
    statistics = calibrate(graph, layout, Photos(pixels=pixels))
    scales = scales_by_method(statistics, layout, scheme, "minmax")
    return insert_quantization(graph, layout, scales, scheme), layout, scales


def run(graph: fx.GraphModule, pixels: Pixels) -> tuple[Tensor, ...]:
    with torch.no_grad():
        return tuple(graph(torch.from_numpy(pixels).float()))


def relative(found: Tensor, truth: Tensor) -> float:
    return float((found - truth).abs().max() / truth.abs().max())


@pytest.mark.parametrize(
    "activation",
    [nn.ReLU(), nn.ReLU6(), nn.Hardswish(), nn.Hardsigmoid(), nn.SiLU(), nn.Sigmoid(), nn.Identity()],  # noqa: E501 - one list
    ids=lambda module: type(module).__name__,
)  # fmt: skip
def test_an_activation_of_fine_integers_is_the_float_activation(
    activation: nn.Module, pixels: Pixels
) -> None:
    graph = float_graph(
        trace(OneLayer(activation), example_input(32, batch="dynamic"), batch="dynamic")
    )
    found, layout, _ = quantized(graph, FINE, pixels)
    assert not layout.floats
    assert relative(run(found, pixels)[0], run(graph, pixels)[0]) < 2e-3


def test_hard_swish_loses_nothing_below_minus_three() -> None:
    """The lowest byte stands for -3 exactly, and everything below is the same to a hard-swish."""
    quantizer = quantizer_of_kind(Kind.HARDSWISH, -12.0, 5.0, SCHEME.activation)
    assert quantizer.range[0] == pytest.approx(-3.0)
    assert quantizer.range[1] == pytest.approx(5.0, rel=0.02)
    assert 3.0 / quantizer.scale == pytest.approx(quantizer.zero_point)


def test_the_photo_is_read_exactly_also_at_its_edge(pixels: Pixels) -> None:
    """The folded normalisation pads with the mean of each channel, not with one grey."""
    graph = float_graph(build_program(tiny_student(trained=False), tiny_preprocess()))
    layout = plan_layout(graph.graph, FINE)
    assert Kind.IMAGE in layout.points.values()
    bytes_only = dataclasses.replace(
        FINE, activation=IntegerFormat(dtype=torch.int32, low=0, high=255, symmetric=False)
    )
    image = next(name for name, kind in layout.points.items() if kind is Kind.IMAGE)
    statistics = calibrate(graph, layout, Photos(pixels=pixels))
    scales = scales_by_method(statistics, layout, FINE, "minmax")
    photo = quantizer_of_kind(Kind.IMAGE, 0, 255, bytes_only.activation)
    scales = dataclasses.replace(scales, quantizers={**scales.quantizers, image: photo})
    found = run(insert_quantization(graph, layout, scales, FINE), pixels)[0]
    assert relative(found, run(graph, pixels)[0]) < 1e-3


_ALL_BYTES = np.arange(3 * 1024, dtype=np.int64).reshape(1, 3, 32, 32).astype(np.uint8)
"""Each byte, four times in each colour."""


@pytest.mark.parametrize("mean", [0.5, pytest.param(128 / 255, marks=pytest.mark.slow)])
def test_a_photo_of_one_mean_is_stored_as_its_bytes(mean: float) -> None:
    """The nearest byte is zero, and what is left of the mean is in the bias."""
    preprocess = dataclasses.replace(tiny_preprocess(), mean=(mean,) * 3, std=(0.5, 0.4, 0.3))
    graph = float_graph(build_program(tiny_student(trained=False), preprocess))
    scheme = SCHEMES.load("litert")
    found, _, _ = quantized(graph, scheme, _ALL_BYTES)
    stored = next(node for node in found.graph.nodes if node.target is _QUANTIZE)
    assert stored.meta[POINT] == "image"
    found.graph.output((stored,))
    found.graph.erase_node(list(found.graph.nodes)[-2])
    found.recompile()
    integers = found(torch.from_numpy(_ALL_BYTES).float())[0]
    np.testing.assert_array_equal(integers.numpy(), _ALL_BYTES.astype(np.int64) - 128)


def test_one_mean_that_is_a_byte_needs_no_channel_of_ones(pixels: Pixels) -> None:
    """The outermost row is what it is with one, too."""
    preprocess = dataclasses.replace(tiny_preprocess(), mean=(128 / 255,) * 3, std=(0.5, 0.4, 0.3))
    graph = float_graph(build_program(tiny_student(trained=False), preprocess))
    arm = SCHEMES.load("arm")  # without a limit for pairs of weights, in which the ones are
    by_ones, by_bias = (
        run(quantized(graph, dataclasses.replace(arm, exact_image=way), pixels)[0], pixels)[0]
        for way in ("always", "one mean")
    )
    np.testing.assert_allclose(by_bias, by_ones, atol=1e-5)


@pytest.mark.parametrize("scheme", ["x86", pytest.param("litert", marks=pytest.mark.slow)])
@pytest.mark.parametrize("mean", [-0.2, pytest.param(0.0, marks=pytest.mark.slow), 1.0, 1.2])
def test_a_mean_that_is_black_white_or_no_byte_is_as_good_as_any(
    scheme: str, mean: float, pixels: Pixels
) -> None:
    """White left nothing for the channel of ones, and all it carries was lost."""
    preprocess = dataclasses.replace(tiny_preprocess(), mean=(mean,) * 3, std=(0.5,) * 3)
    graph = float_graph(build_program(tiny_student(trained=False), preprocess))
    found, _, _ = quantized(graph, SCHEMES.load(scheme), pixels)
    for node in found.graph.nodes:
        if node.target in (_QUANTIZE, ops.dequantize_per_tensor.default):
            _, _, zero_point, low, high, *_ = node.args
            assert low <= zero_point <= high
    error = (run(found, pixels)[0] - run(graph, pixels)[0]).norm() / run(graph, pixels)[0].norm()
    assert error < 0.3


@pytest.mark.parametrize("scheme", ["coreml", "coreml-affine", "tensorrt"])
@pytest.mark.parametrize("method", METHODS)
def test_no_two_bytes_of_a_normalised_photo_become_one_but_at_its_mean(
    scheme: str, method: Method
) -> None:
    """With steps of a byte's size each byte lay halfway between two, and half of them were lost."""
    preprocess = dataclasses.replace(tiny_preprocess(), mean=(0.5,) * 3, std=(0.5,) * 3)
    graph = float_graph(build_program(tiny_student(trained=False), preprocess))
    layout = plan_layout(graph.graph, SCHEMES.load(scheme))
    statistics = calibrate(graph, layout, Photos(pixels=_ALL_BYTES))
    scales = scales_by_method(statistics, layout, SCHEMES.load(scheme), method)
    quantizer = scales.quantizers[next(iter(layout.points))]
    integers = (torch.arange(256) - 127.5) / 127.5 / quantizer.scale + quantizer.zero_point
    assert len(integers.round().clamp(quantizer.low, quantizer.high).unique()) >= 254


@pytest.mark.parametrize(
    "name",
    [
        "test_efficientnet",
        "test_resnet",
        pytest.param("mobilenetv3_small_050", marks=pytest.mark.slow),
    ],
)
def test_the_simulation_is_the_quantized_graph(name: str, pixels: Pixels) -> None:
    graph = float_graph(build_program(tiny_student(name, trained=False), tiny_preprocess()))
    found, _, _ = quantized(graph, SCHEME, pixels[:8])
    simulated = run(simulate(found), pixels[:8])
    for value, truth in zip(simulated, run(found, pixels[:8]), strict=True):
        assert relative(value, truth) < 1e-2  # a tie may be rounded the other way
    in_place = simulate(found, inference=True)
    assert in_place is found
    rounding = [node.target for node in in_place.graph.nodes if node.target in _ROUNDING]
    assert rounding.count(fake_quantize_) > len(rounding) / 4
    for value, same in zip(run(in_place, pixels[:8]), simulated, strict=True):
        np.testing.assert_array_equal(value, same)


def test_the_simulation_has_gradients(pixels: Pixels) -> None:
    graph = float_graph(build_program(tiny_student(trained=False), tiny_preprocess()))
    simulated = simulate(quantized(graph, SCHEME, pixels[:8])[0])
    image = torch.from_numpy(pixels[:2]).float().requires_grad_()
    simulated(image)[0].sum().backward()
    assert image.grad is not None
    assert float(image.grad.abs().sum()) > 0


def test_x86_and_arm_compute_the_same_numbers_where_no_pair_is_limited(pixels: Pixels) -> None:
    """Signed and unsigned bytes are one grid; only x86 limits pairs of weights, and so differs."""
    graph = float_graph(build_program(tiny_student(trained=False), tiny_preprocess()))
    schemes = (dataclasses.replace(SCHEME, pair_limit=0), SCHEMES.load("arm"))
    values = [run(quantized(graph, scheme, pixels[:8])[0], pixels[:8])[0] for scheme in schemes]
    assert torch.allclose(values[0], values[1], atol=1e-5)


def test_a_layer_kept_in_float_reads_and_writes_float(pixels: Pixels) -> None:
    graph = float_graph(build_program(tiny_student(trained=False), tiny_preprocess()))
    keep = {"conv2d_3": "a test", "linear": "a test"}
    layout = plan_layout(graph.graph, SCHEME, keep_float=keep)
    assert layout.floats["conv2d_3"] == "a test"
    statistics = calibrate(graph, layout, Photos(pixels=pixels))
    scales = scales_by_method(statistics, layout, SCHEME, "minmax")
    found = insert_quantization(graph, layout, scales, SCHEME)
    (kept,) = [node for node in found.graph.nodes if node.name == "conv2d_3"]
    assert kept.args[1].op == "get_attr"
    assert relative(run(found, pixels)[0], run(graph, pixels)[0]) < 0.5


def test_a_dead_channel_keeps_its_bias(pixels: Pixels) -> None:
    """Weights that training drove to nothing leave a bias that int32 cannot hold at their scale."""
    module = OneLayer(nn.ReLU())
    with torch.no_grad():
        module.first.weight[2] = 1e-20
        assert module.first.bias is not None
        module.first.bias[2] = 1.5
    graph = float_graph(trace(module, example_input(32, batch="dynamic"), batch="dynamic"))
    found, _, _ = quantized(graph, SCHEME, pixels)
    assert relative(run(found, pixels)[0], run(graph, pixels)[0]) < 0.05


def test_a_narrow_gate_is_repeated_along_the_row_and_no_number_changes(pixels: Pixels) -> None:
    graph = float_graph(build_program(tiny_student(trained=False), tiny_preprocess()))
    plain = dataclasses.replace(SCHEME, gate_channels=0)
    found, as_it_is = (quantized(graph, scheme, pixels[:8])[0] for scheme in (SCHEME, plain))
    repeats = [node.target is torch.ops.aten.repeat.default for node in found.graph.nodes]
    # Of two gates; the other multiplies a map of one pixel.
    assert sum(repeats) == 1
    assert all(node.target is not torch.ops.aten.repeat.default for node in as_it_is.graph.nodes)
    for value, truth in zip(run(found, pixels[:8]), run(as_it_is, pixels[:8]), strict=True):
        assert torch.equal(value, truth)
