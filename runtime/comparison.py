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
    html: str | Path | None = None,
    fail_if: str | Sequence[str] | None = None,
) -> Comparison:
    """Compare results, and write a page about them.

    Args:
        results: `result.json` files or results; the first is what the others are compared with. A
            file that is given twice is compared once, with a warning.
        html: where to write the page: one file, nothing is loaded from anywhere.
        fail_if: limits, see runtime/conditions.py; the page is written before they are held.

    Returns:
        The comparison; `.table()` is it as text.

    Raises:
        UsageError: If there is no result, or a file is missing.
        ArtifactError: If a file is no result.
        ConfigError: If a limit is not understood.
        GateError: If a result breaks a limit.
    """
    given = _without_repeats(results)
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
