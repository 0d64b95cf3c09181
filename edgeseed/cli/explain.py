"""`edgeseed explain`."""

import click

from edgeseed.cli._options import emit, json_option, silence


@click.command(
    epilog="""\b
Examples:
  edgeseed explain bundles/onnx-int8
  edgeseed explain bundles/onnx-int8 --picture layers.svg
"""
)
@click.argument("bundle", type=click.Path())
@click.option("--picture", type=click.Path(), metavar="F", help="Draw the layers' errors, as SVG.")
@json_option
def command(bundle: str, picture: str | None, as_json: bool) -> None:
    """Show what each layer became, and what it costs.

    For any bundle. A line a layer: its numbers, its error against the float student, the range that
    its input is stored in; then what stayed in float and why. Of fp32 and fp16 only the layers that
    add most error.
    """
    from edgeseed.export import explain

    with silence(as_json):
        explanation = explain(bundle, picture=picture)
    text = explanation.to_text() + (f"\n\npicture: {picture}" if picture else "")
    emit(explanation, as_json=as_json, text=text)
