"""The rules by which a result counts. All of them are here, and each breach says its numbers."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from edgeseed.runtime.engine import Placement
from edgeseed.runtime.latency import Protocol, WarmUp
from edgeseed.runtime.machine import Load
from edgeseed.runtime.summary import Summary

MAX_CV = 0.10
MAX_DRIFT = 1.15
MAX_OTHER_CORES = 0.25
MAX_STOLEN_CORES = 0.02

Code = Literal[
    "too-short", "wrong-unit", "split-unit", "too-many-threads", "throttled", "noisy", "unsteady",
    "busy", "limited",
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
class Evidence:
    """What the rules look at."""

    protocol: Protocol
    summary: Summary
    elapsed_s: float
    steady: bool
    placement: Placement
    threads: int
    """Of the engine."""
    cores: float
    """That the process may use: a container's quota may be less than one."""
    throttle_events: int | None
    load_before: Load
    load_during: Load
    limitations: tuple[str, ...] = ()
    """What the runner could not do or know, one line each."""


def judge(evidence: Evidence) -> tuple[Reason, ...]:
    """Every rule that `evidence` breaks; an empty answer is a clean result."""
    rules = (_length, _unit, _threads, _throttling, _noise, _warm_up, _neighbours, _limits)
    return tuple(reason for rule in rules for reason in rule(evidence))


def _length(evidence: Evidence) -> Iterator[Reason]:
    protocol, n = evidence.protocol, evidence.summary.n
    if n < protocol.min_runs or evidence.elapsed_s < protocol.min_seconds:
        yield Reason(
            code="too-short",
            message=f"{n} runs in {evidence.elapsed_s:.1f} s; {protocol.name} asks for "
            f"{protocol.min_runs} runs and {protocol.min_seconds:g} s: take a shorter protocol "
            "or a smaller model",
            invalidates=True,
        )


def _unit(evidence: Evidence) -> Iterator[Reason]:
    placement = evidence.placement
    if placement.actual != placement.requested:
        yield Reason(
            code="wrong-unit",
            message=f"asked for {placement.requested}, ran on {placement.actual}: the numbers "
            f"are {placement.actual}'s",
            invalidates=True,
        )
    elif placement.share is not None and placement.share < 1:
        yield Reason(
            code="split-unit",
            message=f"{placement.share:.0%} of the nodes ran on {placement.requested}, the rest "
            "elsewhere",
            invalidates=False,
        )


def _threads(evidence: Evidence) -> Iterator[Reason]:
    threads, cores = evidence.threads, evidence.cores
    if threads > max(cores, 1):
        yield Reason(
            code="too-many-threads",
            message=f"{threads} threads on {cores:g} usable cores take turns and wait for each "
            f"other: measure with --threads {max(int(cores), 1)}",
            invalidates=False,
        )


def _throttling(evidence: Evidence) -> Iterator[Reason]:
    # Sustained exists to show how far a device falls off, so there it is the finding, not a fault.
    invalidates = evidence.protocol.name != "sustained"
    if evidence.summary.drift >= MAX_DRIFT:
        yield Reason(
            code="throttled",
            message=f"it ended {evidence.summary.drift:.2f} times as slow as it began (limit "
            f"{MAX_DRIFT}): let the device cool, pin its clocks, or free it of other work",
            invalidates=invalidates,
        )
    elif evidence.throttle_events:
        yield Reason(
            code="throttled",
            message=f"the CPU throttled {evidence.throttle_events} times: let it cool",
            invalidates=False,
        )


def _noise(evidence: Evidence) -> Iterator[Reason]:
    if evidence.summary.cv >= MAX_CV:
        yield Reason(
            code="noisy",
            message=f"standard deviation is {evidence.summary.cv:.0%} of the mean (limit "
            f"{MAX_CV:.0%}): trust the p50 more than the tail, or run again on a quiet machine",
            invalidates=False,
        )


def _warm_up(evidence: Evidence) -> Iterator[Reason]:
    if not evidence.steady:
        yield Reason(
            code="unsteady",
            message=f"the medians did not settle within {WarmUp().max_seconds:g} s of warm-up",
            invalidates=False,
        )
    elif evidence.summary.drift <= 1 / MAX_DRIFT:
        yield Reason(
            code="unsteady",
            message=f"it ended {1 / evidence.summary.drift:.2f} times as fast as it began: it was "
            "not warm, or something else stopped meanwhile",
            invalidates=False,
        )


def _neighbours(evidence: Evidence) -> Iterator[Reason]:
    loads = {"before": evidence.load_before, "during": evidence.load_during}
    others = {
        when: load.other_cores
        for when, load in loads.items()
        if load.other_cores is not None and load.other_cores > MAX_OTHER_CORES
    }
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


def _limits(evidence: Evidence) -> Iterator[Reason]:
    for text in evidence.limitations:
        yield Reason(code="limited", message=text, invalidates=False)
