"""Typed blocks of a bundle's manifest: quantization, speed, selection, and how it was made.

A block is read from JSON once, by `core.reading`, and has attributes from then on. What a block of
another version has besides is kept in `more` and written back: old bundles stay readable, and
nothing is lost on the way.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from edgeseed.core.config import to_plain
from edgeseed.core.reading import json_names

Verdict = Literal["chosen", "passed", "failed", "not made"]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class CandidateScore:
    """How near one way of quantizing came to the float program."""

    agreement: float
    """Share of photos on which both agree."""
    distance: float
    """By `core.agreement.output_distance`."""
    photos: int = 0
    """How many photos both rest on; 0 where that was not written down."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class PhotoCounts:
    """How many photos each use had in quantization: see `export.quantize.search.PhotoSplit`."""

    calibration: int = dataclasses.field(default=0, metadata={"json": "ranges"})
    held_out: int = dataclasses.field(default=0, metadata={"json": "selection"})
    ranking: int = dataclasses.field(default=0, metadata={"json": "judging"})
    acceptance: int = dataclasses.field(default=0, metadata={"json": "counting"})
    recovery: int = 0

    def to_dict(self) -> dict[str, int]:
        """As JSON, by the keys of version 1."""
        return {key: getattr(self, name) for key, name in json_names(self).items()}


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class EqualizationRecord:
    """How the channels of one group of tensors were scaled before they were quantized."""

    gain: float
    """How many times smaller the expected squared error of rounding is."""
    steps: str
    """A number a channel, between spaces: it is divided by two to a quarter of that."""


