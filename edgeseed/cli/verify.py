"""`edgeseed verify`."""

import click

from edgeseed.cli._options import emit, gate_lines, json_option, silence


@click.command(
    epilog="""\b
Examples:
  edgeseed verify bundles/onnx-int8
  edgeseed verify bundles/coreml --data labelled/
"""
)
@click.argument("bundle", type=click.Path())
@click.option("--data", metavar="D", help="Photos to judge on, besides those in the bundle.")
@json_option
def command(bundle: str, data: str | None, as_json: bool) -> None:
    """Recompute every gate of a bundle.

    Needs nothing but the bundle; exits 1 if a gate fails.
    """
    from edgeseed.export import verify

    with silence(as_json):
        result = verify(bundle, data=data)
    text = f"{result.bundle}: {result.target} {result.precision}, run by {result.runner}\n"
    emit(result, as_json=as_json, text=text + gate_lines(result.gates))
