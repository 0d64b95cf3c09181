"""The plots: each takes numbers and gives a function that draws them at a width.

Every plot is read without colour too: its series are named beside them, and said in words in its
label for screen readers.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from edgeseed.core.svg import Scale, Svg, number, shorten, text_width, tick_labels
from edgeseed.runtime.summary import Estimate, Summary

Draw = Callable[[int], Svg]
Samples = NDArray[np.float64]

COLOURS = 8
_TEXT = 12.5
_NAME = 13.5
_PAD = 8
# Beyond this ratio a linear axis would press the fast models into its first pixels.
_LOG_FROM = 3.0
# Nor leave one tail that it takes up the whole axis.
_LOG_FROM_TAIL = 8.0
_LARGEST_DISC = 30.0
# From so many models on, each makes the picture so much higher: their names need the room.
_CROWD = 8
_CROWD_LINE = 14
# Wide enough to write names beside the lines.
_ROOMY = 600


@dataclass(frozen=True, kw_only=True, slots=True)
class Series:
    """One measurement. Times in the unit of the plot."""

    label: str
    colour: int
    samples: Samples
    """In the order in which they happened."""
    summary: Summary
    headline: Literal["p90", "p50"] = "p90"
    """The figure to write beside it."""
    valid: bool = True

    @property
    def css(self) -> str:
        """Its colour's class, paler when it does not count."""
        return f"s{self.colour % COLOURS}" + ("" if self.valid else " faded")


@dataclass(frozen=True, slots=True)
class TimeUnit:
    """The unit of a time axis: ms, or µs for models so small that ms would be all zeros."""

    name: str
    per_ms: float

    @classmethod
    def fitting(cls, longest_ms: float) -> "TimeUnit":
        """The unit in which the longest time reads well."""
        return cls("ms", 1.0) if longest_ms >= 0.5 else cls("µs", 1000.0)

    def format(self, ms: float) -> str:
        """A time with its unit."""
        return f"{number(ms * self.per_ms)} {self.name}"

    def estimate(self, estimate: Estimate) -> str:
        """A time, its unit, and its interval."""
        ends = (
            "?" if end is None else number(end * self.per_ms)
            for end in (estimate.low, estimate.high)
        )
        return f"{self.format(estimate.value)} ({' … '.join(ends)})"


def _time_scale(series: Sequence[Series], start: float, end: float) -> Scale:
    """From the fastest run to a little past the slowest p99; rarer runs are counted in words."""
    low = min(float(np.percentile(item.samples, 0.5)) for item in series)
    high = max(item.summary.p99.value for item in series)
    medians = [item.summary.p50.value for item in series]
    if max(medians) / min(medians) > _LOG_FROM or high / low > _LOG_FROM_TAIL:
        return Scale(low / 1.08, high * 1.12, start, end, log=True)
    # A calm run must look calm: never show less than a tenth of the median to each side.
    middle = 0.1 * max(medians)
    margin = max(0.06 * (high - low), middle)
    return Scale(max(0.0, low - margin), high + margin, start, end)


def beyond(series: Sequence[Series]) -> int:
    """How many runs are slower than a time axis shows."""
    scale = _time_scale(series, 0, 1)
    return sum(int((item.samples > scale.high).sum()) for item in series)


def _x_axis(svg: Svg, scale: Scale, *, top: float, bottom: float, name: str) -> None:
    room = abs(scale.end - scale.start) / 62
    ticks = scale.ticks(max(2, int(room)))
    labels = [f"{tick:,g}" for tick in ticks] if scale.log else tick_labels(ticks)
    for tick, label in zip(ticks, labels, strict=True):
        x = scale(tick)
        svg.line(x, top, x, bottom, css="grid")
        svg.text(x, bottom + 17, label, anchor="middle")
    svg.line(scale.start, bottom, scale.end, bottom, css="axis")
    kind = " (logarithmic)" if scale.log else ""
    svg.text(scale.end, bottom + 35, name + kind, anchor="end")


# --------------------------------------------------------------------------- distributions


_LANE, _RIDGE, _HEAD, _FOOT = 86, 46, 8, 44


