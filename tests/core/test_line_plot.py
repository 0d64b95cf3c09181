from xml.etree import ElementTree

import pytest

from edgeseed.core.line_plot import Line, line_plot
from edgeseed.core.svg import Svg


def draw(*lines: Line, width: float = 400, from_zero: bool = False) -> Svg:
    return line_plot(
        lines,
        width=width,
        height=200,
        title="t",
        description="d",
        x_label="epoch",
        y_label="loss",
        from_zero=from_zero,
    )


def parts(picture: Svg, tag: str) -> list[ElementTree.Element]:
    return list(ElementTree.fromstring(picture.render()).iter(tag))


def test_every_point_is_drawn_and_says_its_numbers() -> None:
    picture = draw(Line(label="loss", points=[(1, 4.0), (2, 2.0), (3, 1.0)], css="s0"))

    dots = parts(picture, "circle")
    assert [dot[0].text for dot in dots] == ["loss: 4 at 1", "loss: 2 at 2", "loss: 1 at 3"]
    heights = [float(dot.get("cy") or 0) for dot in dots]
    assert heights == sorted(heights), "less loss is further down"


def test_of_many_points_only_the_line_is_drawn() -> None:
    picture = draw(Line(label="loss", points=[(x, 1.0 / (1 + x)) for x in range(200)], css="s0"))

    assert not parts(picture, "circle")
    assert (parts(picture, "path")[0].get("d") or "").count("L") == 199


@pytest.mark.parametrize("points", [[(1.0, 0.5)], [(1.0, 0.0)], [(1.0, 2.0), (2.0, 2.0)]])
def test_one_point_or_a_flat_line_has_an_axis_all_the_same(
    points: list[tuple[float, float]],
) -> None:
    picture = draw(Line(label="loss", points=points, css="s0"))

    assert len(parts(picture, "circle")) == len(points)


def test_ticks_of_epochs_are_whole() -> None:
    picture = draw(Line(label="loss", points=[(1, 7.0), (2, 9.0)], css="s0"))

    middle = [each.text for each in parts(picture, "text") if each.get("text-anchor") == "middle"]
    assert middle == ["1", "2"]


def test_a_legend_names_several_lines_in_as_many_rows_as_it_needs() -> None:
    lines = [Line(label=f"method {i}", points=[(0, i), (1, i)], css="s0") for i in range(6)]
    alone, together = draw(lines[0]), draw(*lines)

    assert "method 0" not in [each.text for each in parts(alone, "text")]
    named = [each for each in parts(together, "text") if (each.text or "").startswith("method")]
    assert [each.text for each in named] == [line.label for line in lines]
    assert len({each.get("y") for each in named}) > 1
    assert all(float(each.get("x") or 0) < 400 for each in named)
    assert together.height > alone.height


def test_an_axis_from_zero_shows_zero() -> None:
    points = [(1, 7.0), (2, 9.0)]
    for from_zero in (False, True):
        picture = draw(Line(label="loss", points=points, css="s0"), from_zero=from_zero)
        heights = [each.text for each in parts(picture, "text") if each.get("text-anchor") == "end"]
        assert ("0" in heights) == from_zero
