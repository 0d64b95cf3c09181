"""Results side by side: `edgeseed compare`."""

from collections.abc import Sequence
from pathlib import Path

from edgeseed.core.console import warn
from edgeseed.core.errors import UsageError
from edgeseed.runtime.conditions import parse_rule
from edgeseed.runtime.ranking import Comparison, rank
from edgeseed.runtime.report.comparison import write_comparison
from edgeseed.runtime.result import Result, read_result


def compare(
    results: Sequence[str | Path | Result],
    *,
    baseline: str | Path | Result | None = None,
    html: str | Path | None = None,
    fail_if: str | Sequence[str] | None = None,
) -> Comparison:
    """Compare results, and write a page about them.

    Args:
        results: `result.json` files or results; the first is what the others are compared with. A
            file that is given twice is compared once, with a warning.
        baseline: what the others are compared with, in place of the first result.
        html: where to write the page: one file, nothing is loaded from anywhere. A page that is
            there is written over, and nothing else.
        fail_if: limits, see runtime/conditions.py; the page is written before they are held.

    Returns:
        The comparison; `.table()` is it as text.

    Raises:
        UsageError: If there is no result, a file is missing, or `html` is a file that is no page.
        ArtifactError: If a file is no result.
        ConfigError: If a limit is not understood.
        GateError: If a result breaks a limit.
    """
    given = _without_repeats([*(() if baseline is None else (baseline,)), *results])
    if html is not None:
        _check_page(Path(html), given)
    read = [item if isinstance(item, Result) else read_result(item) for item in given]
    if not read:
        raise UsageError("no result to compare; give result files made by `edgeseed profile`")
    rules = [] if fail_if is None else [fail_if] if isinstance(fail_if, str) else list(fail_if)
    for rule in rules:
        parse_rule(rule)  # a typing mistake should cost nothing
    files = [str(item) for item in given if not isinstance(item, Result)]
    comparison = rank(read, files=files if len(files) == len(read) else None)
    if html is not None:
        write_comparison(comparison, html)
    if rules:
        comparison.check(rules)
    return comparison


def _without_repeats(results: Sequence[str | Path | Result]) -> list[str | Path | Result]:
    """Each file once: `first.json results/*.json` names the first twice."""
    kept: dict[Path | int, str | Path | Result] = {}
    for number, item in enumerate(results):
        key = number if isinstance(item, Result) else Path(item).resolve()
        if key in kept:
            warn(f"{item} is given more than once; it is compared once")
        kept.setdefault(key, item)
    return list(kept.values())


def _check_page(html: Path, results: Sequence[str | Path | Result]) -> None:
    """Refuse to write a page over a result, or over anything that is no page."""
    if not html.exists():
        return
    files = [Path(item) for item in results if not isinstance(item, Result)]
    if html.resolve() in {file.resolve() for file in files}:
        raise UsageError(f"--html {html} is one of the results; give the page another name")
    if html.is_dir():
        raise UsageError(f"--html {html} is a folder; give the name of a file")
    with html.open("rb") as file:
        start = file.read(64).lstrip().lower()
    if start and not start.startswith((b"<!doctype html", b"<html")):
        raise UsageError(
            f"--html {html} exists and is no page (a result, perhaps: was its name forgotten?); "
            "choose another name"
        )
