"""`edgeseed doctor`."""

import click

from edgeseed.cli._options import emit, json_option, table


@click.command(
    epilog="""\b
Examples:
  edgeseed doctor
  edgeseed doctor --json
"""
)
@json_option
@click.pass_context
def command(context: click.Context, as_json: bool) -> None:
    """Say what works here and how to mend the rest."""
    from edgeseed.doctor import doctor

    diagnosis = doctor()
    rows = [(check.name, check.status, check.found, check.fix) for check in diagnosis.checks]
    machine = diagnosis.environment
    head = (
        f"edgeseed {machine['edgeseed']}, Python {machine['python']}, {machine['platform']}\n"
        f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_gib']} GiB\n\n"
    )
    emit(
        diagnosis,
        as_json=as_json,
        text=head + table(rows, header=("what", "state", "found", "to mend it")),
    )
    context.exit(0 if diagnosis.healthy else 1)
