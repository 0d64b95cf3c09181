from collections.abc import Mapping

from edgeseed.export.quantize.layout import Layout
from edgeseed.export.quantize.sensitivity import Score, search_floats

LAYOUT = Layout(operators=dict.fromkeys(["a", "b", "c", "d"], "conv"), points={}, floats={})
LOSS = {"a": 0.01, "b": 0.08, "c": 0.05, "d": 0.0}


def evaluate(floats: Mapping[str, str]) -> Score:
    lost = sum(loss for name, loss in LOSS.items() if name not in floats)
    return Score(agreement=1 - lost, distance=lost)


def test_the_layers_that_lose_most_are_given_back_first() -> None:
    search = search_floats(LAYOUT, evaluate, min_agreement=0.93, most=4)
    assert list(search.keep_float) == ["b"]
    assert search.score.agreement >= 0.93
    assert max(search.gains, key=lambda name: search.gains[name]) == "b"


def test_no_more_than_allowed_are_given_back() -> None:
    search = search_floats(LAYOUT, evaluate, min_agreement=1.0, most=2)
    assert set(search.keep_float) == {"b", "c"}


def test_a_layer_that_another_makes_needless_is_taken_away_again() -> None:
    def together(floats: Mapping[str, str]) -> Score:
        """c does all that b does, and more; b only looks better alone."""
        lost = 0.0 if "c" in floats and len(floats) > 1 else 0.04 if "b" in floats else 0.05
        lost = 0.0 if set(floats) == {"c"} else lost
        return Score(agreement=1 - lost, distance=lost + (0.1 if set(floats) == {"c"} else 0.0))

    search = search_floats(LAYOUT, together, min_agreement=0.99, most=4)
    assert search.score.agreement >= 0.99
