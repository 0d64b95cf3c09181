import dataclasses
from collections.abc import Mapping

import pytest

from edgeseed.export.quantize.graph.layout import Layout
from edgeseed.export.quantize.search.float_layers import QuantizationScore, search_floats

LAYOUT = Layout(operators=dict.fromkeys(["a", "b", "c", "d"], "conv"), points={}, floats={})
LOSS = {"a": 0.01, "b": 0.08, "c": 0.05, "d": 0.0}


def evaluate(floats: Mapping[str, str]) -> QuantizationScore:
    lost = sum(loss for name, loss in LOSS.items() if name not in floats)
    return QuantizationScore(agreement=1 - lost, distance=lost)


def test_the_layers_that_lose_most_are_given_back_first() -> None:
    search = search_floats(LAYOUT, evaluate, search_target=0.93, most=4)
    assert list(search.keep_float) == ["b"]
    assert search.score.agreement >= 0.93
    assert max(search.gains, key=lambda name: search.gains[name]) == "b"


def test_no_more_than_allowed_are_given_back() -> None:
    search = search_floats(LAYOUT, evaluate, search_target=1.0, most=2)
    assert set(search.keep_float) == {"b", "c"}


def test_layers_that_help_only_together_are_found() -> None:
    """Behind a, b alone is worth nothing and with a everything; c looks better than b."""

    def neighbours(floats: Mapping[str, str]) -> QuantizationScore:
        lost = 0.10 - 0.02 * ("a" in floats) - 0.01 * ("c" in floats) - 0.005 * ("d" in floats)
        lost -= 0.06 * ("a" in floats and "b" in floats)
        return QuantizationScore(agreement=1 - lost, distance=lost)

    search = search_floats(LAYOUT, neighbours, search_target=0.97, most=4)
    assert set(search.keep_float) == {"a", "b"}


def test_a_layer_that_another_makes_needless_is_taken_away_again() -> None:
    def together(floats: Mapping[str, str]) -> QuantizationScore:
        """Alone b is best; with c and d nothing is lost, with or without it."""
        lost = 0.05 - 0.02 * ("b" in floats) - 0.015 * ("c" in floats) - 0.015 * ("d" in floats)
        lost = 0.0 if {"c", "d"} <= set(floats) else lost
        return QuantizationScore(agreement=1 - lost, distance=lost)

    search = search_floats(LAYOUT, together, search_target=0.99, most=4)
    assert set(search.keep_float) == {"c", "d"}


def test_the_search_ends_where_nothing_is_gained() -> None:
    """The first layer takes half of the loss, and of the others none takes two in a hundred."""
    layout = Layout(operators=dict.fromkeys("abcdefgh", "conv"), points={}, floats={})

    def idle(floats: Mapping[str, str]) -> QuantizationScore:
        lost = 0.2 - 0.1 * ("a" in floats) - 0.001 * len(floats)
        return QuantizationScore(agreement=1 - lost, distance=lost)

    search = search_floats(layout, idle, search_target=0.99, most=8)
    assert list(search.keep_float) == ["a"]


@pytest.mark.parametrize(
    ("gate_limit", "kept"),
    [
        (0.98, "a"),  # held with the one layer that pays
        (0.988, "abcdefgh"),  # takes eight of ten
        (0.998, "a"),  # out of reach: no layer is given up in vain
    ],
)
def test_layers_that_help_little_are_given_back_where_the_gate_asks_for_them(
    gate_limit: float, kept: str
) -> None:
    layout = Layout(operators=dict.fromkeys("abcdefghij", "conv"), points={}, floats={})

    def little(floats: Mapping[str, str]) -> QuantizationScore:
        lost = 0.04 - 0.02 * ("a" in floats) - 0.0009 * len(floats)
        return QuantizationScore(agreement=1 - lost / 1.1, distance=lost)

    search = search_floats(layout, little, search_target=0.999, gate_limit=gate_limit, most=10)
    assert set(search.keep_float) == set(kept)


@pytest.mark.parametrize(
    ("photos", "most", "kept"),
    [
        (0, 10, "a"),  # as if all photos there are had judged
        (512, 10, "abcdefgh"),  # 0.98 and a standard error of 0.0062: takes eight of ten
        (512, 4, "abcd"),  # out of reach: what keeps most of what holds 0.98
        (10**6, 10, "a"),
    ],
)
def test_the_gate_is_to_hold_on_other_photos_too(photos: int, most: int, kept: str) -> None:
    layout = Layout(operators=dict.fromkeys("abcdefghij", "conv"), points={}, floats={})

    def little(floats: Mapping[str, str]) -> QuantizationScore:
        lost = 0.04 - 0.0195 * ("a" in floats) - 0.0009 * len(floats)
        return QuantizationScore(agreement=1 - lost, distance=1.2 * lost, photos=photos)

    search = search_floats(layout, little, search_target=0.99, gate_limit=0.98, most=most)
    assert set(search.keep_float) == set(kept)


