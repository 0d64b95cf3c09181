"""The program that runs on the device: checks a bundle, measures it, and writes what it saw.

Or, where the job says so, builds the bundle's TensorRT engine.

    python3 agent.pyz [WORK]

Python 3.8 or newer, numpy and the engine; nothing else. It judges nothing: raw samples go back,
and the host makes the numbers. The one thing it decides is not to time a model whose outputs are
not the bundle's golden outputs.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from edgeseed.runtime import latency, machine, power, thermals
from edgeseed.runtime.agent import _build, _job
from edgeseed.runtime.engine import Engine, EngineError

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from numpy.typing import NDArray

    from edgeseed.runtime.engine import Tensors

MIN_PYTHON = (3, 8)
CHUNK_BYTES = 1 << 20
PHOTO_REPORT_EVERY = 32


class RefusedError(Exception):
    """The agent will not go on; `kind` tells the host which error this is."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


def main(arguments: list[str]) -> int:
    """Do the job in the folder that is named, or else in the current one."""
    work = Path(arguments[0] if arguments else ".")
    try:
        if (work / _job.BUILD_JOB).is_file():
            _build_engine(work)
        else:
            _do(work)
    except RefusedError as refusal:
        _say("error", kind=refusal.kind, message=str(refusal))
        return 1
    except EngineError as error:
        _say("error", kind="engine", message=str(error))
        return 1
    except Exception as error:  # the host has no other way to learn what went wrong over here
        import traceback

        traceback.print_exc()
        text = f"{type(error).__name__}: {error}".splitlines()[0]
        _say("error", kind="unexpected", message=text)
        return 1
    return 0


def _say(event: str, **values: object) -> None:
    print(json.dumps(dict(values, event=event)), flush=True)


def _do(work: Path) -> None:
    job = _job.Job.read(work / _job.JOB)
    bundle = work / _job.BUNDLE
    _say("stage", name="check")
    _check_digests(bundle, job.files)
    np = _numpy()
    golden = np.load(str(bundle / "golden" / "inputs.npy"))
    expected = dict(np.load(str(bundle / "golden" / "model.npz")))
    result = work / _job.RESULT
    result.mkdir(exist_ok=True)

    measurement = {"machine": machine.read_machine().to_dict(), "numpy": np.__version__}
    measurement["load_before"] = machine.load_now().to_dict()
    measurement["memory_before"] = _memory()
    plugin = _load_engine(job.engine)
    measurement["engine_version"] = plugin.version()
    measurement["memory_library"] = _memory()

    _say("stage", name="load")
    opened = latency.time_once(
        lambda: plugin.open(bundle / job.model, unit=job.unit, threads=job.threads)
    )
    engine = opened.value
    try:
        measurement["load_ns"] = opened.duration_ns
        measurement["placement"] = engine.placement.to_dict()
        measurement["settings"] = engine.settings
        measurement.update(_check_golden(engine, golden, expected, job.golden_tolerance))
        # Before the timing, whose samples are memory too; all that the model needs is in use now.
        measurement["memory_model"] = _memory()
        measurement.update(_time(engine, _feed(engine, golden[:1]), job))
        if (work / _job.PHOTOS).exists():
            _run_photos(engine, work / _job.PHOTOS, result / _job.OUTPUTS)
    finally:
        engine.close()
    _write_json(result / _job.MEASUREMENT, measurement)
    _say("done")


def _build_engine(work: Path) -> None:
    job = _job.BuildJob.read(work / _job.BUILD_JOB)
    bundle = work / _job.BUNDLE
    _say("stage", name="check")
    _check_digests(bundle, job.files)
    _say("stage", name="build")
    record = _build.build_engine(bundle, work / _job.RESULT / _job.ENGINE)
    _say("done", name=record.name)


def _numpy() -> Any:
    try:
        import numpy
    except ImportError as error:
        raise RefusedError(
            "engine",
            f"numpy is not installed for {sys.executable}; install it there: "
            "python3 -m pip install numpy",
        ) from error
    return numpy


def _check_digests(bundle: Path, files: dict[str, str]) -> None:
    for name, expected in sorted(files.items()):
        path = bundle / name
        if not path.is_file():
            raise RefusedError("artifact", f"{name} did not arrive on the device; copy again")
        if _sha256(path) != expected:
            raise RefusedError(
                "artifact",
                f"{name} differs on the device from what the manifest says; copy the bundle again "
                "or export it anew",
            )


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for chunk in iter(lambda: file.read(CHUNK_BYTES), b""):
            digest.update(chunk)
    return digest.hexdigest()


def _load_engine(name: str) -> type[Engine]:
    module = importlib.import_module("edgeseed.runtime.engines." + name)
    engine: type[Engine] = module.ENGINE
    return engine


def _feed(engine: Engine, images: NDArray[Any]) -> Tensors:
    spec = engine.inputs[0]
    return {spec.name: images.astype(spec.dtype, copy=False)}


