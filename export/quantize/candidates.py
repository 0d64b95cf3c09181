"""Ways of choosing ranges, with and without corrections: the one that comes nearest is taken.

`fisher` is tried first: as it is, with corrected biases, and with weights rounded together. Where
the best of the three keeps as many decisions as are wanted, of photos that had no part in it, no
other way is tried. Where it does not, all compete by their distance to the float model on photos
that they have not seen: the few nearest are corrected, and the nearest of those is taken, unless it
keeps fewer decisions than what was tried first.

Of sixteen exported networks it came nearest for six, among them the three that lose most; for the
others it was up to three times as far, by distances of less than 0.005.
"""

import dataclasses
import functools
from collections.abc import Collection, Mapping, Sequence

import numpy as np
import torch

from edgeseed.export.quantize.calibration import numbers_by_method, weigh
from edgeseed.export.quantize.config import QuantizeConfig
from edgeseed.export.quantize.correction import Spread, correct, layer_spreads, wanted_spreads
from edgeseed.export.quantize.insertion import Numbers
from edgeseed.export.quantize.judging import Judge, Sample, count_for
from edgeseed.export.quantize.layout import Layout
from edgeseed.export.quantize.memory import reuse_memory
from edgeseed.export.quantize.observers import METHODS, Method, Statistics, typical_photos
from edgeseed.export.quantize.rounding import input_moments, round_weights
from edgeseed.export.quantize.sensitivity import Score
from edgeseed.export.samples import Photos
from edgeseed.export.verification.reference import layer_names

# What is tried first, and alone if it is good enough.
_FIRST: Method = "fisher"
# Ways of calibrating whose biases are corrected, those of them whose weights are rounded together,
# and what is judged of all that. Each is a graph of its own and has to see the photos.
_FINALISTS, _ROUNDED, _JUDGED = 3, 2, 3
# All are judged where that costs no more pixels than this: the few photos of a quick look at small
# sizes, or of a small set, rank badly.
_CHEAP = 32 * 224 * 224
# Photos whose means correct the biases: as many positions at any size.
_CORRECTION = (32 * 224 * 224, (32, 512))
# Photos that show how the inputs of a layer go together, by some positions of each. From fewer than
# a hundred it is not to be seen, and those that judge would be the same.
_ROUNDING = (128 * 224 * 224, (128, 256))
_LEAST_ROUNDING = 100
_BIASES, _TOGETHER = " + bias correction", " + second-order rounding"


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Chosen:
    """The best of the candidates."""

    method: Method
    numbers: Numbers
    score: Score
    """Its distance on the photos that judge, its decisions on those that count."""


