"""Top-1 agreement and distance of quantized graphs, on the photos of each use."""

import dataclasses
import functools
import math

import numpy as np
import numpy.typing as npt
import torch
from torch import fx

from edgeseed.core.agreement import agreement, output_distance
from edgeseed.export.proof.reference import Outputs
from edgeseed.export.quantize.graph.in_place import reuse_memory
from edgeseed.export.quantize.graph.layout import Layout
from edgeseed.export.quantize.graph.rewriting import TensorScales, insert_quantization
from edgeseed.export.quantize.graph.simulation import simulate
from edgeseed.export.quantize.ranges.statistics import photo_batches
from edgeseed.export.quantize.scheme import Scheme
from edgeseed.export.quantize.search.float_layers import QuantizationScore
from edgeseed.export.quantize.search.photo_split import PhotoSplit
from edgeseed.export.quantize.search.policy import POLICY
from edgeseed.export.samples import Photos


def run_graph(graph_module: fx.GraphModule, photos: Photos) -> Outputs:
    """A graph's outputs on photos: `embedding` (N, D) and, with a head, `logits` (N, C)."""
    parts: list[tuple[torch.Tensor, ...]] = []
    with torch.inference_mode():
        for batch in photo_batches(photos):
            parts.append(tuple(graph_module(batch)))
    names = ("embedding", "logits")[: len(parts[0])]
    return {
        name: np.concatenate([part[index].numpy() for part in parts])
        for index, name in enumerate(names)
    }


class Sample:
    """Photos with the float graph's outputs on them.

    Args:
        graph: The float graph.
        pixels: (N, C, H, W) bytes.
    """

    def __init__(self, graph: fx.GraphModule, pixels: npt.NDArray[np.uint8]) -> None:
        self.graph = graph
        self.photos = Photos(pixels=pixels)

    @functools.cached_property
    def truth(self) -> Outputs:
        """The float graph's outputs, computed at the first call."""
        return run_graph(reuse_memory(self.graph), self.photos)


class Scorer:
    """Scores quantized graphs against the float graph.

    Args:
        graph: The float graph, as it is to be quantized.
        scheme: What the integers are.
        split: The photos by their use.
        gate_limit: The agreement that the gate asks for.

    Attributes:
        calibration: Photos that set the ranges.
        held_out: Photos that are not calibrated with.
        first_look: The first of those.
        ranking: Photos that rank candidates.
        acceptance: Photos that measure agreement and rank nothing; `ranking` where there are too
            few others.
    """

    def __init__(
        self, graph: fx.GraphModule, scheme: Scheme, split: PhotoSplit, *, gate_limit: float
    ) -> None:
        self.graph, self.scheme, self.gate_limit = graph, scheme, gate_limit
        self.calibration = split.calibration
        self.held_out = Sample(graph, split.held_out.pixels)
        few = POLICY.first_look.of(split.held_out)
        self.first_look = Sample(graph, split.held_out.pixels[:few])
        self.ranking = Sample(graph, split.ranking.pixels)
        new = split.acceptance
        self.acceptance = self.ranking if new is None else Sample(graph, new.pixels)

    @property
    def has_acceptance_photos(self) -> bool:
        """Whether agreement is measured on other photos than those that rank."""
        return self.acceptance is not self.ranking

    def in_whole_photos(self, share: float) -> float:
        """The agreement nearest to `share` that a whole number of acceptance photos can have.

        Of 256 photos, 253 are 98.8 %: a search for 99 % would depend on chance. It is not below the
        gate's limit, unless `share` is.
        """
        count = len(self.acceptance.photos)
        # A product of floats may lie just above a whole number: 0.55 * 100 is 55.00000000000001.
        least = math.ceil(min(share, self.gate_limit) * count - 1e-9)
        return max(round(share * count), least) / count

    def simulated(
        self, scales: TensorScales, layout: Layout, graph: fx.GraphModule | None = None
    ) -> fx.GraphModule:
        """The quantized graph with float arithmetic between integers.

        Args:
            scales: Of its tensors and weights.
            layout: Its layout.
            graph: What it is made of, if not of the float graph itself.
        """
        quantized = insert_quantization(graph or self.graph, layout, scales, self.scheme)
        return simulate(quantized, inference=True)

    def score(
        self,
        scales: TensorScales,
        layout: Layout,
        sample: Sample,
        *,
        graph: fx.GraphModule | None = None,
    ) -> QuantizationScore:
        """Agreement and distance of a quantized graph on some photos.

        Args:
            scales: Of its tensors and weights.
            layout: Its layout.
            sample: The photos.
            graph: What it is made of, if not of the float graph itself.
        """
        outputs = run_graph(self.simulated(scales, layout, graph), sample.photos)
        return QuantizationScore(
            agreement=agreement(outputs, sample.truth),
            distance=output_distance(outputs, sample.truth),
            photos=len(sample.photos),
        )

    def measure_agreement(
        self, score: QuantizationScore, scales: TensorScales, layout: Layout
    ) -> QuantizationScore:
        """The score with its agreement measured on the acceptance photos; the distance stays."""
        if not self.has_acceptance_photos:
            return score
        measure_agreement = self.score(scales, layout, self.acceptance)
        return dataclasses.replace(measure_agreement, distance=score.distance)
