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
@click.pass_context
def command(context: click.Context, bundle: str, data: str | None, as_json: bool) -> None:
    """Recompute every gate of a bundle.

    Needs nothing but the bundle; exits 1 if a gate fails.
    """
    from edgeseed.core.errors import GateError
    from edgeseed.export import verify

    failure: GateError | None = None
    with silence(as_json):
        try:
            result = verify(bundle, data=data)
        except GateError as error:
            if error.result is None:
                raise
            failure, result = error, error.result
    text = f"{result.bundle}: {result.target} {result.precision}, run by {result.runner}\n"
    # Also where a gate fails: whoever reads the failure wants to see what failed, and what held.
    value = {**result.to_dict(), "failed": None if failure is None else str(failure)}
    emit(value, as_json=as_json, text=text + gate_lines(result.gates))
    if failure is not None:
        click.echo(f"edgeseed: error: {failure}", err=True)
        context.exit(failure.exit_code)