def ridgeline(series: Sequence[Series], *, unit: TimeUnit) -> Draw:
    """One lane a series: the shape of its latencies, with p50, p90 and its interval, and p99."""

    def draw(width: int) -> Svg:
        height = _HEAD + _LANE * len(series) + _FOOT
        svg = Svg(
            width,
            height,
            title="Distribution of latencies",
            description="; ".join(f"{item.label}: {_spoken(item, unit)}" for item in series),
        )
        scale = _time_scale(series, _PAD, width - _PAD)
        _x_axis(svg, scale, top=_HEAD, bottom=height - _FOOT, name=f"{unit.name} per image")
        for lane, item in enumerate(series):
            _lane(svg, item, scale, unit, floor=_HEAD + _LANE * (lane + 1) - 14)
        return svg

    return draw


def _spoken(item: Series, unit: TimeUnit) -> str:
    return (
        f"p50 {number(item.summary.p50.value)}, p90 {number(item.summary.p90.value)}, "
        f"p99 {number(item.summary.p99.value)} {unit.name}"
    )


def _lane(svg: Svg, item: Series, scale: Scale, unit: TimeUnit, *, floor: float) -> None:
    summary, css = item.summary, item.css
    value = summary.p90.value if item.headline == "p90" else summary.p50.value
    figures = f"{item.headline} {number(value)} {unit.name}"
    room = svg.width - 2 * _PAD - text_width(figures, size=_NAME) - 12
    svg.text(_PAD, floor - _RIDGE - 8, shorten(item.label, width=room, size=_NAME), css="name")
    svg.text(svg.width - _PAD, floor - _RIDGE - 8, figures, anchor="end", css="value")
    outline = _density(item.samples, scale, floor)
    svg.path([(scale.start, floor), *outline, (scale.end, floor)], closed=True, css=f"area {css}")
    svg.path(outline, css=f"edge {css}")
    svg.line(scale.start, floor, scale.end, floor, css="axis")
    middle = scale.clamp(summary.p50.value)
    svg.line(middle, floor, middle, _height_at(outline, middle), css=f"whisker {css}")
    _interval(svg, summary.p90, scale, floor, css=css, label=item.label)
    tail = scale.clamp(summary.p99.value)
    svg.line(tail, floor - 7, tail, floor + 7, css=f"whisker {css}")


def _interval(
    svg: Svg, estimate: Estimate, scale: Scale, y: float, *, css: str, label: str
) -> None:
    low = scale.low if estimate.low is None else estimate.low
    high = scale.high if estimate.high is None else estimate.high
    svg.line(scale.clamp(low), y, scale.clamp(high), y, css=f"whisker {css}", stroke_width=5)
    x = scale.clamp(estimate.value)
    svg.add("circle", cx=x, cy=y, r=5.5, css=f"dot {css}", tooltip=f"{label}: p90")


def _density(samples: Samples, scale: Scale, floor: float) -> list[tuple[float, float]]:
    """A histogram on the axis' own scale, smoothed by a Gaussian; the peak fills the lane."""
    bins = 240
    edges = np.linspace(scale.start, scale.end, bins + 1)
    positions = _positions(samples, scale)
    counts = np.histogram(positions, bins=edges)[0].astype(np.float64)
    inside = positions[(positions >= scale.start) & (positions <= scale.end)]
    spread = 0.9 * _robust_spread(inside) * max(1, inside.size) ** -0.2
    width = max(1.0, spread / (edges[1] - edges[0]))
    reach = math.ceil(4 * width)
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / width) ** 2)
    smooth = np.convolve(counts, kernel)[reach : reach + bins]
    heights = floor - _RIDGE * smooth / max(float(smooth.max()), 1e-12)
    centres = (edges[:-1] + edges[1:]) / 2
    return _simplify([(float(x), float(y)) for x, y in zip(centres, heights, strict=True)])


def _positions(samples: Samples, scale: Scale) -> Samples:
    inner = np.log(samples) if scale.log else samples
    low, high = (math.log(v) if scale.log else v for v in (scale.low, scale.high))
    return scale.start + (inner - low) / (high - low) * (scale.end - scale.start)


