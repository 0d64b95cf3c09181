"""Photos by their use, and how near a quantized graph comes to the float one on them."""

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
from edgeseed.export.quantize.search.float_layers import Score
from edgeseed.export.quantize.search.photo_split import PhotoSplit
from edgeseed.export.quantize.search.policy import POLICY
from edgeseed.export.samples import Photos


def run_graph(graph_module: fx.GraphModule, photos: Photos) -> Outputs:
    """A graph's outputs on photos."""
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
    """Photos, and what the float graph makes of them."""

    def __init__(self, graph: fx.GraphModule, pixels: npt.NDArray[np.uint8]) -> None:
        self.graph = graph
        self.photos = Photos(pixels=pixels)

    @functools.cached_property
    def truth(self) -> Outputs:
        """The float outputs, once they are asked for."""
        return run_graph(reuse_memory(self.graph), self.photos)


class Judge:
    """Scores quantized graphs by how they decide beside the float graph.

    Args:
        graph: The float graph, as it is to be quantized.
        scheme: What the integers are.
        split: The photos by their use.
        required: The agreement that the gate asks for.

    Attributes:
        calibration: Photos that ranges are taken from.
        held_out: Photos that are not calibrated with.
        first_look: Some of those, for a first look.
        ranking: Photos that rank candidates.
        acceptance: Photos that measure agreement, and rank nothing by distance; `ranking` if there
            are too few others.
    """

    def __init__(
        self, graph: fx.GraphModule, scheme: Scheme, split: PhotoSplit, *, required: float
    ) -> None:
        self.graph, self.scheme, self.required = graph, scheme, required
        self.calibration = split.calibration
        self.held_out = Sample(graph, split.held_out.pixels)
        few = POLICY.first_look.of(split.held_out)
        self.first_look = Sample(graph, split.held_out.pixels[:few])
        self.ranking = Sample(graph, split.ranking.pixels)
        new = split.acceptance
        self.acceptance = self.ranking if new is None else Sample(graph, new.pixels)

    @property
    def counts_apart(self) -> bool:
        """Whether others count decisions than those that judge."""
        return self.acceptance is not self.ranking

    def in_whole_photos(self, share: float) -> float:
        """The share nearest to this one that the photos that count can have.

        Of 256 photos, 253 are 98.8 %: a search for the 99th would go by chance. It is no less than
        the gate's, unless the share is.
        """
        count = len(self.acceptance.photos)
        least = math.ceil(min(share, self.required) * count - 1e-9)
        return max(round(share * count), least) / count

    def simulated(
        self, numbers: TensorScales, layout: Layout, graph: fx.GraphModule | None = None
    ) -> fx.GraphModule:
        """The quantized graph, in float; made of the float graph itself or a changed copy."""
        quantized = insert_quantization(graph or self.graph, layout, numbers, self.scheme)
        return simulate(quantized, inference=True)

    def score(
        self,
        numbers: TensorScales,
        layout: Layout,
        sample: Sample,
        *,
        graph: fx.GraphModule | None = None,
    ) -> Score:
        """How near the quantized graph comes on some photos to the float graph.

        Args:
            numbers: Of the quantized graph.
            layout: Its layout.
            sample: The photos.
            graph: What it is made of, if not of the float graph itself.
        """
        outputs = run_graph(self.simulated(numbers, layout, graph), sample.photos)
        return Score(
            agreement=agreement(outputs, sample.truth),
            distance=output_distance(outputs, sample.truth),
            photos=len(sample.photos),
        )

    def counted(self, score: Score, numbers: TensorScales, layout: Layout) -> Score:
        """The same distance, with the decisions kept of the photos that count them."""
        if not self.counts_apart:
            return score
        counted = self.score(numbers, layout, self.acceptance)
        return dataclasses.replace(counted, distance=score.distance)
