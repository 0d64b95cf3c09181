"""The calibrator and corrections with which an integer model is nearest to the float model.

1. `fisher` is tried: as it is, with corrected biases, and with weights rounded together. The
   nearest of the three is taken if its top-1 agreement reaches the search target.
2. If not, all calibrators compete by distance on the ranking photos, with and without corrections.
   The nearest is taken, unless its agreement is lower than `fisher`'s by more than chance.

Sixteen networks were exported with all competing. `fisher` came nearest for six, among them the
three that lose most. For the others it was up to three times as far, at distances below 0.005
(`benchmarks/log/int8-accuracy.md`).

With activations of 16 bits `minmax` comes first (`Scheme.first_calibrator`): the steps are fine
enough for the widest photo, and only what is cut off is lost. For a MobileNetV3-small of CIFAR-10
the worst of 300 photos had a cosine of -0.06 to the float embedding by `fisher`, and 0.95 by
`minmax`.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence

import numpy as np
import torch

from edgeseed.core.console import say
from edgeseed.export.proof.reference import layer_names
from edgeseed.export.quantize.config import QuantizeConfig
from edgeseed.export.quantize.corrections.bias_correction import (
    Spread,
    correct,
    expected_spreads,
    layer_spreads,
)
from edgeseed.export.quantize.corrections.rounding import input_moments, round_weights
from edgeseed.export.quantize.graph.in_place import reuse_memory
from edgeseed.export.quantize.graph.layout import Kind, Layout
from edgeseed.export.quantize.graph.rewriting import TensorScales
from edgeseed.export.quantize.ranges.observers import METHODS, Method, Statistics, typical_photos
from edgeseed.export.quantize.ranges.statistics import (
    gradient_weighted_statistics,
    scales_by_method,
)
from edgeseed.export.quantize.scales import Quantizer
from edgeseed.export.quantize.search.float_layers import QuantizationScore
from edgeseed.export.quantize.search.policy import POLICY
from edgeseed.export.quantize.search.scoring import Sample, Scorer
from edgeseed.export.samples import Photos


@dataclasses.dataclass(frozen=True, slots=True)
class Candidate:
    """One calibrator with the corrections that follow it."""

    method: Method
    """How ranges are chosen."""
    corrected: bool = False
    """Whether each channel's mean, and by the settings its deviation, is that of float again."""
    rounded_by: Method | None = None
    """Calibrator whose ranges the inputs have by which weights are rounded together; None if each
    weight is rounded alone."""

    @property
    def label(self) -> str:
        """As reports have it."""
        if self.rounded_by is not None:
            return f"{self.method} + second-order rounding"
        return f"{self.method} + bias correction" if self.corrected else self.method


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Chosen:
    """The best of the candidates."""

    candidate: Candidate
    scales: TensorScales
    score: QuantizationScore
    """Distance on the ranking photos, agreement on the acceptance photos."""


