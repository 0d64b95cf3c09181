"""Ways of choosing ranges, with and without corrections: the one that comes nearest is taken.

`fisher` is tried first: as it is, with corrected biases, and with weights rounded together. Where
the nearest of the three keeps as many decisions as are wanted, of photos that had no part before,
no other way is tried. Else all ways compete by their distance to the float model on photos that
they have not seen: the nearest few are corrected, and the nearest of all is taken, unless it keeps
fewer decisions than `fisher`, by more than chance.

Of sixteen networks that were exported when all competed always, `fisher` came nearest for six,
among them the three that lose most; for the others it was up to three times as far, at distances
below 0.005 (`benchmarks/log/int8-accuracy.md`).

With activations of 16 bits `minmax` comes first (`Scheme.first_calibrator`). Steps are fine enough
for the widest photo, and what is cut off is all that is lost. For a MobileNetV3-small of CIFAR-10
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
    layer_spreads,
    wanted_spreads,
)
from edgeseed.export.quantize.corrections.rounding import input_moments, round_weights
from edgeseed.export.quantize.graph.in_place import reuse_memory
from edgeseed.export.quantize.graph.layout import Kind, Layout
from edgeseed.export.quantize.graph.rewriting import TensorScales
from edgeseed.export.quantize.ranges.observers import METHODS, Method, Statistics, typical_photos
from edgeseed.export.quantize.ranges.statistics import (
    gradient_weighted_statistics,
    numbers_by_method,
)
from edgeseed.export.quantize.scales import Quantizer
from edgeseed.export.quantize.search.float_layers import Score
from edgeseed.export.quantize.search.policy import POLICY
from edgeseed.export.quantize.search.scoring import Judge, Sample
from edgeseed.export.samples import Photos


@dataclasses.dataclass(frozen=True, slots=True)
class Candidate:
    """One way of making numbers."""

    method: Method
    """How ranges are chosen."""
    corrected: bool = False
    """Whether biases, and by the settings deviations, are brought back."""
    rounded_by: Method | None = None
    """If weights are rounded together: by what their layers read in the ranges of this method."""

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
    numbers: TensorScales
    score: Score
    """Its distance on the photos that judge, its decisions on those that count."""


class Candidates:
    """The candidates of one layout, each made and scored once.

    Args:
        judge: Photos and scores.
        config: Settings.
        statistics: From `calibrate` with the judge's `calibration`.
        layout: The layout with everything in integers.

    Attributes:
        tried: The best known score of every candidate that was looked at, by label.
        counted: The scores whose decisions were counted, likewise.
        wanted: The share of decisions to keep, in whole photos of those that count.
    """

    def __init__(
        self,
        judge: Judge,
        config: QuantizeConfig,
        statistics: Mapping[str, Statistics],
        layout: Layout,
    ) -> None:
        self.judge, self.config = judge, config
        self.statistics, self.layout = statistics, layout
        self.wanted = judge.in_whole_photos(config.min_agreement)
        chosen = np.flatnonzero(typical_photos(statistics.values(), len(judge.calibration)))
        # Only typical photos speak: one that is cut off far from its values moves every mean.
        count = POLICY.bias_correction.of(judge.calibration)
        self.correcting = Photos(pixels=judge.calibration.pixels[chosen[:count]])
        self.weight_scales: dict[str, torch.Tensor] = {}
        self.tried: dict[str, Score] = {}
        self.counted: dict[str, Score] = {}
        self._quantizers: dict[Method, dict[tuple[str, Kind], Quantizer]] = {m: {} for m in METHODS}
        self._made: dict[Candidate, TensorScales] = {}
        self._rounded: dict[Method, Mapping[str, torch.Tensor]] = {}
        self._rounded_by: dict[Method, Method] = {}
        self._looked_at: dict[Candidate, Score] = {}
        self._judged: dict[Candidate, Score] = {}

    def choose(self) -> Chosen:
        """What keeps enough of the decisions, or comes nearest to the float model."""
        calibrator = self.config.calibrator
        if calibrator != "auto":
            return self._counted(self._nearest([name for name in METHODS if name == calibrator]))
        preferred = self.judge.scheme.first_calibrator or POLICY.first
        first = self._counted(self._nearest([name for name in METHODS if name == preferred]))
        if self._is_enough(first.score):
            return first
        if first.score.agreement < self.wanted:
            say(
                f"ranges by {first.candidate.method} agree with the float model on "
                f"{first.score.agreement:.1%} of photos (wanted {self.wanted:.1%}): trying the "
                "other calibrators"
            )
        nearest = self._nearest(METHODS)
        if nearest.candidate == first.candidate:
            return first
        nearest = self._counted(nearest)
        if nearest.score.keeps_fewer(first.score):
            # What comes nearer on the whole may be further off where decisions are close.
            say(
                f"{nearest.candidate.label} comes nearest, and keeps {nearest.score.agreement:.1%} "
                f"of the decisions: {first.candidate.label} is taken"
            )
            return first
        return nearest

    def seen_by(self, method: Method) -> Mapping[str, Statistics]:
        """What a way of choosing ranges chooses them by."""
        return self.weighted if method == "fisher" else self.statistics

    def numbers_by(
        self, method: Method, statistics: Mapping[str, Statistics], layout: Layout
    ) -> TensorScales:
        """The quantizers of a layout, with nothing corrected.

        Args:
            method: The way of choosing ranges.
            statistics: Those of `seen_by`, with more points as may be; of a point always the same.
            layout: Which points there are.
        """
        numbers = numbers_by_method(
            statistics, layout, self.judge.scheme, method, known=self._quantizers[method]
        )
        return dataclasses.replace(numbers, weight_scales=self.weight_scales)

    def with_biases(self, numbers: TensorScales, layout: Layout) -> TensorScales:
        """The same with biases of their own, and by the settings factors for the deviations."""
        plain = dataclasses.replace(numbers, bias_corrections={}, gains={})
        simulated = self.judge.simulated(plain, layout)
        wanted = wanted_spreads(self._spreads, layout)
        found = correct(simulated, wanted, self.correcting, gains=self.config.gain_correction)
        return dataclasses.replace(plain, bias_corrections=found.biases, gains=found.gains)

    def _is_enough(self, score: Score) -> bool:
        """Whether no other way has to be tried.

        Photos that have ranked candidates speak well of the first. And without a head, they find
        themselves again in embeddings that are far from the float model's.
        """
        judge = self.judge
        sure = judge.counts_apart and "logits" in judge.ranking.truth
        return sure and score.agreement >= self.wanted

    def _nearest(self, methods: Sequence[Method]) -> Chosen:
        """The nearest to the float model: of these, corrected or not, and of all judged before."""
        candidates = [Candidate(method) for method in methods]
        # Once corrected, the best need not be the best any more.
        candidates += self._corrected(candidates)
        ranking = self.judge.ranking
        if ranking.photos.pixels[:, 0].size > POLICY.rank_all_below:
            candidates = self._look(candidates, POLICY.ranked)
        for candidate in candidates:
            score = self._score(candidate, ranking, self._judged)
            self.tried[candidate.label] = score
        best = min(self._judged, key=lambda candidate: self._judged[candidate].distance)
        return Chosen(candidate=best, numbers=self._of(best), score=self._judged[best])

    def _counted(self, chosen: Chosen) -> Chosen:
        score = self.judge.counted(chosen.score, chosen.numbers, self.layout)
        if self.judge.counts_apart:
            self.counted[chosen.candidate.label] = score
        return dataclasses.replace(chosen, score=score)

    def _corrected(self, plain: Sequence[Candidate]) -> list[Candidate]:
        """Each with its own bias corrections, the best with weights that are rounded together."""
        biases = self.config.bias_correction
        corrected = [Candidate(item.method, corrected=True) for item in plain] if biases else []
        if self.config.second_order and len(self.judge.calibration) >= POLICY.least_for_rounding:
            # What layers read is seen in the nearest ranges, once for all.
            nearest = self._look(plain, 1)[0].method
            for item in self._look(corrected or plain, POLICY.rounded):
                by = self._rounded_by.setdefault(item.method, nearest)
                corrected.append(Candidate(item.method, corrected=biases, rounded_by=by))
        return corrected

    def _look(self, candidates: Sequence[Candidate], count: int) -> list[Candidate]:
        """Those that are nearest to the float model at a first look, nearest first."""
        if len(candidates) <= count:
            return list(candidates)
        for candidate in candidates:
            score = self._score(candidate, self.judge.first_look, self._looked_at)
            self.tried.setdefault(candidate.label, score)
        return sorted(candidates, key=lambda item: self._looked_at[item].distance)[:count]

    def _score(self, candidate: Candidate, sample: Sample, known: dict[Candidate, Score]) -> Score:
        if candidate not in known:
            known[candidate] = self.judge.score(self._of(candidate), self.layout, sample)
        return known[candidate]

    def _of(self, candidate: Candidate) -> TensorScales:
        if candidate not in self._made:
            self._made[candidate] = self._make(candidate)
        return self._made[candidate]

    def _make(self, candidate: Candidate) -> TensorScales:
        method = candidate.method
        numbers = self.numbers_by(method, self.seen_by(method), self.layout)
        if candidate.rounded_by is not None:
            rounded = self._rounded_together(candidate.rounded_by)
            numbers = dataclasses.replace(numbers, rounded=rounded)
        return self.with_biases(numbers, self.layout) if candidate.corrected else numbers

    def _rounded_together(self, method: Method) -> Mapping[str, torch.Tensor]:
        """Weights rounded by what their layers read in integers, in the ranges of one method."""
        if method not in self._rounded:
            judge = self.judge
            photos = Photos(
                pixels=judge.calibration.pixels[: POLICY.rounding.of(judge.calibration)]
            )
            simulated = judge.simulated(self._of(Candidate(method)), self.layout)
            moments = input_moments(simulated, self.layout.layers, photos)
            self._rounded[method] = round_weights(
                simulated, moments, self.weight_scales, judge.scheme,
                centered=self.config.bias_correction,
            )  # fmt: skip
        return self._rounded[method]

    @functools.cached_property
    def weighted(self) -> Mapping[str, Statistics]:
        """What `fisher` chooses by."""
        return gradient_weighted_statistics(self.judge.graph, self.layout, self.correcting)

    @functools.cached_property
    def _spreads(self) -> dict[str, Spread]:
        """How every layer's output is spread, in float."""
        graph = reuse_memory(self.judge.graph)
        return layer_spreads(graph, layer_names(graph), self.correcting)
