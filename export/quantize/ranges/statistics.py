"""Statistics of the tensors that will be integers, from the float graph on photos."""

from collections.abc import Iterator, Mapping, MutableMapping
from typing import cast

import torch
from torch import Tensor, fx

from edgeseed.core.console import progress
from edgeseed.export.quantize.graph.layout import Kind, Layout, observed_points
from edgeseed.export.quantize.graph.recording import Recorder
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
    """The number of photos of this size that go through a graph at once, 1 to 64."""
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
    """Node name -> statistics of each tensor whose range is not known beforehand.

    One pass over the photos, in memory that does not grow with their number.
    """
    statistics = {name: Statistics() for name in observed_points(layout)}

    def see(node: fx.Node, value: Tensor) -> None:
        statistics[node.name].add(value)

    recorder = Recorder(graph_module, statistics, see=see)
    with torch.inference_mode(), progress("calibrating", len(photos)) as bar:
        for batch in photo_batches(photos):
            recorder.run(batch)
            bar.advance(len(batch))
    return statistics


def gradient_weighted_statistics(
    graph_module: fx.GraphModule, layout: Layout, photos: Photos, *, last_output_alone: bool = False
) -> dict[str, Statistics]:
    """Node name -> statistics in which a value counts by how much it moves the outputs.

    Its weight is the squared gradient of the outputs, in the mean over random directions
    (Hutchinson's estimate of the diagonal of `J^T J`). Outputs are the embedding over its length
    and the logits over theirs; with `last_output_alone` only the logits, where there are any.
    """
    generator = torch.Generator().manual_seed(0)
    statistics = {name: Statistics() for name in observed_points(layout)}
    if not statistics:
        return {}
    seen: dict[str, Tensor] = {}

    def see(node: fx.Node, value: Tensor) -> None:
        seen[node.name] = value

    recorder = Recorder(graph_module, statistics, see=see)
    with progress("weighing what rounds", len(photos)) as bar:
        for batch in photo_batches(photos):
            for part in batch.split(max(1, len(batch) // _PARTS)):
                found = cast("tuple[Tensor, ...]", recorder.run(part.requires_grad_()))
                values = list(seen.values())
                outputs = found[-1:] if last_output_alone else found
                moved = [_random_projection(output, generator) for output in outputs]
                total = torch.stack(moved).sum()
                gradients = torch.autograd.grad(total, values, materialize_grads=True)
                for name, value, gradient in zip(seen, values, gradients, strict=True):
                    aligned = torch.empty_like(value).copy_(gradient.square())
                    statistics[name].add(value, aligned)
            bar.advance(len(batch))
    return statistics


def rounding_costs(weighted: Mapping[str, Statistics], scales: TensorScales) -> dict[str, float]:
    """Node name -> how much rounding that tensor moves the outputs; only ratios mean something.

    A step `s` has a mean squared error of `s^2 / 12`; each value counts by the square of its
    gradient. (A ReLU's zeros, which are exact, count as others do.)

    Args:
        weighted: From `gradient_weighted_statistics`.
        scales: With the steps.
    """
    return {
        name: float(seen.counts.sum()) * scales.quantizers[name].scale ** 2 / 12
        for name, seen in weighted.items()
        if name in scales.quantizers
    }


def _random_projection(output: Tensor, generator: torch.Generator) -> Tensor:
    """How far an output of (N, D) goes in a random direction, in units of its size."""
    direction = torch.randn(output.shape, generator=generator)
    return (direction * output).sum() / output.detach().square().mean().sqrt().clamp_min(1e-12)


def scales_by_method(
    statistics: Mapping[str, Statistics],
    layout: Layout,
    scheme: Scheme,
    method: Method,
    *,
    known: MutableMapping[tuple[str, Kind], Quantizer] | None = None,
) -> TensorScales:
    """The quantizer of every tensor of a layout, by one calibrator.

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
