"""Which layers stay in float so that the integer model answers as the float model does.

A layer in float costs speed, so few are taken:

1. **Gains.** Each layer is left in float alone. Its gain is the share of the distance between the
   integer and the float model that this takes away.
2. **Grow.** Each step leaves one more layer, or a group, in float: what takes away most for its
   size. Tried are the layers of greatest gain, the neighbours of those in float already, and
   groups around the tensors whose rounding moves the outputs most (`rounding_costs`). Groups,
   because a tensor stays rounded as long as one layer that writes or reads it is an integer one: of
   two layers around it, each alone gains nothing.
3. **Stop** where agreement reaches the search target. Or, once a step has taken away less than a
   tenth of the distance, where agreement is above the gate's limit by a standard error.
4. **Choose.** Where the target is reached, all that was added stays. Where it is not, the state of
   highest agreement before the first step that helped little. If that is not above the gate's
   limit by a standard error, the first later state that is; else the state of highest agreement
   among those that reach the limit at all.
5. **Prune.** A layer becomes an integer one again where that costs neither agreement nor distance.

Distances are measured on `PhotoSplit.ranking`, top-1 agreement on `PhotoSplit.acceptance`: the
photos that a layer was chosen by make it look better than it is.
"""

import dataclasses
import math
from collections.abc import Callable, Collection, Mapping, Sequence

from edgeseed.core.console import progress
from edgeseed.export.quantize.graph.layout import Layout
from edgeseed.export.quantize.search.policy import POLICY

_REASON = "it loses too much in integers"


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class QuantizationScore:
    """Top-1 agreement with the float graph, and distance to its outputs."""

    agreement: float
    """Share of photos, 0 to 1, with the float graph's top class."""
    distance: float
    """By `core.agreement.output_distance`, 0 at equality. Finer than agreement, so it ranks."""
    photos: int = 0
    """How many photos the agreement was measured on."""

    def agrees_less(self, other: "QuantizationScore") -> bool:
        """Whether its agreement on the same photos is lower, by more than a standard error.

        With a and b photos on which the two differ from the float model, the standard error of
        a - b is the root of a + b.
        """
        mine, others = ((1 - score.agreement) * score.photos for score in (self, other))
        return mine - others > math.sqrt(mine + others)


# Operators in float -> why, to the score of the graph.
Evaluate = Callable[[Mapping[str, str]], QuantizationScore]
# For the layers that are in float already: groups of further layers to try together.
Around = Callable[[Mapping[str, str]], Sequence[tuple[str, ...]]]
# Operators in float and their score, to the same score with agreement of the acceptance photos.
MeasureAgreement = Callable[[Mapping[str, str], QuantizationScore], QuantizationScore]


@dataclasses.dataclass(frozen=True, kw_only=True)
class FloatLayers:
    """The layers that stay in float, and what that is worth."""

    keep_float: Mapping[str, str]
    """Layers that stay in float, and why."""
    score: QuantizationScore
    gains: Mapping[str, float]
    """By how much of its distance the graph comes nearer if this layer alone is in float."""


def search_floats(
    layout: Layout,
    evaluate: Evaluate,
    *,
    quick: Evaluate | None = None,
    measure_agreement: MeasureAgreement = lambda _, score: score,
    around: Around = lambda _: (),
    search_target: float,
    gate_limit: float = 1.0,
    most: int,
) -> FloatLayers:
    """The smallest set of layers found that brings agreement to the search target.

    Args:
        layout: The layout with everything in integers.
        evaluate: The score with some operators in float.
        quick: The same on fewer photos, for the gain of every layer alone.
        measure_agreement: The same score, with agreement of the acceptance photos. Called for the
            best of each step, and before a layer becomes an integer one again.
        around: Groups of layers to be tried together, for those that are in float.
        search_target: The agreement to reach, 0 to 1.
        gate_limit: The agreement that the export's gate asks for. For it, and a standard error
            more, layers are left in float that help little.
        most: The most layers to leave in float.
    """
    layers = layout.layers
    gains = _gains(layers, quick or evaluate)
    chosen: dict[str, str] = {}
    ranked = evaluate({})
    score = measure_agreement({}, ranked)
    # The gate has other photos, on which agreement may be a standard error lower.
    # (A gate that asks for more than 100 % holds nowhere, and has no error.)
    variance = max(0.0, gate_limit * (1 - gate_limit))
    chance = math.sqrt(variance / score.photos) if score.photos else 0.0
    gate_limit_with_margin = min(gate_limit + chance, max(gate_limit, search_target))
    reached = [(chosen, score)]
    steps: list[tuple[tuple[str, ...], float]] = []
    # How many of the states lie before the first step that helped little.
    useful = 1
    most = min(most, len(layers))
    with progress("leaving layers in float", most, "layers") as bar:
        while len(chosen) < most and score.agreement < search_target:
            groups: list[tuple[str, ...]] = [(n,) for n in _candidates(layers, gains, chosen)]
            groups += around(chosen)
            tried = {}
            for group in dict.fromkeys(groups):
                if len(group) <= most - len(chosen):
                    tried[group] = evaluate({**chosen, **dict.fromkeys(group, _REASON)})
            # The photos that rank groups flatter them. So the target rises by what they flattered
            # the last state by. In this order: where both are the same photos, it rises by exactly
            # nothing.
            best = _best(tried, search_target + (ranked.agreement - score.agreement))
            steps.append((best, 1.0 - tried[best].distance / max(score.distance, 1e-12)))
            chosen = {**chosen, **dict.fromkeys(best, _REASON)}
            ranked = tried[best]
            before, score = score, measure_agreement(chosen, ranked)
            reached.append((chosen, score))
            bar.advance(len(best))
            if useful == len(reached) - 1 and score.distance <= POLICY.idle * before.distance:
                useful += 1
            if useful < len(reached) and score.agreement >= gate_limit_with_margin:
                break
    kept = reached[-1]
    if score.agreement < search_target:
        kept = _choose(
            reached, useful, gate_limit=gate_limit, gate_limit_with_margin=gate_limit_with_margin
        )
    chosen, score = _without_needless(
        kept, evaluate, measure_agreement, search_target=search_target
    )
    return FloatLayers(keep_float=_reasons(chosen, steps, gains), score=score, gains=gains)


