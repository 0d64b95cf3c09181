"""Runs the float graph over the photos and watches the tensors that will be integers."""

from collections.abc import Collection, Iterator, Mapping, MutableMapping
from typing import cast

import torch
from torch import Tensor, fx

from edgeseed.core.console import progress
from edgeseed.export.quantize.graph.layout import Kind, Layout, observed_points
from edgeseed.export.quantize.graph.rewriting import TensorScales, quantizer_of_kind
from edgeseed.export.quantize.ranges.observers import Method, Statistics, choose_quantizer
from edgeseed.export.quantize.scales import Quantizer
from edgeseed.export.quantize.scheme import Scheme
from edgeseed.export.samples import Photos

# Pixels of a batch: activations are some fifty times larger, so that this keeps them below a
# gigabyte at any resolution.
_BATCH_PIXELS = 16 * 224 * 224
# Gradients need all activations at once: a batch goes through in so many parts.
_PARTS = 4


def batch_size_for(photos: Photos) -> int:
    """How many photos of this size go through a graph at once."""
    height, width = photos.pixels.shape[2:]
    return max(1, min(64, _BATCH_PIXELS // int(height * width)))


def photo_batches(photos: Photos) -> Iterator[Tensor]:
    """The photos as the graph takes them: (N, 3, H, W) float32, 0..255."""
    for batch in photos.batches(batch_size_for(photos)):
        # The order in which torch's convolutions on CPUs are nearly twice as fast, and as exact.
        yield torch.from_numpy(batch).float().contiguous(memory_format=torch.channels_last)


def calibrate(
    graph_module: fx.GraphModule, layout: Layout, photos: Photos
) -> dict[str, Statistics]:
    """Statistics of every point whose range is not known beforehand. One pass, constant memory."""
    watcher = Watcher(graph_module, observed_points(layout))
    with torch.inference_mode(), progress("calibrating", len(photos)) as bar:
        for batch in photo_batches(photos):
            watcher.run(batch)
            bar.advance(len(batch))
    return watcher.statistics


def gradient_weighted_statistics(
    graph_module: fx.GraphModule, layout: Layout, photos: Photos, *, decisions: bool = False
) -> dict[str, Statistics]:
    """Statistics in which a value counts by how much it moves the outputs.

    That is the squared gradient of the outputs, in the mean over random directions (Hutchinson's
    estimate of the diagonal of `J^T J`): of the embedding over its length, and of the logits
    likewise; where it is about `decisions`, of the last of them alone.
    """
    generator = torch.Generator().manual_seed(0)
    recorder = _GradientRecorder(graph_module, observed_points(layout))
    statistics = {name: Statistics() for name in recorder.names}
    if not statistics:
        return {}
    with progress("weighing what rounds", len(photos)) as bar:
        for batch in photo_batches(photos):
            for part in batch.split(max(1, len(batch) // _PARTS)):
                recorder.run(part.requires_grad_())
                values = list(recorder.values.values())
                outputs = recorder.outputs[-1:] if decisions else recorder.outputs
                moved = [_random_projection(output, generator) for output in outputs]
                total = torch.stack(moved).sum()
                gradients = torch.autograd.grad(total, values, materialize_grads=True)
                for name, value, gradient in zip(recorder.values, values, gradients, strict=True):
                    aligned = torch.empty_like(value).copy_(gradient.square())
                    statistics[name].add(value, aligned)
            bar.advance(len(batch))
    return statistics


def rounding_costs(weighted: Mapping[str, Statistics], numbers: TensorScales) -> dict[str, float]:
    """By how much the rounding of each tensor moves the outputs, in relation to one another.

    A step `s` errs by `s^2 / 12` in the mean; each value counts by the square of its gradient. (A
    ReLU's zeros, which are exact, count as others do.)

    Args:
        weighted: What `gradient_weighted_statistics` gives.
        numbers: The steps.
    """
    return {
        name: float(seen.counts.sum()) * numbers.quantizers[name].scale ** 2 / 12
        for name, seen in weighted.items()
        if name in numbers.quantizers
    }


def _random_projection(output: Tensor, generator: torch.Generator) -> Tensor:
    """How far an output of (N, D) goes in a random direction, in units of its size."""
    direction = torch.randn(output.shape, generator=generator)
    return (direction * output).sum() / output.detach().square().mean().sqrt().clamp_min(1e-12)


class _GradientRecorder(fx.Interpreter):
    """Runs a graph and keeps some of its values, with what they were made by."""

    def __init__(self, graph_module: fx.GraphModule, names: Collection[str]) -> None:
        super().__init__(graph_module)
        self.names = list(names)
        self.values: dict[str, Tensor] = {}
        self.outputs: tuple[Tensor, ...] = ()

    def run_node(self, n: fx.Node) -> object:
        """Runs one node."""
        value = super().run_node(n)
        if n.name in self.names and isinstance(value, Tensor):
            self.values[n.name] = value
        if n.op == "output":
            self.outputs = tuple(cast("tuple[Tensor, ...]", value))
        return value


def numbers_by_method(
    statistics: Mapping[str, Statistics],
    layout: Layout,
    scheme: Scheme,
    method: Method,
    *,
    known: MutableMapping[tuple[str, Kind], Quantizer] | None = None,
) -> TensorScales:
    """The quantizer of every point, by one way of choosing ranges.

    Args:
        statistics: From `calibrate` or `gradient_weighted_statistics`.
        layout: Which points there are.
        scheme: What the integers are.
        method: The way of choosing ranges.
        known: Quantizers found before by the same method from the same statistics; new ones are
            added.
    """
    known = {} if known is None else known
    quantizers = {}
    for name, kind in layout.points.items():
        if name in statistics:
            if (name, kind) not in known:
                seen = statistics[name]
                known[name, kind] = choose_quantizer(seen, method, kind, scheme.activation)
            quantizers[name] = known[name, kind]
        elif kind is not Kind.SHARED:
            quantizers[name] = quantizer_of_kind(kind, 0.0, 0.0, scheme.activation)
    return TensorScales(quantizers=quantizers)


class Watcher(fx.Interpreter):
    """Runs a graph and keeps statistics of some of its values."""

    def __init__(self, graph_module: fx.GraphModule, names: Collection[str]) -> None:
        super().__init__(graph_module)
        self.statistics = {name: Statistics() for name in names}

    def run_node(self, n: fx.Node) -> object:
        """Runs one node."""
        value = super().run_node(n)
        if n.name in self.statistics:
            assert isinstance(value, Tensor)
            self.statistics[n.name].add(value)
        return value