NPU_SCHEMES = ("qnn", "qnn-w8a16")
"""Whose integers are those of Qualcomm's NPU: other processors compute slightly other numbers."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class QuantizationRecord:
    """How the integers of a model came about."""

    scheme: str
    """Whose integers they are, such as `x86`."""
    activations: str = ""
    """Type of the stored activations: `uint8`, `int8`."""
    weights: str = "int8 per output channel"
    calibrator: str = ""
    photos: PhotoCounts = dataclasses.field(default_factory=PhotoCounts)
    bias_correction: bool = False
    gain_correction: bool = False
    second_order: bool = False
    recovered: bool = False
    """Whether weights were learnt from the float student."""
    agreement: float | None = None
    """Of the simulated integer program, on photos that calibrate or choose."""
    tried: Mapping[str, CandidateScore] = dataclasses.field(default_factory=dict)
    """By the way of calibrating, in the order in which they were tried."""
    counted: Mapping[str, CandidateScore] = dataclasses.field(default_factory=dict)
    """The same, with agreement of the acceptance photos, which rank nothing."""
    integer_operators: Mapping[str, str] = dataclasses.field(
        default_factory=dict, metadata={"json": "integer"}
    )
    """Node of the program -> its kind (`conv`, `linear`, `add`, `pool`)."""
    float_operators: Mapping[str, str] = dataclasses.field(
        default_factory=dict, metadata={"json": "float"}
    )
    """Node of the program -> why it stayed in float."""
    byte_weights: Sequence[str] = ()
    """Those of them whose weights are stored as bytes, with a scale an output channel."""
    sensitivity: Mapping[str, float] = dataclasses.field(default_factory=dict)
    """Layer -> what leaving it in float gains."""
    widened: Sequence[str] = ()
    """Layers that were given channels of zeros."""
    equalized: Mapping[str, EqualizationRecord] = dataclasses.field(default_factory=dict)
    shifted: Mapping[str, float] = dataclasses.field(default_factory=dict)
    """Node -> constant that is stored added to its values."""
    ranges: Mapping[str, tuple[float, float]] = dataclasses.field(default_factory=dict)
    """Node -> least and largest value that its stored integers stand for."""
    renamed: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Layer of the float program -> its name in the integer program."""
    more: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return _to_dict(self)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ModelSpeed:
    """How fast one model was beside the others that took turns with it."""

    median_ms: float
    p10_ms: float
    p90_ms: float
    speedup: float
    """Median over the rounds of the baseline's time over this one's: above 1 is faster."""
    n: int
    """Rounds."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class SpeedRecord:
    """How fast a model was beside the float one, on the machine that exported it.

    An aid to choose by, not a measurement. Where this machine could not tell, `timed` is False,
    `reason` says why, and the rest is empty.
    """

    timed: bool
    reason: str = ""
    speedup: float | None = None
    baseline: str | None = None
    """The precision that it is compared with."""
    batch: int | None = None
    threads: int | None = None
    runner: str | None = None
    """What computed both."""
    compared: Mapping[str, ModelSpeed] = dataclasses.field(default_factory=dict)
    """By precision, all that took turns."""
    more: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """As JSON: what was measured, or the reason."""
        values = _to_dict(self)
        if not self.timed:
            return {"timed": False, "reason": self.reason, **to_plain(self.more)}
        del values["reason"]
        return values


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class GateValue:
    """What one gate found, for a table of candidates."""

    gate: str
    value: float
    n: int


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class SelectionCandidate:
    """One precision that `--precision auto` tried, or could not."""

    precision: str
    scheme: str | None
    verdict: Verdict
    reason: str
    """Why it was not made, failed, or was not chosen."""
    size_bytes: int | None = None
    median_ms: float | None = None
    speedup: float | None = None
    closeness: GateValue | None = None
    accuracy_drop: float | None = None
    """In points."""
    seconds: float | None = None
    """That making it took."""
    target: str = ""
    """Where several were tried."""

    @property
    def name(self) -> str:
        """The precision, after its target where several were tried."""
        return f"{self.target} {self.precision}" if self.target else self.precision


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class SelectionRecord:
    """What `--precision auto` tried, what it chose and why."""

    prefer: str
    profile: str | None
    chosen: str
    why: str
    candidates: tuple[SelectionCandidate, ...]
    more: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return _to_dict(self)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ExportSettings:
    """What an export was asked for, resolved."""

    target: str = ""
    requested: str = ""
    """The precisions as they were asked for, such as `auto` or `int8,fp32`."""
    batch: int | str = "dynamic"
    seed: int = 0
    min_agreement: float | None = None
    max_drop: float | None = None
    """In points."""
    profile: str | None = None
    keep_float: Sequence[str] = ()
    add_outputs: Sequence[str] = ()
    """Outputs besides the student's own, such as `probabilities` or `top5`."""
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """The target's own."""
    quantization: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Settings of the quantization."""
    precision: str = ""
    scheme: str | None = None
    more: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return _to_dict(self)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class PhotosRecord:
    """The photos that an export calibrated and proved a model with."""

    source: str = ""
    fingerprint: str | None = None
    seed: int | None = None
    available: int | None = None
    proof: int = 0
    """How many are held out as proof."""
    calibration: int | None = None
    disjoint: bool | None = None
    """Whether no photo is used twice."""
    trained_on: bool | Mapping[str, int] | None = dataclasses.field(
        default=None, metadata={"json": "taught"}
    )
    """Whether the student was trained on them: True, or how many `photos` `of` how many."""
    statistics: Mapping[str, Any] | None = None
    """See `export.photo_statistics`."""
    more: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """As JSON, without what is not known."""
        return {name: value for name, value in _to_dict(self).items() if value is not None}


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Provenance:
    """Where a bundle comes from."""

    student: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """The student file's own provenance."""
    student_metrics: Sequence[Mapping[str, Any]] = ()
    export: ExportSettings = dataclasses.field(default_factory=ExportSettings)
    photos: PhotosRecord = dataclasses.field(default_factory=PhotosRecord)
    model: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """What the target says of how it wrote the file; only the target reads it."""
    environment: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    more: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def edgeseed_version(self) -> str | None:
        """The edgeseed that made it."""
        version = self.environment.get("edgeseed")
        return None if version is None else str(version)

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return _to_dict(self)


def _to_dict(record: Any) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for json_name, name in json_names(record).items():
        value = getattr(record, name)
        values[json_name] = value.to_dict() if hasattr(value, "to_dict") else to_plain(value)
    return {**values, **to_plain(record.more)}
