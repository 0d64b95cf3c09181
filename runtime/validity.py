"""The rules by which a result counts. All of them are here, and each breach says its numbers."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from edgeseed.core.records import NPU_SCHEMES
from edgeseed.profiles import Profile, PublishedLatency
from edgeseed.runtime.engine import Placement
from edgeseed.runtime.latency import NS_PER_SECOND, LatencyProtocol, WarmUp
from edgeseed.runtime.machine import Load
from edgeseed.runtime.measurement import ClockReading, Measurement
from edgeseed.runtime.summary import Summary

MAX_CV = 0.10
MAX_DRIFT = 1.15
MAX_OTHER_CORES = 0.25
MAX_STOLEN_CORES = 0.02
MIN_CLOCK_SHARE = 0.85
MAX_OF_PUBLISHED = 2.0
"""Engines and their versions differ by less than this on one device; a fallback by more."""
NPU_UNIT = "qnn"
TENTHS = 10
_KINDS_SHOWN = 5
MIN_SECONDS_FOR_RATES = 5.0
"""A tenth of half a second: in less, one turn of a neighbour is a tenth's whole rate."""
MIN_RUNS_FOR_RATES = 100
"""Ten runs a tenth: below that one slow run is a tenth's whole rate."""

Code = Literal[
    "too-short", "wrong-unit", "split-unit", "too-many-threads", "throttled", "noisy", "unsteady",
    "busy", "limited", "wrong-device", "slow-clock", "no-spread",
    "unlike-published", "other-integers",
]  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class Reason:
    """Something that a reader must know before believing a result.

    Attributes:
        code: a word that does not change between versions.
        message: one line with the numbers, and what helps.
        invalidates: whether the result does not count; if not, it counts with a flag.
    """

    code: Code
    message: str
    invalidates: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class RunEvidence:
    """What the rules look at.

    Attributes:
        protocol: what was asked.
        summary: of the samples; None where the runner keeps none.
        num_runs: timed runs.
        elapsed_s: they took.
        steady: whether the warm-up settled; None where it has a fixed length.
        placement: requested and actual unit.
        threads: of the engine.
        cores: that the process may use: a container's quota may be less than one.
        throttle_events: of the CPU during the runs; None where they are not counted.
        load_before, load_during: of the machine.
        limitations: what the runner could not do or know, one line each.
        rates: runs per second in each tenth of the time; empty for few runs.
        clock_share: the fastest core's clock during the runs over its maximum: their median; None
            where clocks are not told.
        throttled_before, throttled_after: limits in force that the device's own tools named.
        other_device: how the machine differs from its profile; empty where it does not.
        published: what others measured for the same network, precision and unit on such a device.
        scheme: whose integers the model has; None for a float model.
    """

    protocol: LatencyProtocol
    summary: Summary | None
    elapsed_s: float
    steady: bool | None
    placement: Placement
    threads: int
    cores: float
    throttle_events: int | None
    load_before: Load
    load_during: Load
    num_runs: int
    limitations: tuple[str, ...] = ()
    rates: tuple[float, ...] = ()
    clock_share: float | None = None
    throttled_before: tuple[str, ...] = ()
    throttled_after: tuple[str, ...] = ()
    other_device: str = ""
    published: PublishedLatency | None = None
    scheme: str | None = None

    @classmethod
    def of(
        cls,
        measured: Measurement,
        *,
        summary: Summary | None,
        protocol: LatencyProtocol,
        threads: int,
        device_profile: Profile,
        published: PublishedLatency | None = None,
        scheme: str | None = None,
    ) -> "RunEvidence":
        """What a measurement gives the rules to look at."""
        machine, reported = measured.machine, measured.reported
        states = (measured.state_before, measured.state_after)
        before, after = (() if state is None else tuple(state.throttling) for state in states)
        return cls(
            protocol=protocol,
            summary=summary,
            num_runs=summary.n if summary else 0 if reported is None else reported.n,
            elapsed_s=measured.elapsed_ns / NS_PER_SECOND,
            steady=measured.warm_up.steady,
            placement=measured.placement,
            threads=threads,
            cores=min(machine.usable_cores, machine.cpu_quota or machine.usable_cores),
            throttle_events=_throttle_events(measured),
            load_before=measured.load_before,
            load_during=measured.load_during,
            limitations=tuple(measured.limitations),
            published=published,
            scheme=scheme,
            rates=tuple(rates_by_tenth(measured.samples_ns)),
            clock_share=clock_share(measured.clocks, machine.max_frequency_mhz),
            throttled_before=before,
            throttled_after=after,
            other_device=device_profile.mismatch(
                architecture=machine.architecture, model=machine.model, cpu=machine.cpu
            ),
        )


