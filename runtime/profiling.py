"""Measure a bundle on a device: `edgeseed profile`."""

from __future__ import annotations

import contextlib
import datetime
import json
import shlex
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from edgeseed import profiles
from edgeseed.core.agreement import golden_limit
from edgeseed.core.bundle import GOLDEN_MODEL, Bundle, read_bundle
from edgeseed.core.console import say, warn
from edgeseed.core.environment import environment
from edgeseed.core.errors import (
    ArtifactError,
    ConfigError,
    EdgeseedError,
    GateError,
    UsageError,
    WorkError,
)
from edgeseed.core.files import check_writable
from edgeseed.core.registry import unknown_name
from edgeseed.core.signals import ended_by_exception
from edgeseed.profiles import EngineFacts, Profile, PublishedLatency
from edgeseed.runtime.accuracy import (
    Accuracy,
    EvaluationPhotos,
    float_outputs,
    gather_photos,
    score,
)
from edgeseed.runtime.agent.job_file import Job
from edgeseed.runtime.conformance import check_conformance, read_measurement_file
from edgeseed.runtime.device import Device, LostAfterMeasuringError, Observation
from edgeseed.runtime.devices import open_device
from edgeseed.runtime.latency import NS_PER_SECOND, PROTOCOLS, LatencyProtocol
from edgeseed.runtime.machine import Machine
from edgeseed.runtime.measurement import Measurement
from edgeseed.runtime.result import (
    BundleFacts,
    DeviceFacts,
    EngineRun,
    MemoryUse,
    Result,
    ThermalRun,
)
from edgeseed.runtime.summary import NS_PER_MS, Summary
from edgeseed.runtime.validity import RunEvidence, judge

DEFAULT_PROFILE = "host"
_PUBLISHED_SIZE = 224
"""Side of the photos that published latencies are of."""
_HERE = ("host", "apple")
"""Kinds of device that are this machine."""
MAX_THREADS = 1024
"""Engines set memory aside for each thread: with a hundred million of them the machine ends."""


def profile(
    bundle: str | Path,
    *,
    device: str | Device = "host",
    device_profile: str | None = None,
    protocol: str = "quick",
    data: str | Path | None = None,
    out: str | Path,
    threads: int | None = None,
    unit: str | None = None,
    seed: int = 0,
    lan: bool = False,
    ort_web: str | Path | None = None,
    measurement: str | Path | None = None,
    accuracy: bool = True,
) -> Result:
    """Measure a bundle on a device and write `result.json`.

    The agent checks the bundle's digests and golden outputs on the device, measures load, first
    run and steady latency in a process of its own, then runs photos for agreement and accuracy.

    Args:
        bundle: a folder made by `edgeseed export`.
        device: `host`, or `KIND:ADDRESS` such as `ssh:pi@raspberrypi`.
        device_profile: name of a device's facts, `edgeseed devices` lists them; they choose
            engine, unit and threads. By default the facts of any machine.
        protocol: `rapid`, `quick`, `normal` or `sustained`.
        data: photos to run for agreement and, with labels, top-1; by default the held-out
            photos in the bundle.
        out: where to write the result; the file must not exist.
        threads: threads of the engine; by default the profile's.
        unit: compute unit to ask for; by default the profile's.
        seed: which photos are drawn where `data` has more than are run.
        lan: for `browser`: serve the page to the local network, by https.
        ort_web: for a browser: a folder with onnxruntime-web, instead of the pinned version that
            npm fetches on first use.
        measurement: a runner's `measurement.json` that came another way, in place of measuring: an
            iPhone's, a colleague's, or one that was kept when a run failed late. It must be of
            this bundle.
        accuracy: whether photos are run for agreement and accuracy; without, latency alone.

    Returns:
        The result, also when it is not valid: it says so, and why.

    Raises:
        UsageError: If a name is unknown, the bundle or data is missing, or `out` exists.
        ArtifactError: If the bundle is broken or was changed.
        GateError: If the model does not give its golden outputs on the device.
        WorkError: If the device or the engine failed.
    """
    # Whatever can be refused is refused before the device is touched: a measurement may take
    # minutes.
    _refuse_existing(out)
    if measurement is not None:
        _refuse_what_is_past(
            device=None if device == "host" else device,
            protocol=None if protocol == "quick" else protocol,
            data=data,
            threads=threads,
            unit=unit,
            lan=lan or None,
            ort_web=ort_web,
        )
        return _conclude_from_file(
            bundle, measurement, device_profile=device_profile, out=out, seed=seed
        )
    if isinstance(device, str):
        device = open_device(device, options=_device_options(lan=lan, ort_web=ort_web))
    plan = _plan(bundle, device, device_profile, protocol, threads, unit)
    check_writable(Path(out))  # before the measurement, not after it
    photos = gather_photos(plan.bundle, data, seed=seed) if accuracy else None
    pixels = None if photos is None else photos.pixels
    with ended_by_exception():
        try:
            seen = plan.device.measure(plan.bundle, _job(plan), pixels=pixels)
        except LostAfterMeasuringError as error:
            raise _kept(error, error.measurement, bundle, out, device_profile) from error
        check_conformance(seen.measurement, stages=seen.stages, what=plan.device.name)
        try:
            return _conclude(plan, seen, _score(plan.bundle, seen, photos), seed=seed, out=out)
        except (EdgeseedError, OSError) as error:
            raise _kept(error, seen.measurement, bundle, out, device_profile) from error


