"""Which student to train for a device and a budget: times candidates before anyone trains one.

Latency does not depend on what a network has learnt, so untrained networks are exported on the spot
and measured on the device: every precision that its profile names, with the engine that it names.
int8 is made with plain ranges, without search and without gates: its time is that of the real one
but for layers that a search would leave in float, and its answers mean nothing. What is ranked is
the published ImageNet accuracy of the same network, trained with labels: a guide to capacity, not
what distillation on your photos will reach.

Beside the stages, since it uses all of them and they do not import each other.
"""

import dataclasses
import hashlib
import json
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from edgeseed.core.console import quiet, say, warn
from edgeseed.core.environment import edgeseed_version, environment
from edgeseed.core.errors import ConfigError, EdgeseedError, WorkError
from edgeseed.core.registry import unknown_name
from edgeseed.core.scratch import scratch_folder
from edgeseed.runtime.ranking import is_disturbed
from edgeseed.runtime.result import Result, read_result

SOURCE = "timm, results/results-imagenet.csv: https://github.com/huggingface/pytorch-image-models"
CLASSES = 1000
# No photo is better than another for a network that has learnt nothing: a few, made of noise. Some
# give the ranges, and the others are what the gates look at, whose verdict is not asked.
_NUM_PHOTOS = 32
_TIMING_ONLY = {
    "calibrator": "minmax",
    "equalize": False,
    "bias_correction": False,
    "gain_correction": False,
    "second_order": False,
    "min_agreement": 0.0,
    "required_agreement": 0.0,
    "max_float_layers": 0,
}

Measure = Callable[[str, str, Path], Result]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class TimedNetwork:
    """One network in one precision, timed untrained."""

    student: str
    precision: str
    p50_ms: float
    p90_ms: float
    size_mb: float
    supervised_top1_percent: float | None
    """Published ImageNet top-1 of the network, trained with labels and in float."""
    fits: bool
    """Whether it is within the budgets."""
    valid: bool
    disturbed: bool
    """Whether other work on the machine moved its times."""
    cached: bool
    """Whether it was measured on this device before, and not now."""

    @property
    def doubt(self) -> str:
        """Why its times are not to be trusted, for its row of the table."""
        if not self.valid:
            return " (not valid)"
        return " (busy machine)" if self.disturbed else ""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Recommendation:
    """Candidates by what they may reach: those that fit first, the most accurate at the front."""

    device: str
    budget_ms: float
    budget_mb: float | None
    candidates: tuple[TimedNetwork, ...]
    skipped: tuple[str, ...]
    """What could not be timed, and why."""
    source: str = SOURCE
    image_size: int | None = None
    """Side of the photos; None for each network's own, at which its accuracy was published."""

    @property
    def best(self) -> TimedNetwork | None:
        """The first that fits; None where nothing does."""
        first = self.candidates[0] if self.candidates else None
        return first if first is not None and first.fits else None

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        best = None if self.best is None else dataclasses.asdict(self.best)
        return {**dataclasses.asdict(self), "best": best, "timing_only": True}

    def table(self) -> str:
        """As plain text."""
        rows = [("", "student", "precision", "p50 ms", "p90 ms", "MB", "ImageNet top-1 %")]
        rows += [
            (
                "fits" if item.fits else "",
                item.student + item.doubt,
                item.precision,
                f"{item.p50_ms:.3g}",
                f"{item.p90_ms:.3g}",
                f"{item.size_mb:.2f}",
                "–"
                if item.supervised_top1_percent is None
                else f"{item.supervised_top1_percent:.1f}",
            )
            for item in self.candidates
        ]
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
        lines = (
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in rows
        )
        fits = any(item.fits for item in self.candidates)
        limit = f"p90 within {self.budget_ms:g} ms"
        if self.budget_mb is not None:
            limit += f" and {self.budget_mb:g} MB"
        return "\n".join(
            [
                *lines,
                "",
                f"{'fits' if fits else 'None fits'}: {limit} on {self.device}. Timed "
                f"untrained{self._at()}; int8 by plain ranges.",
                "ImageNet: published, with labels, in float, at the network's own size "
                f"({self.source}).",
                *(f"not timed: {text}" for text in self.skipped),
            ]
        )

    def _at(self) -> str:
        return "" if self.image_size is None else f" at {self.image_size} px"


