"""Second-order rounding: each weight makes up for what the rounding of those before it has lost.

Rounding a weight to the nearest integer is best for the weight, not for what the layer puts out:
the products of correlated inputs add up. With the second moments `H = E[x x^T]` of a layer's inputs
the loss of a row is `(w - q) H (w - q)^T`. Its weights are rounded one after the other, and after
each the rest are moved to where the loss is least: Frantar et al. (2022, "GPTQ", arXiv 2210.17323,
equations 2 and 3; the inputs of most energy first, H dampened by a hundredth of its mean diagonal,
in the form with the Cholesky factor of the inverse).

Inputs are those of the quantized graph. Where biases are corrected afterwards, the shift of the
mean costs nothing and H is the covariance. A convolution's row sees patches; of a large map a few
positions a photo are enough. Groups have an H each, a depthwise convolution one of 9 by 9 a
channel.
"""

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any, cast

import torch
from torch import Tensor, fx

from edgeseed.core.console import progress
from edgeseed.export.program import input_of
from edgeseed.export.quantize.graph.recording import Recorder
from edgeseed.export.quantize.graph.rewriting import UNROUNDED
from edgeseed.export.quantize.pairs import pair_limit_of, partners
from edgeseed.export.quantize.ranges.statistics import photo_batches
from edgeseed.export.quantize.scheme import Scheme
from edgeseed.export.samples import Photos

_aten = torch.ops.aten
_POSITIONS = 32
"""Of each photo's map: those of a hundred photos are more than the widest layer has inputs."""
_GROUPED_POSITIONS = 8
"""Where a row has few inputs, as in a depthwise layer."""
_DAMPING = 0.01
# Columns whose errors reach the columns behind the block in one matrix product (GPTQ's lazy batch
# updates).
_BLOCK = 64


@dataclasses.dataclass(kw_only=True)
class Moments:
    """Sums over the inputs of one layer, of G groups with D inputs each."""

    count: int = 0
    first: Tensor | None = None
    """(G, D)."""
    second: Tensor | None = None
    """(G, D, D)."""

    def add(self, samples: Tensor) -> None:
        """Counts (G, M, D) further inputs in."""
        first, second = samples.sum(dim=1).double(), (samples.mT @ samples).double()
        self.first = first if self.first is None else self.first + first
        self.second = second if self.second is None else self.second + second
        self.count += samples.shape[1]

    def matrix(self, *, centered: bool) -> Tensor:
        """(G, D, D) second moments, or the covariance."""
        assert self.first is not None
        assert self.second is not None
        moments = self.second / self.count
        if centered:
            mean = self.first / self.count
            moments -= mean.unsqueeze(2) * mean.unsqueeze(1)
        return moments


def input_moments(
    simulated: fx.GraphModule, layers: Collection[str], photos: Photos
) -> dict[str, Moments]:
    """Moments of the inputs of layers, by name. One pass; memory does not grow with the photos."""
    recorder = InputRecorder(simulated, layers)
    with torch.inference_mode(), progress("looking at layers' inputs", len(photos)) as bar:
        for batch in photo_batches(photos):
            recorder.run(batch)
            bar.advance(len(batch))
    return recorder.moments


def round_weights(
    quantized: fx.GraphModule,
    moments: Mapping[str, Moments],
    scales: Mapping[str, Tensor],
    scheme: Scheme,
    *,
    centered: bool,
) -> dict[str, Tensor]:
    """The rounded weights of every layer, real numbers in the shape of its weight.

    Args:
        quantized: The graph, as `insert_quantization` or `simulate` makes it.
        moments: Of its layers' inputs, from `input_moments`.
        scales: (O,) of each layer's output channels.
        scheme: Whose integers weights become.
        centered: Whether biases will be corrected, so that means do not count.
    """
    rounded = {}
    nodes = [node for node in quantized.graph.nodes if node.name in moments]
    with progress("rounding weights", len(nodes), "layers") as bar:
        for node in nodes:
            weight, _ = node.meta[UNROUNDED]
            matrix = moments[node.name].matrix(centered=centered)
            rows = weight.double().view(len(matrix), -1, matrix.shape[1])
            steps = scales[node.name].double().view(len(matrix), -1, 1)
            integers = round_rows(
                rows / steps, matrix, low=scheme.weight.low, high=scheme.weight.high,
                pair_limit=pair_limit_of(node, weight, scheme), partners=partners(weight.shape),
            )  # fmt: skip
            rounded[node.name] = (integers * steps).view(weight.shape).float()
            bar.advance()
    return rounded