@pytest.mark.parametrize("gate_limit", [1.0, 1.01])
def test_a_gate_out_of_reach_costs_no_layers(gate_limit: float) -> None:
    layout = Layout(operators=dict.fromkeys("abcdefghij", "conv"), points={}, floats={})

    def little(floats: Mapping[str, str]) -> QuantizationScore:
        lost = 0.04 - 0.02 * ("a" in floats) - 0.0009 * len(floats)
        return QuantizationScore(agreement=1 - lost, distance=lost, photos=512)

    search = search_floats(layout, little, search_target=1.0, gate_limit=gate_limit, most=10)
    assert list(search.keep_float) == ["a"]


def test_layers_around_a_costly_tensor_are_tried_together_whenever_they_are_named() -> None:
    """b takes most; then a and c are worth nothing but together, and are no neighbours of b's."""
    layout = Layout(
        operators=dict.fromkeys(["b", "x", "a", "y", "c"], "conv"), points={}, floats={}
    )
    asked: list[set[str]] = []

    def apart(floats: Mapping[str, str]) -> QuantizationScore:
        lost = 0.1 - 0.05 * ("b" in floats) - 0.04 * ({"a", "c"} <= set(floats))
        lost -= 0.0001 * ("x" in floats) + 0.0002 * ("y" in floats)
        return QuantizationScore(agreement=1 - lost, distance=lost)

    def around(floats: Mapping[str, str]) -> list[tuple[str, ...]]:
        asked.append(set(floats))
        return [("a", "c"), ("a", "b", "c", "x")]

    search = search_floats(layout, apart, around=around, search_target=0.985, most=3)
    assert set(search.keep_float) == {"a", "b", "c"}
    assert asked == [set(), {"b"}]
    assert "alone, with c 80% of what was left" in search.keep_float["a"]
    few = search_floats(layout, apart, around=around, search_target=0.985, most=2)
    assert not {"a", "c"} <= set(few.keep_float)


def test_photos_that_are_flattered_do_not_prefer_one_layer_to_a_group() -> None:
    layout = Layout(
        operators=dict.fromkeys(["b", "x", "a", "y", "c"], "conv"), points={}, floats={}
    )

    def honest(floats: Mapping[str, str]) -> QuantizationScore:
        lost = 0.1 - 0.05 * ("b" in floats) - 0.04 * ({"a", "c"} <= set(floats))
        return QuantizationScore(agreement=1 - lost, distance=lost)

    def flattered(floats: Mapping[str, str]) -> QuantizationScore:
        return dataclasses.replace(honest(floats), agreement=1.0)

    search = search_floats(
        layout, flattered, measure_agreement=lambda floats, _: honest(floats),
        around=lambda _: [("a", "c")],
        search_target=0.985, gate_limit=0.98, most=3,
    )  # fmt: skip
    assert set(search.keep_float) == {"a", "b", "c"}


def test_of_a_group_one_that_is_not_needed_is_taken_away() -> None:
    layout = Layout(operators=dict.fromkeys("abcd", "conv"), points={}, floats={})

    def first(floats: Mapping[str, str]) -> QuantizationScore:
        lost = 0.1 - 0.09 * ({"a", "b"} <= set(floats))
        return QuantizationScore(agreement=1 - lost, distance=lost)

    search = search_floats(
        layout, first, around=lambda _: [("a", "b", "d")], search_target=0.985, most=3
    )
    assert set(search.keep_float) == {"a", "b"}
    assert "what was left" not in search.keep_float["a"]


def test_photos_that_chose_a_layer_do_not_say_that_it_is_enough() -> None:
    """Those that choose keep all once b is in float; new ones, what is really kept."""
    counted: list[set[str]] = []

    def flattered(floats: Mapping[str, str]) -> QuantizationScore:
        score = evaluate(floats)
        return dataclasses.replace(score, agreement=1.0) if "b" in floats else score

    def count(floats: Mapping[str, str], score: QuantizationScore) -> QuantizationScore:
        counted.append(set(floats))
        return dataclasses.replace(evaluate(floats), distance=score.distance, photos=1000)

    assert set(search_floats(LAYOUT, flattered, search_target=0.97, most=4).keep_float) == {"b"}
    search = search_floats(LAYOUT, flattered, measure_agreement=count, search_target=0.97, most=4)
    assert set(search.keep_float) == {"b", "c"}
    assert search.score.distance == pytest.approx(0.01)
    assert (search.score.agreement, search.score.photos) == (0.99, 1000)
    # None but what is chosen: they stay new.
    assert counted == [set(), {"b"}, {"b", "c"}]


