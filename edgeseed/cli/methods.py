"""`edgeseed methods`."""

import click

from edgeseed.cli._options import emit, json_option, table


@click.command()
@json_option
def command(as_json: bool) -> None:
    """List the distillation and pre-training methods."""
    from edgeseed.distill.methods import METHODS

    rows = [(name, METHODS.summary(name)) for name in METHODS.names()]
    values = [{"name": name, "summary": summary} for name, summary in rows]
    emit(values, as_json=as_json, text=table(rows, header=("method", "what it does")))
