"""Where Q and DQ stand for TensorRT, and that scales are what float16 holds."""

import dataclasses

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edgeseed.export.program import float_graph, trace
from edgeseed.export.quantize.graph.layout import Kind, Layout, plan_layout
from edgeseed.export.quantize.graph.rewriting import TensorScales, insert_quantization
from edgeseed.export.quantize.scales import quantizer_for_range, weight_scales
from edgeseed.export.quantize.scheme import INT8_SYMMETRIC
from edgeseed.export.quantize.schemes.tensorrt import SCHEME


class Block(nn.Module):
    """A residual block with squeeze-and-excitation, and a head."""

    def __init__(self, *, shortcut: bool = False) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3)
        self.expand, self.project = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 1)
        self.squeeze, self.excite = nn.Conv2d(8, 2, 1), nn.Conv2d(2, 8, 1)
        self.shortcut = nn.Conv2d(8, 8, 1) if shortcut else nn.Identity()
        self.after, self.head = nn.Conv2d(8, 4, 1), nn.Linear(4, 2)

    def forward(self, image: Tensor) -> tuple[Tensor]:
        x = self.stem(image).relu()
        y = self.expand(x).relu()
        gate = self.excite(self.squeeze(y.mean((2, 3), keepdim=True)).relu()).sigmoid()
        x = self.project(y * gate) + self.shortcut(x)
        return (self.head(self.after(x.relu()).mean((2, 3))),)


def plan(**kwargs: bool) -> tuple[torch.fx.GraphModule, Layout]:
    torch.manual_seed(0)
    graph = float_graph(trace(Block(**kwargs).eval(), torch.zeros(1, 3, 8, 8), batch=1))
    return graph, plan_layout(graph.graph, SCHEME)


def test_layers_read_int8_and_hand_on_float() -> None:
    _, layout = plan()
    assert list(layout.operators.values()) == ["conv", "conv", "conv", "add", "conv"]
    # The photo, both activations after a layer, the gated tensor, and the sum's activation.
    assert list(layout.points) == ["image", "relu", "mul", "relu_3"]
    assert set(layout.points.values()) == {Kind.FREE}


def test_what_sees_one_position_stays_in_float() -> None:
    _, layout = plan()
    singles = [name for name, why in layout.floats.items() if "one position" in why]
    assert singles == ["conv2d_2", "conv2d_3", "linear"]


def test_of_a_residual_sum_the_skip_is_stored_and_the_layers_result_is_not() -> None:
    graph, layout = plan()
    assert layout.operators["add"] == "add"
    scales = TensorScales(
        quantizers={name: quantizer_for_range(-1, 1, SCHEME.activation) for name in layout.points}
    )
    quantized = insert_quantization(graph, layout, scales, SCHEME)
    (added,) = [node for node in quantized.graph.nodes if node.name == "add"]
    targets = {str(source.target) for source in added.all_input_nodes}
    assert targets == {"aten.conv2d.default", "quantized_decomposed.dequantize_per_tensor.default"}


def test_where_both_sides_are_layers_the_shortcut_is_stored() -> None:
    _, layout = plan(shortcut=True)
    assert layout.operators["add"] == "add"
    assert layout.points["conv2d_5"] is Kind.FREE  # the shortcut's own result
    assert "conv2d_4" not in layout.points


def test_scales_are_numbers_that_float16_has() -> None:
    for high in (1e-6, 0.01, 0.7, 3.3, 1e4):
        scale = quantizer_for_range(-high, high / 2, SCHEME.activation).scale
        assert scale == float(np.float16(scale)) > 0
    weight = torch.randn(16, 8, 3, 3) * torch.logspace(-7, 1, 16).view(-1, 1, 1, 1)
    scales = weight_scales(weight, SCHEME.weight)
    assert torch.equal(scales, scales.half().float())
    assert (scales > 0).all()


def test_integers_are_made_with_the_scale_that_is_stored() -> None:
    """Rounding a scale after the fact would shift all that it scales by up to one in 2048."""
    rounded = quantizer_for_range(-2.6402, 2.6402, SCHEME.activation)
    exact = quantizer_for_range(-2.6402, 2.6402, INT8_SYMMETRIC)
    assert rounded.scale != exact.scale
    values = torch.linspace(-2, 2, 1001)
    stored_later = dataclasses.replace(exact, scale=rounded.scale)
    error = (rounded.simulate(values) - values).abs().max()
    assert error <= rounded.scale / 2 * (1 + 1e-6)
    late = torch.round(values / exact.scale) * stored_later.scale
    assert (late - values).abs().max() > error


@pytest.mark.parametrize("field", ["activation", "weight"])
def test_zero_is_in_the_middle(field: str) -> None:
    number_format = getattr(SCHEME, field)
    assert (number_format.symmetric, number_format.low, number_format.high) == (True, -127, 127)
    assert quantizer_for_range(-0.1, 5, number_format).zero_point == 0
