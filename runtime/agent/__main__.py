"""The program that runs on the device: checks a bundle, measures it, and writes what it saw.

Or, where the job says so, builds the bundle's TensorRT engine.

    python3 agent.pyz [WORK]

Python 3.8 or newer, numpy and the engine; nothing else. It judges nothing: raw samples go back,
and the host makes the numbers. The one thing it decides is not to time a model whose outputs are
not the bundle's golden outputs.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import json
import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgeseed.core.agreement import golden_error
from edgeseed.runtime import latency, machine, power, thermals
from edgeseed.runtime.agent import _build, job_file
from edgeseed.runtime.engine import Engine, EngineError
from edgeseed.runtime.measurement import ClockReading, GoldenCheck, Measurement, WarmUpRun
from edgeseed.runtime.state import read_state
from edgeseed.runtime.tegrastats import Sampler

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from numpy.typing import NDArray

    from edgeseed.runtime.engine import Tensors
    from edgeseed.runtime.measurement import DeviceState

CHUNK_BYTES = 1 << 20
PHOTO_REPORT_EVERY = 32
LAYER_RUNS = 40
LAYER_SECONDS = 5.0
"""Layers are timed in so many runs, or in as many as fit, but in three at least."""


class AgentError(Exception):
    """The agent will not go on; `kind` tells the host which error this is."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


def main(arguments: list[str]) -> int:
    """Do the job in the folder that is named, or else in the current one."""
    work = Path(arguments[0] if arguments else ".")
    (work / job_file.OWNER).write_text(str(os.getpid()))
    try:
        if (work / job_file.BUILD_JOB).is_file():
            _build_engine(work)
        else:
            _do(work)
    except BrokenPipeError:
        # Nobody listens any more: the connection broke, or the host was killed. It cannot remove
        # this folder, so it removes itself.
        if work.name.startswith("edgeseed-"):
            shutil.rmtree(str(work), ignore_errors=True)
        os._exit(1)  # without a flush of stdout, which would fail again
    except AgentError as refusal:
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
    # The result waits to be fetched: another run's clean-up must not take it for one left behind,
    # as it would a folder whose owner is gone. Without an owner it has ten minutes.
    (work / job_file.OWNER).unlink()
    return 0


def _say(event: str, **values: object) -> None:
    print(json.dumps(dict(values, event=event)), flush=True)


def _do(work: Path) -> None:
    job = job_file.Job.read(work / job_file.JOB)
    bundle = work / job_file.BUNDLE
    _say("stage", name="check")
    _check_digests(bundle, job.files)
    golden = np.load(str(bundle / "golden" / "inputs.npy"))
    expected = dict(np.load(str(bundle / "golden" / "model.npz")))
    result = work / job_file.RESULT
    result.mkdir(exist_ok=True)

    facts, load_before, memory_before = (
        machine.read_machine(),
        machine.load_now(),
        machine.read_memory(),
    )
    plugin = _load_engine(job.engine)
    version, memory_library = plugin.version(), machine.read_memory()

    _say("stage", name="load")
    opened = latency.time_once(
        lambda: plugin.open(bundle / job.model, unit=job.unit, threads=job.threads)
    )
    engine = opened.value
    try:
        first_run_ns, checked = _check_golden(engine, golden, expected, job.golden_tolerance)
        # Before the timing, whose samples are memory too; all that the model needs is in use now.
        memory_model = machine.read_memory()
        feeds = _feed(engine, golden[:1])
        seen = _time(engine, feeds, job)
        measurement = Measurement(
            machine=facts,
            numpy=np.__version__,
            engine_version=version,
            load_ns=opened.duration_ns,
            first_run_ns=first_run_ns,
            settings=engine.settings,
            placement=engine.placement,
            golden=checked,
            samples_ns=seen.timings.samples_ns,
            elapsed_ns=seen.timings.elapsed_ns,
            cpu_ns=seen.timings.cpu_ns,
            warm_up=WarmUpRun(
                seen.timings.warm_up_runs,
                seen.timings.warm_up_ns / latency.NS_PER_SECOND,
                seen.timings.steady,
            ),
            thermals=seen.thermals,
            load_before=load_before,
            load_during=seen.load,
            memory_before=memory_before,
            memory_library=memory_library,
            memory_model=memory_model,
            power=seen.power,
            power_unavailable=seen.power_unavailable,
            clocks=seen.clocks,
            state_before=seen.states[0],
            state_after=seen.states[1],
            request=job.request(),
        )
        if (work / job_file.PHOTOS).exists():
            _run_photos(engine, work / job_file.PHOTOS, result / job_file.OUTPUTS)
    finally:
        engine.close()
    # Last, in a session that is opened for it: the engine's profiling is in no sample.
    measurement = _with_layers(measurement, plugin, bundle / job.model, feeds, job)
    _write_json(result / job_file.MEASUREMENT, measurement.to_dict())
    _say("done")


