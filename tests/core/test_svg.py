import math
from pathlib import Path
from xml.etree import ElementTree

import pytest

from edgeseed.core.svg import Scale, Svg, linear_ticks, number, shorten, tick_labels, write_svg


def test_a_picture_is_xml_and_speaks() -> None:
    svg = Svg(100, 50, title='Fast & "slow"', description="a < b")
    svg.text(1, 2, "<script>", css="name")
    svg.path([(0, 0), (1.23456, 2)], css="edge s0")
    svg.add("circle", cx=1, cy=2, r=3, tooltip="p90 & more")

    root = ElementTree.fromstring(svg.render())

    assert root.get("role") == "img"
    assert root.get("aria-label") == 'Fast & "slow". a < b'
    assert root[0].text == "<script>"
    assert root[1].get("d") == "M0 0 L1.2 2"
    assert root[2][0].text == "p90 & more"


def test_a_picture_as_a_file_holds_its_style_and_loads_nothing(tmp_path: Path) -> None:
    svg = Svg(100, 50, title="t", description="d")
    svg.line(0, 0, 10, 10, css="grid")
    write_svg(tmp_path / "picture.svg", svg)

    root = ElementTree.parse(tmp_path / "picture.svg").getroot()
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert (root.get("width"), root.get("height")) == ("100", "50")
    style = root[0].text or ""
    assert "svg .grid" in style
    assert "prefers-color-scheme: dark" in style
    assert "url(" not in style
    assert "@import" not in style


def test_a_width_of_a_line_is_stronger_than_that_of_its_class() -> None:
    # As an attribute it lost: intervals in reports were as thin as all other lines.
    svg = Svg(100, 50, title="t", description="d")
    svg.line(0, 0, 10, 10, css="whisker s0", stroke_width=5)

    (line,) = ElementTree.fromstring(svg.render())
    assert line.get("style") == "stroke-width:5"


def test_a_panel_keeps_its_label_and_moves_as_a_whole() -> None:
    panel = Svg(40, 40, title="Loss", description="falls")
    panel.text(1, 2, "x")
    svg = Svg(100, 50, title="t", description="d")
    svg.place(panel, 60, 5)

    (group,) = ElementTree.fromstring(svg.render())
    assert group.get("transform") == "translate(60 5)"
    assert group.get("aria-label") == "Loss. falls"
    assert group[0].text == "x"


def test_a_path_without_points_is_not_drawn() -> None:
    svg = Svg(1, 1, title="", description="")
    svg.path([], css="edge")

    assert len(ElementTree.fromstring(svg.render())) == 0


@pytest.mark.parametrize("log", [False, True])
def test_a_scale_maps_its_ends(log: bool) -> None:
    scale = Scale(1, 100, 50, 250, log=log)

    assert (scale(1), scale(100)) == (50, 250)
    assert scale(10) == pytest.approx(150 if log else 68.18, abs=0.01)
    assert scale.clamp(1e9) == 250


@pytest.mark.parametrize(
    ("low", "high", "most", "ticks"),
    [
        (0, 10, 5, [0, 2, 4, 6, 8, 10]),
        (4.2, 5.1, 4, [4.5, 5.0]),
        (0.0011, 0.0019, 4, [0.0012, 0.0014, 0.0016, 0.0018]),
        (90, 1100, 4, [500, 1000]),
    ],
)
def test_ticks_are_round(low: float, high: float, most: int, ticks: list[float]) -> None:
    assert linear_ticks(low, high, most) == pytest.approx(ticks)


@pytest.mark.parametrize(("low", "high"), [(0.5, 80), (1, 1e6), (3, 29)])
def test_log_ticks_are_round_and_few(low: float, high: float) -> None:
    ticks = Scale(low, high, 0, 1, log=True).ticks(7)

    assert 1 <= len(ticks) <= 7
    assert all(f"{tick:e}"[0] in "1235" for tick in ticks)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (4.3456, "4.35"),
        (0.00123456, "0.00123"),
        (1234.5, "1,234"),
        (99.96, "100.0"),
        (1e-7, "0.000000100"),
        (math.inf, "inf"),
    ],
)
def test_numbers_are_for_people(value: float, text: str) -> None:
    assert number(value) == text


def test_tick_labels_share_their_decimals() -> None:
    assert tick_labels([4.0, 4.5, 5.0]) == ["4.0", "4.5", "5.0"]
    assert tick_labels([1000.0, 2000.0]) == ["1,000", "2,000"]
    assert tick_labels([]) == []


def test_long_labels_are_cut_with_an_ellipsis() -> None:
    assert shorten("mobilenetv3", width=1000, size=12) == "mobilenetv3"
    cut = shorten("mobilenetv3-large-100-int8", width=80, size=12)
    assert cut.endswith("…")
    assert len(cut) <= 13
