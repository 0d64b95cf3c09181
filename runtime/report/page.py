"""The shell of a report: one HTML file that loads nothing, is readable on a phone and by ear.

The elements stand in `page.html`, and are well-formed XML. Jinja2 escapes every text there. What
comes as `Markup` is markup already and stays as it is: what these functions give, and pictures.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from jinja2.environment import TemplateModule
from markupsafe import Markup

from edgeseed.core.files import write_text
from edgeseed.core.svg import STYLE, Svg

WIDE, NARROW = 880, 340
"""The two widths, in pixels, at which every picture is drawn: for a desk, and for a phone."""

_FOLDER = Path(__file__).parent


@dataclass(frozen=True, kw_only=True, slots=True)
class Section:
    """A part of the page with a heading of its own."""

    title: str
    markup: Markup
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
    style = Markup(STYLE + (_FOLDER / "style.css").read_text(encoding="utf-8"))
    return _render("page", title=title, lead=lead, sections=sections, foot=foot, style=style)


def write_page(path: str | Path, markup: str) -> None:
    """Write a rendered page, whole or not at all."""
    write_text(Path(path), markup)


def figure(draw: Callable[[int], Svg], *, caption: str) -> Markup:
    """A picture, drawn for a desk and for a phone; the style shows one of them."""
    widths = {"wide": WIDE, "narrow": NARROW}
    pictures = {name: Markup(draw(width).render()) for name, width in widths.items()}
    return _render("figure", pictures=pictures, caption=caption)


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """One cell of a table."""

    text: str
    detail: str = ""
    """Smaller, below the text."""
    css: str = ""
    """A class of the style: `good`, `bad`, `flag`, or a series' colour `s0` to `s7`."""

    @property
    def has_swatch(self) -> bool:
        """Whether a spot of the series' colour stands before the text."""
        return self.css.startswith("s") and self.css[1:].isdigit()


def paragraph(text: str) -> Markup:
    """Plain text below a heading."""
    return _render("paragraph", text=text)


def heading(text: str) -> Markup:
    """A heading below a section's own."""
    return _render("heading", text=text)


def table(
    head: Sequence[str], rows: Sequence[Sequence[Cell | str]], *, caption: str, css: str = ""
) -> Markup:
    """A table whose first column names its rows; it scrolls sideways on a phone.

    Args:
        head: the columns' names, the first often empty.
        rows: as many cells each.
        caption: what it is, for screen readers.
        css: `prose` for a table of sentences rather than figures.
    """
    cells = [[cell if isinstance(cell, Cell) else Cell(text=cell) for cell in row] for row in rows]
    return _render("table", head=head, rows=cells, caption=caption, css=css)


def definitions(items: Sequence[tuple[str, str]]) -> Markup:
    """Terms and what they mean."""
    return _render("definitions", items=items)


def notes(items: Sequence[Cell]) -> Markup:
    """Remarks that a reader should not miss; `detail` is the remark, `text` whom it is about."""
    return _render("notes", items=items) if items else Markup()


def code(text: str) -> Markup:
    """Commands or other text that is shown as it was typed."""
    return _render("code", text=text)


def folded(summary: str, markup: Markup) -> Markup:
    """Something that only some readers want to see."""
    return _render("folded", summary=summary, markup=markup)


def _render(macro: str, **values: object) -> Markup:
    markup: Markup = getattr(_macros(), macro)(**values)
    return markup


@cache
def _macros() -> TemplateModule:
    environment = Environment(
        loader=FileSystemLoader(_FOLDER),
        autoescape=True,
        # A name that is misspelt is an error, in place of an empty text.
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html").module