def rates_by_tenth(samples_ns: Sequence[int]) -> list[float]:
    """Runs per second in each tenth of the measured time; empty for fewer than 100 runs.

    A stall that hits one run in a thousand moves no percentile, and takes time all the same: here
    it counts by its length.
    """
    if len(samples_ns) < MIN_RUNS_FOR_RATES:
        return []
    ends = np.cumsum(np.asarray(samples_ns, dtype=np.float64)) / NS_PER_SECOND
    span = float(ends[-1]) / TENTHS
    # A run that reaches over a border counts in both tenths, by its share.
    borders = np.interp(np.arange(TENTHS + 1) * span, np.r_[0, ends], np.arange(ends.size + 1))
    return [float(rate) for rate in np.diff(borders) / span]


def clock_share(clocks: Sequence[ClockReading], maximum_mhz: Mapping[str, float]) -> float | None:
    """The fastest core's clock over its maximum, at each reading; the median of those."""
    shares = []
    for reading in clocks:
        known = [
            mhz / maximum_mhz[name]
            for name, mhz in reading.mhz.items()
            if maximum_mhz.get(name, 0) > 0
        ]
        if known:
            shares.append(max(known))
    return float(np.median(shares)) if shares else None


def _throttle_events(measured: Measurement) -> int | None:
    before, after = measured.thermals
    if before is None or after is None:
        return None
    if before.throttle_count is None or after.throttle_count is None:
        return None
    return after.throttle_count - before.throttle_count


def judge(evidence: RunEvidence) -> tuple[Reason, ...]:
    """Every rule that `evidence` breaks; an empty answer is a clean result."""
    rules = (
        _device, _length, _unit, _threads, _throttling, _clocks, _noise, _warm_up, _neighbours,
        _limits, _published, _integers,
    )  # fmt: skip
    return tuple(reason for rule in rules for reason in rule(evidence))


def _device(evidence: RunEvidence) -> Iterator[Reason]:
    if evidence.other_device:
        yield Reason(
            code="wrong-device",
            message=f"{evidence.other_device}: give the profile of this machine, or none",
            invalidates=True,
        )


def _length(evidence: RunEvidence) -> Iterator[Reason]:
    protocol, n = evidence.protocol, evidence.num_runs
    if n < protocol.min_runs or evidence.elapsed_s < protocol.min_seconds:
        yield Reason(
            code="too-short",
            message=f"{n} runs in {evidence.elapsed_s:.1f} s; {protocol.name} asks for "
            f"{protocol.min_runs} runs and {protocol.min_seconds:g} s: take a shorter protocol "
            "or a smaller model",
            invalidates=True,
        )


def _unit(evidence: RunEvidence) -> Iterator[Reason]:
    placement = evidence.placement
    if placement.actual != placement.requested:
        yield Reason(
            code="wrong-unit",
            message=f"asked for {placement.requested}, ran on {placement.actual}: the numbers "
            f"are {placement.actual}'s{_fallback(placement)}",
            invalidates=True,
        )
    elif placement.share is not None and placement.share < 1:
        yield Reason(
            code="split-unit",
            message=f"{placement.share:.0%} of the nodes ran on {placement.requested}, the rest "
            f"elsewhere{_fallback(placement)}",
            invalidates=False,
        )


def _fallback(placement: Placement) -> str:
    """Which kinds of node fell back, the most frequent first; empty where it is not told."""
    if not placement.fallback:
        return ""
    counts = sorted(placement.fallback.items(), key=lambda item: (-item[1], item[0]))
    shown = ", ".join(f"{kind} {count}" for kind, count in counts[:_KINDS_SHOWN])
    more = "" if len(counts) <= _KINDS_SHOWN else f" and {len(counts) - _KINDS_SHOWN} more kinds"
    return f" ({shown}{more})"


def _threads(evidence: RunEvidence) -> Iterator[Reason]:
    threads, cores = evidence.threads, evidence.cores
    if threads > max(cores, 1):
        yield Reason(
            code="too-many-threads",
            message=f"{threads} threads on {cores:g} usable cores take turns and wait for each "
            f"other: measure with --threads {max(int(cores), 1)}",
            invalidates=False,
        )


def _throttling(evidence: RunEvidence) -> Iterator[Reason]:
    # Sustained exists to show how far a device falls off, so there it is the finding, not a fault.
    invalidates = evidence.protocol.name != "sustained"
    for when, limits in (
        ("before", evidence.throttled_before),
        ("after", evidence.throttled_after),
    ):
        for limit in limits:
            yield Reason(
                code="throttled",
                message=f"the device says, {when} the run: {limit}",
                invalidates=invalidates,
            )
    drift = 1.0 if evidence.summary is None else evidence.summary.drift
    slowdown = _slowdown(evidence.rates) if evidence.elapsed_s >= MIN_SECONDS_FOR_RATES else 1.0
    if drift >= MAX_DRIFT:
        yield Reason(
            code="throttled",
            message=f"it ended {drift:.2f} times as slow as it began (limit "
            f"{MAX_DRIFT}): let the device cool, pin its clocks, or free it of other work",
            invalidates=invalidates,
        )
    elif slowdown >= MAX_DRIFT:
        yield Reason(
            code="throttled",
            message=f"its last three tenths made 1 run where its best three made {slowdown:.2f} "
            f"(limit {MAX_DRIFT}): something stops it; let the device cool, or free it of other "
            "work",
            # Where neighbours are known to take turns with it, it may be they, and p50 stands.
            invalidates=invalidates and not _others(evidence),
        )
    elif evidence.throttle_events:
        yield Reason(
            code="throttled",
            message=f"the CPU throttled {evidence.throttle_events} times: let it cool",
            invalidates=False,
        )


