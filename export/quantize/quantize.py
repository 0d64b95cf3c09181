"""Float program -> integer program, in the order that docs/quantization.md draws."""

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
from edgeseed.export.quantize.corrections.float_embedding import keep_embedding_in_float
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
from edgeseed.export.quantize.search.float_layers import QuantizationScore, search_floats
from edgeseed.export.quantize.search.photo_split import PhotoSplit
from edgeseed.export.quantize.search.policy import POLICY
from edgeseed.export.quantize.search.recovery import recover
from edgeseed.export.quantize.search.scoring import Scorer
from edgeseed.export.rebuilding import rebuild
from edgeseed.export.samples import Photos, Reserve


@dataclasses.dataclass(frozen=True, kw_only=True)
class Quantized:
    """A quantized program with the record of how it was made."""

    program: ExportedProgram
    """Inputs and outputs are those of the float program."""
    record: dict[str, Any]
    """The manifest's block `quantization`: see `edgeseed.core.records.QuantizationRecord`."""


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
    """The integer program of a float program, for one scheme. Needs no labels.

    Args:
        program: The float program, from `export.program.build_program`.
        scheme: The integers that the runtime computes in.
        photos: Calibration photos; `PhotoSplit` holds some of them out.
        reserve: Further photos, to measure agreement on and for `config.recover`. Where there are
            few, `photos` serve.
        batch: The batch size that the program was built for.
        config: Settings.
        keep_float: Node name of a layer that stays in float in any case -> the reason.

    Raises:
        DataError: If more than a tenth of the photos taken from the reserve cannot be decoded.
    """
    work = _Quantization(
        float_graph(program), scheme, photos, config or QuantizeConfig(), reserve=reserve
    )
    scales, layout = work.run(dict(keep_float or {}))
    graph = work.with_byte_weights(scales, layout)
    quantized = insert_quantization(graph, layout, scales, scheme)
    program_of_integers = _traced(quantized, program, photos.pixels.shape[1:], batch)
    renamed = _renamed(quantized, program_of_integers.graph_module)
    return Quantized(
        program=program_of_integers, record={**work.record(layout, scales), "renamed": renamed}
    )


def _traced(
    quantized: fx.GraphModule, program: ExportedProgram, shape: Sequence[int], batch: Batch
) -> ExportedProgram:
    # The float program takes any batch, so that a fixed one has to be traced.
    rebuilt = rebuild(quantized, program, reshaped=True) if batch == "dynamic" else None
    return rebuilt or trace(quantized, example_input(shape, batch=batch), batch=batch)


def _renamed(before: fx.GraphModule, after: fx.GraphModule) -> dict[str, str]:
    """Layer -> its new name, where tracing changed it (names are made of operators)."""
    names = zip(layer_names(before), layer_names(after), strict=False)
    return {old: new for old, new in names if old != new}


