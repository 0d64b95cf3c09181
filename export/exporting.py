"""`edgeseed export`: a student file becomes a proven bundle."""

import dataclasses
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgeseed.core.bundle import Bundle, GateResult
from edgeseed.core.config import to_plain
from edgeseed.core.console import note, say, warn
from edgeseed.core.environment import environment
from edgeseed.core.errors import GateError, WorkError
from edgeseed.core.files import atomic_directory, readable_size
from edgeseed.core.network import StudentNetwork, load_student
from edgeseed.core.photos import sketched_photos
from edgeseed.core.student import StudentSpec
from edgeseed.export.bundling.builder import Workshop, compare_with_float, plainest
from edgeseed.export.bundling.writer import Made, Origin, seal
from edgeseed.export.photo_statistics import check_photos
from edgeseed.export.planning import AUTO, Call, Plan, make_plan, refuse_list
from edgeseed.export.program import Batch
from edgeseed.export.proof.verify import require_passed
from edgeseed.export.samples import (
    MAX_CALIBRATION,
    SYNTHETIC,
    Samples,
    draw_samples,
    scratch_folder,
)
from edgeseed.export.selection import (
    Attempt,
    Prefer,
    select,
    selected_speed,
    time_attempts,
    try_form,
)

_HOST = "host"
# Below this share or count, photos that taught are a few among others.
_LEAST_TAUGHT, _FEWEST_TAUGHT = 0.05, 2


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExportResult:
    """What `export` made."""

    bundle: str
    target: str
    precision: str
    model: str
    size_bytes: int
    """Of the model alone."""
    gates: tuple[GateResult, ...]
    quantization: dict[str, Any] | None
    speed: dict[str, Any] | None
    """Beside the float model on this machine; None where nothing was compared."""
    selection: dict[str, Any] | None
    """What `auto` tried, chose, and why."""
    seconds: float
    """By the clock; of `export_each`, the first one's hold what all share."""

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        plain: dict[str, Any] = to_plain(self)
        return plain


def export(
    student: str | Path,
    *,
    target: str = "onnx",
    precision: str = "fp32",
    calibration: str | Path | None = None,
    calibration_count: int | None = None,
    out: str | Path,
    profile: str | None = None,
    prefer: Prefer = "speed",
    min_agreement: float | None = None,
    max_drop: float | None = None,
    batch: Batch = "dynamic",
    scheme: str | None = None,
    keep_float: Sequence[str] = (),
    recover: bool = False,
    speed: bool = True,
    verify: bool = True,
    seed: int = 0,
    options: Mapping[str, Any] | None = None,
    quantization: Mapping[str, Any] | None = None,
) -> ExportResult:
    """Exports a student as a bundle, and proves it.

    Args:
        student: A `student.safetensors`.
        target: `onnx`, `coreml` or another file of `export/targets/`.
        precision: `fp32`, a lower one that the target has, or `auto`: all of them are made, and
            of those that are proven one is kept (see `export.selection`).
        calibration: Photos, needed for int8; without labels, and disjoint parts of them calibrate
            and judge. For float precisions they become the golden photos; without, coloured fields
            do.
        calibration_count: Most photos to calibrate int8 with (default 512).
        out: The bundle's folder; it must not exist.
        profile: The device it is for, by the name of its profile: what that cannot run is refused.
        prefer: What `auto` looks for among what is proven: `speed` or `size`.
        min_agreement: Least share of photos on which a quantized model decides as the student does
            (default 0.98). int8 leaves more layers in float where more is asked
            (see `planning.search_target`).
        max_drop: Most accuracy it may lose, in points, where labels are known (default 1.0).
        batch: `"dynamic"`, or the one batch size that the model takes. A target whose format fixes
            the batch (Core ML: 1) takes that one in either case.
        scheme: The integers of int8, where the target has several: `x86` or `arm` for ONNX.
        keep_float: Regular expressions of the names of layers that int8 leaves in float.
        recover: Whether int8 learns from the float student (quantization-aware distillation), on up
            to 10,000 further photos of `calibration`, unlabelled: minutes in place of seconds, for
            where rounding alone loses too much. See `quantize.recovery`.
        speed: Whether to compare the speed of int8 with float, where this machine can.
        verify: Whether a gate that does not hold is an error. They are computed and recorded
            anyway.
        seed: Of the split of the photos.
        options: The target's own options, such as `{"opset": 18}`.
        quantization: Settings of `quantize.config.QuantizeConfig`, such as
            `{"calibrator": "fisher"}`.

    Returns:
        Where the bundle is, and its gates.

    Raises:
        UsageError: If the call does not make sense: unknown target or precision, no calibration
            photos, or an argument that would have no effect.
        WorkError: If the target cannot express the network.
        GateError: If a gate does not hold, for `auto` in every precision; nothing is written then.
    """
    call = Call(
        student=Path(student), target=target, calibration=calibration,
        calibration_count=calibration_count, profile=profile, prefer=prefer,
        min_agreement=min_agreement, max_drop=max_drop, batch=batch, scheme=scheme,
        keep_float=keep_float, recover=recover, speed=speed, verify=verify, seed=seed,
        options=options or {}, quantization=quantization or {},
    )  # fmt: skip
    (result,) = _export(call, {precision: Path(out)}, Path(out))
    return result


