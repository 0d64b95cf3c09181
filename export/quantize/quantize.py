"""Float program -> integer program: calibrate, choose, correct; search only where needed."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import fx
from torch.export import ExportedProgram

from edgeseed.core.console import say
from edgeseed.export.call import Batch
from edgeseed.export.program import example_input, float_graph, trace
from edgeseed.export.proof.reference import layer_names
from edgeseed.export.quantize.config import QuantizeConfig
from edgeseed.export.quantize.corrections.byte_weights import (
    float_layers,
    layers_worth_bytes,
    with_byte_weights,
)
from edgeseed.export.quantize.corrections.equalization import equalize_channels
from edgeseed.export.quantize.corrections.float_embedding import free_embedding
from edgeseed.export.quantize.corrections.widening import widen_channels
from edgeseed.export.quantize.graph.in_place import reuse_memory
from edgeseed.export.quantize.graph.layout import (
    Kind,
    Layout,
    layers_around,
    observed_points,
    plan_layout,
)
from edgeseed.export.quantize.graph.rewriting import (
    HARDSIGMOID_SHIFT,
    TensorScales,
    insert_quantization,
)
from edgeseed.export.quantize.ranges.observers import Statistics
from edgeseed.export.quantize.ranges.statistics import (
    calibrate,
    gradient_weighted_statistics,
    rounding_costs,
)
from edgeseed.export.quantize.scheme import Scheme
from edgeseed.export.quantize.search.candidates import Candidates, Chosen
from edgeseed.export.quantize.search.float_layers import Score, search_floats
from edgeseed.export.quantize.search.photo_split import PhotoSplit
from edgeseed.export.quantize.search.policy import POLICY
from edgeseed.export.quantize.search.recovery import recover
from edgeseed.export.quantize.search.scoring import Judge
from edgeseed.export.rebuilding import rebuild
from edgeseed.export.samples import Photos, Reserve


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
    graph = worker.with_byte_weights(numbers, layout)
    quantized = insert_quantization(graph, layout, numbers, scheme)
    program_of_integers = _traced(quantized, program, photos.pixels.shape[1:], batch)
    renamed = _renamed(quantized, program_of_integers.graph_module)
    return Quantized(
        program=program_of_integers, record={**worker.record(layout, numbers), "renamed": renamed}
    )


def _traced(
    quantized: fx.GraphModule, program: ExportedProgram, shape: Sequence[int], batch: Batch
) -> ExportedProgram:
    # The float program takes any batch, so that a fixed one has to be traced.
    rebuilt = rebuild(quantized, program, reshaped=True) if batch == "dynamic" else None
    return rebuilt or trace(quantized, example_input(shape, batch=batch), batch=batch)


def _renamed(before: fx.GraphModule, after: fx.GraphModule) -> dict[str, str]:
    """The layers that tracing gave another name, which it takes from their operators."""
    names = zip(layer_names(before), layer_names(after), strict=False)
    return {old: new for old, new in names if old != new}


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
        some = Photos(pixels=photos.pixels[: POLICY.equalization.of(photos)])
        # First: its factors are of the student's own channels, without those that widening adds.
        self.evened = equalize_channels(graph, some) if config.equalize else {}
        self.widened = (
            widen_channels(graph, multiple=scheme.depthwise_multiple)
            if scheme.depthwise_multiple > 1
            else []
        )
        required = config.required_agreement
        self.split = PhotoSplit.deal(photos, reserve, required=required, learning=config.recover)
        self.judge = Judge(graph, scheme, self.split, required=required)
        self.tried: dict[str, Score] = {}
        self.counted: dict[str, Score] = {}
        self.calibrator = config.calibrator
        self.score = Score(agreement=0.0, distance=float("inf"))
        self.gains: Mapping[str, float] = {}
        self.learnt_on = 0
        self.in_bytes: tuple[str, ...] = ()

    def work(self, keep_float: dict[str, str]) -> tuple[TensorScales, Layout]:
        layout = plan_layout(self.graph.graph, self.scheme, keep_float=keep_float)
        statistics = calibrate(reuse_memory(self.graph), layout, self.judge.calibration)
        candidates = Candidates(self.judge, self.config, statistics, layout)
        chosen = candidates.choose()
        self.tried |= candidates.tried
        self.counted |= candidates.counted
        self.calibrator = chosen.candidate.method
        self.score, numbers = chosen.score, chosen.numbers
        most = self.config.max_float_layers if self.scheme.float_layers else 0
        if most and self.score.agreement < candidates.wanted:
            numbers, layout = self._search(candidates, chosen, keep_float)
        if self.config.recover:
            # Last: weights that have learnt to make up for a layer are no use once it is in float.
            numbers = self._recover(numbers, layout)
        return numbers, layout

    def with_byte_weights(self, numbers: TensorScales, layout: Layout) -> fx.GraphModule:
        """The float graph, with the weights of layers that stay in float as bytes hold them.

        Only where no more decisions are lost than chance moves, and no distance.
        """
        if not self.scheme.byte_weights:
            return self.graph
        sample = self.judge.acceptance
        before = None

        def loses(layers: Sequence[str]) -> bool:
            nonlocal before
            before = before or self.judge.score(numbers, layout, sample)
            changed = with_byte_weights(self.graph, layers, self.scheme.weight)
            after = self.judge.score(numbers, layout, sample, graph=changed)
            most = max(POLICY.byte_weights * before.distance, before.distance + POLICY.unnoticed)
            return after.keeps_fewer(before) or after.distance > most

        self.in_bytes = layers_worth_bytes(float_layers(self.graph, layout), loses)
        return with_byte_weights(self.graph, self.in_bytes, self.scheme.weight)

    def _recover(self, numbers: TensorScales, layout: Layout) -> TensorScales:
        learning, sample = self.split.calibration, self.judge.held_out
        reserve = self.split.reserve
        if reserve is not None and len(reserve) >= len(learning):
            # More photos judge where they are not those that are learnt on.
            learning, sample = reserve.take(POLICY.recovery), self.judge.ranking
        recovered = recover(
            self.graph, layout, numbers, self.scheme, learning,
            distance=lambda found: self.judge.score(found, layout, sample).distance,
            config=self.config.recovery,
        )  # fmt: skip
        score = self.judge.score(recovered, layout, self.judge.ranking)
        score = self._noted("recovery", self.judge.counted(score, recovered, layout))
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

    def _search(
        self, candidates: Candidates, chosen: Chosen, keep_float: dict[str, str]
    ) -> tuple[TensorScales, Layout]:
        """Leaves the fewest layers in float that bring the decisions back."""
        say(
            f"int8 keeps {self.score.agreement:.1%} of the decisions "
            f"(wanted {candidates.wanted:.1%}): looking for the layers that lose"
        )
        # An embedding in fewer steps is not what tips decisions.
        judge, layout = self.judge, candidates.layout
        costs = gradient_weighted_statistics(
            self.graph, layout, candidates.correcting, decisions=True
        )
        with_floats = self._floats_maker(candidates, chosen, keep_float)
        known: dict[frozenset[str], tuple[TensorScales, Layout]] = {}

        def with_own_biases(floats: Mapping[str, str]) -> tuple[TensorScales, Layout]:
            # Those of all integers repair what layers did that are in float now: with them, the
            # layers that lose most seem to gain nothing.
            if (names := frozenset(floats)) not in known:
                made, changed = with_floats(floats)
                if made.bias_corrections:
                    made = candidates.with_biases(made, changed)
                known[names] = made, changed
            return known[names]

        search = search_floats(
            layout,
            lambda floats: judge.score(*with_own_biases(floats), judge.ranking),
            count=lambda floats, score: judge.counted(score, *with_own_biases(floats)),
            around=lambda floats: self._most_costly(costs, *with_own_biases(floats)),
            quick=lambda floats: judge.score(*with_floats(floats), judge.first_look),
            min_agreement=candidates.wanted,
            required=self.config.required_agreement,
            most=self.config.max_float_layers,
        )
        self.gains = search.gains
        if search.score.distance >= self.score.distance:
            return chosen.numbers, layout
        self.score = self._noted(f"{len(search.keep_float)} layers in float", search.score)
        numbers, layout = with_own_biases(search.keep_float)
        return numbers, dataclasses.replace(layout, floats={**layout.floats, **search.keep_float})

    def _most_costly(
        self, weighted: Mapping[str, Statistics], numbers: TensorScales, layout: Layout
    ) -> list[tuple[str, ...]]:
        """Layers around the tensors whose rounding moves the outputs most."""
        costs = rounding_costs(weighted, numbers)
        costly = sorted(costs.keys() & layout.points.keys(), key=lambda name: -costs[name])
        groups = [
            group
            for name in costly[: POLICY.costly_tensors]
            for group in layers_around(self.graph.graph, layout, name)
        ]
        return [group for group in groups if len(group) <= POLICY.most_around]

    def _floats_maker(
        self, candidates: Candidates, chosen: Chosen, keep_float: Mapping[str, str]
    ) -> Callable[[Mapping[str, str]], tuple[TensorScales, Layout]]:
        """What makes numbers and layout with some layers in float; it remembers new ranges."""
        method = chosen.candidate.method
        seen = dict(candidates.seen_by(method))

        def make(floats: Mapping[str, str]) -> tuple[TensorScales, Layout]:
            layout = plan_layout(self.graph.graph, self.scheme, keep_float={**keep_float, **floats})
            if new := set(observed_points(layout)) - seen.keys():
                some = Photos(pixels=candidates.correcting.pixels[:64])
                look = gradient_weighted_statistics if method == "fisher" else calibrate
                found = look(self.graph, layout, some)
                seen.update({name: found[name] for name in new})
            made = dataclasses.replace(
                candidates.numbers_by(method, seen, layout),
                bias_corrections=chosen.numbers.bias_corrections,
                gains=chosen.numbers.gains,
                rounded=chosen.numbers.rounded,
            )
            return made, layout

        return make

    def _noted(self, label: str, score: Score) -> Score:
        """Writes a counted score down."""
        self.tried[label] = score
        if self.judge.counts_apart:
            self.counted[label] = score
        return score

    def record(self, layout: Layout, numbers: TensorScales) -> dict[str, Any]:
        shifted = [name for name, kind in layout.points.items() if kind is Kind.HARDSIGMOID]
        return {
            "scheme": self.scheme.name,
            "activations": str(self.scheme.activation.dtype).removeprefix("torch."),
            "weights": "int8 per output channel",
            "calibrator": self.calibrator,
            "photos": {
                "ranges": len(self.split.calibration),
                "selection": len(self.split.held_out),
                "judging": len(self.split.ranking),
                "counting": len(self.judge.acceptance.photos),
                "recovery": self.learnt_on,
            },
            "bias_correction": bool(numbers.bias_corrections),
            "gain_correction": bool(numbers.gains),
            "second_order": bool(numbers.rounded),
            "recovered": bool(numbers.learned),
            "agreement": self.score.agreement,
            "tried": {name: dataclasses.asdict(score) for name, score in self.tried.items()},
            "counted": {name: dataclasses.asdict(score) for name, score in self.counted.items()},
            "integer": dict(layout.operators),
            "float": dict(layout.floats),
            "byte_weights": list(self.in_bytes),
            "sensitivity": dict(self.gains),
            "widened": self.widened,
            "equalized": {name: evened.to_dict() for name, evened in self.evened.items()},
            "shifted": dict.fromkeys(shifted, HARDSIGMOID_SHIFT),
            "ranges": {name: list(q.range) for name, q in numbers.quantizers.items()},
        }
