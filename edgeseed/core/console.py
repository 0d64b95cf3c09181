"""What a person sees while edgeseed works. All of it goes to stderr: stdout belongs to results."""

import contextlib
import functools
import time
import unicodedata
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

_PLAIN_INTERVAL_S = 15.0
_quiet = False
_without_notes = False
_without_warnings = False


@contextlib.contextmanager
def quiet(enabled: bool = True, *, notes: bool = False, warnings: bool = False) -> Iterator[None]:
    """Silences `say` and `progress` inside the block; warnings are still shown, and notes.

    Args:
        enabled: Whether to silence anything.
        notes: Whether to silence notes as well: of many processes, one says them.
        warnings: Whether to silence warnings as well: of work whose result nobody will use.
    """
    global _quiet, _without_notes, _without_warnings
    before = _quiet, _without_notes, _without_warnings
    _quiet = enabled or _quiet
    _without_notes = (enabled and notes) or _without_notes
    _without_warnings = (enabled and warnings) or _without_warnings
    try:
        yield
    finally:
        _quiet, _without_notes, _without_warnings = before


@functools.cache
def console() -> "Console":
    """The terminal, as rich sees it."""
    from rich.console import Console

    return Console(stderr=True, highlight=False, soft_wrap=True)


def printable(text: str) -> str:
    r"""A text whose characters cannot steer a terminal: `\x1b[2J` stays visible as what it is.

    Names of files, classes and devices come from elsewhere. Line feeds and tabs stay; control
    characters, marks that reverse the direction of writing, and halves of characters (from file
    names that are no UTF-8, which a terminal's encoding refuses) are written as escapes.
    """
    return "".join(
        character if _is_harmless(character) else _escaped(character) for character in text
    )


def _is_harmless(character: str) -> bool:
    if character in "\n\t":
        return True
    category = unicodedata.category(character)
    return category not in ("Cc", "Cs", "Zl", "Zp") and character not in _DIRECTIONS


_DIRECTIONS = "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"


def _escaped(character: str) -> str:
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def say(text: str) -> None:
    """One line on how far the work has come."""
    if not _quiet:
        console().print(printable(text), markup=False)


def note(text: str) -> None:
    """One line that stays true when the work is done: a choice that was made, or advice.

    Also under `--json`: whoever reads only the result would not learn it otherwise.
    """
    if not _without_notes:
        console().print(f"note: {printable(text)}", markup=False)


def warn(text: str) -> None:
    """One line that the user should not miss, also under `--json`."""
    if not _without_warnings:
        console().print(f"warning: {printable(text)}", style="yellow", markup=False)


def count_of(number: int, noun: str) -> str:
    """A number with its noun: "1 epoch", "2 epochs", "1 pass", "2 passes"."""
    ending = "" if number == 1 else "es" if noun.endswith("s") else "s"
    return f"{number} {noun}{ending}"


class ProgressBar:
    """Progress of one piece of work: live on a terminal, a plain line now and then elsewhere."""

    def __init__(self, description: str, total: int, unit: str, live: "Progress | None") -> None:
        self.description = description = printable(description)
        self.total = total
        self.unit = unit
        self.done = 0
        self._note = ""
        self._live = live
        self._task = (
            None if live is None else live.add_task(description, total=total, speed="", note="")
        )
        self._start = self._printed = time.monotonic()

    @property
    def rate(self) -> float:
        """Units a second since the start."""
        elapsed = time.monotonic() - self._start
        return self.done / elapsed if elapsed > 0 else 0.0

    def advance(self, count: int = 1) -> None:
        """Says that `count` more units are done."""
        self.done += count
        self._show()

    def note(self, text: str) -> None:
        """Sets the text behind the bar, such as the current loss."""
        self._note = printable(text)
        self._show(advanced=False)

    def _show(self, *, advanced: bool = True) -> None:
        speed = (
            f"{self.rate:,.0f} {self.unit}/s"
            if self.rate >= 10
            else f"{self.rate:.2g} {self.unit}/s"
        )
        if self._live is not None and self._task is not None:
            self._live.update(self._task, completed=self.done, speed=speed, note=self._note)
        elif advanced and not _quiet and time.monotonic() - self._printed >= _PLAIN_INTERVAL_S:
            self._printed = time.monotonic()
            left = (self.total - self.done) / self.rate if self.rate else 0.0
            say(
                f"{self.description}: {self.done}/{self.total} {self.unit}, {speed}, "
                f"{_clock(left)} left{', ' + self._note if self._note else ''}"
            )


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


@contextlib.contextmanager
def progress(description: str, total: int, unit: str = "images") -> Iterator[ProgressBar]:
    """Shows how far `total` units of work have come, with units a second and the time left."""
    if _quiet or not console().is_terminal:
        yield ProgressBar(description, total, unit, None)
        return
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[speed]}", markup=False), TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", markup=False),
    )  # fmt: skip
    with Progress(*columns, console=console(), transient=True) as live:
        yield ProgressBar(description, total, unit, live)