def _with_layers(
    measurement: Measurement,
    plugin: type[Engine],
    model: Path,
    feeds: Tensors,
    job: job_file.Job,
) -> Measurement:
    """The measurement with the time of each layer, where the engine tells it."""
    _say("stage", name="layers")
    mean_ns = measurement.elapsed_ns / len(measurement.samples_ns)
    runs = int(min(LAYER_RUNS, max(3, LAYER_SECONDS * latency.NS_PER_SECOND / mean_ns)))
    try:
        layers = plugin.time_layers(
            model, unit=job.unit, threads=job.threads, feeds=feeds, runs=runs
        )
    except Exception as error:  # the measurement is done, and nothing here may cost it
        text = (str(error).splitlines() or [type(error).__name__])[0]
        return dataclasses.replace(
            measurement, limitations=[*measurement.limitations, "layers were not timed: " + text]
        )
    return dataclasses.replace(measurement, layers=layers)


def _build_engine(work: Path) -> None:
    job = job_file.BuildJob.read(work / job_file.BUILD_JOB)
    bundle = work / job_file.BUNDLE
    _say("stage", name="check")
    _check_digests(bundle, job.files)
    _say("stage", name="build")
    record = _build.build_engine(bundle, work / job_file.RESULT / job_file.ENGINE)
    _say("done", name=record.name)


def _check_digests(bundle: Path, files: dict[str, str]) -> None:
    for name, expected in sorted(files.items()):
        path = bundle / name
        if not path.is_file():
            raise AgentError("artifact", f"{name} did not arrive on the device; copy again")
        if _sha256(path) != expected:
            raise AgentError(
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
    """Photos, (N, C, H, W) bytes, in the type and order of the engine's input."""
    spec = engine.inputs[0]
    channels = images.shape[1]
    if spec.shape[-1] == channels and spec.shape[1] != channels:
        images = np.ascontiguousarray(images.transpose(0, 2, 3, 1))
    return {spec.name: images.astype(spec.dtype, copy=False)}


def _check_golden(
    engine: Engine, images: NDArray[Any], expected: Tensors, tolerance: float
) -> tuple[int, GoldenCheck]:
    """Run the golden photos one by one, and time the very first run of all."""
    _say("stage", name="golden")
    first = latency.time_once(lambda: engine.infer(_feed(engine, images[:1])))
    found = [first.value]
    found += [engine.infer(_feed(engine, images[i : i + 1])) for i in range(1, len(images))]
    errors = {name: _golden_error(found, name, expected) for name in sorted(expected)}
    worst = max(errors, key=lambda name: errors[name])
    # Written this way round so that NaN fails.
    if not errors[worst] <= tolerance:
        raise AgentError(
            "golden",
            f"the model does not give its golden outputs on this device: {worst} is off by "
            f"{errors[worst]:.3g} of its largest value (limit {tolerance:.3g}, n={len(images)}), "
            "so nothing was timed. Run `edgeseed verify` on the bundle; if it passes, the engine "
            "on the device computes something else" + _saturating_cpu(),
        )
    return first.duration_ns, GoldenCheck(len(images), errors, tolerance)


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
        ". This x86 CPU has no VNNI instructions and cuts off sums that do not fit 16 bits. On it "
        "int8 for other processors is wrong (--scheme arm or qnn), and so are bundles made before "
        "edgeseed limited pairs of weights: `edgeseed verify` counts such pairs (gate lint); "
        "export these anew"
    )