def _conclude(
    plan: _Plan, seen: Observation, accuracy: Accuracy | None, *, seed: int, out: str | Path
) -> Result:
    result = _result(plan, seen, accuracy, seed=seed)
    _refuse_existing(out)  # once more: another run may have written it meanwhile
    result.write(out)
    for reason in result.reasons:
        warn(f"{'not valid' if reason.invalidates else reason.code}: {reason.message}")
    return result


def profile_in_turns(
    bundles: Sequence[str | Path],
    *,
    repeat: int,
    out: str | Path,
    device: str | Device = "host",
    **options: Any,
) -> list[Result]:
    """Measure several bundles in turns, each `repeat` times.

    In turns, so that what changes with the hours (heat, neighbours) meets every bundle alike, and
    `compare` can judge the spread between runs.

    Args:
        bundles: folders made by `edgeseed export`.
        repeat: rounds; in each, every bundle is measured once.
        out: a folder for the results, `NAME-1.json` and so on; none of these may exist.
        device: as for `profile`.
        options: further arguments of `profile`.

    Returns:
        The results in the order in which they were measured. Those of earlier rounds are written
        when a later one fails.

    Raises:
        UsageError: If a file exists, or two bundles are of one name.
    """
    if repeat < 1:
        raise ConfigError(f"repeat={repeat} is not at least 1")
    names = [Path(bundle).resolve().name for bundle in bundles]
    if len(set(names)) < len(names):
        raise UsageError(f"two bundles are called {_twice(names)}; their results need two names")
    files = {
        (number, name): Path(out) / f"{name}-{number}.json"
        for number in range(1, repeat + 1)
        for name in names
    }
    for file in files.values():
        _refuse_existing(file)
    results = []
    for number in range(1, repeat + 1):
        for bundle, name in zip(bundles, names, strict=True):
            say(f"round {number} of {repeat}: {name}")
            result = profile(bundle, device=device, out=files[number, name], **options)
            results.append(result)
    return results


def _twice(names: Sequence[str]) -> str:
    return next(name for name in names if names.count(name) > 1)


def _refuse_existing(out: str | Path) -> None:
    if Path(out).is_dir():
        raise UsageError(f"{out} is a folder; give a file in it as --out, such as {out}/NAME.json")
    if Path(out).exists():
        raise UsageError(f"{out} exists already; choose another --out or remove it")


