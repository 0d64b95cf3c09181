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
  edgeseed profile bundles/onnx-fp32 bundles/onnx-int8 --repeat 10 --out results/in-turns
  edgeseed profile bundles/onnx-int8 --device adb --out results/phone.json
"""
)
@click.argument("bundles", nargs=-1, required=True, type=click.Path(), metavar="BUNDLE...")
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
    help="Where to write the result; must not exist. With several bundles or --repeat: a folder.",
)
@click.option(
    "--repeat",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    metavar="N",
    help="Measure every bundle N times, in turns.",
)
@click.option(
    "--measurement",
    type=click.Path(),
    metavar="FILE",
    help="A runner's measurement.json of this bundle that came another way, in place of measuring.",
)
@click.option(
    "--seed",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Of the photos that are drawn.",
)
@json_option
def command(as_json: bool, bundles: tuple[str, ...], repeat: int, **options: Any) -> None:
    """Measure a bundle on a device.

    Latency with its spread and drift, load, first run, memory, and with --data accuracy.
    """
    from edgeseed.core.errors import UsageError
    from edgeseed.runtime import compare, profile, profile_in_turns

    if len(bundles) > 1 or repeat > 1:
        if options.pop("measurement") is not None:
            raise UsageError("--measurement is of one bundle; leave --repeat and other bundles out")
        with silence(as_json):
            results = profile_in_turns(bundles, repeat=repeat, **options)
            text = compare(results).table(notes=False)
        value = [result.to_dict() for result in results]
        emit(value, as_json=as_json, text=f"{text}\n\nwritten to {options['out']}")
        return
    with silence(as_json):
        result = profile(bundle=next(iter(bundles)), **options)
        # What is to be known of the result was just said on stderr, as warnings.
        text = compare([result]).table(notes=False)
    emit(result, as_json=as_json, text=f"{text}\n\nwritten to {options['out']}")
