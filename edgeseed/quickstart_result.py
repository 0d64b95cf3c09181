"""What the quickstart finds, and the commands that it leaves the user with."""

import dataclasses
from pathlib import Path
from typing import Any

from edgeseed.core.config import to_plain
from edgeseed.core.environment import environment
from edgeseed.distill.evaluation.evaluate import EvaluationResult
from edgeseed.export import ExportResult, VerifyResult
from edgeseed.runtime import Result


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Trained:
    """One network of the comparison."""

    name: str
    what: str
    seconds: float
    epochs: int
    evaluation: EvaluationResult
    """Of the student with its baseline: the same network untrained."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Shipped:
    """One bundle: as exported, as verified from the bundle alone, and as measured here."""

    name: str
    exported: ExportResult
    verified: VerifyResult
    result: Result | None
    """None for a format that this machine has no engine for."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class QuickstartResult:
    """All that the quickstart found."""

    out: Path
    report: Path
    teacher: Trained
    student: Trained
    alone: Trained
    bundles: tuple[Shipped, ...]
    commands: tuple[str, ...]
    seconds: float
    seed: int

    def to_dict(self) -> dict[str, Any]:
        """As JSON, without the latency samples: those are in the results."""
        values: dict[str, Any] = {
            field.name: to_plain(getattr(self, field.name))
            for field in dataclasses.fields(self)
            if field.name != "bundles"
        }
        values["bundles"] = [
            {
                "name": shipped.name,
                "exported": shipped.exported.to_dict(),
                "verified": shipped.verified.to_dict(),
                "p90_ms": None if shipped.result is None else p90_ms(shipped.result),
            }
            for shipped in self.bundles
        ]
        return {**values, "environment": environment()}


def commands_for_own_photos() -> tuple[str, ...]:
    """The same on one's own photos with a teacher that has seen the world."""
    return (
        "edgeseed distill --teacher vit_base_patch14_reg4_dinov2.lvd142m "
        "--student mobilenetv3_large_100 --data PHOTOS --out runs/mine",
        "edgeseed evaluate runs/mine/student.safetensors --data LABELLED "
        "--save-classifier runs/mine/classifier.safetensors",
        "edgeseed export runs/mine/classifier.safetensors --target onnx --precision int8 "
        "--calibration PHOTOS --out bundles/mine",
        "edgeseed verify bundles/mine",
        "edgeseed profile bundles/mine --device host --data LABELLED --out results/mine.json",
        "edgeseed compare results/mine.json --html report.html",
    )


def p90_ms(result: Result) -> float:
    """p90 of a result of this machine, whose runner keeps its samples."""
    assert result.latency is not None
    return result.latency.p90.value