class Candidates:
    """The candidates of one layout, each made and scored once.

    Args:
        judge: Photos and scores.
        config: Settings.
        statistics: From `calibrate` with the judge's `ranging`.
        layout: The layout with everything in integers.
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
        chosen = np.flatnonzero(typical_photos(statistics.values(), len(judge.ranging)))
        # Only typical photos speak: one that is cut off far from its values moves every mean.
        count = count_for(judge.ranging, *_CORRECTION)
        self.correcting = Photos(pixels=judge.ranging.pixels[chosen[:count]])
        self.weight_scales: dict[str, torch.Tensor] = {}
        self.tried: dict[str, Score] = {}
        self._made: dict[str, Numbers] = {}
        self._quick: dict[str, Score] = {}
        self._judged: dict[str, Score] = {}

    def choose(self) -> Chosen:
        """What keeps enough of the decisions, or comes nearest to the float model."""
        calibrator = self.config.calibrator
        if calibrator != "auto":
            return self._counted(self._best_of([name for name in METHODS if name == calibrator]))
        first = self._counted(self._best_of([_FIRST]))
        if first.score.agreement >= self.config.min_agreement:
            return first
        best = self._best_of(METHODS)
        if best.numbers is first.numbers:
            return first
        best = self._counted(best)
        # What comes nearer on the whole may be further off where decisions are close.
        return first if best.score.keeps_fewer(first.score) else best

    def seen_by(self, method: Method) -> Mapping[str, Statistics]:
        """What a way of choosing ranges chooses them by."""
        return self.weighted if method == "fisher" else self.statistics

    def numbers_by(
        self, method: Method, statistics: Mapping[str, Statistics], layout: Layout
    ) -> Numbers:
        """The quantizers of a layout, with nothing corrected."""
        numbers = numbers_by_method(statistics, layout, self.judge.scheme, method)
        return dataclasses.replace(numbers, weight_scales=self.weight_scales)

    def with_biases(self, numbers: Numbers, layout: Layout) -> Numbers:
        """The same with biases, and by the settings deviations, corrected for them."""
        plain = dataclasses.replace(numbers, bias_corrections={}, gains={})
        simulated = self.judge.simulated(plain, layout)
        wanted = wanted_spreads(self._spreads, layout)
        found = correct(simulated, wanted, self.correcting, gains=self.config.gain_correction)
        return dataclasses.replace(plain, bias_corrections=found.biases, gains=found.gains)

    def _best_of(self, methods: Sequence[Method]) -> Chosen:
        names: list[str] = self._nearest(methods, _FINALISTS)
        # Mended, what was best need not stay so.
        names += self._mended(names)
        judging = self.judge.judging
        if judging.photos.pixels[:, 0].size > _CHEAP:
            names = self._nearest(names, _JUDGED)
        for name in names:
            self.tried[name] = self._score(name, judging, self._judged)
        best = min(names, key=lambda name: self._judged[name].distance)
        return Chosen(method=_method_of(best), numbers=self._of(best), score=self._judged[best])

    def _counted(self, chosen: Chosen) -> Chosen:
        score = self.judge.counted(chosen.score, chosen.numbers, self.layout)
        return dataclasses.replace(chosen, score=score)

    def _mended(self, methods: Collection[str]) -> list[str]:
        """Each with its own bias corrections, the best with weights that are rounded together."""
        mended = [f"{method}{_BIASES}" for method in methods] if self.config.bias_correction else []
        if self.config.second_order and len(self.judge.ranging) >= _LEAST_ROUNDING:
            nearest = [_method_of(name) for name in self._nearest(mended or methods, _ROUNDED)]
            mended += [f"{method}{_TOGETHER}" for method in nearest]
        return mended

    def _nearest(self, names: Collection[str], count: int) -> list[str]:
        """Those that are nearest to the float model at a first look."""
        if len(names) <= count:
            return list(names)
        for name in names:
            score = self._score(name, self.judge.quick, self._quick)
            self.tried.setdefault(name, score)
        return sorted(names, key=lambda name: self._quick[name].distance)[:count]

    def _score(self, name: str, sample: Sample, known: dict[str, Score]) -> Score:
        if name not in known:
            known[name] = self.judge.score(self._of(name), self.layout, sample)
        return known[name]

    def _of(self, name: str) -> Numbers:
        """The numbers of a candidate."""
        if name not in self._made:
            self._made[name] = self._make(name)
        return self._made[name]

    def _make(self, name: str) -> Numbers:
        method = _method_of(name)
        if name == method:
            return self.numbers_by(method, self.seen_by(method), self.layout)
        numbers = self._of(method)
        if name.endswith(_TOGETHER):
            numbers = dataclasses.replace(numbers, rounded=self._rounded_together(method))
        return self.with_biases(numbers, self.layout) if self.config.bias_correction else numbers

    def _rounded_together(self, method: Method) -> Mapping[str, torch.Tensor]:
        """Weights rounded by what their layers read in integers, which any numbers show as well."""
        for name, numbers in self._made.items():
            if name.endswith(_TOGETHER):
                return numbers.rounded
        numbers, judge = self._of(method), self.judge
        photos = Photos(pixels=judge.ranging.pixels[: count_for(judge.ranging, *_ROUNDING)])
        simulated = judge.simulated(numbers, self.layout)
        moments = input_moments(simulated, self.layout.layers, photos)
        return round_weights(
            simulated, moments, self.weight_scales, judge.scheme.weight,
            centered=self.config.bias_correction,
        )  # fmt: skip

    @functools.cached_property
    def weighted(self) -> Mapping[str, Statistics]:
        """What `fisher` chooses by."""
        return weigh(self.judge.graph, self.layout, self.correcting)

    @functools.cached_property
    def _spreads(self) -> dict[str, Spread]:
        """How every layer's output is spread, in float."""
        graph = reuse_memory(self.judge.graph)
        return layer_spreads(graph, layer_names(graph), self.correcting)


def _method_of(name: str) -> Method:
    return next(method for method in METHODS if method == name.partition(" + ")[0])
