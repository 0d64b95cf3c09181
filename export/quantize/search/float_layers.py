"""Which layers stay in float so that the integer model answers as the float model does.

A layer in float costs speed, so few are taken:

1. **Gains.** Each layer is left in float alone. Its gain is the share of the distance between the
   integer and the float model that this takes away.
2. **Grow.** Each step leaves one more layer, or a group, in float: what takes away most for its
   size. Tried are the layers of greatest gain, the neighbours of those in float already, and
   groups around the tensors whose rounding moves the outputs most (`rounding_costs`). Groups,
   because a tensor stays rounded as long as one layer that writes or reads it is an integer one: of
   two layers around it, each alone gains nothing.
3. **Stop** where agreement is as wanted. Or, once a step has taken away less than a tenth of the
   distance, where the gate holds by a standard error.
4. **Choose.** If agreement is as wanted, all that was added stays. If not, only the steps before
   the first that helped little count, and what agrees most of these is taken. Where that does not
   hold the gate by a standard error, the first later one that does; else what agrees most of all
   that hold it at all.
5. **Prune.** A layer becomes an integer one again where that costs neither agreement nor distance.

Distances are of photos that rank (`PhotoSplit.ranking`), agreement is counted on others
(`PhotoSplit.acceptance`): a layer is flattered by the photos that chose it.
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
    around: Around = lambda _: (),
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
        around: Groups of layers to be tried together, for those that are in float.
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
    # How many of the states lie before the first step that helped little.
    useful = 1
    most = min(most, len(layers))
    with progress("leaving layers in float", most, "layers") as bar:
        while len(chosen) < most and score.agreement < min_agreement:
            groups: list[tuple[str, ...]] = [(n,) for n in _candidates(layers, gains, chosen)]
            groups += around(chosen)
            tried = {}
            for group in dict.fromkeys(groups):
                if len(group) <= most - len(chosen):
                    tried[group] = evaluate({**chosen, **dict.fromkeys(group, _REASON)})
            # In this order: where they are the same, nothing is added to a whole number of photos.
            best = _best(tried, min_agreement + (judged.agreement - score.agreement))
            steps.append((best, 1.0 - tried[best].distance / max(score.distance, 1e-12)))
            chosen = {**chosen, **dict.fromkeys(best, _REASON)}
            judged = tried[best]
            before, score = score, count(chosen, judged)
            reached.append((chosen, score))
            bar.advance(len(best))
            if useful == len(reached) - 1 and score.distance <= POLICY.idle * before.distance:
                useful += 1
            if useful < len(reached) and score.agreement >= sure:
                break
    kept = reached[-1]
    if score.agreement < min_agreement:
        kept = _choose(reached, useful, required=required, sure=sure)
    chosen, score = _without_needless(kept, evaluate, count, min_agreement=min_agreement)
    return Search(keep_float=_reasons(chosen, steps, gains), score=score, gains=gains)


_State = tuple[dict[str, str], Score]


def _choose(reached: Sequence[_State], useful: int, *, required: float, sure: float) -> _State:
    """Which of the states is kept where none agrees as wanted.

    Args:
        reached: All of them, beginning with that of no layers.
        useful: How many lie before the first step that helped little.
        required: The share that the gate asks.
        sure: That share and a standard error more.
    """

    def agreement(state: _State) -> float:
        return state[1].agreement

    best = max(reached[:useful], key=agreement)
    if agreement(best) >= sure:
        return best
    holding = [state for state in reached if agreement(state) >= required]
    first = next((state for state in holding if agreement(state) >= sure), None)
    # Where the gate holds nowhere, layers that help little are no use either.
    return first or max(holding, key=agreement, default=reached[useful - 1])


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