def _slowdown(rates: Sequence[float]) -> float:
    """Rate of the three best tenths over that of the last three, by their medians."""
    if not rates:
        return 1.0
    best, last = np.median(sorted(rates)[-3:]), np.median(rates[-3:])
    return float(best / max(last, 1e-12))


def _clocks(evidence: RunEvidence) -> Iterator[Reason]:
    share = evidence.clock_share
    if share is not None and share < MIN_CLOCK_SHARE:
        # Not a fault by itself: many apps run under such a governor. But it is not the chip's best.
        yield Reason(
            code="slow-clock",
            message=f"the fastest core ran at {share:.0%} of its maximum clock (limit "
            f"{MIN_CLOCK_SHARE:.0%}): a power mode, a governor or heat holds it back",
            invalidates=False,
        )


def _noise(evidence: RunEvidence) -> Iterator[Reason]:
    if evidence.summary is None:
        yield Reason(
            code="no-spread",
            message="the runner keeps no samples: the spread is unknown, and the figure is its "
            "mean alone",
            invalidates=False,
        )
    elif evidence.summary.cv >= MAX_CV:
        yield Reason(
            code="noisy",
            message=f"standard deviation is {evidence.summary.cv:.0%} of the mean (limit "
            f"{MAX_CV:.0%}): trust the p50 more than the tail, or run again on a quiet machine",
            invalidates=False,
        )


def _warm_up(evidence: RunEvidence) -> Iterator[Reason]:
    drift = 1.0 if evidence.summary is None else evidence.summary.drift
    if evidence.steady is False:
        yield Reason(
            code="unsteady",
            message=f"the medians did not settle within {WarmUp().max_seconds:g} s of warm-up",
            invalidates=False,
        )
    elif drift <= 1 / MAX_DRIFT:
        yield Reason(
            code="unsteady",
            message=f"it ended {1 / drift:.2f} times as fast as it began: it was "
            "not warm, or something else stopped meanwhile",
            invalidates=False,
        )


def _loads(evidence: RunEvidence) -> dict[str, Load]:
    return {"before": evidence.load_before, "during": evidence.load_during}


def _others(evidence: RunEvidence) -> dict[str, float]:
    """Cores' worth of other processes where they were too many, by when."""
    return {
        when: load.other_cores
        for when, load in _loads(evidence).items()
        if load.other_cores is not None and load.other_cores > MAX_OTHER_CORES
    }


def _neighbours(evidence: RunEvidence) -> Iterator[Reason]:
    loads = _loads(evidence)
    others = _others(evidence)
    if others:
        used = " and ".join(f"{cores:.2f} cores {when}" for when, cores in others.items())
        yield Reason(
            code="busy",
            message=f"other processes used {used} the run: stop what else runs there",
            invalidates=False,
        )
    stolen = max(load.stolen_cores or 0.0 for load in loads.values())
    if stolen > MAX_STOLEN_CORES:
        yield Reason(
            code="busy",
            message=f"the hypervisor gave {stolen:.2f} cores to other guests: measure on a machine "
            "of one's own",
            invalidates=False,
        )


def _limits(evidence: RunEvidence) -> Iterator[Reason]:
    for text in evidence.limitations:
        yield Reason(code="limited", message=text, invalidates=False)


def _published(evidence: RunEvidence) -> Iterator[Reason]:
    item = evidence.published
    if item is None or evidence.summary is None:
        return
    found = evidence.summary.p50.value
    if found > item.latency_ms * MAX_OF_PUBLISHED or found < item.latency_ms / MAX_OF_PUBLISHED:
        yield Reason(
            code="unlike-published",
            message=f"p50 is {found:.3g} ms; {item.latency_ms:.3g} ms is published for "
            f"{item.network} {item.precision} on {item.unit} with {item.engine} ({item.source}): "
            "look at threads, power mode and which unit ran",
            invalidates=False,
        )


def _integers(evidence: RunEvidence) -> Iterator[Reason]:
    if evidence.scheme in NPU_SCHEMES and evidence.placement.actual != NPU_UNIT:
        yield Reason(
            code="other-integers",
            message=f"its integers (scheme {evidence.scheme}) are for Qualcomm's NPU; it ran on "
            f"{evidence.placement.actual}: neither time nor agreement nor accuracy are the NPU's; "
            "with edgeseed[qnn], `edgeseed verify` runs its simulator",
            invalidates=False,
        )