def round_rows(
    rows: Tensor,
    moments: Tensor,
    *,
    low: int,
    high: int,
    pair_limit: int = 0,
    partners: Tensor | None = None,
) -> Tensor:
    """Rounds so that the outputs of rows move little, rather than their weights.

    Args:
        rows: (G, O, D) weights of O outputs a group, in steps of the grid.
        moments: (G, D, D) second moments of their inputs.
        low: Least integer.
        high: Greatest integer.
        pair_limit: What two weights of one sign in a pair may come to; 0 for anything. A pair with
            too much shares alike; else the second to be rounded gets what the first has left.
        partners: (D,) the other weight of each one's pair, from `pairs.partners`.

    Returns:
        (G, O, D) whole numbers.
    """
    energy = moments.diagonal(dim1=1, dim2=2)
    order = energy.argsort(dim=1, descending=True)
    factor = _inverse_factor(moments, order)
    work = rows.gather(2, order.unsqueeze(1).expand_as(rows)).clone()
    # In the order of the rows, not in that of rounding; zero where it is not yet known.
    found = torch.zeros_like(work)
    share = _shares(rows, pair_limit, partners)
    width = work.shape[2]
    for start in range(0, width, _BLOCK):
        stop = min(start + _BLOCK, width)
        errors = torch.empty_like(work[:, :, start:stop])
        for at in range(start, stop):
            column = work[:, :, at]
            places = order[:, at].view(-1, 1, 1).expand(-1, work.shape[1], 1)
            integers = column.round().clamp(low, high)
            if partners is not None and share is not None:
                # Both of a pair give up alike. Where the first took all it wanted and the second
                # what was left, rows full of such pairs lost more than without rounding together.
                other, own = _at(found, partners[order[:, at]]), share.gather(2, places).squeeze(2)
                integers = integers.clamp(-own, own)
                integers = integers.clamp(
                    -pair_limit - other.clamp_max(0), pair_limit - other.clamp_min(0)
                )
            found.scatter_(2, places, integers.unsqueeze(2))
            error = (column - integers) / factor[:, at, at].unsqueeze(1)
            errors[:, :, at - start] = error
            work[:, :, at:stop] -= error.unsqueeze(2) * factor[:, at : at + 1, at:stop]
        work[:, :, stop:] -= errors @ factor[:, start:stop, stop:]
    return found


def _shares(rows: Tensor, pair_limit: int, partners: Tensor | None) -> Tensor | None:
    """(G, O, D) the greatest integer of each weight whose pair has too much; else the limit."""
    if pair_limit == 0 or partners is None:
        return None
    alone = partners < 0
    other = rows[:, :, partners.clamp_min(0)].masked_fill(alone, 0.0)
    too_much = (rows.abs() + other.abs() - pair_limit) * (rows * other > 0)
    return torch.where(too_much > 0, (rows.abs() - too_much / 2).round(), float(pair_limit))


def _at(values: Tensor, places: Tensor) -> Tensor:
    """(G, O) of (G, O, D) at one place in each group, or zero where it is -1."""
    index = places.clamp_min(0).view(-1, 1, 1).expand(-1, values.shape[1], 1)
    return values.gather(2, index).squeeze(2) * (places >= 0).view(-1, 1)


def _inverse_factor(moments: Tensor, order: Tensor) -> Tensor:
    """(G, D, D) upper triangular U with U^T U = H^-1, inputs in the given order."""
    index = order.unsqueeze(2).expand_as(moments)
    ordered = moments.gather(1, index).gather(2, index.mT)
    mean = ordered.diagonal(dim1=1, dim2=2).mean(dim=1)
    # Inputs that are constantly zero, all of them even, leave the nearest integers.
    damping = torch.where(mean > 0, _DAMPING * mean, 1.0)
    ordered = ordered + damping.view(-1, 1, 1) * torch.eye(moments.shape[1], dtype=moments.dtype)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(ordered))
    factor: Tensor = torch.linalg.cholesky(inverse, upper=True)
    return factor


class InputRecorder(Recorder):
    """Runs a graph and sums up what its layers read.

    Before they run: a simulated graph writes over what nobody reads again.
    """

    def __init__(self, graph_module: fx.GraphModule, layers: Collection[str]) -> None:
        super().__init__(graph_module, layers, see_inputs=self._add)
        self.moments = {name: Moments() for name in layers}
        self.generator = torch.Generator().manual_seed(0)

    def _add(self, node: fx.Node, values: Mapping[fx.Node, Any]) -> None:
        value, weight = values[input_of(node)], values[input_of(node, 1)]
        self.moments[node.name].add(self._samples(node, value, weight))

    def _samples(self, node: fx.Node, value: Tensor, weight: Tensor) -> Tensor:
        """(G, M, D) inputs that rows of the weight are multiplied with."""
        if node.target is not _aten.conv2d.default:
            rows = value.flatten(0, -2)
            chosen: Tensor = rows[self._some(len(rows), _POSITIONS * len(value))]
            return chosen.unsqueeze(0)
        stride, padding, dilation = (
            _pair(node.args[at] if len(node.args) > at else default)
            for at, default in ((3, 1), (4, 0), (5, 1))
        )
        groups = cast(int, node.args[6]) if len(node.args) > 6 else 1
        padded = torch.nn.functional.pad(value, (padding[1], padding[1], padding[0], padding[0]))
        height, width = (
            (padded.shape[2 + axis] - dilation[axis] * (weight.shape[2 + axis] - 1) - 1)
            // stride[axis] + 1
            for axis in (0, 1)
        )  # fmt: skip
        places = self._some(height * width, _POSITIONS if groups == 1 else _GROUPED_POSITIONS)
        top, left = places // width * stride[0], places % width * stride[1]
        taps = [
            (top + row * dilation[0]) * padded.shape[3] + left + column * dilation[1]
            for row in range(weight.shape[2])
            for column in range(weight.shape[3])
        ]
        # (N, H * W, C) is how they lie in memory.
        found = padded.permute(0, 2, 3, 1).flatten(1, 2).index_select(1, torch.cat(taps))
        patches = found.view(len(found), len(taps), len(places), groups, -1)
        # (N, taps, M, G, C / G) -> (G, N * M, C / G * taps)
        return patches.permute(3, 0, 2, 4, 1).reshape(groups, len(found) * len(places), -1)

    def _some(self, count: int, most: int) -> Tensor:
        """Places of so many, drawn without order; all of them if they are few."""
        if count <= most:
            return torch.arange(count)
        return torch.randperm(count, generator=self.generator)[:most]


def _pair(value: object) -> tuple[int, int]:
    values = list(value) if isinstance(value, list | tuple) else [value]
    first, last = cast(int, values[0]), cast(int, values[-1])
    return first, last