class Candidates:
    """The candidates of one layout, each made and scored once.

    Args:
        scorer: Photos and scores.
        config: Settings.
        statistics: From `calibrate` with the scorer's `calibration`.
        layout: The layout with everything in integers.

    Attributes:
        tried: The best known score of every candidate that was looked at, by label.
        counted: Those whose agreement was measured on the acceptance photos, likewise.
        search_target: The agreement to reach, as a whole number of acceptance photos.
    """

    def __init__(
        self,
        scorer: Scorer,
        config: QuantizeConfig,
        statistics: Mapping[str, Statistics],
        layout: Layout,
    ) -> None:
        self.scorer, self.config = scorer, config
        self.statistics, self.layout = statistics, layout
        self.search_target = scorer.in_whole_photos(config.min_agreement)
        chosen = np.flatnonzero(typical_photos(statistics.values(), len(scorer.calibration)))
        # Only typical photos: one whose values are far beyond the ranges moves every mean.
        count = POLICY.bias_correction.of(scorer.calibration)
        self.correcting = Photos(pixels=scorer.calibration.pixels[chosen[:count]])
        self.weight_scales: dict[str, torch.Tensor] = {}
        self.tried: dict[str, QuantizationScore] = {}
        self.counted: dict[str, QuantizationScore] = {}
        # A tensor's quantizer is the same whichever layers are in float. Found once, and kept while
        # layers are tried, it brought an export of MobileNetV3-large from 389 to 250 s.
        self._quantizers: dict[Method, dict[tuple[str, Kind], Quantizer]] = {m: {} for m in METHODS}
        self._made: dict[Candidate, TensorScales] = {}
        self._rounded: dict[Method, Mapping[str, torch.Tensor]] = {}
        self._rounded_by: dict[Method, Method] = {}
        self._looked_at: dict[Candidate, QuantizationScore] = {}
        self._ranked: dict[Candidate, QuantizationScore] = {}

    def choose(self) -> Chosen:
        """The candidate that reaches the search target, or the nearest to the float model."""
        calibrator = self.config.calibrator
        if calibrator != "auto":
            return self._with_agreement(
                self._nearest([name for name in METHODS if name == calibrator])
            )
        preferred = self.scorer.scheme.first_calibrator or POLICY.first
        first = self._with_agreement(self._nearest([name for name in METHODS if name == preferred]))
        if self._is_enough(first.score):
            return first
        if first.score.agreement < self.search_target:
            say(
                f"ranges by {first.candidate.method} agree with the float model on "
                f"{first.score.agreement:.1%} of photos (target {self.search_target:.1%}): trying "
                "the other calibrators"
            )
        nearest = self._nearest(METHODS)
        if nearest.candidate == first.candidate:
            return first
        nearest = self._with_agreement(nearest)
        if nearest.score.agrees_less(first.score):
            # What is nearer on the whole may differ more where two classes are close.
            say(
                f"{nearest.candidate.label} comes nearest, but its agreement is "
                f"{nearest.score.agreement:.1%}: {first.candidate.label} is taken"
            )
            return first
        return nearest

    def statistics_for(self, method: Method) -> Mapping[str, Statistics]:
        """What a calibrator chooses ranges by, for each tensor."""
        return self.weighted if method == "fisher" else self.statistics

    def scales_by(
        self, method: Method, statistics: Mapping[str, Statistics], layout: Layout
    ) -> TensorScales:
        """The scales of a layout's tensors, with nothing corrected.

        Args:
            method: The calibrator.
            statistics: Those of `statistics_for`, and of further points, where layers are in float.
            layout: Which points there are.
        """
        scales = scales_by_method(
            statistics, layout, self.scorer.scheme, method, known=self._quantizers[method]
        )
        return dataclasses.replace(scales, weight_scales=self.weight_scales)

    def with_biases(self, scales: TensorScales, layout: Layout) -> TensorScales:
        """The same with bias corrections and, by the settings, gains made for this layout."""
        plain = dataclasses.replace(scales, bias_corrections={}, gains={})
        simulated = self.scorer.simulated(plain, layout)
        expected = expected_spreads(self._spreads, layout)
        found = correct(simulated, expected, self.correcting, gains=self.config.gain_correction)
        return dataclasses.replace(plain, bias_corrections=found.biases, gains=found.gains)

    def _is_enough(self, score: QuantizationScore) -> bool:
        """Whether the others need not be tried.

        Not by the photos that ranked it, which make it look better than it is. And not without a
        head: agreement of embeddings alone is high even for one that is far from float.
        """
        scorer = self.scorer
        can_tell = scorer.has_acceptance_photos and "logits" in scorer.ranking.truth
        return can_tell and score.agreement >= self.search_target

    def _nearest(self, methods: Sequence[Method]) -> Chosen:
        """The nearest to the float model: of these, corrected or not, and of all judged before."""
        candidates = [Candidate(method) for method in methods]
        # Once corrected, the best need not be the best any more.
        candidates += self._corrected(candidates)
        ranking = self.scorer.ranking
        if ranking.photos.pixels[:, 0].size > POLICY.rank_all_below:
            candidates = self._look(candidates, POLICY.ranked)
        for candidate in candidates:
            score = self._score(candidate, ranking, self._ranked)
            self.tried[candidate.label] = score
        best = min(self._ranked, key=lambda candidate: self._ranked[candidate].distance)
        return Chosen(candidate=best, scales=self._of(best), score=self._ranked[best])

    def _with_agreement(self, chosen: Chosen) -> Chosen:
        score = self.scorer.measure_agreement(chosen.score, chosen.scales, self.layout)
        if self.scorer.has_acceptance_photos:
            self.counted[chosen.candidate.label] = score
        return dataclasses.replace(chosen, score=score)

    def _corrected(self, plain: Sequence[Candidate]) -> list[Candidate]:
        """Each with its own bias corrections, the best with weights that are rounded together."""
        biases = self.config.bias_correction
        corrected = [Candidate(item.method, corrected=True) for item in plain] if biases else []
        if self.config.second_order and len(self.scorer.calibration) >= POLICY.least_for_rounding:
            # What layers read is seen in the nearest ranges, once for all.
            nearest = self._look(plain, 1)[0].method
            for item in self._look(corrected or plain, POLICY.rounded):
                # The first answer stays: with another, the same candidate would be made anew.
                by = self._rounded_by.setdefault(item.method, nearest)
                corrected.append(Candidate(item.method, corrected=biases, rounded_by=by))
        return corrected

    def _look(self, candidates: Sequence[Candidate], count: int) -> list[Candidate]:
        """Those that are nearest to the float model at a first look, nearest first."""
        if len(candidates) <= count:
            return list(candidates)
        for candidate in candidates:
            score = self._score(candidate, self.scorer.first_look, self._looked_at)
            self.tried.setdefault(candidate.label, score)
        return sorted(candidates, key=lambda item: self._looked_at[item].distance)[:count]

    def _score(
        self, candidate: Candidate, sample: Sample, known: dict[Candidate, QuantizationScore]
    ) -> QuantizationScore:
        if candidate not in known:
            known[candidate] = self.scorer.score(self._of(candidate), self.layout, sample)
        return known[candidate]

    def _of(self, candidate: Candidate) -> TensorScales:
        if candidate not in self._made:
            self._made[candidate] = self._make(candidate)
        return self._made[candidate]

    def _make(self, candidate: Candidate) -> TensorScales:
        method = candidate.method
        scales = self.scales_by(method, self.statistics_for(method), self.layout)
        if candidate.rounded_by is not None:
            rounded = self._rounded_together(candidate.rounded_by)
            scales = dataclasses.replace(scales, rounded=rounded)
        return self.with_biases(scales, self.layout) if candidate.corrected else scales

    def _rounded_together(self, method: Method) -> Mapping[str, torch.Tensor]:
        """Weights rounded by what their layers read in integers, in the ranges of one method."""
        if method not in self._rounded:
            scorer = self.scorer
            photos = Photos(
                pixels=scorer.calibration.pixels[: POLICY.rounding.of(scorer.calibration)]
            )
            simulated = scorer.simulated(self._of(Candidate(method)), self.layout)
            moments = input_moments(simulated, self.layout.layers, photos)
            self._rounded[method] = round_weights(
                simulated, moments, self.weight_scales, scorer.scheme,
                centered=self.config.bias_correction,
            )  # fmt: skip
        return self._rounded[method]

    @functools.cached_property
    def weighted(self) -> Mapping[str, Statistics]:
        """What `fisher` chooses by."""
        return gradient_weighted_statistics(self.scorer.graph, self.layout, self.correcting)

    @functools.cached_property
    def _spreads(self) -> dict[str, Spread]:
        """How every layer's output is spread, in float."""
        graph = reuse_memory(self.scorer.graph)
        return layer_spreads(graph, layer_names(graph), self.correcting)