def _golden_error(found: list[Tensors], name: str, golden: Tensors) -> float:
    expected = golden[name]
    if name not in found[0]:
        raise AgentError(
            "golden", f"the model has no output {name!r}; it has: {', '.join(found[0])}"
        )
    values = np.concatenate([outputs[name] for outputs in found]).astype(np.float64)
    if values.shape != expected.shape:
        raise AgentError(
            "golden",
            f"output {name!r} has shape {values.shape}, its golden output {expected.shape}",
        )
    return golden_error(name, values, golden)


class _TimedRuns:
    """The timed runs, and what was read around them."""

    def __init__(self) -> None:
        self.states: list[DeviceState | None] = [read_state()]
        self._before = thermals.read_thermals()
        self._load, self._meter = machine.LoadMeter(), power.PowerMeter()
        self.clocks: list[ClockReading] = []

    def read_clocks(self, seconds: float) -> None:
        """Between two runs: sysfs answers in microseconds, and it is not in any sample."""
        mhz = machine.read_clocks()
        if mhz:
            self.clocks.append(ClockReading(seconds, mhz))

    def end(self, timings: latency.Timings) -> None:
        self.timings = timings
        self.power, self.load = self._meter.stop(), self._load.stop()
        self.power_unavailable = self._meter.unavailable
        self.thermals = (self._before, thermals.read_thermals())
        self.states.append(read_state(self.states[0]))
        for index, line in enumerate(self._meter.board):
            mhz = {"gpu" + str(i): float(clock) for i, clock in enumerate(line.gpu_mhz)}
            if mhz:
                self.clocks.append(ClockReading(index * Sampler.INTERVAL_SECONDS, mhz))


def _time(engine: Engine, feeds: Tensors, job: job_file.Job) -> _TimedRuns:
    protocol = latency.LatencyProtocol(job.protocol, job.min_runs, job.min_seconds, job.max_seconds)
    timed = _TimedRuns()
    report = _progress("measure")

    def on_progress(runs: int, seconds: float) -> None:
        timed.read_clocks(seconds)
        report(runs, seconds)

    _say("stage", name="warm-up")
    timings = latency.measure(
        lambda: engine.infer(feeds),
        protocol,
        on_warm_up=_progress("warm-up"),
        on_warm=lambda: _say("stage", name="measure"),
        on_progress=on_progress,
    )
    # Before the sensors are read: the host holds the span of the timed runs to its own clock.
    _say("stage", name="timed")
    timed.end(timings)
    return timed


def _progress(stage: str) -> Callable[[int, float], None]:
    def report(runs: int, seconds: float) -> None:
        _say("progress", stage=stage, runs=runs, seconds=seconds)

    return report


def _run_photos(engine: Engine, photos: Path, destination: Path) -> None:
    """Run every photo, one by one as the app would, and keep all outputs for the host to judge."""
    pixels = np.load(str(photos))["pixels"]
    _say("stage", name="photos", n=len(pixels))
    rows: dict[str, list[Any]] = {output.name: [] for output in engine.outputs}
    for index in range(len(pixels)):
        for name, value in engine.infer(_feed(engine, pixels[index : index + 1])).items():
            rows[name].append(value)
        if (index + 1) % PHOTO_REPORT_EVERY == 0:
            _say("progress", stage="photos", runs=index + 1)
    outputs: Any = {name: np.concatenate(values) for name, values in rows.items()}
    with destination.open("wb") as file:
        np.savez(file, **outputs)


def _write_json(path: Path, value: dict[str, Any]) -> None:
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(value), encoding="utf-8")
    temporary.replace(path)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
