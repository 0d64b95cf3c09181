"""Float program -> integer program: calibrate, choose, correct; search only where needed."""

import dataclasses
import functools
import math
from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import fx
from torch.export import ExportedProgram

from edgeseed.core.console import say
from edgeseed.core.registry import unknown_name
from edgeseed.export.graph import Batch, example_input, float_graph, trace
from edgeseed.export.quantize.calibration import (
    calibrate,
    numbers_by_method,
    photo_batches,
    rounding_costs,
    weigh,
)
from edgeseed.export.quantize.correction import Spread, correct, layer_spreads, wanted_spreads
from edgeseed.export.quantize.embedding import free_embedding
from edgeseed.export.quantize.equalization import equalize_channels
from edgeseed.export.quantize.insertion import HARDSIGMOID_SHIFT, Numbers, insert_quantization
from edgeseed.export.quantize.layout import (
    Kind,
    Layout,
    layers_around,
    observed_points,
    plan_layout,
)
from edgeseed.export.quantize.memory import reuse_memory
from edgeseed.export.quantize.observers import METHODS, Method, Statistics, typical_photos
from edgeseed.export.quantize.recovery import RecoveryConfig, recover
from edgeseed.export.quantize.rounding import input_moments, round_weights
from edgeseed.export.quantize.schemes._scheme import Scheme
from edgeseed.export.quantize.sensitivity import Score, search_floats
from edgeseed.export.quantize.simulation import simulate
from edgeseed.export.quantize.widening import widen_channels
from edgeseed.export.samples import Photos, Reserve
from edgeseed.export.verification.gates import MIN_AGREEMENT, decisions_kept, distance
from edgeseed.export.verification.reference import Outputs, layer_names

# Photos kept aside to choose between candidates: as many pixels at any size, within these counts.
_SELECTION = (64 * 224 * 224, (64, 256))
# Those of them that say which candidates are worth a closer look.
_QUICK = (32 * 224 * 224, (32, 256))
# Photos that say which layers to leave in float, and how many: a network that keeps 97 decisions of
# 100 may well keep all of the few that choose. Most are photos that ranges were taken from, which
# speak as well: they have set a few numbers of each tensor, and no decision.
_JUDGING = (96 * 224 * 224, (96, 1024))
# Photos that had no part in anything before, to count decisions by: those that judged have chosen
# what does well on them. Enough to tell the gate's limit from chance, where that costs no more.
_COUNTING = (256 * 224 * 224, (256, 2048))
# The standard error of the count, at the gate's limit, over the share that the gate lets go.
_DOUBT = 0.25
# What `--recover` learns on besides: as many as its updates see.
_LEARNING = 10_000
# Ways of calibrating whose biases are corrected, those of them whose weights are rounded together,
# and what is judged of all that. Each is a graph of its own and has to see the photos.
_FINALISTS, _ROUNDED, _JUDGED = 3, 2, 3
# All are judged where that costs no more pixels than this: the few photos of a quick look at small
# sizes, or of a small set, rank badly.
_CHEAP = 32 * 224 * 224
# Tensors whose rounding costs most, around which layers are tried in float, and how many together.
_DEAREST, _TOGETHER = 3, 3
_WITH = " + "
# Photos that show which channels are wide and which are narrow.
_LOOK = (16 * 224 * 224, (16, 128))
# Photos whose means correct the biases: as many positions at any size.
_CORRECTION = (32 * 224 * 224, (32, 512))
# Photos that show how the inputs of a layer go together, by some positions of each. From fewer than
# a hundred it is not to be seen, and those that judge would be the same.
_ROUNDING = (128 * 224 * 224, (128, 256))
_LEAST_ROUNDING = 100


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class QuantizeConfig:
    """Settings of post-training quantization."""

    calibrator: str = "auto"
    """`auto`, or one of `minmax`, `moving-average`, `percentile`, `photos`, `entropy`, `mse` and
    `fisher`."""
    equalize: bool = True
    """Whether channels of unlike range are evened out where that is exact."""
    bias_correction: bool = True
    """Whether the mean of each channel is brought back, layer by layer."""
    gain_correction: bool = True
    """Whether its deviation is, too, where biases are corrected."""
    second_order: bool = True
    """Whether weights are rounded together, by how the inputs of their layer go together, where
    that comes nearer than rounding each alone. Takes a hundred photos to calibrate with."""
    min_agreement: float = 0.99
    """Below this share of kept decisions the layers that lose most are left in float. `export`
    asks for more where its gate does (`export.run.search_target`)."""
    required_agreement: float = MIN_AGREEMENT
    """What the gate asks: only for it, and a standard error more, are layers left in float that
    help little."""
    max_float_layers: int = 8
    """Most layers that the search may leave in float."""
    recover: bool = False
    """Whether the integer model learns from the float student: minutes in place of seconds."""
    recovery_steps: int = 600
    """How many updates it learns for."""
    recovery_lr: float = 0.02
    """How fast it learns, in steps of each weight's grid."""

    @property
    def recovery(self) -> RecoveryConfig:
        """How it learns."""
        return RecoveryConfig(steps=self.recovery_steps, lr=self.recovery_lr)

    def __post_init__(self) -> None:
        _ = self.recovery  # which checks itself
        if self.calibrator not in ("auto", *METHODS):
            raise unknown_name("calibrator", self.calibrator, ("auto", *METHODS))