def export_each(  # noqa: D417  # the others are those of `export`
    student: str | Path,
    *,
    target: str = "onnx",
    precisions: Sequence[str],
    calibration: str | Path | None = None,
    calibration_count: int | None = None,
    out: str | Path,
    profile: str | None = None,
    prefer: Prefer = "speed",
    min_agreement: float | None = None,
    max_drop: float | None = None,
    batch: Batch = "dynamic",
    scheme: str | None = None,
    keep_float: Sequence[str] = (),
    recover: bool = False,
    speed: bool = True,
    verify: bool = True,
    seed: int = 0,
    options: Mapping[str, Any] | None = None,
    quantization: Mapping[str, Any] | None = None,
) -> tuple[ExportResult, ...]:
    """Exports a student in several precisions, in less time than by a call for each.

    Photos, trace, the float student's answers and the float model that int8 is timed beside are
    shared. So all are proven on the same photos: those held out from calibration, if int8 is among
    them.

    Args:
        student: A `student.safetensors`.
        target: As for `export`, like all that is not named here.
        precisions: Those to make; not `auto`, which chooses among all by itself.
        out: A folder, which must not exist: each precision becomes a bundle in it, named after it.

    Returns:
        What was made, in the order of `precisions`. The seconds of what is shared are those of the
        first that was made.

    Raises:
        UsageError: As for `export`, and if there is no precision, `auto`, or one twice.
        WorkError: If the target cannot express the network in one of them.
        GateError: If a gate does not hold. No bundle is written in either case.
    """
    refuse_list(precisions)
    call = Call(
        student=Path(student), target=target, calibration=calibration,
        calibration_count=calibration_count, profile=profile, prefer=prefer,
        min_agreement=min_agreement, max_drop=max_drop, batch=batch, scheme=scheme,
        keep_float=keep_float, recover=recover, speed=speed, verify=verify, seed=seed,
        options=options or {}, quantization=quantization or {},
    )  # fmt: skip
    return tuple(_export(call, {name: Path(out, name) for name in precisions}, Path(out)))


def _export(call: Call, places: Mapping[str, Path], out: Path) -> list[ExportResult]:
    """Makes each precision's bundle at its place, which is `out` or lies in it."""
    times = [time.monotonic()]
    plan = make_plan(call, places)
    network, spec = load_student(call.student)
    # The float model first: the others are timed beside it.
    order = sorted(places, key=lambda name: name != plainest(plan.target))
    bundles: list[Bundle] = []
    with atomic_directory(out) as folder, scratch_folder() as scratch:
        samples = _draw(call, plan, network, spec, Path(scratch))
        origin = Origin(
            student=call.student, network=network, spec=spec, samples=samples,
            settings=plan.settings, environment=environment(),
        )  # fmt: skip
        workshop = Workshop(
            origin, plan.target, batch=plan.batch, config=plan.config, scratch=Path(scratch),
            keep_float=call.keep_float,
        )  # fmt: skip
        for precision in order:
            inside = folder / places[precision].relative_to(out)
            inside.mkdir(exist_ok=True)
            try:
                bundles.append(_make(call, plan, workshop, precision, inside))
            except (GateError, WorkError) as error:
                if len(places) == 1:
                    raise
                named = f"{precision}: {error}"
                if isinstance(error, GateError):
                    raise GateError(named, result=error.result) from error
                raise WorkError(named) from error
            times.append(time.monotonic())
    times[-1] = time.monotonic()
    made = {
        precision: _result(bundle, out=places[precision], seconds=end - start)
        for precision, bundle, start, end in zip(order, bundles, times, times[1:], strict=False)
    }
    return [made[precision] for precision in places]


def _draw(
    call: Call, plan: Plan, network: StudentNetwork, spec: StudentSpec, scratch: Path
) -> Samples:
    """The photos, with what there is to say of them."""
    samples = draw_samples(
        call.calibration,
        spec.preprocess,
        classes=spec.classes,
        scratch=scratch,
        calibrate=any(form.scheme for form in plan.forms),
        max_calibration=call.calibration_count or MAX_CALIBRATION,
        seed=call.seed,
    )
    if taught := taught_photos(samples, spec):
        samples = samples.described(taught=taught)
    _say_what_proves(samples, max_drop=call.max_drop)
    decide = any(form.precision not in plan.target.parity_limit for form in plan.forms)
    if call.calibration is not None and decide:
        samples = samples.described(
            statistics=check_photos(samples.deciding, network, spec.preprocess)
        )
    return samples


