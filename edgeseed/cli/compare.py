"""`edgeseed compare`."""

import click

from edgeseed.cli._options import emit, json_option, silence
from edgeseed.core.console import printable


@click.command(
    epilog="""\b
Examples:
  edgeseed compare results/fp32.json results/int8.json
  edgeseed compare results/*.json --html report.html
  edgeseed compare new.json --baseline release.json --fail-if "p90>+15%"
"""
)
@click.argument("results", nargs=-1, required=True, type=click.Path(), metavar="RESULT.json...")
@click.option(
    "--baseline",
    type=click.Path(),
    metavar="R.json",
    help="What the others are compared with.  [default: the first result]",
)
@click.option(
    "--html",
    type=click.Path(),
    metavar="F",
    help="Write a page with the distributions; one file, nothing is loaded.",
)
@click.option(
    "--fail-if",
    multiple=True,
    metavar="LIMIT",
    help="Exit 1 if a result breaks it, such as 'p90>+15%'.",
)
@json_option
@click.pass_context
def command(
    context: click.Context,
    results: tuple[str, ...],
    baseline: str | None,
    html: str | None,
    fail_if: tuple[str, ...],
    as_json: bool,
) -> None:
    """Compare results with the first of them, or with a baseline."""
    from edgeseed.core.errors import GateError
    from edgeseed.runtime import compare
    from edgeseed.runtime.conditions import parse_rule

    for limit in fail_if:
        parse_rule(limit)  # a typing mistake should cost nothing
    failure: GateError | None = None
    with silence(as_json):
        comparison = compare(results, baseline=baseline, html=html)
        try:
            if fail_if:
                comparison.check(fail_if)
        except GateError as error:
            failure = error
    text = comparison.table() + (f"\n\npage: {html}" if html else "")
    # Also where a limit is broken: whoever reads the failure wants to see what failed.
    value = {**comparison.to_dict(), "failed": None if failure is None else str(failure)}
    emit(value, as_json=as_json, text=text)
    if failure is not None:
        click.echo(printable(f"edgeseed: error: {failure}"), err=True)
        context.exit(failure.exit_code)
