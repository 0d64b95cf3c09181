"""Each operator, alone in a network, against PyTorch."""

from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgeseed.core.agreement import relative_error
from edgeseed.core.errors import WorkError
from edgeseed.export.program import float_graph, trace
from edgeseed.export.targets.litert.flatbuffer import File
from edgeseed.export.targets.litert.lowering import Lowering
from edgeseed.export.targets.litert.model import open_interpreter

pytest.importorskip("ai_edge_litert", reason="needs ai-edge-litert: pip install edgeseed[litert]")

SHAPE = (1, 4, 8, 12)


class _Net(nn.Module):
    """A convolution, so that channels lie last, and one operator behind it."""

    def __init__(self, operator: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(4, 6, 3, padding=1)
        self.operator = operator

    def forward(self, image: Tensor) -> tuple[Tensor]:
        return (self.operator(self.conv(image / 255)),)


def lowered(network: nn.Module, *, weights: str = "float32") -> bytes:
    """The file of a network, traced as a student is."""
    example = torch.zeros(SHAPE)
    program = trace(float_graph(trace(network.eval(), example, batch=1)), example, batch=1)
    graph: Any = program.module(check_guards=False)
    lowering = Lowering(graph, weights=weights)
    outputs = lowering.run(["embedding"])
    return lowering.builder.finish(name="net", inputs=lowering.inputs, outputs=outputs, metadata={})


def computed(content: bytes, pixels: Any, tmp_path: Any) -> Any:
    interpreter = open_interpreter(content, source=tmp_path)
    (image,), (result,) = interpreter.get_input_details(), interpreter.get_output_details()
    interpreter.set_tensor(image["index"], pixels.transpose(0, 2, 3, 1))
    interpreter.invoke()
    return interpreter.get_tensor(result["index"])


def kinds(content: bytes) -> Counter[str]:
    return Counter(each.kind for each in File(content).operators)


class _InFloat32(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(device_type=x.device.type, enabled=False):
            y = x.sigmoid()
            return y * 2 + x


class _Fourier(nn.Module):
    """Positions, as EdgeNeXt computes them anew for every photo."""

    def forward(self, x: Tensor) -> Tensor:
        ones = ~torch.zeros(x.shape[0], *x.shape[2:], dtype=torch.bool)
        rows = ones.cumsum(1, dtype=torch.float32)
        steps = torch.arange(x.shape[1], dtype=torch.float32)
        return x + (rows[:, None] / (1 + steps[:, None, None])).sin()


def _with_part(x: Tensor) -> Tensor:
    return torch.slice_scatter(x, x[:, 1:3].relu(), 1, 1, 3)


class _Products(nn.Module):
    """A sum of products with weights, as attention with relative positions has."""

    def __init__(self, equation: str, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.equation = equation
        self.weight = nn.Parameter(torch.randn(shape, generator=torch.Generator().manual_seed(0)))

    def forward(self, x: Tensor) -> Tensor:
        return torch.einsum(self.equation, x, self.weight)


class _WrittenTo(nn.Module):
    """Writes into a corner of what it has computed, as attention with a class token does."""

    def forward(self, x: Tensor) -> Tensor:
        y = x.relu()
        y[:, 1:, 2:] = y[:, 1:, 2:] + x[:, :1, 2:]
        y[:, :1] = x[:, :1].mean((2, 3), keepdim=True)
        return y


OPERATORS: dict[str, tuple[Any, str]] = {
    "nearest": (lambda x: F.interpolate(x, scale_factor=2), "RESIZE_NEAREST_NEIGHBOR"),
    "nearest to a size": (lambda x: F.interpolate(x, size=(5, 17)), "RESIZE_NEAREST_NEIGHBOR"),
    "nearest by a broken factor": (lambda x: F.interpolate(x, scale_factor=1.3), "BATCH_MATMUL"),
    "bilinear": (
        lambda x: F.interpolate(x, size=(13, 5), mode="bilinear"), "RESIZE_BILINEAR",
    ),
    "bilinear by its corners": (
        lambda x: F.interpolate(x, size=(13, 5), mode="bilinear", align_corners=True),
        "RESIZE_BILINEAR",
    ),
    "bilinear by a broken factor": (
        lambda x: F.interpolate(x, scale_factor=0.7, mode="bilinear"), "BATCH_MATMUL",
    ),
    "bicubic": (lambda x: F.interpolate(x, size=(5, 17), mode="bicubic"), "BATCH_MATMUL"),
    "stacked in front": (lambda x: torch.stack([x, x.relu()], 1), "PACK"),
    "stacked behind": (lambda x: torch.stack([x, -x], -1).flatten(-2), "PACK"),
    "positions": (_Fourier(), "ADD"),
    "autocast off": (_InFloat32(), "LOGISTIC"),
    "one dimension": (nn.Sequential(nn.Flatten(2), nn.Conv1d(6, 8, 3, 2, 1)), "CONV_2D"),
    "one dimension, as long": (
        nn.Sequential(nn.Flatten(2), nn.Conv1d(6, 8, 3, padding="same", dilation=3)), "CONV_2D",
    ),
    "one dimension, each channel": (
        nn.Sequential(nn.Flatten(2), nn.Conv1d(6, 6, 5, padding=2, groups=6)),
        "DEPTHWISE_CONV_2D",
    ),
    "transposed": (nn.ConvTranspose2d(6, 5, 2, 2), "TRANSPOSE_CONV"),
    "transposed and padded": (
        nn.ConvTranspose2d(6, 5, 3, 2, padding=1, output_padding=1, bias=False), "TRANSPOSE_CONV",
    ),
    "repeated": (lambda x: x.repeat_interleave(3, dim=1), "GATHER"),
    "repeated flat": (lambda x: x.repeat_interleave(2), "GATHER"),
    "of the type of another": (lambda x: (-x).type_as(x), "NEG"),
    "a part replaced": (_with_part, "CONCATENATION"),
    "a part written to": (_WrittenTo(), "CONCATENATION"),
    "all of it replaced": (lambda x: torch.slice_scatter(x, x.relu(), 2), "CONV_2D"),
    "expanded as another": (lambda x: x.mean((2, 3), keepdim=True).expand_as(x), "BROADCAST_TO"),
    "means of windows": (lambda x: F.avg_pool2d(x, 3, 2, padding=1), "PAD"),
    "means of windows, of the photo alone": (
        lambda x: F.avg_pool2d(x, 3, 2, padding=1, count_include_pad=False), "MUL",
    ),
    "means of windows, without the border": (
        lambda x: F.avg_pool2d(x, 3, 1, padding=1, count_include_pad=False), "AVERAGE_POOL_2D",
    ),
    "means of windows, last ones cut": (
        lambda x: F.avg_pool2d(x, 3, 2, ceil_mode=True), "AVERAGE_POOL_2D",
    ),
    "windows as columns": (
        lambda x: F.unfold(x, (3, 2), dilation=(1, 2), padding=(1, 0), stride=(2, 1)),
        "DEPTHWISE_CONV_2D",
    ),
    "windows as columns, side by side": (lambda x: F.unfold(x, 4, stride=4), "DEPTHWISE_CONV_2D"),
    "overlapping windows summed": (
        lambda x: F.fold(F.unfold(x, 3, 1, 1, 2), SHAPE[2:], 3, 1, 1, 2), "TRANSPOSE_CONV",
    ),
    "means of windows of a row": (
        lambda x: F.avg_pool1d(x.flatten(2), 4), "AVERAGE_POOL_2D",
    ),
    "means of windows of a row, with a border": (
        lambda x: F.avg_pool1d(x.flatten(2), 5, 3, 2, ceil_mode=True), "MUL",
    ),
    "a sum of products along rows": (
        _Products("bchw,hkw->bchk", (8, 5, 12)), "BATCH_MATMUL",
    ),
    "a sum of products along columns": (
        _Products("bchw,wkh->bckw", (12, 5, 8)), "BATCH_MATMUL",
    ),
    "a sum of products of itself": (
        lambda x: torch.einsum("bchw,bdhw->bcd", x, x.relu()), "BATCH_MATMUL",
    ),
    "slices in another order": (lambda x: x[:, [5, 0, -2, 0]], "GATHER"),
    "rows in another order": (lambda x: x[:, :, torch.tensor([7, 0, 3])], "GATHER"),
    "sums of windows": (lambda x: F.avg_pool2d(x, 2, divisor_override=1), "MUL"),
    "means of unequal windows": (lambda x: F.adaptive_avg_pool2d(x, (3, 5)), "BATCH_MATMUL"),
    "means of equal windows": (lambda x: F.adaptive_avg_pool2d(x, (4, 3)), "AVERAGE_POOL_2D"),
}  # fmt: skip


@pytest.fixture(scope="module")
def pixels() -> Any:
    return np.random.default_rng(0).integers(0, 256, SHAPE, np.uint8)


@pytest.mark.parametrize("name", OPERATORS)
def test_an_operator_computes_what_pytorch_does(name: str, pixels: Any, tmp_path: Any) -> None:
    operator, kind = OPERATORS[name]
    network = _Net(operator)
    content = lowered(network)
    assert kinds(content)[kind], kinds(content)
    with torch.no_grad():
        (wanted,) = network(torch.from_numpy(pixels).float())
    found = computed(content, pixels, tmp_path)
    assert found.shape == wanted.shape
    assert relative_error(found[None], wanted.numpy()[None]) < 1e-5


@pytest.mark.parametrize(
    ("pads", "kernel", "stride", "copies"),
    [
        # Of 8 by 12 pixels TensorFlow's SAME pads one row behind, or one before and two behind.
        ((0, 1, 0, 1), 3, 2, 0), ((1, 2, 1, 2), 5, 2, 0), ((1, 1, 1, 1), 3, 1, 0),
        # And never so.
        ((1, 0, 1, 0), 3, 2, 1), ((1, 1, 1, 1), 3, 2, 1), ((0, 1, 0, 1), 3, 1, 1),
        ((2, 1, 2, 1), 5, 2, 1), ((0, 1, 1, 1), 3, 2, 1),
    ],
)  # fmt: skip
@pytest.mark.parametrize("groups", [1, 6])
def test_zeros_around_are_copied_only_where_the_layer_cannot_add_them(
    pads: Any, kernel: int, stride: int, copies: int, groups: int, pixels: Any, tmp_path: Any
) -> None:
    layer = nn.Conv2d(6, 6, kernel, stride, groups=groups)
    network = _Net(lambda x: layer(F.pad(x, pads)))
    network.layer = layer
    content = lowered(network)
    assert kinds(content)["PAD"] == copies
    with torch.no_grad():
        (wanted,) = network(torch.from_numpy(pixels).float())
    assert relative_error(computed(content, pixels, tmp_path)[None], wanted.numpy()[None]) < 1e-5


def test_zeros_that_others_read_as_well_stay(pixels: Any, tmp_path: Any) -> None:
    layer = nn.Conv2d(6, 6, 3, 2)

    def both(x: Tensor) -> Tensor:
        around = F.pad(x, (0, 1, 0, 1))
        convolved: Tensor = layer(around)
        return convolved + around[..., :4, :6]

    network = _Net(both)
    network.layer = layer
    content = lowered(network)
    assert kinds(content)["PAD"] == 1
    with torch.no_grad():
        (wanted,) = network(torch.from_numpy(pixels).float())
    assert relative_error(computed(content, pixels, tmp_path)[None], wanted.numpy()[None]) < 1e-5


@pytest.mark.parametrize("name", ["one dimension", "transposed"])
@pytest.mark.parametrize("weights", ["float16", "int8"])
def test_weights_of_such_layers_are_stored_small(
    name: str, weights: str, pixels: Any, tmp_path: Any
) -> None:
    operator, _ = OPERATORS[name]
    network = _Net(operator)
    content = lowered(network, weights=weights)
    file = File(content)
    stored = [file.dtype(each.inputs[0]) for each in file.operators if each.kind == "DEQUANTIZE"]
    assert stored.count(weights) == 2
    with torch.no_grad():
        (wanted,) = network(torch.from_numpy(pixels).float())
    assert relative_error(computed(content, pixels, tmp_path)[None], wanted.numpy()[None]) < 0.02


def test_positions_are_computed_once_and_not_for_every_photo() -> None:
    assert set(kinds(lowered(_Net(_Fourier())))) <= {
        "DEQUANTIZE", "DIV", "CONV_2D", "ADD", "TRANSPOSE"
    }  # fmt: skip


@pytest.mark.parametrize(
    ("operator", "named"),
    [
        (nn.ConvTranspose2d(6, 6, 2, 2, groups=2), r"aten\.conv_transpose2d\.input"),
        (nn.ConvTranspose2d(6, 6, 2, 2, output_padding=1), r"aten\.conv_transpose2d\.input"),
        (torch.special.entr, r"aten\.special_entr\.default"),
    ],
)
def test_a_refusal_is_one_line_with_operator_and_layer(operator: Any, named: str) -> None:
    with pytest.raises(WorkError, match=rf"^LiteRT cannot express .*{named}, which .*computes"):
        lowered(_Net(operator))
