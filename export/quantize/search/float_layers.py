"""Which operators lose: the fewest are left in float that bring the decisions back.

Each layer is put back to float alone (all others stay integer), and the quality gained is measured
on photos that were not calibrated with. Then layers are given back step by step: of those that gain
most alone, of the neighbours of those given back already, and of groups, what helps most for its
size. Groups, because a float layer among integers still reads and writes rounded tensors: those
around a tensor are worth nothing but together. Which tensors are worth it is known without trying,
by the squared gradients that `fisher` weighs by (`calibration.rounding_costs`): a MobileNetV3-small
whose second and third layer are in float owes a fifth of what is left to a single tensor, between
the twelfth and the thirteenth. Where no groups are known, neighbours are tried in pairs at first.
Where two more steps take away less than 10 %, the search ends without those two if the gate
would hold, by a standard error of the photos that count decisions. If not, it goes on until it
would; if it nowhere does, what keeps most of those that hold it at all is taken, and where none
does, all that came from those two on are integers again. Where as many decisions as are wanted are
not kept, fewer layers that hold the gate and keep no fewer are taken instead. Those that turn out
not to be needed are taken away.
"""

import dataclasses
import math
from collections.abc import Callable, Collection, Mapping, Sequence

from edgeseed.core.console import progress
from edgeseed.export.quantize.graph.layout import Layout
from edgeseed.export.quantize.search.policy import POLICY

_REASON = "it loses too much in integers"


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Score:
    """How near a quantized graph is to the float one, on photos it was not calibrated with."""

    agreement: float
    """Share of the decisions that are kept."""
    distance: float
    """By `core.agreement.output_distance`: finer than the share; candidates are ranked by it."""
    photos: int = 0
    """How many judged."""

    def keeps_fewer(self, other: "Score") -> bool:
        """Whether it keeps fewer decisions of the same photos, by more than chance moves them.

        Each photo that either decides otherwise than the float model counts for one of the two: the
        standard error of the difference is the root of those.
        """
        mine, others = ((1 - score.agreement) * score.photos for score in (self, other))
        return mine - others > math.sqrt(mine + others)


# The score of the graph with these operators in float, and why.
Evaluate = Callable[[Mapping[str, str]], Score]
# For the layers that are in float already, groups that others may be tried in.
Around = Callable[[Mapping[str, str]], Sequence[tuple[str, ...]]]
# The same score, with its decisions counted on other photos.
Count = Callable[[Mapping[str, str], Score], Score]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Search:
    """What the search found."""

    keep_float: Mapping[str, str]
    """Layers that stay in float, and why."""
    score: Score
    gains: Mapping[str, float]
    """By how much of its distance the graph comes nearer if this layer alone is in float."""


def search_floats(
    layout: Layout,
    evaluate: Evaluate,
    *,
    quick: Evaluate | None = None,
    count: Count = lambda _, score: score,
    around: Around | None = None,
    min_agreement: float,
    required: float = 1.0,
    most: int,
) -> Search:
    """Finds a small set of layers that must stay in float.

    Args:
        layout: The layout with everything in integers.
        evaluate: The score with some operators in float.
        quick: The same on fewer photos, for the gain of every layer alone.
        count: The same score, its decisions counted on photos that rank nothing. Called for what
            each step chose, which the photos that rank flatter, and before a layer is taken away.
        around: Groups of layers to be tried together, for those that are in float; by default
            neighbours, at first.
        min_agreement: The share of decisions to keep, where layers pay.
        required: The share that the gate asks, for which, and a standard error more, layers are
            left in float that do not.
        most: The most layers to give back.
    """
    layers = layout.layers
    gains = _gains(layers, quick or evaluate)
    chosen: dict[str, str] = {}
    judged = evaluate({})
    score = count({}, judged)
    # The gate judges other photos, of which a standard error fewer may be kept.
    # (A gate that asks for more than all holds nowhere, and has no error.)
    variance = max(0.0, required * (1 - required))
    chance = math.sqrt(variance / score.photos) if score.photos else 0.0
    sure = min(required + chance, max(required, min_agreement))
    reached = [(chosen, score)]
    steps: list[tuple[tuple[str, ...], float]] = []
    idle_from: int | None = None
    with progress("leaving layers in float", most, "layers") as bar:
        while len(chosen) < min(most, len(layers)) and score.agreement < min_agreement:
            groups: list[tuple[str, ...]] = [(n,) for n in _candidates(layers, gains, chosen)]
            if around is not None:
                groups += around(chosen)
            elif not chosen:
                groups += _pairs(layers, gains)
            left = min(most, len(layers)) - len(chosen)
            tried = {}
            for group in dict.fromkeys(group for group in groups if len(group) <= left):
                tried[group] = evaluate({**chosen, **dict.fromkeys(group, _REASON)})
            # In this order: where they are the same, nothing is added to a whole number of photos.
            best = _best(tried, min_agreement + (judged.agreement - score.agreement))
            steps.append((best, 1.0 - tried[best].distance / max(score.distance, 1e-12)))
            chosen = {**chosen, **dict.fromkeys(best, _REASON)}
            judged = tried[best]
            score = count(chosen, judged)
            reached.append((chosen, score))
            bar.advance(len(best))
            before = max(0, len(reached) - 1 - POLICY.patience)
            if (
                len(reached) > POLICY.patience
                and score.distance > POLICY.idle * reached[before][1].distance
            ):
                # Those two helped little, and each costs speed.
                idle_from = before if idle_from is None else idle_from
            if idle_from is not None and _first_that_holds(reached[idle_from:], sure):
                break
    kept = _settle(reached, idle_from, min_agreement=min_agreement, required=required, sure=sure)
    chosen, score = _without_needless(kept, evaluate, count, min_agreement=min_agreement)
    return Search(keep_float=_reasons(chosen, steps, gains), score=score, gains=gains)