def recommend(
    *,
    budget_ms: float,
    budget_mb: float | None = None,
    device: str = "host",
    device_profile: str | None = None,
    students: Sequence[str] | None = None,
    precisions: Sequence[str] | None = None,
    image_size: int | None = None,
    protocol: str = "rapid",
    threads: int | None = None,
    html: str | Path | None = None,
    picture: str | Path | None = None,
    cache: str | Path | None = None,
    measure: Measure | None = None,
) -> Recommendation:
    """Time candidate students on a device, and rank those that fit a budget.

    Args:
        budget_ms: most that p90 of one image may take.
        budget_mb: most that the model may take on disk, in 10^6 bytes; None for no limit.
        device: as for `profile`.
        device_profile: facts about the device: they choose engine, unit, precisions and scheme.
        students: networks to try; by default those of `edgeseed students` with a published
            accuracy.
        precisions: to try; by default the profile's for ONNX bundles.
        image_size: side of the photos in pixels; by default each network's own, at which its
            accuracy was published.
        protocol: as for `profile`.
        threads: of the engine; by default the profile's.
        html: where to write a page with the picture of latency and accuracy.
        picture: where to write the picture alone, as an SVG file.
        cache: folder of what was measured before, by device; by default below ~/.cache.
        measure: measures a network in a precision and writes the result into a path; for tests.

    Raises:
        ConfigError: If a budget is not above 0.
        UsageError: If a name is unknown.
        WorkError: If nothing at all could be timed.
    """
    from edgeseed import profiles
    from edgeseed.distill.networks.students import describe_student, list_students
    from edgeseed.export.targets import TARGETS
    from edgeseed.runtime.devices import open_device

    for name, budget in (("budget_ms", budget_ms), ("budget_mb", budget_mb)):
        if budget is not None and not budget > 0:
            raise ConfigError(f"{name}={budget} is not above 0")
    for name, names in (("students", students), ("precisions", precisions)):
        if names is not None and not names:
            raise ConfigError(f"{name} names none; leave it out for the default")
    known = TARGETS.load("onnx").precisions
    for precision in precisions or ():
        if precision not in known:
            raise unknown_name("precision of onnx", precision, known)
    facts = profiles.load(device_profile or "host")
    engine = facts.engine_for("onnx")
    open_device(device)  # what is wrong with its name is said once, not for every network
    if students is None:
        infos = [info for info in list_students() if info.supervised_top1_percent is not None]
    else:
        infos = [describe_student(name) for name in students]
    call = _Call(
        device=device,
        device_profile=device_profile,
        protocol=protocol,
        threads=threads,
        scheme=engine.scheme,
        image_size=image_size,
        folder=_cache_folder(cache, device),
    )
    found: list[TimedNetwork] = []
    skipped: list[str] = []
    for info in infos:
        for precision in precisions or engine.precisions:
            try:
                result, cached = call.result(info.name, precision, measure or call.measure)
            except EdgeseedError as error:
                skipped.append(f"{info.name} {precision}: {error}")
                warn(f"{info.name} {precision} is left out: {error}")
                continue
            accuracy = info.supervised_top1_percent
            found.append(
                _candidate(info.name, precision, result, accuracy, cached, budget_ms, budget_mb)
            )
    if not found:
        raise WorkError(f"nothing could be timed on {device}: {skipped[0] if skipped else ''}")
    recommendation = Recommendation(
        device=device,
        budget_ms=budget_ms,
        budget_mb=budget_mb,
        candidates=tuple(sorted(found, key=_order)),
        skipped=tuple(skipped),
        image_size=image_size,
    )
    if html is not None:
        _write_page(recommendation, html)
    if picture is not None:
        _write_picture(recommendation, picture)
    return recommendation


