import dataclasses
from typing import Any

import pytest

from edgeseed.core.errors import ConfigError, UnknownNameError
from edgeseed.runtime.conditions import METRICS, Rule, parse_rule
from edgeseed.runtime.power import Power


@pytest.mark.parametrize(
    ("text", "metric", "sign", "kind", "amount"),
    [
        ("p90>8ms", "p90", ">", "absolute", 8.0),
        ("p90>8", "p90", ">", "absolute", 8.0),
        (" p90 > 8.5 ms ", "p90", ">", "absolute", 8.5),
        ("p90>+5%", "p90", ">", "percent", 0.05),
        ("throughput<-10%", "throughput", "<", "percent", -0.1),
        ("top1<0.9", "top1", "<", "absolute", 0.9),
        ("top1<90%", "top1", "<", "absolute", 0.9),
        ("top1<-1pt", "top1", "<", "points", -0.01),
        ("agreement<98.5%", "agreement", "<", "absolute", 0.985),
        ("size>4MB", "size", ">", "absolute", 4.0),
        ("first-run>.5ms", "first-run", ">", "absolute", 0.5),
        ("drift>1.1", "drift", ">", "absolute", 1.1),
        ("cosine<0.99", "cosine", "<", "absolute", 0.99),
    ],
)
def test_limits_are_read(text: str, metric: str, sign: str, kind: str, amount: float) -> None:
    rule = parse_rule(text)

    assert (rule.metric, rule.sign, rule.kind) == (metric, sign, kind)
    assert rule.amount == pytest.approx(amount)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("p90", r"'p90' is not understood; write it like \"p90>8ms\""),
        ("", "is not understood"),
        ("p90>=5", "is not understood"),
        ("p90>five", "is not understood"),
        ("p90>5 seconds", "is not understood"),
        ("p90>5%", r"p90 is in ms, not in %; for a change write p90>\+5%"),
        ("p90>5MiB", "p90 is in ms, not in MiB"),
        ("size>3ms", "model size is in MB, not in ms"),
        ("p90>+5ms", r"a change \(\+ or -\) of p90 is given in %"),
        ("p90>+5pt", r"a change \(\+ or -\) of p90 is given in %"),
        ("top1<-1", r"a change \(\+ or -\) of top-1 is given in % or pt"),
        ("top1<1pt", "top-1 is in %, not in pt; for a change write top1<-1pt"),
    ],
)
def test_a_limit_that_is_not_understood_says_how_to_write_it(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_rule(text)


def test_an_unknown_metric_suggests_the_nearest_and_lists_all() -> None:
    with pytest.raises(UnknownNameError, match=r"'p98'; did you mean 'p9.'\? known: .*top1"):
        parse_rule("p98>5ms")


@pytest.mark.parametrize(
    ("text", "baseline", "limit"),
    [("p90>8ms", None, 8.0), ("p90>+5%", 10.0, 10.5), ("top1<-1pt", 0.9, 0.89)],
)
def test_limits_refer_to_the_first_result(text: str, baseline: float | None, limit: float) -> None:
    assert parse_rule(text).limit(baseline) == pytest.approx(limit)


def test_a_value_on_the_limit_holds() -> None:
    above, below = parse_rule("p90>8ms"), parse_rule("top1<0.9")

    assert [above.breaks(value, 8.0) for value in (7.9, 8.0, 8.1)] == [False, False, True]
    assert [below.breaks(value, 0.9) for value in (0.89, 0.9, 0.91)] == [True, False, False]


@pytest.mark.parametrize("name", METRICS)
def test_every_metric_can_be_read_and_limited(name: str, make_result: Any) -> None:
    power = Power("tegrastats", 10.0, {"VDD_IN": 80.0})
    value = METRICS[name].read(dataclasses.replace(make_result(), power=power))

    assert value is not None
    assert value > 0
    assert METRICS[name].format(value)
    assert isinstance(parse_rule(f"{name}>1"), Rule)


def test_what_was_not_measured_is_none(make_result: Any) -> None:
    result = make_result(top1=None)

    assert [METRICS[name].read(result) for name in ("top1", "agreement", "cosine")] == [None] * 3


@pytest.mark.parametrize("text", ["top1<90", "agreement<99.5", "cosine<2"])
def test_a_limit_beyond_what_a_metric_can_be_is_refused(text: str) -> None:
    # `top1<90` was 9000 %, and every model passed it.
    with pytest.raises(ConfigError, match="is never above"):
        parse_rule(text)


def test_a_percentage_without_its_sign_says_how_to_write_it() -> None:
    with pytest.raises(ConfigError, match=r"is 9000%: top-1 .*; for a percentage write top1<90%"):
        parse_rule("top1<90")
