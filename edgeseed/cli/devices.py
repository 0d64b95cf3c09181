"""`edgeseed devices`."""

import click

from edgeseed.cli._options import emit, json_option, table


@click.command(
    epilog="""\b
Examples:
  edgeseed devices
  edgeseed profile bundles/onnx-int8 --device ssh:user@jetson --profile jetson-orin-nano --out r.json
"""
)
@json_option
def command(as_json: bool) -> None:
    """List kinds of device, and profiles of devices."""
    from edgeseed.profiles import load, names
    from edgeseed.runtime.devices import DEVICES

    kinds = [(name, DEVICES.summary(name)) for name in DEVICES.names()]
    profiles = [load(name) for name in names()]
    rows = [
        (
            profile.name,
            profile.title,
            ", ".join(
                f"{engine.target} {'/'.join(engine.precisions)}" for engine in profile.engines
            ),
            "yes" if profile.measured else "not yet",
        )
        for profile in profiles
    ]
    text = table(kinds, header=("--device", "what it is")) + "\n\n"
    text += table(rows, header=("--profile", "device", "targets", "measured on the real device"))
    value = {
        "kinds": [{"name": name, "summary": summary} for name, summary in kinds],
        "profiles": [
            {"name": profile.name, "title": profile.title, "measured": profile.measured}
            for profile in profiles
        ],
    }
    emit(value, as_json=as_json, text=text)
