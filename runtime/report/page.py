"""The shell of a report: one HTML file that loads nothing, is readable on a phone and by ear.

The markup is also well-formed XML. Text is escaped here and nowhere else: what these functions
take is plain text unless it is called `markup`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from edgeseed.core.files import write_text
from edgeseed.core.svg import STYLE, Svg

WIDE, NARROW = 880, 340
"""The two widths, in pixels, at which every picture is drawn: for a desk, and for a phone."""

_STYLE = Path(__file__).parent / "style.css"
_SEED = (
    '<svg class="seed" viewBox="0 0 32 32" aria-hidden="true">'
    '<path class="leaf" d="M16 15C16 8 20 4 28 4c0 8-4 12-12 11Z"/>'
    '<path class="leaf pale" d="M16 19C16 13 12 9 4 9c0 7 4 11 12 10Z"/>'
    '<path class="stem" d="M16 29V14"/></svg>'
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Section:
    """A part of the page with a heading of its own."""

    title: str
    markup: str
    lead: str = ""
    """One or two sentences: what is here and how to read it."""


def render_page(*, title: str, lead: str, sections: Sequence[Section], foot: str) -> str:
    """The whole page.

    Args:
        title: the heading and the window's title.
        lead: the answer in a sentence or two, before any picture.
        sections: the rest.
        foot: who made the page, when and with what.
    """
    style = STYLE + _STYLE.read_text(encoding="utf-8")
    body = "".join(_section(section) for section in sections)
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"/>'
        '<meta name="viewport" content="width=device-width, initial-scale=1"/>'
        '<meta name="color-scheme" content="light dark"/>'
        f"<title>{escape(title)}</title><style>{style}</style></head><body>"
        f'<header>{_SEED}<div><p class="brand">edgeseed</p><h1>{escape(title)}</h1></div></header>'
        f'<main><p class="lead">{escape(lead)}</p>{body}</main>'
        f"<footer>{escape(foot)}</footer></body></html>\n"
    )


def write_page(path: str | Path, markup: str) -> None:
    """Write a rendered page, whole or not at all."""
    write_text(Path(path), markup)


def _section(section: Section) -> str:
    lead = f'<p class="how">{escape(section.lead)}</p>' if section.lead else ""
    return f"<section><h2>{escape(section.title)}</h2>{lead}{section.markup}</section>"


def figure(draw: Callable[[int], Svg], *, caption: str) -> str:
    """A picture, drawn for a desk and for a phone; the style shows one of them."""
    pictures = "".join(
        f'<div class="{name}">{draw(width).render()}</div>'
        for name, width in (("wide", WIDE), ("narrow", NARROW))
    )
    return f"<figure>{pictures}<figcaption>{escape(caption)}</figcaption></figure>"


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """One cell of a table."""

    text: str
    detail: str = ""
    """Smaller, below the text."""
    css: str = ""
    """A class of the style: `good`, `bad`, `flag`, or a series' colour `s0` to `s7`."""


def paragraph(text: str) -> str:
    """Plain text below a heading."""
    return f"<p>{escape(text)}</p>"


def heading(text: str) -> str:
    """A heading below a section's own."""
    return f"<h3>{escape(text)}</h3>"


def table(
    head: Sequence[str], rows: Sequence[Sequence[Cell | str]], *, caption: str, css: str = ""
) -> str:
    """A table whose first column names its rows; it scrolls sideways on a phone.

    Args:
        head: the columns' names, the first often empty.
        rows: as many cells each.
        caption: what it is, for screen readers.
        css: `prose` for a table of sentences rather than figures.
    """
    header = "".join(f'<th scope="col">{escape(text)}</th>' for text in head)
    body = "".join(f"<tr>{_row(row)}</tr>" for row in rows)
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(caption)}">'
        f'<table class="{escape(css)}">'
        f"<caption>{escape(caption)}</caption><thead><tr>{header}</tr></thead>"
        f"<tbody>{body}</tbody></table></div>"
    )


def _row(row: Sequence[Cell | str]) -> str:
    cells = [cell if isinstance(cell, Cell) else Cell(text=cell) for cell in row]
    first, *others = cells
    name = f'<th scope="row"{_css(first)}>{_content(first)}</th>'
    return name + "".join(f"<td{_css(cell)}>{_content(cell)}</td>" for cell in others)


def _css(cell: Cell) -> str:
    return f' class="{escape(cell.css)}"' if cell.css else ""


def _content(cell: Cell) -> str:
    swatch = '<i class="swatch"></i>' if cell.css.startswith("s") and cell.css[1:].isdigit() else ""
    detail = f"<small>{escape(cell.detail)}</small>" if cell.detail else ""
    return f"{swatch}{escape(cell.text)}{detail}"


def definitions(items: Sequence[tuple[str, str]]) -> str:
    """Terms and what they mean."""
    inner = "".join(f"<dt>{escape(term)}</dt><dd>{escape(text)}</dd>" for term, text in items)
    return f"<dl>{inner}</dl>"


def notes(items: Sequence[Cell]) -> str:
    """Remarks that a reader should not miss; `detail` is the remark, `text` whom it is about."""
    if not items:
        return ""
    inner = "".join(
        f'<li class="{escape(item.css)}"><b>{escape(item.text)}</b> {escape(item.detail)}</li>'
        for item in items
    )
    return f'<ul class="notes">{inner}</ul>'


def code(text: str) -> str:
    """Commands or other text that is shown as it was typed."""
    return f"<pre>{escape(text)}</pre>"


def folded(summary: str, markup: str) -> str:
    """Something that only some readers want to see."""
    return f"<details><summary>{escape(summary)}</summary>{markup}</details>"
