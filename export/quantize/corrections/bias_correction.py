"""Bias and gain correction: every layer's output keeps its mean and its spread.

Rounding the weights moves the mean of each output channel by a constant, and the layers behind add
up their shifts: the main loss of small depthwise networks. Nagel et al. (2019, "Data-free
quantization through weight equalization and bias correction", arXiv 1906.04721), in the empirical
form of their section 4.2: the layers are corrected one after the other, each on inputs that are
quantized and already corrected, so that the shift of the activations is repaired as well. (Fast
bias correction, each layer alone on float inputs, was measured by NNCF on mobilenetv3_small_050: 42
% against 57 % for the full one.)

A mean is not all. What is cut off at the end of a range makes a channel's spread smaller, too, and
a constant that makes up for the mean moves the rest: an EfficientNet-B0's int8 logits were 0.97
times as large as in float, and 0.84 times with means corrected. So each channel is first multiplied
by the ratio of the deviations, as if batch norm were tuned again (Hubara et al., 2020, "Improving
post training neural quantization", arXiv 2006.10518). The factor goes into the scale of the
channel's weights, whose integers stay as they are.
"""

import dataclasses
from collections.abc import Collection, Mapping

import torch
from torch import Tensor, fx

from edgeseed.export.quantize.graph.layout import Kind, Layout
from edgeseed.export.quantize.graph.recording import Recorder
from edgeseed.export.quantize.graph.rewriting import HARDSIGMOID_SHIFT
from edgeseed.export.quantize.ranges.statistics import photo_batches
from edgeseed.export.samples import Photos

_MOST_GAIN = 2.0
_SILENT = 1e-3
"""Of the spread of a layer's liveliest channel; what is below it is rounding more than signal."""
# In values. Of 32 x 64 x 112 x 112, channels last, torch's `var_mean` takes 95 ms, such pieces 13
# to 15.
_PIECE = 1 << 20


@dataclasses.dataclass(frozen=True, slots=True)
class Spread:
    """Mean and standard deviation of a layer's output channels: (O,) each."""

    mean: Tensor
    deviation: Tensor


@dataclasses.dataclass(frozen=True, slots=True)
class Corrections:
    """Layer name -> (O,) gains and biases, for `gain * output + bias`."""

    gains: Mapping[str, Tensor]
    biases: Mapping[str, Tensor]


def layer_spreads(
    float_graph: fx.GraphModule, layers: Collection[str], photos: Photos
) -> dict[str, Spread]:
    """Layer name -> mean and deviation of its output channels in the float graph.

    Args:
        float_graph: The float graph.
        layers: Names of convolutions and linear layers.
        photos: Those that `correct` will be given.
    """
    # Rows are photos, or windows or patches of them.
    seen: dict[str, list[tuple[Spread, int]]] = {}

    def see(node: fx.Node, value: Tensor) -> None:
        found = _spread(value, channel_axis(node))
        seen.setdefault(node.name, []).append((found, len(value)))

    recorder = Recorder(float_graph, layers, see=see)
    with torch.inference_mode():
        for batch in photo_batches(photos):
            recorder.run(batch)
    return {name: _together(parts) for name, parts in seen.items()}


def expected_spreads(spreads: Mapping[str, Spread], layout: Layout) -> dict[str, Spread]:
    """Layer name -> the same for integer layers, as a quantized graph should have them.

    Args:
        spreads: From `layer_spreads`, at least for the integer layers.
        layout: The layout; an output that is stored as x + 3 has a mean 3 larger.
    """
    return {
        name: dataclasses.replace(spreads[name], mean=spreads[name].mean + HARDSIGMOID_SHIFT)
        if layout.points.get(name) is Kind.HARDSIGMOID
        else spreads[name]
        for name in layout.layers
    }


def correct(
    simulated: fx.GraphModule, wanted: Mapping[str, Spread], photos: Photos, *, gains: bool
) -> Corrections:
    """Gains and biases that give each integer layer's output channels their float mean and spread.

    Args:
        simulated: The quantized graph, as `simulate` makes it.
        wanted: From `expected_spreads`, for these photos.
        photos: All of them go through the quantized graph at once, as every correction changes
            what the next layer sees. Their means must be better known than the shift is large:
            a pooled layer has one position a photo.
        gains: Whether deviations are corrected as well as means.
    """
    found_gains: dict[str, Tensor] = {}
    biases: dict[str, Tensor] = {}

    def correct_on_the_way(node: fx.Node, value: Tensor) -> Tensor:
        """So that the next layer sees the corrected input."""
        found, target = _spread(value, channel_axis(node)), wanted[node.name]
        shape = (1, -1, 1, 1) if channel_axis(node) == 1 else (-1,)
        mean = found.mean
        # In place: of all photos, a first layer's output is hundreds of megabytes.
        if gains:
            found_gains[node.name] = gain = _gain(found, target)
            value.mul_(gain.view(shape))
            mean = mean * gain
        biases[node.name] = correction = target.mean - mean
        return value.add_(correction.view(shape))

    recorder = Recorder(simulated, wanted, see=correct_on_the_way)
    with torch.inference_mode():
        recorder.run(torch.cat(list(photo_batches(photos))))
    return Corrections(found_gains, biases)


def channel_axis(layer: fx.Node) -> int:
    """Where a layer's output has its channels; a linear layer's (N, H, W, C) has them last."""
    return 1 if layer.target is torch.ops.aten.conv2d.default else -1


def _spread(value: Tensor, axis: int) -> Spread:
    """In pieces that stay in the processor's cache: six times as fast as torch's `var_mean`."""
    others = [index for index in range(value.dim()) if index != axis % value.dim()]
    mean = value.mean(dim=others, keepdim=True)
    rows = max(1, _PIECE * len(value) // value.numel())
    squares = [(piece - mean).square_().sum(dim=others) for piece in value.split(rows)]
    count = value.numel() // mean.numel()
    return Spread(mean.flatten(), (torch.stack(squares).sum(dim=0) / count).sqrt())


def _together(parts: list[tuple[Spread, int]]) -> Spread:
    """Of batches of so many rows, that of all rows."""
    total = sum(count for _, count in parts)
    mean = sum(part.mean * (count / total) for part, count in parts)
    assert isinstance(mean, Tensor)
    square = sum(
        # The variance within a batch, and of its mean about that of all.
        (part.deviation.square() + (part.mean - mean).square()) * (count / total)
        for part, count in parts
    )
    assert isinstance(square, Tensor)
    return Spread(mean, square.sqrt())


def _gain(found: Spread, wanted: Spread) -> Tensor:
    """The factor that makes the deviation right; one where a channel hardly speaks."""
    gain = wanted.deviation / found.deviation.clamp_min(1e-12)
    speaks = wanted.deviation > _SILENT * wanted.deviation.max()
    return torch.where(speaks, gain.clamp(1 / _MOST_GAIN, _MOST_GAIN), 1.0)
