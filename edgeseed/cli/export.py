"""`edgeseed export`."""

from typing import TYPE_CHECKING, Any

import click

from edgeseed.cli._fields import options_of
from edgeseed.cli._options import emit, gate_lines, json_option, silence, table
from edgeseed.core.files import readable_size
from edgeseed.export.call import ExportCall

if TYPE_CHECKING:
    from edgeseed.core.records import SelectionCandidate, SelectionRecord, SpeedRecord
    from edgeseed.export import ExportResult


@click.command(
    epilog="""\b
Examples:
  edgeseed export student.safetensors --target onnx --precision fp32 --out bundles/onnx-fp32
  edgeseed export student.safetensors --target onnx --precision int8 --calibration photos/ --out bundles/onnx-int8
  edgeseed export student.safetensors --target coreml --precision fp16 --calibration photos/ --out bundles/coreml
  edgeseed export student.safetensors --precision auto --calibration photos/ --out bundles/onnx
  edgeseed export student.safetensors --precision fp32,int8 --calibration photos/ --out bundles
  edgeseed export student.safetensors --target onnx,litert --precision auto --calibration photos/ --out bundles/best
  edgeseed export student.safetensors --precision int8 --recover --calibration photos/ --out bundles/onnx-int8
  edgeseed export mobilenetv3_large_100.ra_in1k --precision int8 --calibration photos/ --out bundles/timm
  edgeseed export resnet50=my_checkpoint.pth --out bundles/mine
  edgeseed export student.safetensors --precision int8 --profile pixel-8 --calibration photos/ --out bundles/pixel
"""
)
@options_of(ExportCall)
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
    from edgeseed.core.names import split_names
    from edgeseed.export import export
    from edgeseed.export.planning import sort_settings

    if batch != "dynamic" and not (batch.isdecimal() and int(batch) > 0):
        raise ConfigError(f"--batch {batch!r} is neither dynamic nor a number above 0")
    given = [options.pop(name) for name in ("target", "precision")]
    targets, precisions = (split_names(text) or [text] for text in given)
    target_options, quantization = sort_settings(targets, dict(map(split_override, settings)))
    with silence(as_json):
        options |= {
            "batch": "dynamic" if batch == "dynamic" else int(batch),
            "options": target_options,
            "quantization": quantization,
        }
        results: tuple[ExportResult, ...]
        # A comma makes a list, of one name too: scripts that end each name with one get folders.
        if "," not in "".join(given):
            results = (export(target=targets[0], precision=precisions[0], **options),)
        else:
            results = export(
                target=targets if "," in given[0] else targets[0],
                precision=precisions if "," in given[1] else precisions[0],
                **options,
            )
    found = [result.to_dict() for result in results]
    # `auto` keeps one of all.
    makes_several = precisions != ["auto"] and "," in "".join(given)
    emit(
        {"bundles": found} if makes_several else found[0],
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


def selection_table(selection: "SelectionRecord") -> str:
    """What `auto` tried, a line each, and why it chose."""
    header = ("precision", "verdict", "size", "one photo", "speed", "as the student", "drop", "why")
    rows = [_cells(row) for row in selection.candidates]
    return f"{table(rows, header=header)}\nchosen {selection.chosen}: {selection.why}"


def _cells(row: "SelectionCandidate") -> tuple[str, ...]:
    close, drop = row.closeness, row.accuracy_drop
    return (
        row.name,
        row.verdict,
        "-" if row.size_bytes is None else readable_size(row.size_bytes),
        "-" if row.median_ms is None else f"{row.median_ms:.2f} ms",
        "-" if row.speedup is None else f"{row.speedup:.2f}x",
        "-" if close is None else f"{close.gate} {close.value:.4g} (n={close.n})",
        "-" if drop is None else f"{drop:.2f} points",
        row.reason,
    )


def _speed_line(speed: "SpeedRecord | None") -> str:
    if speed is None:
        return ""
    if not speed.timed:
        return f"\n  speed not compared: {speed.reason}"
    rounds = next(iter(speed.compared.values())).n
    return (
        f"\n  {speed.speedup:.2f} times as fast as {speed.baseline} here "
        f"(1 thread, {rounds} rounds in turns); measure it with `edgeseed profile`"
    )
