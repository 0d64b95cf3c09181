"""The arguments of `export`: one frozen dataclass, from which everything else is derived.

The Python signature (as type checkers see it), the options of `edgeseed export`, their help, the
docstring and the settings in the manifest all come from these fields. Nothing heavy is imported
here, so that `edgeseed export --help` stays quick.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from edgeseed.core.settings import help_for, setting

Batch = Literal["dynamic"] | int
Prefer = Literal["speed", "size"]


@dataclasses.dataclass(frozen=True)
class _Arguments:
    student: str | Path
    """A `student.safetensors`, or any timm network: `NAME[.tag]`, `NAME=CHECKPOINT`."""
    _: dataclasses.KW_ONLY
    out: str | Path = dataclasses.field(
        metadata=help_for(
            "Folder of the bundle, or of the bundles of several precisions; must not exist.",
            metavar="BUNDLE",
        )
    )
    target: str = setting("onnx", metavar="T", help="See `edgeseed targets`.")
    prefer: Prefer = setting(
        "speed",
        help="Of what is proven auto keeps the smallest within 5 % of the fastest here "
        "(int8 only if faster than float), or for size the smallest.",
    )
    profile: str | None = setting(
        None,
        metavar="NAME",
        help="The device it is for: what that cannot run is refused. See `edgeseed devices`.",
    )
    calibration: str | Path | None = setting(
        None,
        metavar="D",
        help="Photos, no labels needed: int8 is calibrated and judged on disjoint parts of them. "
        "Without, synthetic colour fields stand in for photos.",
    )
    calibration_count: int | None = setting(
        None,
        metavar="N",
        least=1,
        help="Most photos to calibrate int8 with.  [default: 512]",
    )
    scheme: str | None = setting(
        None,
        metavar="NAME",
        help="The integers of int8: x86 or arm for onnx.  [default: the profile's, else x86]",
    )
    keep_float: Sequence[str] = setting(
        (),
        metavar="REGEX",
        help="Layers that int8 leaves in float, by their names in the network, which "
        "`edgeseed explain` lists: `blocks.2.0.conv_pw`.",
    )
    recover: bool = setting(
        False,
        help="Let int8 learn from the float student on further --calibration photos: minutes, for "
        "where rounding loses too much.",
    )
    min_agreement: float | None = setting(
        None,
        least=0,
        most=1,
        help="Least share of photos on which w8 and int8 must decide as float does; int8 leaves "
        "more layers in float where it must.  [default: 0.98]",
    )
    max_drop: float | None = setting(
        None,
        least=0,
        help="Most accuracy it may lose, in points, where labels are known.  [default: 1.0]",
    )
    batch: Batch = setting(
        "dynamic", metavar="N", help="dynamic, or the one batch size that the model takes."
    )
    verify: bool = setting(
        True, help="Write the bundle even if a gate fails (the gates are recorded)."
    )
    speed: bool = setting(
        True,
        help="Do not compare the speed of int8 with float on this machine (about two seconds).",
    )
    seed: int = setting(0, least=0, help="Of the split of the photos.")
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """The target's own options, such as `{"opset": 18}`; `--set` on the command line."""
    quantization: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Of `quantize.config.QuantizeConfig`, such as `{"calibrator": "fisher"}`; `--set` too."""


_PRECISION = (
    "fp32, fp16, w8 or int8, as far as the target has it, or auto: makes all, and keeps one that "
    "is proven (see --prefer). Several with commas: a bundle of each in --out "
    "(--json: a list, bundles)."
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExportCall(_Arguments):
    """The arguments of an export of one bundle."""

    precision: str = setting("fp32", metavar="P[,P]", help=_PRECISION)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExportListCall(_Arguments):
    """The arguments of an export of several precisions, a bundle each."""

    precision: Sequence[str] = dataclasses.field(metadata=help_for(_PRECISION, metavar="P[,P]"))


AnyCall = ExportCall | ExportListCall
