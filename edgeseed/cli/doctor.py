"""`edgeseed doctor`."""

import click

from edgeseed.cli._options import emit, json_option, table


@click.command(
    epilog="""\b
Examples:
  edgeseed doctor
  edgeseed doctor --json
  edgeseed doctor --device ssh:nvidia@jetson --profile jetson-orin-nano
"""
)
@click.option(
    "--device",
    metavar="KIND[:ADDRESS]",
    help="Look at a device instead of this machine; see `edgeseed devices`.",
)
@click.option("--profile", "device_profile", metavar="NAME", help="What the device should be.")
@json_option
@click.pass_context
def command(
    context: click.Context, device: str | None, device_profile: str | None, as_json: bool
) -> None:
    """Say what works here, or on a device, and how to fix the rest."""
    from edgeseed.doctor import doctor

    diagnosis = doctor(device, device_profile=device_profile)
    rows = [(check.name, check.status, check.found, check.fix) for check in diagnosis.checks]
    machine = diagnosis.environment
    head = (
        f"{device}\n\n"
        if device is not None
        else (
            f"edgeseed {machine['edgeseed']}, Python {machine['python']}, {machine['platform']}\n"
            f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_gib']} GiB\n\n"
        )
    )
    emit(
        diagnosis,
        as_json=as_json,
        text=head + table(rows, header=("what", "state", "found", "how to fix it")),
    )
    context.exit(0 if diagnosis.healthy else 1)
