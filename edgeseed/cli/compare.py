"""`edgeseed compare`."""

import click

from edgeseed.cli._options import emit, json_option, silence


@click.command(
    epilog="""\b
Examples:
  edgeseed compare results/fp32.json results/int8.json
  edgeseed compare results/*.json --html report.html
  edgeseed compare baseline.json new.json --fail-if "p90>+5%"
"""
)
@click.argument("results", nargs=-1, required=True, type=click.Path(), metavar="RESULT.json...")
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
    help="Exit 1 if a result breaks it, such as 'p90>+5%'.",
)
@json_option
def command(
    results: tuple[str, ...], html: str | None, fail_if: tuple[str, ...], as_json: bool
) -> None:
    """Compare results with the first of them."""
    from edgeseed.runtime import compare

    with silence(as_json):
        comparison = compare(results, html=html)
    text = comparison.table() + (f"\n\npage: {html}" if html else "")
    emit(comparison, as_json=as_json, text=text)
    if fail_if:  # after the table: whoever reads the failure wants to see what failed
        comparison.check(fail_if)