def _refuse_what_is_past(**options: object) -> None:
    given = [name for name, value in options.items() if value is not None]
    if given:
        raise ConfigError(
            f"a measurement.json was measured already, and {', '.join(given)} cannot change it; "
            "leave that out"
        )


def _kept(
    error: Exception,
    measurement: Measurement,
    bundle: str | Path,
    out: str | Path,
    device_profile: str | None,
) -> EdgeseedError:
    """The error, after the measurement was written where it can be found."""
    text = json.dumps(measurement.to_dict())
    wanted = Path(out).with_suffix(".measurement.json")
    # The place of the result comes first, but may be what failed: a full disk, a folder that went
    # away.
    for folder in (wanted.parent, Path(tempfile.gettempdir()), Path.home()):
        path = _write_new(folder / wanted.name, text)
        if path is None:
            continue
        kind = type(error) if isinstance(error, EdgeseedError) else WorkError
        # `LostAfterMeasuringError` cannot be made of a message alone.
        if isinstance(error, LostAfterMeasuringError | GateError):
            kind = WorkError
        named = [] if device_profile is None else ["--profile", device_profile]
        command = ["edgeseed", "profile", str(bundle), "--measurement", str(path), *named]
        return kind(
            f"{error}. The measurement is kept in {path}: "
            f"{shlex.join([*command, '--out', str(out)])}"
        )
    return WorkError(f"{error}; the measurement is lost: no folder could be written")


def _write_new(wanted: Path, text: str) -> Path | None:
    """A new file of this name, or of the next one that is free; None where none can be written."""
    for number in range(1, 100):
        path = wanted if number == 1 else wanted.with_suffix(f".{number}.json")
        try:
            with path.open("x", encoding="utf-8") as file:
                file.write(text)
        except FileExistsError:
            continue
        except OSError:
            # A full disk takes the name and not the text. (Or there is no such folder.)
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)
            return None
        return path
    return None


def _conclude_from_file(
    bundle: str | Path,
    measurement: str | Path,
    *,
    device_profile: str | None,
    out: str | Path,
    seed: int,
) -> Result:
    """The result of a runner's file that came another way: an iPhone's, a colleague's."""
    read = read_bundle(bundle)
    found = read_measurement_file(measurement)
    request = found.request
    if request is None:
        raise ArtifactError(
            f"{measurement} does not say which bundle it measured (no `request`); run the "
            "benchmark of this edgeseed again"
        )
    if request.bundle_digest != read.digest:
        raise ArtifactError(
            f"{measurement} was measured with another bundle: its model has digest "
            f"{request.bundle_digest[:12]}, {bundle} has {read.digest[:12]}"
        )
    check_conformance(found, stages=None, what=str(measurement))
    protocol = LatencyProtocol(
        request.protocol, request.min_runs, request.min_seconds, request.max_seconds
    )
    _trust_no_limit_of_the_file(found, protocol, read, what=str(measurement))
    facts = profiles.load(device_profile or DEFAULT_PROFILE)
    plan = _Plan(
        bundle=read,
        device=_FromFile(Path(measurement)),
        device_profile=facts,
        engine=EngineFacts(
            name=request.engine,
            target=read.manifest.target,
            unit=found.placement.requested,
            precisions=(read.manifest.precision,),
            threads=request.threads,
        ),
        protocol=protocol,
        threads=request.threads,
        unit=found.placement.requested,
    )
    seen = Observation(measurement=found, outputs=None)
    return _conclude(plan, seen, None, seed=seed, out=out)


