"""`edgeseed targets`."""

import click

from edgeseed.cli._options import emit, json_option, table


@click.command(
    epilog="""\b
Examples:
  edgeseed targets
  edgeseed export student.safetensors --target onnx --precision fp32 --out bundles/onnx-fp32
"""
)
@json_option
def command(as_json: bool) -> None:
    """List the export targets."""
    from edgeseed.export.targets import TARGETS

    rows = [(name, TARGETS.summary(name)) for name in TARGETS.names()]
    values = [{"name": name, "summary": summary} for name, summary in rows]
    emit(values, as_json=as_json, text=table(rows, header=("target", "what it makes")))
