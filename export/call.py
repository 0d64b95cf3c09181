"""The arguments of `export`: one frozen dataclass, from which everything else is derived.

The Python signature (as type checkers see it), the options of `edgeseed export`, their help, the
docstring and the settings in the manifest all come from these fields. Nothing heavy is imported
here, so that `edgeseed export --help` stays quick.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from edgeseed.core.options import Option

Batch = Literal["dynamic"] | int
Prefer = Literal["speed", "size"]


_TARGET = (
    "See `edgeseed targets`. Several with commas: a bundle of each in --out, or with --precision "
    "auto the one that is best of all."
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Arguments:
    student: Annotated[
        str | Path,
        Option("A `student.safetensors`, or any timm network: `NAME[.tag]`, `NAME=CHECKPOINT`."),
    ] = dataclasses.field(kw_only=False)
    out: Annotated[
        str | Path,
        Option(
            "Folder of the bundle, or of several targets' or precisions' bundles; must not exist.",
            metavar="BUNDLE",
        ),
    ]
    prefer: Annotated[
        Prefer,
        Option(
            "Of what is proven auto keeps the smallest within 5 % of the fastest here "
            "(int8 only if faster than float), or for size the smallest."
        ),
    ] = "speed"
    profile: Annotated[
        str | None,
        Option(
            "The device it is for: what that cannot run is refused. See `edgeseed devices`.",
            metavar="NAME",
        ),
    ] = None
    calibration: Annotated[
        str | Path | None,
        Option(
            "Photos, no labels needed: int8 is calibrated and judged on disjoint parts of them. "
            "Without, synthetic colour fields stand in for photos.",
            metavar="D",
        ),
    ] = None
    calibration_count: Annotated[
        int | None,
        Option("Most photos to calibrate int8 with.", metavar="N", minimum=1, default_text="512"),
    ] = None
    scheme: Annotated[
        str | None,
        Option(
            "The integers of int8, for onnx: x86, arm, and for Qualcomm's NPU qnn or qnn-w8a16.",
            metavar="NAME", default_text="the profile's, else x86",
        ),
    ] = None  # fmt: skip
    keep_float: Annotated[
        Sequence[str],
        Option(
            "Layers that int8 leaves in float, by their names in the network, which "
            "`edgeseed explain` lists: `blocks.2.0.conv_pw`.",
            metavar="REGEX", multiple=True,
        ),
    ] = ()  # fmt: skip
    recover: Annotated[
        bool,
        Option(
            "Let int8 learn from the float student on further --calibration photos: minutes, for "
            "where rounding loses too much."
        ),
    ] = False
    min_agreement: Annotated[
        float | None,
        Option(
            "Least share of photos on which w8 and int8 must decide as float does; int8 leaves "
            "more layers in float where it must.",
            minimum=0, maximum=1, default_text="0.98",
        ),
    ] = None  # fmt: skip
    max_drop: Annotated[
        float | None,
        Option(
            "Most accuracy it may lose, in points, where labels are known.",
            minimum=0, default_text="1.0",
        ),
    ] = None  # fmt: skip
    add_outputs: Annotated[
        Sequence[str],
        Option(
            "Outputs besides embedding and logits: probabilities, or the best classes as top5; "
            "several with commas. For onnx and litert.",
            metavar="NAME[,NAME]", multiple=True,
        ),
    ] = ()  # fmt: skip
    batch: Annotated[
        Batch, Option("dynamic, or the one batch size that the model takes.", metavar="N")
    ] = "dynamic"
    verify: Annotated[
        bool,
        Option(
            "Whether a gate that fails is an error. Gates are recorded in either case.",
            off_help="Write the bundle even if a gate fails (the gates are recorded).",
        ),
    ] = True
    speed: Annotated[
        bool,
        Option(
            "Whether to compare the speed of int8 with float on this machine (about two seconds).",
            off_help="Do not compare the speed of int8 with float on this machine.",
        ),
    ] = True
    seed: Annotated[int, Option("Random seed of the split of the photos.", minimum=0)] = 0
    options: Annotated[
        Mapping[str, Any],
        Option('The target\'s own options, such as `{"opset": 18}`.', python_only=True),
    ] = dataclasses.field(default_factory=dict)
    quantization: Annotated[
        Mapping[str, Any],
        Option(
            "Settings of int8, such as "
            '`{"calibrator": "fisher"}`: see `export.quantize.config.QuantizeConfig`.',
            python_only=True,
        ),
    ] = dataclasses.field(default_factory=dict)


_PRECISION = (
    "fp32, fp16, w8 or int8, as far as the target has it, or auto: makes all, and keeps one that "
    "is proven (see --prefer). Several with commas: a bundle of each in --out "
    "(--json: a list, bundles)."
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExportCall(_Arguments):
    """The arguments of an export of one bundle."""

    target: Annotated[str, Option(_TARGET, metavar="T[,T]")] = "onnx"
    precision: Annotated[str, Option(_PRECISION, metavar="P[,P]")] = "fp32"


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExportListCall(_Arguments):
    """The arguments of an export of several targets or precisions, a bundle each."""

    target: Annotated[str | Sequence[str], Option(_TARGET, metavar="T[,T]", multiple=True)] = "onnx"
    precision: Annotated[
        str | Sequence[str], Option(_PRECISION, metavar="P[,P]", multiple=True)
    ] = "fp32"


AnyCall = ExportCall | ExportListCall