def _trust_no_limit_of_the_file(
    found: Measurement, protocol: LatencyProtocol, bundle: Bundle, *, what: str
) -> None:
    """Hold a file to the limits of this edgeseed: a job that we sent has them, a file may not."""
    limit = golden_limit(bundle.manifest.precision)
    errors = {} if found.golden is None else found.golden.relative_error
    known = _golden_names(bundle)
    for name in errors:
        if name not in known:
            raise ArtifactError(
                f"{what}: it checked an output {name!r}, and the bundle has {', '.join(known)}"
            )
    for name, error in errors.items():
        # Written so that NaN fails.
        if not error <= limit:
            raise ArtifactError(
                f"{what}: it timed a model whose golden {name} is off by {error:.3g} (limit "
                f"{limit:.3g})"
            )
    if protocol != PROTOCOLS.get(protocol.name):
        raise ArtifactError(
            f"{what}: it was measured by a protocol {protocol.name!r} of {protocol.min_runs} runs, "
            f"{protocol.min_seconds:g} s and at most {protocol.max_seconds:g} s, which is none of "
            "docs/measurement.md"
        )


def _golden_names(bundle: Bundle) -> list[str]:
    try:
        with np.load(bundle.path / GOLDEN_MODEL, allow_pickle=False) as arrays:
            return list(arrays.files)
    except (OSError, ValueError, zipfile.BadZipFile, AttributeError) as error:
        raise ArtifactError(
            f"{bundle.path / GOLDEN_MODEL} cannot be read ({error}); export the bundle anew"
        ) from error


class _FromFile(Device):
    """Where a measurement came from that is only read; it measures nothing."""

    kind = "file"

    def __init__(self, path: Path) -> None:
        self._path = path

    @classmethod
    def from_address(cls, address: str) -> Self:
        return cls(Path(address))

    @property
    def name(self) -> str:
        return f"file:{self._path.name}"

    def measure(self, bundle: Bundle, job: Job, *, pixels: NDArray[np.uint8] | None) -> Observation:
        raise WorkError(f"{self.name} holds a measurement, and measures nothing")


@dataclass(frozen=True, kw_only=True, slots=True)
class _Plan:
    """A call, with every name resolved."""

    bundle: Bundle
    device: Device
    device_profile: Profile
    engine: EngineFacts
    protocol: LatencyProtocol
    threads: int
    unit: str


def _plan(
    bundle: str | Path,
    device: Device,
    device_profile: str | None,
    protocol: str,
    threads: int | None,
    unit: str | None,
) -> _Plan:
    if protocol not in PROTOCOLS:
        raise unknown_name("protocol", protocol, PROTOCOLS)
    if threads is not None and not 1 <= threads <= MAX_THREADS:
        raise ConfigError(f"threads={threads} is not from 1 to {MAX_THREADS}")
    facts = profiles.load(device_profile or DEFAULT_PROFILE)
    read = read_bundle(bundle)
    engine = device.engine_for(facts, read.manifest.target)
    return _Plan(
        bundle=read,
        device=device,
        device_profile=facts,
        engine=engine,
        protocol=PROTOCOLS[protocol],
        threads=threads or engine.threads,
        unit=unit or engine.unit,
    )


def _device_options(*, lan: bool, ort_web: str | Path | None) -> dict[str, str]:
    options = {"lan": "1"} if lan else {}
    return options if ort_web is None else {**options, "ort-web": str(ort_web)}


def _job(plan: _Plan) -> Job:
    manifest = plan.bundle.manifest
    return Job(
        engine=plan.engine.name.replace("-", "_"),
        model=manifest.model,
        unit=plan.unit,
        threads=plan.threads,
        protocol=plan.protocol.name,
        min_runs=plan.protocol.min_runs,
        min_seconds=plan.protocol.min_seconds,
        max_seconds=plan.protocol.max_seconds,
        golden_tolerance=golden_limit(manifest.precision),
        files={
            name: entry.sha256 for name, entry in manifest.files.items() if entry.role == "ship"
        },
        bundle_digest=plan.bundle.digest,
    )


def _score(bundle: Bundle, seen: Observation, photos: EvaluationPhotos | None) -> Accuracy | None:
    if photos is None or seen.outputs is None:
        return None
    return score(seen.outputs, photos, float_outputs(bundle, photos.pixels))