def _make(call: Call, plan: Plan, workshop: Workshop, precision: str, folder: Path) -> Bundle:
    """The bundle of one precision that was asked for, proven."""
    timed = call.speed and call.profile in (None, _HOST)
    forms = plan.makeable[precision]
    if precision == AUTO:
        attempts = [try_form(workshop, form, workshop.scratch / form.precision) for form in forms]
        return _keep_best(
            workshop, attempts + plan.hopeless, folder,
            timed=timed, prefer=call.prefer, profile=call.profile,
        )  # fmt: skip
    if len(plan.makeable) > 1:
        say(f"making {plan.target.name} {precision}")
    made = workshop.make(forms[0], folder)
    if call.verify:
        require_passed(made.evidence, list(made.gates))
    return _with_speed(workshop, made) if timed else made.bundle


def taught_photos(samples: Samples, spec: StudentSpec) -> bool | dict[str, int]:
    """Whether a student has learnt from the photos, as far as its file tells.

    Returns:
        True for a set that taught it, or one of which a part did and nobody knows how much; for
        others that hold some of the same files, how many `photos` `of` how many that can be
        compared; else False.
    """
    photos = samples.source
    if photos is None or photos.fingerprint in spec.taught_by_all_of:
        return photos is not None
    shared = sketched_photos(photos, spec.sketches)
    if shared.count >= max(_FEWEST_TAUGHT, _LEAST_TAUGHT * shared.num_compared):
        return {"photos": shared.count, "of": shared.num_compared}
    return not shared.num_compared and photos.fingerprint in spec.taught_by


def _say_what_proves(samples: Samples, *, max_drop: float | None) -> None:
    """A warning where the proof is less than a reader of the gates would think."""
    if samples.synthetic:
        warn(
            f"no photos were given: {len(samples.proof)} {SYNTHETIC} stand in for them, which show "
            "that the file computes what the student computes, and no more; add --calibration "
            "FOLDER to prove it on yours"
        )
    if taught := samples.description.get("taught"):
        source = samples.description["source"]
        some = source
        if isinstance(taught, dict):
            some = (
                f"{taught['photos']:,} of {taught['of']:,} photos of {source} that can be compared"
            )
        note(
            f"{some} taught this student, which is surer of these photos than of any that come "
            "after: it will keep fewer decisions of those than the gates say; give --calibration "
            "photos that it has not learnt from, if there are any"
        )
    if max_drop is not None and samples.proof.labels is None:
        warn(
            "--max-drop has no effect here: it needs --calibration in class folders named as the "
            "student's classes; it is kept for `edgeseed verify --data`"
        )


def _keep_best(
    workshop: Workshop,
    attempts: Sequence[Attempt],
    folder: Path,
    *,
    timed: bool,
    prefer: Prefer,
    profile: str | None,
) -> Bundle:
    """Chooses among the attempts and moves the chosen one into `folder`."""
    baseline = plainest(workshop.target)
    speeds = time_attempts(workshop, attempts) if timed else {}
    selection = select(attempts, speeds, baseline=baseline, prefer=prefer, profile=profile)
    made = selection.attempt.made
    assert made is not None
    shutil.copytree(made.bundle.path, folder, dirs_exist_ok=True)
    return seal(
        folder,
        dataclasses.replace(
            made.bundle.manifest,
            speed=selected_speed(selection, baseline=baseline),
            selection=selection.record,
        ),
    )


def _with_speed(workshop: Workshop, made: Made) -> Bundle:
    """For int8: the bundle with its speed beside float written down, and a warning if it lost."""
    manifest = made.bundle.manifest
    if manifest.quantization is None:
        return made.bundle
    record = compare_with_float(workshop, made)
    if record["timed"] and record["speedup"] <= 1:
        warn(
            f"{manifest.precision} is not faster than {record['baseline']} here: "
            f"{record['speedup']:.2f} times as fast on one thread; ship it for its size only, or "
            "let --precision auto choose"
        )
    return seal(made.bundle.path, dataclasses.replace(manifest, speed=record))


def _result(bundle: Bundle, *, out: str | Path, seconds: float) -> ExportResult:
    manifest = bundle.manifest
    result = ExportResult(
        bundle=str(out),
        target=manifest.target,
        precision=manifest.precision,
        model=manifest.model,
        size_bytes=bundle.model_size_bytes,
        gates=manifest.gates,
        quantization=manifest.quantization,
        speed=manifest.speed,
        selection=manifest.selection,
        seconds=seconds,
    )
    say(
        f"exported {out}: {result.target} {result.precision}, "
        f"{readable_size(result.size_bytes)}, {seconds:.1f} s"
    )
    return result
