from collections.abc import Callable
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from edgeseed.core.svg import text_width
from edgeseed.runtime.report import charts
from edgeseed.runtime.report.charts import Bar, Draw, Point, Series, TimeUnit
from edgeseed.runtime.report.page import NARROW, WIDE
from edgeseed.runtime.summary import Estimate, Summary

MS = TimeUnit("ms", 1.0)


def series(
    label: str = "a", median: float = 5.0, *, n: int = 500, spread: float = 0.03, **changes: Any
) -> Series:
    samples = np.random.default_rng(0).lognormal(np.log(median), spread, n)
    summary = Summary.from_samples((samples * 1e6).tolist())
    return Series(label=label, colour=0, samples=samples, summary=summary, **changes)


def estimate(value: float, reach: float = 0.1) -> Estimate:
    return Estimate(value=value, low=value - reach, high=value + reach)


def point(label: str, latency: float, quality: float, size: float = 4.0) -> Point:
    return Point(
        label=label,
        colour=1,
        latency=estimate(latency),
        quality=estimate(quality, 0.01),
        size_mb=size,
    )


CASES: dict[str, Callable[[], Draw]] = {
    "ridgeline": lambda: charts.ridgeline([series(), series("b", 7)], unit=MS),
    "ridgeline of far models": lambda: charts.ridgeline([series(), series("b", 700)], unit=MS),
    "ridgeline of one constant": lambda: charts.ridgeline([series(spread=0.0)], unit=MS),
    "ridgeline of few runs": lambda: charts.ridgeline([series(n=2)], unit=MS),
    "tail": lambda: charts.tail([series(), series("b", 7, n=64)], unit=MS),
    "tail of one constant": lambda: charts.tail([series(spread=0.0)], unit=MS),
    "tail of few runs": lambda: charts.tail([series(n=3)], unit=MS),
    "timeline": lambda: charts.timeline([series(), series("b", 7)], unit=MS, max_drift=1.15),
    "timeline of few runs": lambda: charts.timeline([series(n=3)], unit=MS, max_drift=1.15),
    "tradeoff": lambda: charts.tradeoff([point("a", 5, 0.9), point("b", 8, 0.95, 16)], unit=MS,
                                        quality="top-1"),
    "tradeoff of twins": lambda: charts.tradeoff([point(f"twin {i}", 5, 0.9) for i in range(6)],
                                                 unit=MS, quality="top-1"),
    "tradeoff of far models": lambda: charts.tradeoff([point("a", 1, 0.9), point("b", 90, 1.0)],
                                                      unit=MS, quality="top-1"),
    "bars": lambda: charts.bars([Bar(label="a", colour=0, value=0.5, text="50 %", low=0.4,
                                     high=0.6),
                                 Bar(label="b", colour=1, value=0.0, text="0 %")], title="Share"),
}  # fmt: skip


@pytest.mark.parametrize("width", [WIDE, NARROW])
@pytest.mark.parametrize("name", CASES)
def test_a_plot_is_xml_and_stays_within_its_frame(name: str, width: int) -> None:
    svg = CASES[name]()(width)

    root = ElementTree.fromstring(svg.render())

    assert "nan" not in svg.render()
    for node in root.iter():
        for attribute, limit in (
            ("x", width),
            ("cx", width),
            ("y", svg.height),
            ("cy", svg.height),
        ):
            if node.get(attribute) is not None:
                assert -0.5 <= float(str(node.get(attribute))) <= limit + 0.5, node.attrib
        for step in node.get("d", "").replace("M", "").replace(" Z", "").split(" L"):
            if step:
                x, y = map(float, step.split())
                assert -0.5 <= x <= width + 0.5
                assert -0.5 <= y <= svg.height + 0.5


@pytest.mark.parametrize("name", CASES)
def test_a_plot_says_its_numbers_to_those_who_do_not_see_it(name: str) -> None:
    root = ElementTree.fromstring(CASES[name]()(WIDE).render())

    assert any(character.isdigit() for character in str(root.get("aria-label")))


def test_labels_of_models_at_one_place_do_not_cover_each_other() -> None:
    root = ElementTree.fromstring(CASES["tradeoff of twins"]()(WIDE).render())

    rows = [float(str(t.get("y"))) for t in root.iter("text") if str(t.text).startswith("twin")]
    sides = [float(str(t.get("x"))) for t in root.iter("text") if str(t.text).startswith("twin")]
    places = list(zip(sides, rows, strict=True))
    assert len(places) == 6
    assert all(
        abs(a[0] - b[0]) > 80 or abs(a[1] - b[1]) >= 17
        for i, a in enumerate(places)
        for b in places[:i]
    )