def _check_golden(
    engine: Engine, images: NDArray[Any], expected: Tensors, tolerance: float
) -> dict[str, Any]:
    """Run the golden photos one by one, and time the very first run of all."""
    _say("stage", name="golden")
    first = latency.time_once(lambda: engine.infer(_feed(engine, images[:1])))
    found = [first.value]
    found += [engine.infer(_feed(engine, images[i : i + 1])) for i in range(1, len(images))]
    errors = {name: _relative_error(found, name, expected[name]) for name in sorted(expected)}
    worst = max(errors, key=lambda name: errors[name])
    # Written this way round so that NaN fails.
    if not errors[worst] <= tolerance:
        raise RefusedError(
            "golden",
            f"the model does not give its golden outputs on this device: {worst} is off by "
            f"{errors[worst]:.3g} of its largest value (limit {tolerance:.3g}, n={len(images)}), "
            "so nothing was timed. Run `edgeseed verify` on the bundle; if it passes, the engine "
            "on the device computes something else" + _saturating_cpu(),
        )
    golden = {"n": len(images), "relative_error": errors, "tolerance": tolerance}
    return {"first_run_ns": first.duration_ns, "golden": golden}


def _saturating_cpu(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """What to know of an x86 processor that adds products of bytes in 16 bits; else nothing."""
    try:
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    flags = next((line.split() for line in lines if line.startswith("flags")), [])
    if not flags or any("vnni" in flag for flag in flags):
        return ""
    return (
        ". This x86 CPU has no VNNI instructions and cuts off sums that do not fit 16 bits: int8 "
        "bundles made before edgeseed limited pairs of weights are wrong on it. `edgeseed verify` "
        "counts such pairs (gate lint); export the bundle anew"
    )


def _relative_error(found: list[Tensors], name: str, expected: NDArray[Any]) -> float:
    np = _numpy()
    if name not in found[0]:
        raise RefusedError(
            "golden", f"the model has no output {name!r}; it has: {', '.join(found[0])}"
        )
    values = np.concatenate([outputs[name] for outputs in found]).astype(np.float64)
    if values.shape != expected.shape:
        raise RefusedError(
            "golden",
            f"output {name!r} has shape {values.shape}, its golden output {expected.shape}",
        )
    # The measure of the export's golden gate: the worst photo's largest difference over its
    # largest value.
    axes = tuple(range(1, expected.ndim))
    scale = np.abs(expected).max(axis=axes).astype(np.float64)
    return float((np.abs(values - expected).max(axis=axes) / np.maximum(scale, 1e-12)).max())


def _time(engine: Engine, feeds: Tensors, job: _job.Job) -> dict[str, Any]:
    protocol = latency.Protocol(job.protocol, job.min_runs, job.min_seconds, job.max_seconds)
    before = thermals.read_thermals()
    load, meter = machine.LoadMeter(), power.PowerMeter()
    _say("stage", name="warm-up")
    timings = latency.measure(
        lambda: engine.infer(feeds),
        protocol,
        on_warm_up=_progress("warm-up"),
        on_progress=_progress("measure"),
    )
    energy, busy, after = meter.stop(), load.stop(), thermals.read_thermals()
    return {
        "samples_ns": timings.samples_ns,
        "elapsed_ns": timings.elapsed_ns,
        "cpu_ns": timings.cpu_ns,
        "warm_up": {
            "runs": timings.warm_up_runs,
            "seconds": timings.warm_up_ns / latency.NS_PER_SECOND,
            "steady": timings.steady,
        },
        "thermals": [None if reading is None else reading.to_dict() for reading in (before, after)],
        "load_during": busy.to_dict(),
        "power": None if energy is None else energy.to_dict(),
        "power_unavailable": meter.unavailable,
    }


def _progress(stage: str) -> Callable[[int, float], None]:
    def report(runs: int, seconds: float) -> None:
        _say("progress", stage=stage, runs=runs, seconds=seconds)

    return report


def _memory() -> dict[str, Any]:
    reading = machine.read_memory()
    return {"resident_mib": reading.resident_mib, "peak_mib": reading.peak_mib}


def _run_photos(engine: Engine, photos: Path, destination: Path) -> None:
    """Run every photo, one by one as the app would, and keep all outputs for the host to judge."""
    np = _numpy()
    pixels = np.load(str(photos))["pixels"]
    _say("stage", name="photos", n=len(pixels))
    rows: dict[str, list[Any]] = {output.name: [] for output in engine.outputs}
    for index in range(len(pixels)):
        for name, value in engine.infer(_feed(engine, pixels[index : index + 1])).items():
            rows[name].append(value)
        if (index + 1) % PHOTO_REPORT_EVERY == 0:
            _say("progress", stage="photos", runs=index + 1)
    with destination.open("wb") as file:
        np.savez(file, **{name: np.concatenate(values) for name, values in rows.items()})


def _write_json(path: Path, value: dict[str, Any]) -> None:
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(value), encoding="utf-8")
    temporary.replace(path)


if __name__ == "__main__":
    if sys.version_info < MIN_PYTHON:
        sys.exit("the agent needs Python 3.8 or newer")
    sys.exit(main(sys.argv[1:]))