def test_what_holds_the_gate_once_is_kept_though_more_layers_do_not() -> None:
    layout = Layout(operators=dict.fromkeys("abcdefgh", "conv"), points={}, floats={})

    def by_chance(floats: Mapping[str, str]) -> QuantizationScore:
        lost = 0.04 - 0.02 * ("a" in floats) - 0.0001 * len(floats)
        return QuantizationScore(agreement=0.99 if len(floats) == 2 else 0.97, distance=lost)

    search = search_floats(layout, by_chance, search_target=0.995, gate_limit=0.98, most=8)
    assert len(search.keep_float) == 2
    assert "a" in search.keep_float


@pytest.mark.parametrize(("gate_limit", "count"), [(0.98, 1), (0.96, 0), (0.999, 0)])
def test_one_layer_that_helps_little_stays_in_float_only_for_the_gate(
    gate_limit: float, count: int
) -> None:
    def slight(floats: Mapping[str, str]) -> QuantizationScore:
        lost = 0.02 - 0.001 * ("a" in floats)
        return QuantizationScore(agreement=0.985 if "a" in floats else 0.97, distance=lost)

    search = search_floats(LAYOUT, slight, search_target=0.99, gate_limit=gate_limit, most=1)
    assert len(search.keep_float) == count


def test_layers_that_together_help_little_all_stay_integers() -> None:
    def hopeless(floats: Mapping[str, str]) -> QuantizationScore:
        lost = 0.2 - 0.018 * ("a" in floats)
        return QuantizationScore(agreement=1 - lost, distance=lost)

    search = search_floats(LAYOUT, hopeless, search_target=0.99, most=4)
    assert search.keep_float == {}
    assert search.score == hopeless({})


def test_two_that_help_only_together_are_found_where_others_help_a_little() -> None:
    def rounded_between(floats: Mapping[str, str]) -> QuantizationScore:
        """A tensor between a and b takes most; c and d help a little."""
        lost = 0.10 - 0.0005 * ("c" in floats) - 0.0005 * ("d" in floats)
        lost -= 0.08 * ({"a", "b"} <= set(floats))
        return QuantizationScore(agreement=1 - lost, distance=lost)

    search = search_floats(
        LAYOUT, rounded_between, around=lambda _: [("a", "b")], search_target=0.99, most=4
    )
    assert set(search.keep_float) == {"a", "b"}


@pytest.mark.parametrize(
    ("kept", "before", "photos", "fewer"),
    [
        (999, 1008, 1024, True),  # 41 are off in either: 6.4 by chance
        (1003, 1004, 1024, False),
        (31, 32, 32, False),  # one photo is its own standard error
        (28, 32, 32, True),
        (32, 28, 32, False),
    ],
)
def test_decisions_are_fewer_beyond_what_chance_moves(
    kept: int, before: int, photos: int, fewer: bool
) -> None:
    score, start = (
        QuantizationScore(agreement=n / photos, distance=0.1, photos=photos) for n in (kept, before)
    )
    assert score.agrees_less(start) == fewer


@pytest.mark.parametrize(("kept", "layers"), [(0.984, set()), (0.989, {"a", "b"})])
def test_nearer_without_a_decision_more_is_not_worth_a_layer(kept: float, layers: set[str]) -> None:
    def nearer(floats: Mapping[str, str]) -> QuantizationScore:
        return QuantizationScore(agreement=1.0, distance=0.5 ** len(floats), photos=256)

    def count(floats: Mapping[str, str], score: QuantizationScore) -> QuantizationScore:
        return dataclasses.replace(score, agreement=kept if floats else 0.988)

    search = search_floats(
        LAYOUT, nearer, measure_agreement=count, around=lambda _: [("a", "b")],
        search_target=0.99, gate_limit=0.98, most=2,
    )  # fmt: skip
    assert set(search.keep_float) == layers
    assert search.score.agreement == (kept if layers else 0.988)


@pytest.mark.parametrize(
    ("counts", "layers"),
    [
        ((250, 252, 251, 250, 249), 1),  # the gate of 251 held once
        ((250, 252, 252, 252, 252), 1),
        ((250, 251, 252, 252, 252), 2),
        ((249, 248, 248, 248, 248), 4),  # the gate held nowhere: the nearest
        ((249, 250, 251, 252, 253), 4),
    ],
)
def test_no_more_layers_are_taken_than_bring_decisions_back(
    counts: tuple[int, ...], layers: int
) -> None:
    def nearer(floats: Mapping[str, str]) -> QuantizationScore:
        return QuantizationScore(agreement=1.0, distance=0.5 ** len(floats), photos=256)

    def count(floats: Mapping[str, str], score: QuantizationScore) -> QuantizationScore:
        return dataclasses.replace(score, agreement=counts[len(floats)] / 256)

    search = search_floats(
        LAYOUT,
        nearer,
        measure_agreement=count,
        around=lambda _: [],
        search_target=253 / 256,
        gate_limit=0.98,
        most=4,
    )
    assert len(search.keep_float) == layers
