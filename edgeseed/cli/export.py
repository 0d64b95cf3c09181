"""`edgeseed export`."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from edgeseed.cli._options import emit, gate_lines, json_option, silence, table
from edgeseed.core.files import readable_size

if TYPE_CHECKING:
    from edgeseed.export import ExportResult


@click.command(
    epilog="""\b
Examples:
  edgeseed export student.safetensors --target onnx --precision fp32 --out bundles/onnx-fp32
  edgeseed export student.safetensors --target onnx --precision int8 --calibration photos/ --out bundles/onnx-int8
  edgeseed export student.safetensors --target coreml --precision fp16 --calibration photos/ --out bundles/coreml
  edgeseed export student.safetensors --precision auto --calibration photos/ --out bundles/onnx
  edgeseed export student.safetensors --precision fp32,int8 --calibration photos/ --out bundles
  edgeseed export student.safetensors --precision int8 --recover --calibration photos/ --out bundles/onnx-int8
  edgeseed export student.safetensors --precision int8 --profile pixel-8 --calibration photos/ --out bundles/pixel
"""
)
@click.argument("student")
@click.option(
    "--target", default="onnx", show_default=True, metavar="T", help="See `edgeseed targets`."
)
@click.option(
    "--precision",
    default="fp32",
    show_default=True,
    metavar="P[,P]",
    help="fp32, fp16, w8 or int8, as far as the target has it, or auto: makes all, and keeps one that is proven (see --prefer). Several with commas: a bundle of each in --out (--json: a list, bundles).",
)
@click.option(
    "--prefer",
    type=click.Choice(["speed", "size"]),
    default="speed",
    show_default=True,
    help="Of what is proven auto keeps the smallest within 5 % of the fastest here (int8 only if faster than float), or for size the smallest.",
)
@click.option(
    "--profile",
    metavar="NAME",
    help="The device it is for: what that cannot run is refused. See `edgeseed devices`.",
)
@click.option(
    "--calibration",
    metavar="D",
    help="Photos, no labels needed: int8 is calibrated and judged on disjoint parts of them. Without, synthetic colour fields stand in for photos.",
)
@click.option(
    "--calibration-count",
    type=click.IntRange(min=1),
    metavar="N",
    help="Most photos to calibrate int8 with.  [default: 512]",
)
@click.option(
    "--scheme",
    metavar="NAME",
    help="The integers of int8: x86 or arm for onnx.  [default: the profile's, else x86]",
)
@click.option(
    "--keep-float",
    multiple=True,
    metavar="REGEX",
    help="Layers that int8 leaves in float, by the names that `edgeseed explain` lists.",
)
@click.option(
    "--recover",
    is_flag=True,
    help="Let int8 learn from the float student on further --calibration photos: minutes, for where rounding loses too much.",
)
@click.option(
    "--out",
    required=True,
    type=click.Path(),
    metavar="BUNDLE",
    help="Folder of the bundle, or of the bundles of several precisions; must not exist.",
)
@click.option(
    "--min-agreement",
    type=click.FloatRange(0, 1),
    help="Least share of photos on which w8 and int8 must decide as float does; int8 leaves more "
    "layers in float where it must.  [default: 0.98]",
)
@click.option(
    "--max-drop",
    type=click.FloatRange(min=0),
    help="Most accuracy it may lose, in points, where labels are known.  [default: 1.0]",
)
@click.option(
    "--batch",
    default="dynamic",
    show_default=True,
    metavar="N",
    help="dynamic, or the one batch size that the model takes.",
)
@click.option(
    "--no-verify",
    "verify",
    is_flag=True,
    flag_value=False,
    default=True,
    help="Write the bundle even if a gate fails (the gates are recorded).",
)
@click.option(
    "--no-speed",
    "speed",
    is_flag=True,
    flag_value=False,
    default=True,
    help="Do not compare the speed of int8 with float on this machine (about two seconds).",
)
@click.option(
    "--seed",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Of the split of the photos.",
)
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="FIELD=VALUE",
    help="Any other setting: an option of the target such as opset=20, or of quantization such as calibrator=fisher.",
)
@json_option
def command(as_json: bool, settings: tuple[str, ...], batch: str, **options: Any) -> None:
    """Make a bundle for a target and prove it right."""
    from edgeseed.core.config import split_override
    from edgeseed.core.errors import ConfigError
    from edgeseed.export import export, export_each
    from edgeseed.export.planning import sort_settings

    if batch != "dynamic" and not (batch.isdecimal() and int(batch) > 0):
        raise ConfigError(f"--batch {batch!r} is neither dynamic nor a number above 0")
    target_options, quantization = sort_settings(
        options["target"], dict(map(split_override, settings))
    )
    precisions = [name.strip() for name in options.pop("precision").split(",")]
    with silence(as_json):
        options |= {
            "batch": "dynamic" if batch == "dynamic" else int(batch),
            "options": target_options,
            "quantization": quantization,
        }
        if len(precisions) == 1:
            results = (export(precision=precisions[0], **options),)
        else:
            results = export_each(precisions=[name for name in precisions if name], **options)
    found = [result.to_dict() for result in results]
    emit(
        found[0] if len(precisions) == 1 else {"bundles": found},
        as_json=as_json,
        text="\n\n".join(map(_described, results)),
    )


def _described(result: "ExportResult") -> str:
    text = (
        f"{result.bundle}: {result.target} {result.precision}, {readable_size(result.size_bytes)}, "
        f"in {result.seconds:.0f} s\n{gate_lines(result.gates)}{_speed_line(result.speed)}"
    )
    if result.selection is not None:
        text += f"\n\n{selection_table(result.selection)}"
    return text


def selection_table(selection: Mapping[str, Any]) -> str:
    """What `auto` tried, a line each, and why it chose."""
    header = ("precision", "verdict", "size", "one photo", "speed", "as the student", "drop", "why")
    rows = [_cells(row) for row in selection["candidates"]]
    return f"{table(rows, header=header)}\nchosen {selection['chosen']}: {selection['why']}"


def _cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    close, drop = row["closeness"], row["accuracy_drop"]
    return (
        row["precision"],
        row["verdict"],
        "-" if row["size_bytes"] is None else readable_size(row["size_bytes"]),
        "-" if row["median_ms"] is None else f"{row['median_ms']:.2f} ms",
        "-" if row["speedup"] is None else f"{row['speedup']:.2f}x",
        "-" if close is None else f"{close['gate']} {close['value']:.4g} (n={close['n']})",
        "-" if drop is None else f"{drop:.2f} points",
        row["reason"],
    )


def _speed_line(speed: Mapping[str, Any] | None) -> str:
    if speed is None:
        return ""
    if not speed["timed"]:
        return f"\n  speed not compared: {speed['reason']}"
    rounds = next(iter(speed["compared"].values()))["n"]
    return (
        f"\n  {speed['speedup']:.2f} times as fast as {speed['baseline']} here "
        f"(1 thread, {rounds} rounds in turns); measure it with `edgeseed profile`"
    )