def _result(plan: _Plan, seen: Observation, accuracy: Accuracy | None, *, seed: int) -> Result:
    measured = seen.measurement
    summary = Summary.from_samples(measured.samples_ns) if measured.samples_ns else None
    num_runs = summary.n if summary else 0 if measured.reported is None else measured.reported.n
    return Result(
        bundle=_bundle_facts(plan.bundle),
        device=DeviceFacts(
            device=plan.device.name,
            profile=plan.device_profile.name,
            title=_title(plan, measured.machine),
            machine=measured.machine,
        ),
        engine=EngineRun(
            name=plan.engine.name,
            version=measured.engine_version,
            threads=plan.threads,
            settings=measured.settings,
            runner=measured.runner,
        ),
        protocol=plan.protocol,
        placement=measured.placement,
        load_ms=measured.load_ns / NS_PER_MS,
        first_run_ms=measured.first_run_ns / NS_PER_MS,
        warm_up=measured.warm_up,
        elapsed_s=measured.elapsed_ns / NS_PER_SECOND,
        cpu_ms=None if measured.cpu_ns is None else measured.cpu_ns / NS_PER_MS / num_runs,
        latency=summary,
        golden=measured.golden,
        memory=MemoryUse(
            python_mib=measured.memory_before.resident_mib,
            library_mib=measured.memory_library.resident_mib,
            peak_mib=measured.memory_model.peak_mib,
        ),
        accuracy=accuracy,
        power=measured.power,
        power_unavailable=measured.power_unavailable,
        thermals=_thermals(measured),
        load_before=measured.load_before,
        load_during=measured.load_during,
        clocks=tuple(measured.clocks),
        state_before=measured.state_before,
        state_after=measured.state_after,
        layers=measured.layers,
        seed=seed,
        measured_at=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        environment=environment(),
        reasons=judge(
            RunEvidence.of(
                measured,
                summary=summary,
                protocol=plan.protocol,
                threads=plan.threads,
                device_profile=plan.device_profile,
                published=_published(plan),
                scheme=_scheme(plan.bundle),
            )
        ),
        samples_ns=tuple(measured.samples_ns),
        reported=measured.reported,
    )


def _bundle_facts(bundle: Bundle) -> BundleFacts:
    manifest = bundle.manifest
    return BundleFacts(
        folder=bundle.path.resolve().name,
        name=manifest.name,
        target=manifest.target,
        precision=manifest.precision,
        digest=bundle.digest,
        size_bytes=bundle.model_size_bytes,
        student_sha256=manifest.student_sha256,
        embedding_dim=manifest.embedding_dim,
        num_classes=None if manifest.classes is None else len(manifest.classes),
    )


def _title(plan: _Plan, machine: Machine) -> str:
    """The profile's title, unless the machine is another one: then what it calls itself."""
    facts = plan.device_profile
    if facts.name == DEFAULT_PROFILE and plan.device.kind not in _HERE:
        return machine.model or plan.device.name
    contradicted = facts.mismatch(
        architecture=machine.architecture, model=machine.model, cpu=machine.cpu
    )
    return (machine.model or machine.cpu) if contradicted else facts.title


def _scheme(bundle: Bundle) -> str | None:
    quantization = bundle.manifest.quantization
    return None if quantization is None else quantization.scheme


def _published(plan: _Plan) -> PublishedLatency | None:
    manifest = plan.bundle.manifest
    if manifest.preprocess.shape != (3, _PUBLISHED_SIZE, _PUBLISHED_SIZE):
        return None
    return plan.device_profile.published_for(
        network=manifest.name, precision=manifest.precision, unit=plan.unit
    )


def _thermals(measured: Measurement) -> ThermalRun | None:
    before, after = measured.thermals
    if before is None or after is None:
        return None
    return ThermalRun(before=before, after=after)