_State = tuple[dict[str, str], Score]


def _settle(
    reached: Sequence[_State],
    idle_from: int | None,
    *,
    min_agreement: float,
    required: float,
    sure: float,
) -> _State:
    """Which of the states is kept: the last, if it keeps what is wanted.

    Args:
        reached: All of them, beginning with that of no layers.
        idle_from: The first after which layers helped little, if they did.
        min_agreement: The share of decisions that is wanted.
        required: The share that the gate asks.
        sure: That share and a standard error more.
    """
    chosen, score = reached[-1]
    if idle_from is not None:
        rest = reached[idle_from:]
        chosen, score = _for_the_gate(rest, required, sure) or rest[0]
    if score.agreement < min_agreement and score.distance > POLICY.idle * reached[0][1].distance:
        # Also where there were too few layers for two that help little.
        chosen, score = _for_the_gate([reached[0], (chosen, score)], required, sure) or reached[0]
    if score.agreement < min_agreement:
        chosen, score = _with_fewer((chosen, score), reached, required)
    return chosen, score


def _without_needless(
    state: _State, evaluate: Evaluate, count: Count, *, min_agreement: float
) -> _State:
    """The layers that are still needed now that all of them are in float."""
    chosen, score = state
    for name in list(chosen):
        fewer = {other: why for other, why in chosen.items() if other != name}
        without = evaluate(fewer)
        # A count of decisions alone would take away any layer that does not tip one of them.
        if without.distance > POLICY.needless * score.distance:
            continue
        without = count(fewer, without)
        if without.agreement >= min(min_agreement, score.agreement):
            chosen, score = fewer, without
    return chosen, score


def _first_that_holds(states: Sequence[_State], required: float) -> _State | None:
    return next((state for state in states if state[1].agreement >= required), None)


def _for_the_gate(states: Sequence[_State], required: float, sure: float) -> _State | None:
    """The first that holds the gate surely, or else what keeps most of those that hold it."""
    holding = [state for state in states if state[1].agreement >= required]
    most = max(holding, key=lambda state: state[1].agreement, default=None)
    return _first_that_holds(holding, sure) or most


def _with_fewer(state: _State, states: Sequence[_State], required: float) -> _State:
    """What holds the gate with fewer layers and keeps no fewer decisions, or else the same.

    A MobileNetV3-L at 224 px was nearer with four, kept 252 decisions of 256 in place of 253, and
    was a tenth slower.
    """
    least = max(required, state[1].agreement)
    fewer = [
        other for other in states if len(other[0]) < len(state[0]) and other[1].agreement >= least
    ]
    return max(fewer, key=lambda other: other[1].agreement, default=state)


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


def _best(tried: Mapping[tuple[str, ...], Score], min_agreement: float) -> tuple[str, ...]:
    """The nearest; one layer rather than two if it is enough, or the second not worth it."""
    enough = [group for group in tried if tried[group].agreement >= min_agreement]
    fewest = min((len(group) for group in enough), default=0)
    left = [group for group in enough if len(group) == fewest] or list(tried)
    return min(left, key=lambda group: tried[group].distance / POLICY.idle ** len(group))


def _pairs(layers: Sequence[str], gains: Mapping[str, float]) -> list[tuple[str, ...]]:
    """Layers with a tensor between them that only both can keep from being rounded.

    The first ones, whose tensors are the largest, and those around what gains most alone.
    """
    alone = sorted(range(len(layers)), key=lambda at: -gains[layers[at]])[: POLICY.tried_alone]
    starts = {*range(POLICY.front), *alone, *(at - 1 for at in alone)}
    return [(layers[at], layers[at + 1]) for at in sorted(starts) if 0 <= at < len(layers) - 1]


def _reasons(
    chosen: Collection[str],
    steps: Sequence[tuple[tuple[str, ...], float]],
    gains: Mapping[str, float],
) -> dict[str, str]:
    """Why each is in float.

    Args:
        chosen: Layers.
        steps: Which were given back together, and the share of the distance that this took away.
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