class _Quantization:
    """One quantization under way: graph, photos, and what was found so far."""

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
            keep_embedding_in_float(graph)
        some = Photos(pixels=photos.pixels[: POLICY.equalization.of(photos)])
        # First: its factors are of the student's own channels, without those that widening adds.
        self.equalizations = equalize_channels(graph, some) if config.equalize else {}
        self.widened = (
            widen_channels(graph, multiple=scheme.depthwise_multiple)
            if scheme.depthwise_multiple > 1
            else []
        )
        limit = config.required_agreement
        self.split = PhotoSplit.divide(photos, reserve, gate_limit=limit, learning=config.recover)
        self.scorer = Scorer(graph, scheme, self.split, gate_limit=limit)
        self.tried: dict[str, QuantizationScore] = {}
        self.counted: dict[str, QuantizationScore] = {}
        self.calibrator = config.calibrator
        self.score = QuantizationScore(agreement=0.0, distance=float("inf"))
        self.gains: Mapping[str, float] = {}
        self.num_recovery_photos = 0
        self.byte_weight_layers: tuple[str, ...] = ()

    def run(self, keep_float: dict[str, str]) -> tuple[TensorScales, Layout]:
        layout = plan_layout(self.graph.graph, self.scheme, keep_float=keep_float)
        statistics = calibrate(reuse_memory(self.graph), layout, self.scorer.calibration)
        candidates = Candidates(self.scorer, self.config, statistics, layout)
        chosen = candidates.choose()
        self.tried |= candidates.tried
        self.counted |= candidates.counted
        self.calibrator = chosen.candidate.method
        self.score, scales = chosen.score, chosen.scales
        most = self.config.max_float_layers if self.scheme.float_layers else 0
        if most and self.score.agreement < candidates.search_target:
            scales, layout = self._search(candidates, chosen, keep_float)
        if self.config.recover:
            # Last: weights that have learnt to make up for a layer are no use once it is in float.
            scales = self._recover(scales, layout)
        return scales, layout

    def with_byte_weights(self, scales: TensorScales, layout: Layout) -> fx.GraphModule:
        """The float graph; layers that stay in float have weights rounded to bytes.

        Only where agreement falls by no more than chance, and distance by no more than
        `POLICY.byte_weights`.
        """
        if not self.scheme.byte_weights:
            return self.graph
        sample = self.scorer.acceptance
        before = None

        def loses(layers: Sequence[str]) -> bool:
            nonlocal before
            before = before or self.scorer.score(scales, layout, sample)
            changed = with_byte_weights(self.graph, layers, self.scheme.weight)
            after = self.scorer.score(scales, layout, sample, graph=changed)
            most = max(POLICY.byte_weights * before.distance, before.distance + POLICY.unnoticed)
            return after.agrees_less(before) or after.distance > most

        self.byte_weight_layers = layers_worth_bytes(float_layers(self.graph, layout), loses)
        return with_byte_weights(self.graph, self.byte_weight_layers, self.scheme.weight)

    def _recover(self, scales: TensorScales, layout: Layout) -> TensorScales:
        learning, sample = self.split.calibration, self.scorer.held_out
        reserve = self.split.reserve
        if reserve is not None and len(reserve) >= len(learning):
            # The larger sample, as none of its photos is learnt on.
            learning, sample = reserve.take(POLICY.recovery), self.scorer.ranking
        recovered = recover(
            self.graph, layout, scales, self.scheme, learning,
            distance=lambda found: self.scorer.score(found, layout, sample).distance,
            config=self.config.recovery,
        )  # fmt: skip
        score = self.scorer.score(recovered, layout, self.scorer.ranking)
        score = self._record_score(
            "recovery", self.scorer.measure_agreement(score, recovered, layout)
        )
        if score.agrees_less(self.score):
            # What is nearer on the whole may differ more where two classes are close.
            say(
                f"recovery: {score.agreement:.1%} top-1 agreement, {self.score.agreement:.1%} "
                "without it: it is not taken"
            )
            return scales
        if score.distance >= self.score.distance:
            # Nearer on the few photos of its own checks, or nowhere.
            return scales
        self.score, self.num_recovery_photos = score, len(learning)
        return recovered

    def _search(
        self, candidates: Candidates, chosen: Chosen, keep_float: dict[str, str]
    ) -> tuple[TensorScales, Layout]:
        """Scales and layout with the fewest layers in float that bring agreement back."""
        say(
            f"int8 has {self.score.agreement:.1%} top-1 agreement with the float model (target "
            f"{candidates.search_target:.1%}): looking for the layers that lose most"
        )
        # By the logits alone: an embedding in fewer steps changes no top class.
        scorer, layout = self.scorer, candidates.layout
        costs = gradient_weighted_statistics(
            self.graph, layout, candidates.correcting, last_output_alone=True
        )
        with_floats = self._floats_maker(candidates, chosen, keep_float)
        known: dict[frozenset[str], tuple[TensorScales, Layout]] = {}

        def with_own_biases(floats: Mapping[str, str]) -> tuple[TensorScales, Layout]:
            # Biases corrected with all layers in integers make up for layers that are in float now:
            # with them, the layers that lose most seem to gain nothing.
            if (names := frozenset(floats)) not in known:
                made, changed = with_floats(floats)
                if made.bias_corrections:
                    made = candidates.with_biases(made, changed)
                known[names] = made, changed
            return known[names]

        search = search_floats(
            layout,
            lambda floats: scorer.score(*with_own_biases(floats), scorer.ranking),
            measure_agreement=lambda floats, score: scorer.measure_agreement(
                score, *with_own_biases(floats)
            ),
            around=lambda floats: self._most_costly(costs, *with_own_biases(floats)),
            quick=lambda floats: scorer.score(*with_floats(floats), scorer.first_look),
            search_target=candidates.search_target,
            gate_limit=self.config.required_agreement,
            most=self.config.max_float_layers,
        )
        self.gains = search.gains
        if search.score.distance >= self.score.distance:
            return chosen.scales, layout
        self.score = self._record_score(f"{len(search.keep_float)} layers in float", search.score)
        scales, layout = with_own_biases(search.keep_float)
        return scales, dataclasses.replace(layout, floats={**layout.floats, **search.keep_float})

    def _most_costly(
        self, weighted: Mapping[str, Statistics], scales: TensorScales, layout: Layout
    ) -> list[tuple[str, ...]]:
        """Layers around the tensors whose rounding moves the outputs most."""
        costs = rounding_costs(weighted, scales)
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
        """A function from layers in float to scales and layout; it remembers new ranges."""
        method = chosen.candidate.method
        seen = dict(candidates.statistics_for(method))

        def make(floats: Mapping[str, str]) -> tuple[TensorScales, Layout]:
            layout = plan_layout(self.graph.graph, self.scheme, keep_float={**keep_float, **floats})
            if new := set(observed_points(layout)) - seen.keys():
                some = Photos(pixels=candidates.correcting.pixels[:64])
                look = gradient_weighted_statistics if method == "fisher" else calibrate
                found = look(self.graph, layout, some)
                seen.update({name: found[name] for name in new})
            made = dataclasses.replace(
                candidates.scales_by(method, seen, layout),
                bias_corrections=chosen.scales.bias_corrections,
                gains=chosen.scales.gains,
                rounded=chosen.scales.rounded,
            )
            return made, layout

        return make

    def _record_score(self, label: str, score: QuantizationScore) -> QuantizationScore:
        """Writes down a score whose agreement is of the acceptance photos."""
        self.tried[label] = score
        if self.scorer.has_acceptance_photos:
            self.counted[label] = score
        return score

    def record(self, layout: Layout, scales: TensorScales) -> dict[str, Any]:
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
                "counting": len(self.scorer.acceptance.photos),
                "recovery": self.num_recovery_photos,
            },
            "bias_correction": bool(scales.bias_corrections),
            "gain_correction": bool(scales.gains),
            "second_order": bool(scales.rounded),
            "recovered": bool(scales.learned),
            "agreement": self.score.agreement,
            "tried": {name: dataclasses.asdict(score) for name, score in self.tried.items()},
            "counted": {name: dataclasses.asdict(score) for name, score in self.counted.items()},
            "integer": dict(layout.operators),
            "float": dict(layout.floats),
            "byte_weights": list(self.byte_weight_layers),
            "sensitivity": dict(self.gains),
            "widened": self.widened,
            "equalized": {
                name: equalizations.to_dict() for name, equalizations in self.equalizations.items()
            },
            "shifted": dict.fromkeys(shifted, HARDSIGMOID_SHIFT),
            "ranges": {name: list(q.range) for name, q in scales.quantizers.items()},
        }
