"""Measure a bundle on a device: `edgeseed profile`."""

import datetime
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeseed import profiles
from edgeseed.core.bundle import Bundle, read_bundle
from edgeseed.core.console import warn
from edgeseed.core.environment import environment
from edgeseed.core.errors import ConfigError, UsageError
from edgeseed.core.registry import unknown_name
from edgeseed.profiles import EngineFacts, Profile
from edgeseed.runtime.accuracy import Accuracy, Photos, float_outputs, gather_photos, score
from edgeseed.runtime.agent._job import Job
from edgeseed.runtime.device import Device, Observation
from edgeseed.runtime.devices import open_device
from edgeseed.runtime.engine import Placement
from edgeseed.runtime.latency import NS_PER_SECOND, PROTOCOLS, Protocol
from edgeseed.runtime.machine import Load, Machine
from edgeseed.runtime.power import Power
from edgeseed.runtime.result import (
    AGENT_RUNNER,
    BundleFacts,
    DeviceFacts,
    EngineRun,
    Golden,
    MemoryUse,
    Result,
    ThermalRun,
    WarmUpRun,
)
from edgeseed.runtime.summary import NS_PER_MS, Summary
from edgeseed.runtime.thermals import Thermals
from edgeseed.runtime.validity import Evidence, judge

DEFAULT_PROFILE = "host"
# By whether the model rounds its values more coarsely than float32; the same as the export's golden
# gate. An integer or half-precision kernel may round a tie the other way on another processor.
_GOLDEN_TOLERANCE = {False: 1e-3, True: 5e-2}


def profile(
    bundle: str | Path,
    *,
    device: str | Device = "host",
    profile: str | None = None,
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
        profile: name of a device's facts, `edgeseed devices` lists them; they choose engine,
            unit and threads. By default the facts of any machine.
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
    plan = _plan(bundle, device, profile, protocol, threads, unit)
    photos = gather_photos(plan.bundle, data, seed=seed)
    pixels = None if photos is None else photos.pixels
    seen = plan.device.measure(plan.bundle, _job(plan), pixels=pixels)
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
    profile: Profile
    engine: EngineFacts
    protocol: Protocol
    threads: int
    unit: str


def _plan(
    bundle: str | Path,
    device: Device,
    profile: str | None,
    protocol: str,
    threads: int | None,
    unit: str | None,
) -> _Plan:
    if protocol not in PROTOCOLS:
        raise unknown_name("protocol", protocol, PROTOCOLS)
    if threads is not None and threads < 1:
        raise ConfigError(f"threads={threads} is not at least 1")
    facts = profiles.load(profile or DEFAULT_PROFILE)
    read = read_bundle(bundle)
    engine = device.engine_for(facts, read.manifest.target)
    return _Plan(
        bundle=read,
        device=device,
        profile=facts,
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
        golden_tolerance=_GOLDEN_TOLERANCE[manifest.precision != "fp32"],
        files={
            name: entry.sha256 for name, entry in manifest.files.items() if entry.role == "ship"
        },
    )


def _score(bundle: Bundle, seen: Observation, photos: Photos | None) -> Accuracy | None:
    if photos is None or seen.outputs is None:
        return None
    return score(seen.outputs, photos, float_outputs(bundle, photos.pixels))


def _result(plan: _Plan, seen: Observation, accuracy: Accuracy | None, *, seed: int) -> Result:
    measured = seen.measurement
    summary = Summary.from_samples(measured["samples_ns"])
    placement = _placement(measured["placement"])
    thermals = _thermals(measured["thermals"])
    machine = Machine(**measured["machine"])
    elapsed_s = measured["elapsed_ns"] / NS_PER_SECOND
    evidence = Evidence(
        protocol=plan.protocol,
        summary=summary,
        elapsed_s=elapsed_s,
        steady=measured["warm_up"]["steady"],
        placement=placement,
        threads=plan.threads,
        cores=min(machine.usable_cores, machine.cpu_quota or machine.usable_cores),
        throttle_events=_throttle_events(thermals),
        load_before=Load(**measured["load_before"]),
        load_during=Load(**measured["load_during"]),
        limitations=tuple(measured.get("limitations", ())),
    )
    return Result(
        bundle=_bundle_facts(plan.bundle),
        device=DeviceFacts(
            device=plan.device.name,
            profile=plan.profile.name,
            title=plan.profile.title,
            machine=machine,
        ),
        engine=EngineRun(
            name=plan.engine.name,
            version=measured["engine_version"],
            threads=plan.threads,
            settings=measured["settings"],
            runner=measured.get("runner", AGENT_RUNNER),
        ),
        protocol=plan.protocol,
        placement=placement,
        load_ms=measured["load_ns"] / NS_PER_MS,
        first_run_ms=measured["first_run_ns"] / NS_PER_MS,
        warm_up=WarmUpRun(**measured["warm_up"]),
        elapsed_s=elapsed_s,
        cpu_ms=None if measured["cpu_ns"] is None else measured["cpu_ns"] / NS_PER_MS / summary.n,
        latency=summary,
        golden=Golden(**measured["golden"]),
        memory=MemoryUse(
            python_mib=measured["memory_before"]["resident_mib"],
            library_mib=measured["memory_library"]["resident_mib"],
            peak_mib=measured["memory_model"]["peak_mib"],
        ),
        accuracy=accuracy,
        power=_power(measured["power"]),
        power_unavailable=measured["power_unavailable"],
        thermals=thermals,
        load_before=evidence.load_before,
        load_during=evidence.load_during,
        seed=seed,
        measured_at=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        environment=environment(),
        reasons=judge(evidence),
        samples_ns=tuple(measured["samples_ns"]),
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


def _placement(values: Mapping[str, Any]) -> Placement:
    return Placement(values["requested"], values["actual"], values["nodes"])


def _power(values: Mapping[str, Any] | None) -> Power | None:
    if values is None:
        return None
    return Power(values["source"], values["seconds"], values["energy_j"])


def _thermals(values: list[Any]) -> ThermalRun | None:
    before, after = values
    if before is None or after is None:
        return None
    return ThermalRun(before=Thermals(**before), after=Thermals(**after))


def _throttle_events(thermals: ThermalRun | None) -> int | None:
    if thermals is None:
        return None
    before, after = thermals.before.throttle_count, thermals.after.throttle_count
    return None if before is None or after is None else after - before
