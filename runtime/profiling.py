"""Measure a bundle on a device: `edgeseed profile`."""

import datetime
from dataclasses import dataclass
from pathlib import Path

from edgeseed import profiles
from edgeseed.core.agreement import golden_limit
from edgeseed.core.bundle import Bundle, read_bundle
from edgeseed.core.console import warn
from edgeseed.core.environment import environment
from edgeseed.core.errors import ConfigError, UsageError
from edgeseed.core.registry import unknown_name
from edgeseed.profiles import EngineFacts, Profile, PublishedLatency
from edgeseed.runtime.accuracy import Accuracy, Photos, float_outputs, gather_photos, score
from edgeseed.runtime.agent._job import Job
from edgeseed.runtime.conformance import check_conformance
from edgeseed.runtime.device import Device, Observation
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
from edgeseed.runtime.validity import Evidence, judge

DEFAULT_PROFILE = "host"
_PUBLISHED_SIZE = 224
"""Side of the photos that published latencies are of."""


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

    Returns:
        The result, also when it is not valid: it says so, and why.

    Raises:
        UsageError: If a name is unknown, the bundle or data is missing, or `out` exists.
        ArtifactError: If the bundle is broken or was changed.
        GateError: If the model does not give its golden outputs on the device.
        WorkError: If the device or the engine failed.
    """
    if Path(out).exists():
        raise UsageError(f"{out} exists already; choose another --out or remove it")
    if isinstance(device, str):
        device = open_device(device, options=_device_options(lan=lan, ort_web=ort_web))
    plan = _plan(bundle, device, device_profile, protocol, threads, unit)
    photos = gather_photos(plan.bundle, data, seed=seed)
    pixels = None if photos is None else photos.pixels
    seen = plan.device.measure(plan.bundle, _job(plan), pixels=pixels)
    check_conformance(seen.measurement, stages=seen.stages, what=plan.device.name)
    result = _result(plan, seen, _score(plan.bundle, seen, photos), seed=seed)
    result.write(out)
    for reason in result.reasons:
        warn(f"{'not valid' if reason.invalidates else reason.code}: {reason.message}")
    return result


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
    if threads is not None and threads < 1:
        raise ConfigError(f"threads={threads} is not at least 1")
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


def _score(bundle: Bundle, seen: Observation, photos: Photos | None) -> Accuracy | None:
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
            title=_title(plan.device_profile, measured.machine),
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
        seed=seed,
        measured_at=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        environment=environment(),
        reasons=judge(
            Evidence.of(
                measured,
                summary=summary,
                protocol=plan.protocol,
                threads=plan.threads,
                device_profile=plan.device_profile,
                published=_published(plan),
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


def _title(profile: Profile, machine: Machine) -> str:
    """The profile's title, unless the machine is another one: then what it calls itself."""
    contradicted = profile.mismatch(
        architecture=machine.architecture, model=machine.model, cpu=machine.cpu
    )
    return (machine.model or machine.cpu) if contradicted else profile.title


def _published(plan: _Plan) -> PublishedLatency | None:
    manifest = plan.bundle.manifest
    if manifest.preprocess.image_size != _PUBLISHED_SIZE:
        return None
    return plan.device_profile.published_for(
        network=manifest.name, precision=manifest.precision, unit=plan.unit
    )


def _thermals(measured: Measurement) -> ThermalRun | None:
    before, after = measured.thermals
    if before is None or after is None:
        return None
    return ThermalRun(before=before, after=after)