def _candidate(
    student: str,
    precision: str,
    result: Result,
    accuracy: float | None,
    cached: bool,
    budget_ms: float,
    budget_mb: float | None,
) -> TimedNetwork:
    summary = result.latency
    p50 = result.mean_ms if summary is None else summary.p50.value
    p90 = result.mean_ms if summary is None else summary.p90.value
    size_mb = result.bundle.size_bytes / 1e6
    within = p90 <= budget_ms and (budget_mb is None or size_mb <= budget_mb)
    return TimedNetwork(
        student=student,
        precision=precision,
        p50_ms=p50,
        p90_ms=p90,
        size_mb=size_mb,
        supervised_top1_percent=accuracy,
        # A throttled or misplaced run says nothing about the budget.
        fits=within and result.valid,
        valid=result.valid,
        disturbed=is_disturbed(result),
        cached=cached,
    )


def _order(item: TimedNetwork) -> tuple[bool, float, float]:
    accuracy = item.supervised_top1_percent
    return (not item.fits, -(accuracy if accuracy is not None else -1.0), item.p90_ms)


def _cache_folder(cache: str | Path | None, device: str) -> Path:
    if cache is None:
        home = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
        cache = home / "edgeseed" / "recommend"
    readable = re.sub(r"[^A-Za-z0-9.-]+", "-", device).strip("-")[:40]
    return Path(cache) / f"{readable}-{hashlib.sha256(device.encode()).hexdigest()[:8]}"


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class _Call:
    """What is the same for all candidates."""

    device: str
    device_profile: str | None
    protocol: str
    threads: int | None
    scheme: str | None
    image_size: int | None
    folder: Path

    def result(self, student: str, precision: str, measure: Measure) -> tuple[Result, bool]:
        """A measurement of before, or a new one."""
        key = (
            self.device_profile, self.protocol, self.threads, self.scheme, self.image_size,
            edgeseed_version(),
        )  # fmt: skip
        # Another processor or engine is another device, though it may be called `host` as well.
        here = environment() if self.device == "host" else {}
        machine = (here.get("cpu"), here.get("cores"), here.get("libraries"))
        digest = hashlib.sha256(json.dumps((key, machine), default=str).encode()).hexdigest()[:8]
        path = self.folder / f"{student}-{precision}-{digest}.json"
        if path.is_file():
            known = read_result(path)
            if known.valid and not is_disturbed(known):
                return known, True
            path.unlink()  # it was throttled, interrupted or disturbed: another try may not be
        say(f"{student} {precision} on {self.device}")
        return measure(student, precision, path), False

    def measure(self, student: str, precision: str, out: Path) -> Result:
        """Export the untrained network and profile it."""
        from edgeseed.export import export
        from edgeseed.runtime import profile

        with scratch_folder() as scratch:
            file = scratch / "student.safetensors"
            size = _save_untrained(student, file, image_size=self.image_size)
            quantized = precision in ("int8", "w8")
            photos = _write_photos(scratch / "photos", size) if quantized else None
            # Its warnings are about answers, and nobody will use those of an untrained network.
            with quiet(warnings=True):
                export(
                    str(file),
                    target="onnx",
                    precision=precision,
                    scheme=self.scheme if precision == "int8" else None,
                    calibration=photos,
                    verify=False,
                    speed=False,
                    quantization=_TIMING_ONLY if precision == "int8" else {},
                    out=scratch / f"{student}-{precision}",
                )
            return profile(
                scratch / f"{student}-{precision}",
                device=self.device,
                device_profile=self.device_profile,
                protocol=self.protocol,
                threads=self.threads,
                accuracy=False,
                out=out,
            )


