"""Drawing in SVG: an element builder, scales with round ticks, and numbers for people."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self
from xml.sax.saxutils import escape, quoteattr

from edgeseed.core.files import write_text

STYLE = (Path(__file__).parent / "svg.css").read_text(encoding="utf-8")
"""Colours for a light and a dark screen, and how each class of element is drawn."""
_FONT = 'font-family: system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif;'

# Of the average bold system font, in em. Only used to keep labels inside the picture.
_CHARACTER_WIDTH = 0.6

Value = str | float | None


class Svg:
    """A picture that scales with its column and takes its colours from the page's style.

    Args:
        width: in user units; text is drawn at its size in CSS, so this is the width in pixels at
            which the picture is meant to be seen.
        height: the same.
        title: what it is, read out by screen readers.
        description: what it shows, in a sentence with numbers.
    """

    def __init__(self, width: float, height: float, *, title: str, description: str) -> None:
        self.width = width
        self.height = height
        self._title = title
        self._description = description
        self._parts: list[str] = []

    def add(self, tag: str, *, tooltip: str = "", **attributes: Value) -> None:
        """Add an element; `stroke_width=2` becomes stroke-width, `css="axis"` becomes class."""
        inner = f"<title>{escape(tooltip)}</title>" if tooltip else ""
        self._parts.append(f"<{tag}{_attributes(attributes)}>{inner}</{tag}>")

    def text(
        self, x: float, y: float, content: str, *, anchor: str = "start", css: str = ""
    ) -> None:
        """Add a line of text; `anchor` is start, middle or end."""
        markup = _attributes({"x": x, "y": y, "text_anchor": anchor, "css": css or None})
        self._parts.append(f"<text{markup}>{escape(content)}</text>")

    def line(
        self,
        x1: float,
        y1: float,
        x2: float,
        y2: float,
        *,
        css: str,
        stroke_width: float | None = None,
    ) -> None:
        """Add a straight line."""
        # As a style: an attribute would lose against the width that the class has.
        style = None if stroke_width is None else f"stroke-width:{_short(stroke_width)}"
        self.add("line", x1=x1, y1=y1, x2=x2, y2=y2, css=css, style=style)

    def path(
        self, points: Iterable[tuple[float, float]], *, css: str, closed: bool = False
    ) -> None:
        """Add a polyline, or with `closed` an area."""
        steps = " L".join(f"{_short(x)} {_short(y)}" for x, y in points)
        if steps:
            self.add("path", d=f"M{steps}{' Z' if closed else ''}", css=css)

    def place(self, panel: "Svg", x: float, y: float) -> None:
        """Add another picture as a part of this one, its upper left corner at (x, y)."""
        move = f"translate({_short(x)} {_short(y)})"
        label = quoteattr(panel._label)
        self._parts.append(
            f'<g transform="{move}" role="group" aria-label={label}>{"".join(panel._parts)}</g>'
        )

    def render(self) -> str:
        """The picture as one `<svg>` element, for a page that has `STYLE`."""
        return self._element(f'style="max-width:{_short(self.width)}px"', "")

    def render_file(self) -> str:
        """The picture as a file of its own: it holds its style and loads nothing."""
        size = f'width="{_short(self.width)}" height="{_short(self.height)}"'
        # Quotes and `<` are the only characters of a style that XML minds, and ours has no `<`.
        style = f"<style>{STYLE}svg {{ background: var(--paper); {_FONT} }}</style>"
        return self._element(f'xmlns="http://www.w3.org/2000/svg" {size}', style) + "\n"

    @property
    def _label(self) -> str:
        return f"{self._title}. {self._description}"

    def _element(self, attributes: str, head: str) -> str:
        box = f"0 0 {_short(self.width)} {_short(self.height)}"
        label = quoteattr(self._label)
        body = head + "".join(self._parts)
        return f'<svg viewBox="{box}" role="img" aria-label={label} {attributes}>{body}</svg>'


def write_svg(path: str | Path, picture: Svg) -> None:
    """Writes a picture as a file of its own, whole or not at all."""
    write_text(Path(path), picture.render_file())


def _attributes(attributes: Mapping[str, Value]) -> str:
    return "".join(
        f" {'class' if name == 'css' else name.replace('_', '-')}={quoteattr(_value(value))}"
        for name, value in attributes.items()
        if value is not None
    )


def _value(value: Value) -> str:
    return _short(value) if isinstance(value, float) else str(value)


def _short(value: float) -> str:
    """A coordinate to a tenth of a unit: finer is not seen, and makes pages large."""
    return f"{value:.1f}".rstrip("0").rstrip(".") if value % 1 else str(int(value))


def text_width(text: str, *, size: float) -> float:
    """About how wide a text is."""
    return len(text) * size * _CHARACTER_WIDTH


def shorten(text: str, *, width: float, size: float) -> str:
    """The text, or its beginning and an ellipsis where it would not fit."""
    most = max(4, int(width / (size * _CHARACTER_WIDTH)))
    return text if len(text) <= most else text[: most - 1].rstrip() + "…"


@dataclass(frozen=True, slots=True)
class Scale:
    """From a value to a coordinate, linear or logarithmic."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        """The coordinate of `value`."""
        low, high = self._inner(self.low), self._inner(self.high)
        return self.start + (self._inner(value) - low) / (high - low) * (self.end - self.start)

    def clamp(self, value: float) -> float:
        """The coordinate of `value`, kept within the scale."""
        return self(min(max(value, self.low), self.high))

    def on(self, start: float, end: float) -> Self:
        """The same values on another stretch."""
        return type(self)(self.low, self.high, start, end, self.log)

    def ticks(self, most: int) -> list[float]:
        """Round values within the scale, at most about so many."""
        if self.log and self.high / self.low > 10:
            return _log_ticks(self.low, self.high, most)
        return linear_ticks(self.low, self.high, most)

    def _inner(self, value: float) -> float:
        return math.log(value) if self.log else value


def linear_ticks(low: float, high: float, most: int) -> list[float]:
    """Multiples of 1, 2 or 5 times a power of ten."""
    step = _round_step((high - low) / max(1, most))
    first = math.ceil(low / step - 1e-9)
    return [index * step for index in range(first, math.floor(high / step + 1e-9) + 1)]


def _round_step(rough: float) -> float:
    power = 10.0 ** math.floor(math.log10(rough))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * (1 - 1e-9))


def _log_ticks(low: float, high: float, most: int) -> list[float]:
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for factors in ((1, 2, 5), (1, 3), (1,)):
        ticks = [f * 10**e for e in exponents for f in factors if low <= f * 10**e <= high]
        if len(ticks) <= most:
            return ticks
    return ticks


def number(value: float, *, digits: int = 3) -> str:
    """Three significant digits, never in powers of ten: 0.00123, 4.35, 1,230."""
    if value == 0 or not math.isfinite(value):
        return "0" if value == 0 else str(value)
    exponent = math.floor(math.log10(abs(value)))
    decimals = max(0, digits - 1 - exponent)
    return f"{round(value, decimals):,.{decimals}f}"


def tick_labels(ticks: Sequence[float]) -> list[str]:
    """Labels with as many decimals as the ticks need, and the same for all."""
    decimals = next(
        places
        for places in range(12)
        if places == 11 or all(math.isclose(t, round(t, places), abs_tol=1e-12) for t in ticks)
    )
    return [f"{tick:,.{decimals}f}" for tick in ticks]