# What `recommend` timed on two cores of a Xeon: p90, a published accuracy and megabytes.
RECOMMENDED = [
    ("resnet50 int8", 18.8, 0.804, 25.86),
    ("mobilenetv4_conv_medium int8", 6.89, 0.791, 10.06),
    ("mobilenetv4_conv_medium fp32", 18.1, 0.791, 38.63),
    ("efficientnet_b0 int8", 8.74, 0.777, 5.79),
    ("efficientnet_b0 fp32", 11.7, 0.777, 20.99),
    ("mobilenetv3_large_100 int8", 3.77, 0.758, 5.77),
    ("mobilenetv3_large_100 fp32", 5.48, 0.758, 21.84),
    ("mobilenetv4_conv_small int8", 1.88, 0.738, 3.96),
    ("mobilenetv4_conv_small fp32", 3.38, 0.738, 15.02),
    ("resnet18 int8", 7.89, 0.715, 11.77),
    ("tiny_vit_5m_224 int8", 33.2, 0.809, 10.6),
    ("tiny_vit_5m_224 fp32", 41.1, 0.809, 26.37),
    ("resnet50 fp32", 59.6, 0.804, 102.05),
    ("resnet18 fp32", 28.3, 0.715, 46.74),
]


def test_labels_of_many_models_neither_cover_each_other_nor_leave_the_picture() -> None:
    points = [
        charts.Point(
            label=name,
            colour=0,
            latency=Estimate(value=ms, low=None, high=None),
            quality=Estimate(value=top1, low=None, high=None),
            size_mb=size_mb,
        )
        for name, ms, top1, size_mb in RECOMMENDED
    ]
    root = ElementTree.fromstring(charts.tradeoff(points, unit=MS, quality="top-1")(WIDE).render())

    boxes = {
        str(node.text): (float(str(node.get("x"))), float(str(node.get("y"))))
        for node in root.iter("text")
        if str(node.text).endswith("MB")
    }
    assert len(boxes) == len(RECOMMENDED)
    ends = {text: x + text_width(text, size=13.5) for text, (x, _) in boxes.items()}
    assert max(ends.values()) <= WIDE
    assert not [
        (one, other)
        for one, (x, y) in boxes.items()
        for other, (at, row) in boxes.items()
        if one < other and x < ends[other] and at < ends[one] and abs(y - row) < 14
    ]


def test_a_discs_area_is_the_models_size() -> None:
    draw = charts.tradeoff([point("a", 5, 0.9, 4), point("b", 8, 0.95, 16)], unit=MS, quality="q")
    root = ElementTree.fromstring(draw(WIDE).render())

    radii = [float(str(c.get("r"))) for c in root.iter("circle") if "bubble" in str(c.get("class"))]
    assert max(radii) / min(radii) == pytest.approx(2, rel=0.01)


def test_runs_that_a_picture_leaves_out_are_counted() -> None:
    calm = series()
    spiked = Series(
        label="s",
        colour=0,
        samples=np.r_[calm.samples, 50.0, 60.0],
        summary=Summary.from_samples((np.r_[calm.samples, 50.0, 60.0] * 1e6).tolist()),
    )

    assert charts.beyond([spiked]) >= 2


def test_a_calm_run_looks_calm() -> None:
    scale = charts._time_scale([series(spread=0.001)], 0, 100)

    assert scale.high - scale.low > 0.2 * 5


def test_a_long_tail_does_not_press_the_hills_into_a_corner() -> None:
    calm = series(median=1.0)
    samples = np.r_[calm.samples, np.full(50, 13.0)]
    summary = Summary.from_samples((samples * 1e6).tolist())
    scale = charts._time_scale(
        [Series(label="t", colour=0, samples=samples, summary=summary)], 0, 100
    )

    assert scale.log
    assert scale(1.1) - scale(0.95) > 4


def test_times_below_half_a_millisecond_are_in_microseconds() -> None:
    assert TimeUnit.fitting(0.2).format(0.0079) == "7.90 µs"
    assert TimeUnit.fitting(7.0).format(7.0) == "7.00 ms"


def test_an_unknown_end_of_an_interval_is_a_question_mark() -> None:
    assert MS.estimate(Estimate(value=5, low=4.5, high=None)) == "5.00 ms (4.50 … ?)"