def _write_photos(folder: Path, size: int) -> Path:
    """A folder of noise as photos."""
    import numpy as np
    from PIL import Image

    folder.mkdir()
    generator = np.random.default_rng(0)
    for number in range(_NUM_PHOTOS):
        pixels = generator.integers(0, 256, (size, size, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return folder


def _save_untrained(student: str, path: Path, *, image_size: int | None) -> int:
    """Write a network as it is before training, with a head of ImageNet's size.

    Args:
        student: its name.
        path: the student file.
        image_size: None for the size that the network was designed for.

    Returns:
        The side of its input, in pixels.
    """
    import torch

    from edgeseed.core.network import build_student, save_student
    from edgeseed.core.preprocess import Preprocess
    from edgeseed.core.student import Architecture, StudentSpec
    from edgeseed.distill.networks.students import describe_student

    torch.manual_seed(0)
    architecture = Architecture(name=student)
    network = build_student(architecture, num_classes=CLASSES).eval()
    size = image_size or describe_student(student).image_size
    spec = StudentSpec(
        architecture=architecture,
        preprocess=Preprocess(image_size=size, resize=size),
        embedding_dim=network.embedding_dim,
        classes=tuple(f"class {number}" for number in range(CLASSES)),
        provenance={"method": "none: untrained, to be timed"},
    )
    save_student(path, network, spec)
    return size


def _draw(recommendation: Recommendation) -> Callable[[int], Any] | None:
    """Latency against accuracy; None where no candidate has a published accuracy."""
    from edgeseed.runtime.report import charts
    from edgeseed.runtime.summary import Estimate

    items = recommendation.candidates
    known = [item for item in items if item.supervised_top1_percent is not None]
    unit = charts.TimeUnit.fitting(max(item.p90_ms for item in items))
    colours = {name: number for number, name in enumerate(dict.fromkeys(i.student for i in items))}

    def share(item: TimedNetwork) -> Estimate:
        value = (item.supervised_top1_percent or 0.0) / 100
        return Estimate(value=value, low=None, high=None)

    points = [
        charts.Point(
            label=f"{item.student} {item.precision}",
            colour=colours[item.student],
            latency=Estimate(value=item.p90_ms, low=None, high=None).scaled(unit.per_ms),
            quality=share(item),
            size_mb=item.size_mb,
            valid=item.fits,
        )
        for item in known
    ]
    if not points:
        return None
    return charts.tradeoff(points, unit=unit, quality="ImageNet top-1, published")


def _write_picture(recommendation: Recommendation, path: str | Path) -> None:
    from edgeseed.core.svg import write_svg
    from edgeseed.runtime.report import page

    draw = _draw(recommendation)
    if draw is None:
        raise WorkError(f"{path} is not written: no candidate has a published accuracy to draw")
    write_svg(path, draw(page.WIDE))


def _write_page(recommendation: Recommendation, html: str | Path) -> None:
    from edgeseed.runtime.report import page

    draw = _draw(recommendation)
    caption = "A disc's area is the model's size on disk; pale ones do not fit the budget. "
    caption += "Dotted: what no other candidate beats in both."
    sections = [
        page.Section(
            title="Accuracy against latency",
            lead="Up is better, left is faster. The networks were timed untrained; their accuracy "
            f"is published, with labels and in float ({recommendation.source}).",
            markup=page.figure(draw, caption=caption)
            if draw is not None
            else page.paragraph("No candidate has a published accuracy."),
        ),
        page.Section(title="Candidates", markup=page.code(recommendation.table())),
    ]
    best = recommendation.best
    lead = (
        f"Nothing fits {recommendation.budget_ms:g} ms on {recommendation.device}."
        if best is None
        else f"Train {best.student} and ship it in {best.precision}: p90 {best.p90_ms:.3g} ms of "
        f"{recommendation.budget_ms:g} on {recommendation.device}."
    )
    page.write_page(
        html,
        page.render_page(
            title="Which student to train", lead=lead, sections=sections,
            foot=f"edgeseed {edgeseed_version()}. Times are of untrained networks: int8 by plain "
            "ranges, without search and without gates.",
        ),
    )  # fmt: skip