def _robust_spread(values: Samples) -> float:
    if values.size < 2:
        return 0.0
    quarter, three = np.percentile(values, [25, 75])
    return float(min(values.std(), (three - quarter) / 1.34))


def _simplify(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Without the points that lie on a straight level between their neighbours."""
    kept = [
        point
        for before, point, after in zip(points, points[1:], points[2:], strict=False)
        if not abs(before[1] - point[1]) < 0.05 > abs(after[1] - point[1])
    ]
    return [points[0], *kept, points[-1]]


def _height_at(outline: Sequence[tuple[float, float]], x: float) -> float:
    xs, ys = zip(*outline, strict=True)
    return float(np.interp(x, xs, ys))


# --------------------------------------------------------------------------- tail


_RARE = ((0.5, "half"), (0.1, "1 in 10"), (0.01, "1 in 100"), (0.001, "1 in 1,000"))
# A quantile with fewer runs than this beyond it is drawn by a single accident.
_BEHIND = 5


def tail(series: Sequence[Series], *, unit: TimeUnit) -> Draw:
    """How slow the rare runs are: latency against how rarely it is exceeded."""
    rarest = min(_BEHIND / max(item.samples.size for item in series), 0.05)

    def draw(width: int) -> Svg:
        roomy = width >= _ROOMY
        names = max(text_width(item.label, size=_NAME) for item in series)
        right = min(names + 20, 0.3 * width) if roomy else _PAD + 4
        left, bottom = 50, 44
        top = 14 if roomy else 22 + _KEY_LINE * len(series)
        height = top + 290
        svg = Svg(
            width,
            height,
            title="Slow runs",
            description="; ".join(f"{item.label}: {_spoken(item, unit)}" for item in series),
        )
        across = Scale(1.0, 1 / rarest, left, width - right, log=True)
        highest = max(_quantile(item, rarest) for item in series)
        lowest = min(item.summary.min for item in series)
        margin = 0.05 * (highest - lowest) or highest
        up = Scale(max(0.0, lowest - margin), highest + margin, height - bottom, top)
        _rarity_axis(svg, across, up, rarest)
        _y_axis(svg, up, across, name=unit.name)
        lines = [_tail_points(item, across, up, rarest) for item in series]
        for item, points in zip(series, lines, strict=True):
            svg.path(points, css=f"edge {item.css}")
            x, y = points[-1]
            svg.add("circle", cx=x, cy=y, r=3.5, css=f"dot {item.css}", tooltip=item.label)
        if roomy:
            _name_lines(svg, series, [points[-1] for points in lines], x=across.end + 12)
        else:
            _key(svg, [(item.label, item.css) for item in series])
        return svg

    return draw


def _name_lines(
    svg: Svg, series: Sequence[Series], ends: Sequence[tuple[float, float]], *, x: float
) -> None:
    """Names beside the lines' ends, from the top down, none over another."""
    floor = -math.inf
    for item, (end, y) in sorted(zip(series, ends, strict=True), key=lambda pair: pair[1][1]):
        row = max(y, floor + 18)
        floor = row
        if x - end > 20 or row - y > 6:
            svg.line(end + 5, y, x - 3, row, css="leader")
        label = shorten(item.label, width=svg.width - x, size=_NAME)
        svg.text(x, row + 4.5, label, css="name")


_KEY_LINE = 19


def _key(svg: Svg, items: Sequence[tuple[str, str]]) -> None:
    """Colours and names in lines of their own, where there is no room in the picture."""
    for line, (name, css) in enumerate(items):
        y = 12 + _KEY_LINE * line
        svg.add("circle", cx=_PAD + 6, cy=y - 4, r=5, css=f"dot {css}")
        svg.text(_PAD + 18, y, shorten(name, width=svg.width - 34, size=_NAME), css="value")


def _quantile(item: Series, share: float) -> float:
    reachable = max(share, _BEHIND / item.samples.size)
    return float(np.quantile(item.samples, max(0.0, 1 - reachable)))


def _tail_points(
    item: Series, across: Scale, up: Scale, rarest: float
) -> list[tuple[float, float]]:
    last = min(0.5, max(rarest, _BEHIND / item.samples.size))
    shares = np.geomspace(1.0, last, 120)
    values = np.quantile(item.samples, 1 - shares)
    return [(across(1 / s), up.clamp(v)) for s, v in zip(shares, values.tolist(), strict=True)]


def _rarity_axis(svg: Svg, across: Scale, up: Scale, rarest: float) -> None:
    labels = [(1.0, "all"), *(item for item in _RARE if item[0] >= rarest)]
    svg.line(across.start, up.start, across.end, up.start, css="axis")
    for share, label in labels:
        x = across(1 / share)
        svg.line(x, up.end, x, up.start, css="grid")
        svg.text(x, up.start + 17, label, anchor="start" if share == 1 else "middle")
    svg.text(across.end, up.start + 35, "share of runs that are slower", anchor="end")


def _y_axis(svg: Svg, up: Scale, across: Scale, *, name: str, most: int = 5) -> None:
    ticks = up.ticks(most)
    for tick, label in zip(ticks, tick_labels(ticks), strict=True):
        y = up(tick)
        svg.line(across.start, y, across.end, y, css="grid")
        svg.text(across.start - 7, y + 4, label, anchor="end")
    if name:
        svg.text(across.start - 7, up.end - 2, name, anchor="end")


# --------------------------------------------------------------------------- time


_PANEL, _PANEL_HEAD = 132, 26
_BINS, _BIN_RUNS = 80, 16


def timeline(series: Sequence[Series], *, unit: TimeUnit, max_drift: float) -> Draw:
    """One panel a series: median and p10 to p90 over the course of the run."""
    seconds = [_clock(item, unit) for item in series]

    def draw(width: int) -> Svg:
        height = _PANEL * len(series) + 22
        svg = Svg(
            width,
            height,
            title="Latency in the course of the run",
            description="; ".join(
                f"{item.label}: ended {item.summary.drift:.2f} times as slow as it began"
                for item in series
            ),
        )
        across = Scale(0.0, max(float(clock[-1]) for clock in seconds), 50, width - _PAD)
        for panel, (item, clock) in enumerate(zip(series, seconds, strict=True)):
            _panel(svg, item, clock, across, top=panel * _PANEL, max_drift=max_drift)
        bottom = _PANEL * len(series) - 8
        for tick, label in zip(
            ticks := across.ticks(max(2, width // 90)), tick_labels(ticks), strict=True
        ):
            svg.text(across(tick), bottom + 14, label, anchor="middle")
        svg.text(across.end, bottom + 30, "seconds", anchor="end")
        return svg

    return draw


def _clock(item: Series, unit: TimeUnit) -> Samples:
    """Seconds at which each run ended, counting the runs alone."""
    return np.asarray(np.cumsum(item.samples) / unit.per_ms / 1000, dtype=np.float64)


def _panel(
    svg: Svg, item: Series, clock: Samples, across: Scale, *, top: float, max_drift: float
) -> None:
    bins = _binned(item.samples, clock)
    median = item.summary.p50.value
    start = float(np.median(item.samples[: max(1, item.samples.size // 10)]))
    low = min(0.85 * median, float(bins[:, 1].min()))
    high = max(1.05 * start * max_drift, float(bins[:, 3].max()))
    up = Scale(low, high, top + _PANEL - 10, top + _PANEL_HEAD)
    drift = f"drift × {item.summary.drift:.2f}"
    room = svg.width - 2 * _PAD - text_width(drift, size=_NAME) - 12
    svg.text(_PAD, top + 15, shorten(item.label, width=room, size=_NAME), css="name")
    svg.text(svg.width - _PAD, top + 15, drift, anchor="end", css="value")
    _y_axis(svg, up, across, name="", most=3)
    svg.line(across.start, up.start, across.end, up.start, css="axis")
    limit = up(start * max_drift)
    svg.line(across.start, limit, across.end, limit, css="limit")
    x = [across(second) for second in bins[:, 0].tolist()]
    edges = [[up(v) for v in bins[:, column].tolist()] for column in (1, 2, 3)]
    band = [*zip(x, edges[0], strict=True), *reversed([*zip(x, edges[2], strict=True)])]
    svg.path(band, closed=True, css=f"area {item.css}")
    svg.path(zip(x, edges[1], strict=True), css=f"edge {item.css}")


def _binned(samples: Samples, clock: Samples) -> Samples:
    """(K, 4): middle in seconds, p10, median and p90 of K stretches of equally many runs."""
    count = max(2, min(_BINS, samples.size // _BIN_RUNS))
    rows = []
    for part, times in zip(
        np.array_split(samples, count), np.array_split(clock, count), strict=True
    ):
        if part.size:
            rows.append([times[part.size // 2], *np.percentile(part, [10, 50, 90])])
    return np.array(rows)


# --------------------------------------------------------------------------- trade-off


@dataclass(frozen=True, kw_only=True, slots=True)
class Point:
    """One model in the picture of quality against latency."""

    label: str
    colour: int
    latency: Estimate
    quality: Estimate
    """A share, 0 to 1."""
    size_mb: float
    valid: bool = True

    @property
    def css(self) -> str:
        """Its colour's class, paler when it does not count."""
        return f"s{self.colour % COLOURS}" + ("" if self.valid else " faded")


def tradeoff(
    points: Sequence[Point], *, unit: TimeUnit, quality: str, percentile: str = "p90"
) -> Draw:
    """Quality against latency; a disc's area is the model's size. Up and to the left is better.

    Args:
        points: the models.
        unit: of their latencies.
        quality: what the upward axis is called.
        percentile: which one their latencies are.
    """

    def draw(width: int) -> Svg:
        roomy = width >= _ROOMY
        left, bottom = 56, 46
        top = 24 if roomy else 34 + _KEY_LINE * len(points)
        height = top + 316 + _CROWD_LINE * max(0, len(points) - _CROWD)
        svg = Svg(
            width,
            height,
            title=f"{quality}, latency and size",
            description="; ".join(
                f"{_with_size(point)}, {point.quality.value:.1%}, "
                f"{percentile} {number(point.latency.value)} {unit.name}"
                for point in points
            ),
        )
        across = _latency_scale(points, left, width - _PAD)
        up = _quality_scale(points, height - bottom, top)
        _x_axis(
            svg,
            across,
            top=top,
            bottom=height - bottom,
            name=f"{percentile}, {unit.name} per image",
        )
        _quality_axis(svg, up, across)
        svg.text(_PAD, top - 11, quality)
        svg.path(_front(points, across, up), css="front")
        largest = max(point.size_mb for point in points)
        radii = [max(4.0, _LARGEST_DISC * math.sqrt(p.size_mb / largest)) for p in points]
        for point, radius in zip(points, radii, strict=True):
            _disc(svg, point, across, up, radius=radius)
        if roomy:
            _name_discs(svg, points, radii, across, up)
        else:
            _key(svg, [(_with_size(point), point.css) for point in points])
        return svg

    return draw


def _low(estimate: Estimate) -> float:
    return estimate.value if estimate.low is None else estimate.low


def _high(estimate: Estimate) -> float:
    return estimate.value if estimate.high is None else estimate.high


def _latency_scale(points: Sequence[Point], start: float, end: float) -> Scale:
    values = [point.latency.value for point in points]
    low, high = min(values), max(values)
    if high / low > _LOG_FROM:
        return Scale(low / 1.5, high * 1.6, start, end, log=True)
    return Scale(0.0, high * 1.35, start, end)


def _quality_scale(points: Sequence[Point], start: float, end: float) -> Scale:
    lows = [_low(point.quality) for point in points]
    highs = [_high(point.quality) for point in points]
    margin = max(0.02, 0.25 * (max(highs) - min(lows)))
    return Scale(max(0.0, min(lows) - margin), min(1.0, max(highs) + margin), start, end)


def _quality_axis(svg: Svg, up: Scale, across: Scale) -> None:
    ticks = up.ticks(6)
    labels = tick_labels([100 * tick for tick in ticks])
    for tick, label in zip(ticks, labels, strict=True):
        svg.line(across.start, up(tick), across.end, up(tick), css="grid")
        svg.text(across.start - 7, up(tick) + 4, f"{label} %", anchor="end")


def _front(points: Sequence[Point], across: Scale, up: Scale) -> list[tuple[float, float]]:
    """The models that no other beats in both, joined as steps; nothing for a single one."""
    front: list[Point] = []
    for point in sorted(points, key=lambda item: (item.latency.value, -item.quality.value)):
        if point.valid and (not front or point.quality.value > front[-1].quality.value):
            front.append(point)
    steps: list[tuple[float, float]] = []
    for point in front:
        x, y = across(point.latency.value), up(point.quality.value)
        if steps:
            steps.append((x, steps[-1][1]))
        steps.append((x, y))
    return steps if len(front) > 1 else []


def _disc(svg: Svg, point: Point, across: Scale, up: Scale, *, radius: float) -> None:
    x, y = across(point.latency.value), up(point.quality.value)
    left, right = across.clamp(_low(point.latency)), across.clamp(_high(point.latency))
    svg.line(left, y, right, y, css=f"whisker {point.css}")
    bottom, top = up.clamp(_low(point.quality)), up.clamp(_high(point.quality))
    svg.line(x, bottom, x, top, css=f"whisker {point.css}")
    tooltip = f"{point.label}: {number(point.size_mb)} MB"
    svg.add("circle", cx=x, cy=y, r=radius, css=f"bubble {point.css}", tooltip=tooltip)
    svg.add("circle", cx=x, cy=y, r=3, css=f"dot {point.css}")


def _with_size(point: Point) -> str:
    return f"{point.label} · {number(point.size_mb)} MB"


def _name_discs(
    svg: Svg, points: Sequence[Point], radii: Sequence[float], across: Scale, up: Scale
) -> None:
    labels = _Labels(svg, across, up)
    centres = [(across(point.latency.value), up(point.quality.value)) for point in points]
    for point, radius, (x, y) in zip(points, radii, centres, strict=True):
        labels.avoid(x - 4, up.clamp(_high(point.quality)), x + 4, up.clamp(_low(point.quality)))
        labels.avoid(
            across.clamp(_low(point.latency)), y - 4, across.clamp(_high(point.latency)), y + 4
        )
        labels.avoid(x - radius, y - 0.7 * radius, x + radius, y + 0.7 * radius)
    waiting = [
        (_with_size(point), x, y, radius + 7)
        for point, radius, (x, y) in zip(points, radii, centres, strict=True)
    ]
    # Those with room at their own disc first: one that has none would take it from a neighbour.
    for reach in _RISES:
        waiting = [item for item in waiting if not labels.place(*item, reach=reach)]
    for item in waiting:
        labels.squeeze_in(*item)


_Box = tuple[float, float, float, float]
_Spot = tuple[float, float]
"""How much lower than its disc a label stands, and where it begins."""
_RISES = range(0, 300, 20)


class _Labels:
    """Puts each label where it covers neither a point nor another label."""

    def __init__(self, svg: Svg, across: Scale, up: Scale) -> None:
        self._svg = svg
        self._frame = (across.start, up.end, svg.width, up.start)
        self._taken: list[_Box] = []

    def avoid(self, left: float, top: float, right: float, bottom: float) -> None:
        """Keep labels off a part of the picture."""
        self._taken.append((left, top, right, bottom))

    def place(self, text: str, x: float, y: float, gap: float, *, reach: int) -> bool:
        """Write a label beside (x, y), up to `reach` higher or lower; False if no spot is free."""
        text, spots = self._spots(text, x, y, gap)
        width = text_width(text, size=_NAME)
        for spot in spots:
            if abs(spot[0]) <= max(reach, gap + 8) and not self._covered(self._box(spot, y, width)):
                self._write(text, x, y, spot)
                return True
        return False

    def squeeze_in(self, text: str, x: float, y: float, gap: float) -> None:
        """Write a label that has no free spot where it covers least."""
        text, spots = self._spots(text, x, y, gap)
        width = text_width(text, size=_NAME)
        self._write(
            text, x, y, min(spots, key=lambda spot: self._covered(self._box(spot, y, width)))
        )

    def _spots(self, text: str, x: float, y: float, gap: float) -> tuple[str, list[_Spot]]:
        """The text, shortened to fit, and where it may begin: nearest first."""
        text = shorten(text, width=0.62 * self._svg.width, size=_NAME)
        width = text_width(text, size=_NAME)
        rises = sorted({sign * rise for rise in _RISES for sign in (-1, 1)}, key=abs)
        spots = [(float(rise), left) for rise in rises for left in (x + gap, x - gap - width)]
        spots += [(rise, x - width / 2) for rise in (-gap - 8, gap + 8)]
        spots.sort(key=lambda spot: abs(spot[0]))
        return text, [s for s in spots if self._is_inside(self._box(s, y, width))] or spots[:1]

    def _write(self, text: str, x: float, y: float, spot: _Spot) -> None:
        """The text, with a line to (x, y) where it had to move away."""
        rise, left = spot
        width = text_width(text, size=_NAME)
        self._taken.append(self._box(spot, y, width))
        if abs(rise) > 12 and (left > x or left + width < x):
            end = left - 3 if left > x else left + width + 3
            self._svg.line(x, y, end, y + rise, css="leader")
        self._svg.text(left, y + rise + 4.5, text, css="name")

    def _box(self, spot: _Spot, y: float, width: float) -> _Box:
        rise, left = spot
        return (left - 3, y + rise - 9, left + width + 3, y + rise + 9)

    def _is_inside(self, box: _Box) -> bool:
        left, top, right, bottom = self._frame
        return box[0] >= left and box[1] >= top and box[2] <= right and box[3] <= bottom

    def _covered(self, box: _Box) -> float:
        return sum(_overlap(box, other) for other in self._taken)


def _overlap(a: _Box, b: _Box) -> float:
    """The area that two boxes have in common."""
    across, up = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    return max(0.0, across) * max(0.0, up)


# --------------------------------------------------------------------------- bars


@dataclass(frozen=True, kw_only=True, slots=True)
class Bar:
    """One bar: a value, what to write beside it, and its interval if it has one."""

    label: str
    colour: int
    value: float
    text: str
    low: float | None = None
    high: float | None = None


_BAR_LANE, _BAR = 50, 16


def bars(items: Sequence[Bar], *, title: str, most: float | None = None) -> Draw:
    """Horizontal bars from zero, one below the other.

    Args:
        items: the bars.
        title: what they are of.
        most: the value of a full bar; by default the largest.
    """
    full = most or max(item.value if item.high is None else item.high for item in items)

    def draw(width: int) -> Svg:
        svg = Svg(
            width,
            _BAR_LANE * len(items),
            title=title,
            description="; ".join(f"{item.label}: {item.text}" for item in items),
        )
        scale = Scale(0.0, full or 1.0, _PAD, width - _PAD)
        for lane, item in enumerate(items):
            _draw_bar(svg, item, scale, top=lane * _BAR_LANE)
        return svg

    return draw


def _draw_bar(svg: Svg, item: Bar, scale: Scale, *, top: float) -> None:
    css = f"s{item.colour % COLOURS}"
    room = svg.width - 2 * _PAD - text_width(item.text, size=_NAME) - 12
    svg.text(_PAD, top + 15, shorten(item.label, width=room, size=_NAME), css="name")
    svg.text(svg.width - _PAD, top + 15, item.text, anchor="end", css="value")
    y = top + 23
    svg.add("rect", x=_PAD, y=y, width=svg.width - 2 * _PAD, height=_BAR, rx=4, css="track")
    length = max(1.0, scale.clamp(item.value) - _PAD)
    svg.add("rect", x=_PAD, y=y, width=length, height=_BAR, rx=4, css=f"bar {css}")
    if item.low is not None and item.high is not None:
        middle = y + _BAR / 2
        ends = (scale.clamp(item.low), scale.clamp(item.high))
        svg.line(ends[0], middle, ends[1], middle, css="error")
        for x in ends:
            svg.line(x, middle - 4, x, middle + 4, css="error")
