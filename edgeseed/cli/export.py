"""`edgeseed export`."""

from typing import Any

import click

from edgeseed.cli._options import emit, gate_lines, json_option, silence, size


@click.command(
    epilog="""\b
Examples:
  edgeseed export student.safetensors --target onnx --precision fp32 --out bundles/onnx-fp32
  edgeseed export student.safetensors --target onnx --precision int8 --calibration photos/ --out bundles/onnx-int8
  edgeseed export student.safetensors --target coreml --precision fp16 --calibration photos/ --out bundles/coreml
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
    metavar="P",
    help="fp32, or a lower one that the target has.",
)
@click.option(
    "--calibration",
    metavar="D",
    help="Photos, no labels needed: int8 is calibrated and judged on disjoint parts of them.",
)
@click.option(
    "--out",
    required=True,
    type=click.Path(),
    metavar="BUNDLE",
    help="Folder of the bundle; must not exist.",
)
@click.option(
    "--min-agreement",
    type=click.FloatRange(0, 1),
    help="Least share of photos on which int8 must decide as float does.  [default: 0.98]",
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
    help="An option of the target, such as opset=20.",
)
@json_option
def command(as_json: bool, settings: tuple[str, ...], batch: str, **options: Any) -> None:
    """Make a bundle for a target and prove it right."""
    from edgeseed.core.config import split_override
    from edgeseed.core.errors import ConfigError
    from edgeseed.export import export

    if batch != "dynamic" and not (batch.isdecimal() and int(batch) > 0):
        raise ConfigError(f"--batch {batch!r} is neither dynamic nor a number above 0")
    with silence(as_json):
        result = export(
            batch="dynamic" if batch == "dynamic" else int(batch),
            options=dict(map(split_override, settings)),
            **options,
        )
    text = (
        f"{result.bundle}: {result.target} {result.precision}, {size(result.size_bytes)}, "
        f"in {result.seconds:.0f} s\n{gate_lines(result.gates)}"
    )
    emit(result, as_json=as_json, text=text)
