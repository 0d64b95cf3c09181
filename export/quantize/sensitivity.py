"""Which operators lose: the fewest are left in float that bring the decisions back.

Each layer is put back to float alone (all others stay integer), and the quality gained is measured on
photos that were not calibrated with. Layers are then given back in that order until the target is met,
and those that turn out not to be needed are taken away again.
"""

import dataclasses
from collections.abc import Callable, Mapping

from edgeseed.core.console import progress
from edgeseed.export.quantize.layout import Layout

# Quality of the graph with these operators in float, and why: from -1 to 1, see `gates.quality`.
Evaluate = Callable[[Mapping[str, str]], float]

_REASON = "it loses too much in integers"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Search:
    """What the search found."""

    keep_float: Mapping[str, str]
    """Layers that stay in float, and why."""
    quality: float
    gains: Mapping[str, float]
    """What each layer alone gains by float."""


def search_floats(
    layout: Layout, evaluate: Evaluate, *, target: float, most: int, tolerance: float = 1e-3
) -> Search:
    """Finds a small set of layers that must stay in float.

    Args:
        layout: The layout with everything in integers.
        evaluate: Quality with some operators in float.
        target: The quality to reach.
        most: The most layers to give back.
        tolerance: Quality that may be lost when a needless layer is taken away again.
    """
    layers = [name for name, operator in layout.operators.items() if operator in ("conv", "linear")]
    base = evaluate({})
    gains: dict[str, float] = {}
    with progress("searching sensitive layers", len(layers), "layers") as bar:
        for name in layers:
            gains[name] = evaluate({name: _REASON}) - base
            bar.advance()
    ranked = sorted(layers, key=lambda name: -gains[name])
    chosen: dict[str, str] = {}
    best, quality = base, base
    for name in ranked[:most]:
        if quality >= target:
            break
        chosen[name] = f"{_REASON}: float alone gains {gains[name]:.3f}"
        quality = evaluate(chosen)
        best = max(best, quality)
    for name in list(chosen)[:-1]:
        fewer = {other: why for other, why in chosen.items() if other != name}
        without = evaluate(fewer)
        if without >= min(target, quality - tolerance):
            chosen, quality = fewer, without
    return Search(keep_float=chosen, quality=quality, gains=gains)