def _count_for(photos: Photos, pixels: int, limits: tuple[int, int]) -> int:
    """How many photos of this size hold so many pixels, within limits."""
    height, width = photos.pixels.shape[2:]
    return max(limits[0], min(limits[1], pixels // int(height * width)))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Quantized:
    """A quantized program and how it came about."""

    program: ExportedProgram
    record: dict[str, Any]
    """For the manifest: scheme, calibrator, what was tried, what stayed in float and why."""


def quantize(
    program: ExportedProgram,
    scheme: Scheme,
    photos: Photos,
    *,
    reserve: Reserve | None = None,
    batch: Batch,
    config: QuantizeConfig | None = None,
    keep_float: Mapping[str, str] | None = None,
) -> Quantized:
    """Quantizes a program for one kind of runtime. Needs no labels.

    Args:
        program: The float program, from `export.graph.build_program`.
        scheme: What the runtime computes in.
        photos: Calibration photos. The last eighth chooses between the ways of calibrating and is
            not calibrated with.
        reserve: Further photos, to count decisions by and for `config.recover`; where there are
            few, `photos` serve.
        batch: As the program was built for.
        config: Settings.
        keep_float: Layers by node name that stay in float in any case, and why.

    Raises:
        DataError: If more than a tenth of the photos taken from the reserve cannot be decoded.
    """
    worker = _Worker(
        float_graph(program), scheme, photos, config or QuantizeConfig(), reserve=reserve
    )
    numbers, layout = worker.work(dict(keep_float or {}))
    quantized = insert_quantization(worker.graph, layout, numbers, scheme)
    size = int(photos.pixels.shape[-1])
    program_of_integers = trace(quantized, example_input(size, batch=batch), batch=batch)
    renamed = _renamed(quantized, program_of_integers.graph_module)
    return Quantized(
        program=program_of_integers, record={**worker.record(layout, numbers), "renamed": renamed}
    )


def _renamed(before: fx.GraphModule, after: fx.GraphModule) -> dict[str, str]:
    """The layers that tracing gave another name, which it takes from their operators."""
    names = zip(layer_names(before), layer_names(after), strict=False)
    return {old: new for old, new in names if old != new}


class _Sample:
    """Photos, and what the float graph makes of them."""

    def __init__(self, graph: fx.GraphModule, pixels: npt.NDArray[np.uint8]) -> None:
        self.graph = graph
        self.photos = Photos(pixels=pixels)

    @functools.cached_property
    def truth(self) -> Outputs:
        """The float outputs, once they are asked for."""
        return run_graph(reuse_memory(self.graph), self.photos)


class _Worker:
    """One quantization: the graph, the photos by their use, and what was found on the way."""

    def __init__(
        self,
        graph: fx.GraphModule,
        scheme: Scheme,
        photos: Photos,
        config: QuantizeConfig,
        *,
        reserve: Reserve | None,
    ) -> None:
        self.graph, self.scheme, self.config = graph, scheme, config
        if scheme.float_embedding:
            free_embedding(graph)
        some = Photos(pixels=photos.pixels[: _count_for(photos, *_LOOK)])
        # First: its factors are of the student's own channels, without those that widening adds.
        self.evened = equalize_channels(graph, some) if config.equalize else {}
        self.widened = (
            widen_channels(graph, multiple=scheme.depthwise_multiple)
            if scheme.depthwise_multiple > 1
            else []
        )
        held_out = min(_count_for(photos, *_SELECTION), max(1, len(photos) // 4))
        self.ranging = Photos(pixels=photos.pixels[:-held_out])
        self.reserve = reserve
        aside = photos.pixels[-held_out:]
        self.selection = _Sample(graph, aside)
        self.quick = _Sample(graph, aside[: _count_for(photos, *_QUICK)])
        self.judging = _Sample(graph, photos.pixels[-_count_for(photos, *_JUDGING) :])
        self.counting = self._further() or self.judging
        self.tried: dict[str, Score] = {}
        self.chosen = config.calibrator
        self.score = Score(agreement=0.0, distance=float("inf"))
        self.correcting = self.ranging
        self.weighted: Mapping[str, Statistics] = {}
        self.gains: Mapping[str, float] = {}
        self.weight_scales: dict[str, torch.Tensor] = {}
        self.learnt_on = 0

    def work(self, keep_float: dict[str, str]) -> tuple[Numbers, Layout]:
        layout = plan_layout(self.graph.graph, self.scheme, keep_float=keep_float)
        statistics = calibrate(reuse_memory(self.graph), layout, self.ranging)
        numbers = self._choose(statistics, layout)
        self.score = self._counted(self.score, numbers, layout)
        if self.config.max_float_layers and self.score.agreement < self.config.min_agreement:
            numbers, layout = self._search(statistics, layout, numbers, keep_float)
        if self.config.recover:
            # Last: weights that have learnt to make up for a layer are no use once it is in float.
            numbers = self._recover(numbers, layout)
        return numbers, layout

    def _choose(self, statistics: Mapping[str, Statistics], layout: Layout) -> Numbers:
        """The ranges that agree most with the float model on photos they have not seen."""
        chosen = np.flatnonzero(typical_photos(statistics.values(), len(self.ranging)))
        # Only typical photos speak: one that is cut off far from its values moves every mean.
        count = _count_for(self.ranging, *_CORRECTION)
        self.correcting = Photos(pixels=self.ranging.pixels[chosen[:count]])
        names = METHODS if self.config.calibrator == "auto" else (self.config.calibrator,)
        if "fisher" in names:
            self.weighted = weigh(self.graph, layout, self.correcting)
        candidates: dict[str, Numbers] = {}
        for method in METHODS:
            if method in names:
                seen = self.weighted if method == "fisher" else statistics
                candidates[method] = self._numbers(seen, layout, method)
                self.tried[method] = self._score(candidates[method], layout)
        candidates = {name: candidates[name] for name in self._nearest(candidates, _FINALISTS)}
        # Mended, what was best need not stay so.
        candidates |= self._mended(candidates, layout)
        if self.judging.photos.pixels[:, 0].size > _CHEAP:
            candidates = {name: candidates[name] for name in self._nearest(candidates, _JUDGED)}
        for name, numbers in candidates.items():
            self.tried[name] = self._score(numbers, layout, self.judging)
        (best,) = self._nearest(candidates, 1)
        self.chosen, self.score = best.partition(_WITH)[0], self.tried[best]
        return candidates[best]

    def _nearest(self, names: Collection[str], count: int) -> list[str]:
        """Those of the tried ones that are nearest to the float model."""
        return sorted(names, key=lambda name: self.tried[name].distance)[:count]

    def _mended(self, candidates: Mapping[str, Numbers], layout: Layout) -> dict[str, Numbers]:
        """Each with its own bias corrections, the best with weights that are rounded together."""
        mended: dict[str, Numbers] = {}
        nearest = dict.fromkeys(candidates, 0.0)
        if self.config.bias_correction:
            for method, numbers in candidates.items():
                name = f"{method}{_WITH}bias correction"
                mended[name] = self._with_biases(numbers, layout)
                self.tried[name] = self._score(mended[name], layout)
                nearest[method] = self.tried[name].distance
        if not self.config.second_order or len(self.ranging) < _LEAST_ROUNDING:
            return mended
        rounded = self._rounded_together(next(iter(candidates.values())), layout)
        for method in sorted(nearest, key=lambda name: nearest[name])[:_ROUNDED]:
            found = dataclasses.replace(candidates[method], rounded=rounded)
            if self.config.bias_correction:
                found = self._with_biases(found, layout)
            name = f"{method}{_WITH}second-order rounding"
            mended[name] = found
            self.tried[name] = self._score(found, layout)
        return mended

    def _rounded_together(self, numbers: Numbers, layout: Layout) -> dict[str, torch.Tensor]:
        """Weights rounded by what their layers read in integers, which any numbers show as well."""
        quantized = insert_quantization(self.graph, layout, numbers, self.scheme)
        photos = Photos(pixels=self.ranging.pixels[: _count_for(self.ranging, *_ROUNDING)])
        moments = input_moments(self._simulated(numbers, layout), layout.layers, photos)
        return round_weights(
            quantized, moments, self.weight_scales, self.scheme.weight,
            centered=self.config.bias_correction,
        )  # fmt: skip

    def _with_biases(self, numbers: Numbers, layout: Layout) -> Numbers:
        plain = dataclasses.replace(numbers, bias_corrections={}, gains={})
        simulated = self._simulated(plain, layout)
        wanted = wanted_spreads(self.spreads, layout)
        found = correct(simulated, wanted, self.correcting, gains=self.config.gain_correction)
        return dataclasses.replace(plain, bias_corrections=found.biases, gains=found.gains)

    @functools.cached_property
    def spreads(self) -> dict[str, Spread]:
        """How every layer's output is spread, in float."""
        graph = reuse_memory(self.graph)
        return layer_spreads(graph, layer_names(graph), self.correcting)

    def _numbers(
        self, statistics: Mapping[str, Statistics], layout: Layout, method: Method
    ) -> Numbers:
        numbers = numbers_by_method(statistics, layout, self.scheme, method)
        return dataclasses.replace(numbers, weight_scales=self.weight_scales)

    def _recover(self, numbers: Numbers, layout: Layout) -> Numbers:
        learning, sample = self.ranging, self.selection
        if self.reserve is not None and len(self.reserve) >= len(self.ranging):
            # More photos judge where they are not those that are learnt on.
            learning, sample = self.reserve.take(_LEARNING), self.judging
        recovered = recover(
            self.graph, layout, numbers, self.scheme, learning,
            distance=lambda found: self._score(found, layout, sample).distance,
            config=self.config.recovery,
        )  # fmt: skip
        score = self._score(recovered, layout, self.judging)
        score = self.tried["recovery"] = self._counted(score, recovered, layout)
        if score.keeps_fewer(self.score):
            # What comes nearer on the whole may be further off where decisions are close.
            say(
                f"what was learnt keeps {score.agreement:.1%} of the decisions, "
                f"{self.score.agreement:.1%} were kept without: it is not taken"
            )
            return numbers
        if score.distance >= self.score.distance:
            # Nearer on the few photos that looked on alone, or nowhere.
            return numbers
        self.score, self.learnt_on = score, len(learning)
        return recovered

    def _further(self) -> _Sample | None:
        """Photos that are new, if there are no fewer than of those that judge."""
        least = len(self.judging.photos)
        left = len(self.reserve or ())
        if self.config.recover:
            # Half are to be learnt on, and no fewer than calibrate.
            left = min(left // 2, left - len(self.ranging))
        if self.reserve is None or left < least:
            return None
        limit = min(max(self.config.required_agreement, 0.0), 1.0)
        # The error of a share p of n is sqrt(p (1 - p) / n).
        enough = limit / max(1.0 - limit, 1e-9) / _DOUBT**2
        wanted = min(_count_for(self.judging.photos, *_COUNTING), math.ceil(enough))
        return _Sample(self.graph, self.reserve.take(min(left, max(least, wanted))).pixels)

    def _counted(self, score: Score, numbers: Numbers, layout: Layout) -> Score:
        """The same distance, with the decisions kept of the photos that count them."""
        if self.counting is self.judging:
            return score
        counted = self._score(numbers, layout, self.counting)
        return dataclasses.replace(counted, distance=score.distance)

    def _simulated(self, numbers: Numbers, layout: Layout) -> fx.GraphModule:
        quantized = insert_quantization(self.graph, layout, numbers, self.scheme)
        return simulate(quantized, inference=True)

    def _score(self, numbers: Numbers, layout: Layout, sample: _Sample | None = None) -> Score:
        sample = sample or self.quick
        outputs = run_graph(self._simulated(numbers, layout), sample.photos)
        return Score(
            agreement=decisions_kept(outputs, sample.truth),
            distance=distance(outputs, sample.truth),
            photos=len(sample.photos),
        )

    def _search(
        self,
        statistics: Mapping[str, Statistics],
        layout: Layout,
        numbers: Numbers,
        keep_float: dict[str, str],
    ) -> tuple[Numbers, Layout]:
        """Leaves the fewest layers in float that bring the decisions back."""
        say(
            f"int8 keeps {self.score.agreement:.1%} of the decisions "
            f"(wanted {self.config.min_agreement:.1%}): looking for the layers that lose"
        )
        # An embedding in fewer steps is not what tips decisions.
        costs = weigh(self.graph, layout, self.correcting, decisions=True)
        with_floats = self._floats_maker(statistics, numbers, keep_float)
        known: dict[frozenset[str], tuple[Numbers, Layout]] = {}

        def with_own_biases(floats: Mapping[str, str]) -> tuple[Numbers, Layout]:
            # Those of all integers repair what layers did that are in float now: with them, the
            # layers that lose most seem to gain nothing.
            if (names := frozenset(floats)) not in known:
                made, changed = with_floats(floats)
                if made.bias_corrections:
                    made = self._with_biases(made, changed)
                known[names] = made, changed
            return known[names]

        search = search_floats(
            layout,
            lambda floats: self._score(*with_own_biases(floats), self.judging),
            count=lambda floats, score: self._counted(score, *with_own_biases(floats)),
            around=lambda floats: self._dearest(costs, *with_own_biases(floats)),
            quick=lambda floats: self._score(*with_floats(floats)),
            min_agreement=self.config.min_agreement,
            required=self.config.required_agreement,
            most=self.config.max_float_layers,
        )
        self.gains = search.gains
        if search.score.distance >= self.score.distance:
            return numbers, layout
        self.score = self.tried[f"{len(search.keep_float)} layers in float"] = search.score
        numbers, layout = with_own_biases(search.keep_float)
        return numbers, dataclasses.replace(layout, floats={**layout.floats, **search.keep_float})

    def _dearest(
        self, weighted: Mapping[str, Statistics], numbers: Numbers, layout: Layout
    ) -> list[tuple[str, ...]]:
        """Layers around the tensors whose rounding moves the outputs most."""
        costs = rounding_costs(weighted, numbers)
        dearest = sorted(costs.keys() & layout.points.keys(), key=lambda name: -costs[name])
        groups = [
            group
            for name in dearest[:_DEAREST]
            for group in layers_around(self.graph.graph, layout, name)
        ]
        return [group for group in groups if len(group) <= _TOGETHER]

    def _floats_maker(
        self, statistics: Mapping[str, Statistics], numbers: Numbers, keep_float: Mapping[str, str]
    ) -> Callable[[Mapping[str, str]], tuple[Numbers, Layout]]:
        """What makes numbers and layout with some layers in float; it remembers new ranges."""
        method: Method = next(name for name in METHODS if name == self.chosen)  # pyright: ignore[reportAssignmentType]  # typed by the tuple
        seen = dict(self.weighted if method == "fisher" else statistics)

        def make(floats: Mapping[str, str]) -> tuple[Numbers, Layout]:
            layout = plan_layout(self.graph.graph, self.scheme, keep_float={**keep_float, **floats})
            if new := set(observed_points(layout)) - seen.keys():
                some = Photos(pixels=self.correcting.pixels[:64])
                look = weigh if method == "fisher" else calibrate
                found = look(self.graph, layout, some)
                seen.update({name: found[name] for name in new})
            made = dataclasses.replace(
                self._numbers(seen, layout, method),
                bias_corrections=numbers.bias_corrections,
                gains=numbers.gains,
                rounded=numbers.rounded,
            )
            return made, layout

        return make

    def record(self, layout: Layout, numbers: Numbers) -> dict[str, Any]:
        shifted = [name for name, kind in layout.points.items() if kind is Kind.HARDSIGMOID]
        return {
            "scheme": self.scheme.name,
            "activations": str(self.scheme.activation.dtype).removeprefix("torch."),
            "weights": "int8 per output channel",
            "calibrator": self.chosen,
            "photos": {
                "ranges": len(self.ranging),
                "selection": len(self.selection.photos),
                "judging": len(self.judging.photos),
                "counting": len(self.counting.photos),
                "recovery": self.learnt_on,
            },
            "bias_correction": bool(numbers.bias_corrections),
            "gain_correction": bool(numbers.gains),
            "second_order": bool(numbers.rounded),
            "recovered": bool(numbers.learned),
            "agreement": self.score.agreement,
            "tried": {name: dataclasses.asdict(score) for name, score in self.tried.items()},
            "integer": dict(layout.operators),
            "float": dict(layout.floats),
            "sensitivity": dict(self.gains),
            "widened": self.widened,
            "equalized": {name: evened.to_dict() for name, evened in self.evened.items()},
            "shifted": dict.fromkeys(shifted, HARDSIGMOID_SHIFT),
            "ranges": {name: list(q.range) for name, q in numbers.quantizers.items()},
        }


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
