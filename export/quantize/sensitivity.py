"""Which operators lose: the fewest are left in float that bring the decisions back.

Each layer is put back to float alone (all others stay integer), and the quality gained is measured
on photos that were not calibrated with. Layers are then given back in that order until the target
is met, and those that turn out not to be needed are taken away again.
"""

import dataclasses
from collections.abc import Callable, Mapping

from edgeseed.core.console import progress
from edgeseed.export.quantize.layout import Layout

_REASON = "it loses too much in integers"


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Score:
    """How near a quantized graph is to the float one, on photos it was not calibrated with."""

    agreement: float
    """Share of the decisions that are kept."""
    distance: float
    """See `gates.distance`: finer than the share, and the order in which candidates are ranked."""


# The score of the graph with these operators in float, and why.
Evaluate = Callable[[Mapping[str, str]], Score]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Search:
    """What the search found."""

    keep_float: Mapping[str, str]
    """Layers that stay in float, and why."""
    score: Score
    gains: Mapping[str, float]
    """By how much of its distance the graph comes nearer if this layer alone is in float."""


def search_floats(layout: Layout, evaluate: Evaluate, *, min_agreement: float, most: int) -> Search:
    """Finds a small set of layers that must stay in float.

    Args:
        layout: The layout with everything in integers.
        evaluate: The score with some operators in float.
        min_agreement: The share of decisions to keep.
        most: The most layers to give back.
    """
    base = evaluate({})
    gains = _gains(layout, evaluate, base)
    ranked = sorted(gains, key=lambda name: -gains[name])
    chosen: dict[str, str] = {}
    score = base
    for name in ranked[:most]:
        if score.agreement >= min_agreement:
            break
        chosen[name] = f"{_REASON}: in float it takes away {gains[name]:.0%} of the distance"
        score = evaluate(chosen)
    for name in list(chosen)[:-1]:
        fewer = {other: why for other, why in chosen.items() if other != name}
        without = evaluate(fewer)
        if without.agreement >= min(min_agreement, score.agreement):
            chosen, score = fewer, without
    return Search(keep_float=chosen, score=score, gains=gains)


def _gains(layout: Layout, evaluate: Evaluate, base: Score) -> dict[str, float]:
    layers = [name for name, operator in layout.operators.items() if operator in ("conv", "linear")]
    gains = {}
    with progress("searching sensitive layers", len(layers), "layers") as bar:
        for name in layers:
            alone = evaluate({name: _REASON})
            gains[name] = 1.0 - alone.distance / max(base.distance, 1e-12)
            bar.advance()
    return gains
