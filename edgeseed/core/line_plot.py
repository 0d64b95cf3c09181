"""A plot of lines over one axis: curves of training, accuracy against photos seen."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from edgeseed.core.svg import Scale, Svg, text_width, tick_labels

_TEXT = 12.5
_LEFT, _RIGHT, _TOP, _FOOT = 56, 16, 14, 44
_LEGEND_LINE, _SWATCH, _GAP = 20, 22, 18
# More dots than this touch one another and hide the line.
_MOST_DOTS = 60
# Room below the lowest and above the highest value, as a share of the span between them.
_MARGIN = 0.06


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """One line of a plot."""

    label: str
    """Its entry in the legend; empty for none, such as for a second run of the same kind."""
    points: Sequence[tuple[float, float]]
    css: str
    """Its colour, `s0` to `s7`."""
    dashed: bool = False


def line_plot(
    lines: Sequence[Line],
    *,
    width: float,
    height: float,
    title: str,
    description: str,
    x_label: str,
    y_label: str,
    from_zero: bool = False,
) -> Svg:
    """Draws lines with a legend above them; a line that is not dashed has a dot for each point.

    Args:
        lines: Each with at least one point.
        width: Of the picture, in pixels.
        height: The same, without the legend, which is added on top as far as it needs.
        title: What it is, read out by screen readers.
        description: What it shows, in a sentence with numbers.
        x_label: Name and unit of the horizontal axis.
        y_label: Name and unit of the vertical axis.
        from_zero: Whether the vertical axis starts at zero.
    """
    legend = _legend_rows([line for line in lines if line.label], width - _LEFT - _RIGHT)
    top = _TOP + _LEGEND_LINE * (1 + len(legend))
    svg = Svg(width, height + _LEGEND_LINE * len(legend), title=title, description=description)
    across, up = _scales(lines, from_zero=from_zero)
    across = across.on(_LEFT, width - _RIGHT)
    up = up.on(svg.height - _FOOT, top)
    _draw_legend(svg, legend)
    _draw_axes(svg, across, up, whole=_are_whole(lines), x_label=x_label)
    svg.text(_LEFT, top - 10, y_label)
    for line in lines:
        points = [(across(x), up(y)) for x, y in line.points]
        svg.path(points, css=_edge(line))
        if len(points) == 1 or (len(points) <= _MOST_DOTS and not line.dashed):
            for (x, y), (x_value, y_value) in zip(points, line.points, strict=True):
                tooltip = f"{line.label}: {y_value:.4g} at {x_value:g}"
                svg.add("circle", cx=x, cy=y, r=3, css=f"dot {line.css}", tooltip=tooltip)
    return svg


def _edge(line: Line) -> str:
    return f"edge {line.css}" + (" dashed" if line.dashed else "")


def _scales(lines: Sequence[Line], *, from_zero: bool) -> tuple[Scale, Scale]:
    xs = [x for line in lines for x, _ in line.points]
    ys = [y for line in lines for _, y in line.points]
    low, high = (0.0 if from_zero else min(ys)), max(ys)
    # One point, or a flat line, still needs an axis with two ends.
    margin = _MARGIN * (high - low) or 0.5 * abs(high) or 0.5
    return (
        Scale(min(xs), max(max(xs), min(xs) + 1), 0, 1),
        Scale(low if from_zero else low - margin, high + margin, 0, 1),
    )


def _are_whole(lines: Sequence[Line]) -> bool:
    return all(x == math.floor(x) for line in lines for x, _ in line.points)


def _draw_axes(svg: Svg, across: Scale, up: Scale, *, whole: bool, x_label: str) -> None:
    heights = up.ticks(5)
    for tick, label in zip(heights, tick_labels(heights), strict=True):
        svg.line(across.start, up(tick), across.end, up(tick), css="grid")
        svg.text(across.start - 8, up(tick) + 4, label, anchor="end")
    ticks = across.ticks(max(2, int((across.end - across.start) / 62)))
    if whole:  # there is no epoch 1.5
        ticks = [tick for tick in ticks if abs(tick - round(tick)) < 1e-9]
    for tick, label in zip(ticks, tick_labels(ticks), strict=True):
        svg.text(across(tick), up.start + 17, label, anchor="middle")
    svg.line(across.start, up.start, across.end, up.start, css="axis")
    svg.text(across.end, up.start + 35, x_label, anchor="end")


def _legend_rows(lines: Sequence[Line], room: float) -> list[list[tuple[float, Line]]]:
    """Lines with where their entries begin, in as many rows as they need."""
    if len(lines) < 2 and not any(line.dashed for line in lines):
        return []  # the axis names a single line
    rows: list[list[tuple[float, Line]]] = [[]]
    x = 0.0
    for line in lines:
        wide = _SWATCH + text_width(line.label, size=_TEXT) + _GAP
        if rows[-1] and x + wide > room:
            rows.append([])
            x = 0.0
        rows[-1].append((x, line))
        x += wide
    return rows


def _draw_legend(svg: Svg, rows: Sequence[Sequence[tuple[float, Line]]]) -> None:
    for index, row in enumerate(rows):
        y = _TOP + _LEGEND_LINE * index
        for x, line in row:
            start = _LEFT + x
            svg.path([(start, y), (start + _SWATCH - 6, y)], css=_edge(line))
            svg.text(start + _SWATCH, y + 4, line.label)
