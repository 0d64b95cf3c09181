"""`edgeseed profile`."""

from typing import Any

import click

from edgeseed.cli._options import emit, json_option, silence


@click.command(
    epilog="""\b
Examples:
  edgeseed profile bundles/onnx-int8 --device host --out results/int8.json
  edgeseed profile bundles/onnx-int8 --device browser --lan --out results/phone.json
  edgeseed profile bundles/onnx-int8 --device host --protocol normal --threads 1 \\
      --data labelled/test --out results/int8-normal.json
"""
)
@click.argument("bundle", type=click.Path())
@click.option(
    "--device",
    default="host",
    show_default=True,
    metavar="KIND[:ADDRESS]",
    help="See `edgeseed devices`.",
)
@click.option(
    "--profile",
    "device_profile",
    metavar="NAME",
    help="Facts about the device; see `edgeseed devices`.",
)
@click.option(
    "--protocol",
    type=click.Choice(["rapid", "quick", "normal", "sustained"]),
    default="quick",
    show_default=True,
    help="At least 64 runs and 6 s, 128 and 10 s, 1024 and 60 s, or 10 minutes.",
)
@click.option(
    "--data",
    metavar="D",
    help="Photos to measure agreement (and with labels, accuracy) on, on the device.",
)
@click.option(
    "--threads", type=click.IntRange(min=1), help="Of the engine.  [default: the profile's]"
)
@click.option(
    "--lan", is_flag=True, help="With a browser: serve the page to the local network, by https."
)
@click.option(
    "--ort-web",
    type=click.Path(exists=True, file_okay=False),
    metavar="DIR",
    help="With a browser: a folder with onnxruntime-web.  [default: a pinned version, by npm]",
)
@click.option("--unit", metavar="U", help="Compute unit to ask for.  [default: the profile's]")
@click.option(
    "--out",
    required=True,
    type=click.Path(),
    metavar="R.json",
    help="Where to write the result; must not exist.",
)
@click.option(
    "--seed",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Of the photos that are drawn.",
)
@json_option
def command(as_json: bool, **options: Any) -> None:
    """Measure a bundle on a device.

    Latency with its spread and drift, load, first run, memory, and with --data accuracy.
    """
    from edgeseed.runtime import compare, profile

    with silence(as_json):
        result = profile(**options)
        # What is to be known of the result was just said on stderr, as warnings.
        text = compare([result]).table(notes=False)
    emit(result, as_json=as_json, text=f"{text}\n\nwritten to {options['out']}")
