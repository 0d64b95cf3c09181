"""`edgeseed export`: a student file becomes a proven bundle."""

import dataclasses
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgeseed.core.bundle import Bundle, GateResult
from edgeseed.core.config import build_config, to_plain
from edgeseed.core.console import say
from edgeseed.core.environment import environment
from edgeseed.core.errors import UsageError
from edgeseed.core.files import atomic_directory
from edgeseed.core.network import load_student
from edgeseed.core.registry import unknown_name
from edgeseed.export.graph import Batch, build_program, output_names
from edgeseed.export.packing import Origin, write_bundle
from edgeseed.export.quantize.run import QuantizeConfig, quantize
from edgeseed.export.quantize.schemes import SCHEMES
from edgeseed.export.samples import draw_samples, scratch_folder
from edgeseed.export.targets import TARGETS
from edgeseed.export.targets._target import Precision, Target, WriteRequest
from edgeseed.export.verification.gates import MAX_DROP_POINTS, MIN_AGREEMENT
from edgeseed.export.verification.run import gather, require_passed


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
    seconds: float

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
    out: str | Path,
    min_agreement: float | None = None,
    max_drop: float | None = None,
    batch: Batch = "dynamic",
    scheme: str | None = None,
    verify: bool = True,
    seed: int = 0,
    options: Mapping[str, Any] | None = None,
    quantization: Mapping[str, Any] | None = None,
) -> ExportResult:
    """Exports a student as a bundle, and proves it.

    Args:
        student: A `student.safetensors`.
        target: `onnx`, `coreml` or another file of `export/targets/`.
        precision: `fp32`, or a lower one that the target has.
        calibration: Photos, needed for int8; without labels, and disjoint parts of them calibrate
            and judge. For float precisions they become the golden photos; without, coloured fields
            do.
        out: The bundle's folder; it must not exist.
        min_agreement: Least share of photos on which a quantized model decides as the student does
            (default 0.98).
        max_drop: Most accuracy it may lose, in points, where labels are known (default 1.0).
        batch: `"dynamic"`, or the one batch size that the model takes. A target whose format fixes
            the batch (Core ML: 1) takes that one in either case.
        scheme: The integers of int8, where the target has several: `x86` or `arm` for ONNX.
        verify: Whether a gate that does not hold is an error. They are computed and recorded
            anyway.
        seed: Of the split of the photos.
        options: The target's own options, such as `{"opset": 18}`.
        quantization: Settings of `quantize.run.QuantizeConfig`, such as `{"calibrator": "mse"}`.

    Returns:
        Where the bundle is, and its gates.

    Raises:
        UsageError: If the call does not make sense: unknown target or precision, no calibration
            photos.
        WorkError: If the target cannot express the network.
        GateError: If a gate does not hold; nothing is written then.
    """
    start = time.monotonic()
    chosen, level = _choose(target, precision, calibration)
    chosen_scheme = _choose_scheme(chosen, level, scheme)
    batch = _choose_batch(chosen, batch)
    config = build_config(QuantizeConfig, values=quantization, what="quantization")
    settings = {
        "target": target, "precision": precision, "batch": batch, "seed": seed,
        "min_agreement": MIN_AGREEMENT if min_agreement is None else min_agreement,
        "max_drop": MAX_DROP_POINTS if max_drop is None else max_drop,
        "options": target_options(chosen, options or {}), "scheme": chosen_scheme,
        "quantization": to_plain(config),
    }  # fmt: skip
    network, spec = load_student(student)
    with atomic_directory(Path(out)) as folder, scratch_folder() as scratch:
        samples = draw_samples(
            calibration,
            spec.preprocess,
            classes=spec.classes,
            scratch=Path(scratch),
            calibrate=level in chosen.schemes,
            seed=seed,
        )
        origin = Origin(
            student=Path(student), network=network, spec=spec, samples=samples,
            settings=settings, environment=environment(),
        )  # fmt: skip
        bundle, gates = _make(
            folder,
            origin,
            chosen,
            level,
            batch=batch,
            scheme=chosen_scheme,
            config=config,
        )
        if verify:
            require_passed(gather(bundle), gates)
    result = ExportResult(
        bundle=str(out),
        target=target,
        precision=level,
        model=bundle.manifest.model,
        size_bytes=bundle.model_size_bytes,
        gates=tuple(gates),
        quantization=bundle.manifest.quantization,
        seconds=time.monotonic() - start,
    )
    say(
        f"exported {out}: {target} {level}, "
        f"{result.size_bytes / 1e6:.2f} MB, {result.seconds:.1f} s"
    )
    return result


def _choose(
    target: str, precision: str, calibration: str | Path | None
) -> tuple[Target, Precision]:
    chosen: Target = TARGETS.load(target)
    if precision not in chosen.precisions:
        raise unknown_name(f"precision of target {target}", precision, chosen.precisions)
    if precision in chosen.schemes and calibration is None:
        raise UsageError(
            f"--precision {precision} needs photos to calibrate with; "
            "add --calibration FOLDER (labels are not needed)"
        )
    return chosen, precision


def _choose_scheme(target: Target, precision: Precision, scheme: str | None) -> str | None:
    known = target.schemes.get(precision, ())
    if scheme is not None and scheme not in known:
        raise unknown_name(f"scheme of {target.name} {precision}", scheme, known)
    return scheme or next(iter(known), None)


def _choose_batch(target: Target, batch: Batch) -> Batch:
    if target.fixed_batch is None or batch == target.fixed_batch:
        return batch
    if batch != "dynamic":
        raise UsageError(
            f"--batch {batch}: target {target.name} takes photos {target.fixed_batch} at a time; "
            "leave it out"
        )
    return target.fixed_batch


def target_options(target: Target, options: Mapping[str, Any]) -> dict[str, Any]:
    """The target's options: its defaults, then the caller's.

    Raises:
        UnknownNameError: If the target has no such option.
    """
    for name in options:
        if name not in target.options:
            raise unknown_name(f"option of target {target.name}", name, target.options)
    return {**target.options, **options}


def _make(
    folder: Path,
    origin: Origin,
    target: Target,
    precision: Precision,
    *,
    batch: Batch,
    scheme: str | None,
    config: QuantizeConfig,
) -> tuple[Bundle, list[GateResult]]:
    # Calibration runs photos in batches of its own, whatever the batch of the model will be.
    program = build_program(
        origin.network, origin.spec.preprocess, batch=batch if scheme is None else "dynamic"
    )
    names = output_names(program)
    quantization = None
    if scheme is not None:
        assert origin.samples.calibration is not None
        quantized = quantize(
            program, SCHEMES.load(scheme), origin.samples.calibration, batch=batch, config=config
        )
        program, quantization = quantized.program, quantized.record
    request = WriteRequest(
        program=program,
        output_names=names,
        spec=origin.spec,
        precision=precision,
        batch=batch,
        options=origin.settings["options"],
    )
    return write_bundle(folder, origin, target, request, quantization=quantization)