_State = tuple[dict[str, str], QuantizationScore]


def _choose(
    reached: Sequence[_State], useful: int, *, gate_limit: float, gate_limit_with_margin: float
) -> _State:
    """The state that is kept where none reaches the search target.

    Args:
        reached: All of them, beginning with that of no layers.
        useful: How many lie before the first step that helped little.
        gate_limit: The agreement that the gate asks for.
        gate_limit_with_margin: That and a standard error more.
    """

    def agreement(state: _State) -> float:
        return state[1].agreement

    best = max(reached[:useful], key=agreement)
    if agreement(best) >= gate_limit_with_margin:
        return best
    holding = [state for state in reached if agreement(state) >= gate_limit]
    first = next((state for state in holding if agreement(state) >= gate_limit_with_margin), None)
    # Where the gate holds nowhere, layers that help little are no use either.
    return first or max(holding, key=agreement, default=reached[useful - 1])


def _without_needless(
    state: _State, evaluate: Evaluate, measure_agreement: MeasureAgreement, *, search_target: float
) -> _State:
    """The layers that are still needed now that all of them are in float."""
    chosen, score = state
    for name in list(chosen):
        fewer = {other: why for other, why in chosen.items() if other != name}
        without = evaluate(fewer)
        # Agreement alone would drop any layer that does not change a top class.
        if without.distance > POLICY.needless * score.distance:
            continue
        without = measure_agreement(fewer, without)
        if without.agreement >= min(search_target, score.agreement):
            chosen, score = fewer, without
    return chosen, score


def _candidates(
    layers: Sequence[str], gains: Mapping[str, float], chosen: Mapping[str, str]
) -> list[str]:
    """The few that gain most alone, and those next to what is chosen."""
    alone = sorted((name for name in layers if name not in chosen), key=lambda name: -gains[name])
    near = [
        layers[at + step]
        for at, name in enumerate(layers)
        for step in (-1, 1)
        if name in chosen and 0 <= at + step < len(layers)
    ]
    return list(
        dict.fromkeys(alone[: POLICY.tried_alone] + [name for name in near if name not in chosen])
    )


def _best(
    tried: Mapping[tuple[str, ...], QuantizationScore], search_target: float
) -> tuple[str, ...]:
    """The nearest; one layer rather than two if it is enough, or the second not worth it."""
    enough = [group for group in tried if tried[group].agreement >= search_target]
    fewest = min((len(group) for group in enough), default=0)
    left = [group for group in enough if len(group) == fewest] or list(tried)
    # A further layer in a group has to take away a tenth of the distance, as a step has to.
    return min(left, key=lambda group: tried[group].distance / POLICY.idle ** len(group))


def _reasons(
    chosen: Collection[str],
    steps: Sequence[tuple[tuple[str, ...], float]],
    gains: Mapping[str, float],
) -> dict[str, str]:
    """Why each is in float.

    Args:
        chosen: Layers.
        steps: Which were left in float together, and the share of the distance that this took away.
        gains: Of each alone.
    """
    reasons = {}
    for group, gained in steps:
        for name in group:
            reason = (
                f"{_REASON}: in float it takes away {max(gains[name], 0.0):.0%} of the distance"
            )
            reasons[name] = f"{reason} alone"
            if len(group) > 1 and set(group) <= set(chosen):
                others = " and ".join(other for other in group if other != name)
                reasons[name] += f", with {others} {max(gained, 0.0):.0%} of what was left"
    return {name: reasons[name] for name in chosen}


def _gains(layers: Sequence[str], evaluate: Evaluate) -> dict[str, float]:
    base = evaluate({})
    gains = {}
    with progress("searching sensitive layers", len(layers), "layers") as bar:
        for name in layers:
            alone = evaluate({name: _REASON})
            gains[name] = 1.0 - alone.distance / max(base.distance, 1e-12)
            bar.advance()
    return gains
