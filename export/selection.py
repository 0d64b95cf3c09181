"""`--precision auto`: makes every precision, keeps those that are proven, and chooses one.

Of several targets all precisions of all of them are tried, and one is chosen.

With `prefer="speed"`, the fastest on this machine, and of those as fast within 5 % the smallest;
int8 that is not faster than float is reported and not chosen. With `prefer="size"`, the smallest.
What this machine cannot time (another processor's integers) is not chosen for its speed. Where it
can time nothing (Core ML off a Mac, TensorRT, another device's profile), the first choice of the
device's profile is taken, and without a profile the target's own.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

from edgeseed.core.bundle import GateResult
from edgeseed.core.console import say
from edgeseed.core.errors import GateError, WorkError
from edgeseed.core.records import (
    GateValue,
    ModelSpeed,
    SelectionCandidate,
    SelectionRecord,
    SpeedRecord,
    Verdict,
)
from edgeseed.export.bundling.builder import (
    BundleBuilder,
    Variant,
    speed_record,
)
from edgeseed.export.bundling.writer import BuiltBundle
from edgeseed.export.call import Prefer
from edgeseed.export.proof.verify import advice, shortfall
from edgeseed.export.speed import TIE, compare_speed

_CLOSENESS = ("parity", "top1_agreement", "self_retrieval")


@dataclasses.dataclass(frozen=True, kw_only=True)
class PrecisionTrial:
    """One precision that was tried, or could not be."""

    variant: Variant
    made: BuiltBundle | None = None
    problem: str = ""
    """Why there is no model, or which gates it does not hold."""
    helps: str = ""
    """Which knob helps against the problem."""
    target: str = ""
    """Where several are tried."""

    @property
    def name(self) -> str:
        """The precision, after its target where several are tried."""
        precision = self.variant.precision
        return f"{self.target} {precision}" if self.target else precision

    @property
    def size_bytes(self) -> int:
        """Of the model."""
        assert self.made is not None
        return self.made.bundle.model_size_bytes

    @property
    def passed(self) -> bool:
        """Whether there is a model, and it is proven."""
        return self.made is not None and not self.problem


@dataclasses.dataclass(frozen=True, kw_only=True)
class Selection:
    """What was chosen, and all that it was chosen from."""

    candidate: PrecisionTrial
    why: str
    speeds: Mapping[str, ModelSpeed]
    record: SelectionRecord
    """For the manifest."""


def build_candidate(
    builder: BundleBuilder, variant: Variant, folder: Path, *, target: str = ""
) -> PrecisionTrial:
    """Makes one precision in an empty folder; what fails is part of the result.

    Args:
        builder: Of its target.
        variant: What to make.
        folder: Where to.
        target: The target's name, where several are tried.
    """
    say(f"trying {builder.target.name} {variant.precision}")
    folder.mkdir()
    try:
        made = builder.make(variant, folder)
    except WorkError as error:
        return PrecisionTrial(
            variant=variant, problem=str(error), helps="see the message", target=target
        )
    failed = [gate for gate in made.gates if not gate.passed]
    problem = "; ".join(f"{gate.name} {shortfall(gate)}" for gate in failed)
    helps = advice(failed[0], builder.target, variant.precision) if failed else ""
    return PrecisionTrial(variant=variant, made=made, problem=problem, helps=helps, target=target)


def time_candidates(
    candidates: Sequence[PrecisionTrial], *, baseline: str
) -> dict[str, ModelSpeed]:
    """The speed of every candidate that this machine can tell, all in one interleaved run.

    Args:
        candidates: Those that were made, and others.
        baseline: The name that the others are compared with, if it was made.
    """
    runs = {}
    for candidate in candidates:
        run = None if candidate.made is None else candidate.made.evidence.model.single_run()
        if run is not None:
            runs[candidate.name] = run
    if not runs:
        return {}
    return compare_speed(runs, baseline=baseline if baseline in runs else next(iter(runs)))


def select(
    candidates: Sequence[PrecisionTrial],
    speeds: Mapping[str, ModelSpeed],
    *,
    baseline: str,
    prefer: Prefer = "speed",
    profile: str | None = None,
) -> Selection:
    """Chooses among the candidates, which are in the order of preference of the target or profile.

    Raises:
        GateError: If none is proven; why, for each, and what helps.
    """
    passing = [candidate for candidate in candidates if candidate.passed]
    if not passing:
        reasons = "; ".join(f"{candidate.name}: {candidate.problem}" for candidate in candidates)
        raise GateError(f"no precision passes: {reasons}; what helps: {_what_helps(candidates)}")
    slower = _not_faster(passing, speeds, baseline=baseline)
    chosen, why = _choose(passing, speeds, slower=slower, prefer=prefer, profile=profile)
    rows = [
        _row(candidate, speeds, baseline=baseline, chosen=chosen, slower=slower, prefer=prefer)
        for candidate in candidates
    ]
    record = SelectionRecord(
        prefer=prefer, profile=profile, chosen=chosen.name, why=why, candidates=tuple(rows)
    )
    return Selection(candidate=chosen, why=why, speeds=speeds, record=record)


def selected_speed(selection: Selection, *, baseline: str) -> SpeedRecord | None:
    """The manifest's record of the chosen model's speed beside all the others."""
    made = selection.candidate.made
    assert made is not None
    if selection.candidate.name not in selection.speeds:
        return None
    return speed_record(
        dict(selection.speeds),
        precision=selection.candidate.name,
        baseline=baseline,
        runner=made.runner,
    )


def _what_helps(candidates: Sequence[PrecisionTrial]) -> str:
    # In the order in which they were tried, each once.
    return "; ".join(dict.fromkeys(candidate.helps for candidate in candidates if candidate.helps))


def _not_faster(
    passing: Sequence[PrecisionTrial], speeds: Mapping[str, ModelSpeed], *, baseline: str
) -> set[str]:
    """Integer models that are no faster than the float model."""
    return {
        candidate.name
        for candidate in passing
        if candidate.variant.scheme is not None
        and candidate.name in speeds
        and baseline in speeds
        and speeds[candidate.name].speedup <= 1
    }


def _choose(
    passing: Sequence[PrecisionTrial],
    speeds: Mapping[str, ModelSpeed],
    *,
    slower: set[str],
    prefer: Prefer,
    profile: str | None,
) -> tuple[PrecisionTrial, str]:
    if prefer == "size":
        return _smallest(passing), "the smallest that passes, as asked by --prefer size"
    timed = [candidate for candidate in passing if candidate.name in speeds]
    if timed and (profile is None or timed == list(passing)):
        eligible = [candidate for candidate in timed if candidate.name not in slower]
        fastest = max(speeds[candidate.name].speedup for candidate in eligible)
        near = [a for a in eligible if speeds[a.name].speedup >= fastest * (1 - TIE)]
        others = "" if len(near) == 1 else f", and the smallest of those within {TIE:.0%} of it"
        untimed = len(passing) - len(timed)
        unknown = f" ({untimed} that pass could not be timed here)" if untimed else ""
        return _smallest(near), f"as fast as the fastest on this machine{others}{unknown}"
    if profile is not None:
        return passing[0], f"the first choice of profile {profile} that passes; not timed there"
    # A small file is not a fast one: TensorRT's int8 engines are larger than those of fp16.
    return passing[0], "the target's first choice that passes; this machine cannot time any"


def _smallest(candidates: Sequence[PrecisionTrial]) -> PrecisionTrial:
    return min(candidates, key=lambda candidate: candidate.size_bytes)


def _row(
    candidate: PrecisionTrial,
    speeds: Mapping[str, ModelSpeed],
    *,
    baseline: str,
    chosen: PrecisionTrial,
    slower: set[str],
    prefer: Prefer,
) -> SelectionCandidate:
    speed, made = speeds.get(candidate.name), candidate.made
    gates = {} if made is None else {gate.name: gate for gate in made.gates}
    drop = gates.get("accuracy_drop")
    reason = candidate.problem
    if candidate.name in slower:
        reason = f"not faster than {baseline} here"
    elif candidate.passed and candidate is not chosen:
        reason = _why_not(candidate, chosen, speeds, prefer=prefer)
    return SelectionCandidate(
        precision=candidate.variant.precision,
        scheme=candidate.variant.scheme,
        verdict=_verdict(candidate, chosen=candidate is chosen),
        reason=reason,
        size_bytes=None if made is None else candidate.size_bytes,
        median_ms=None if speed is None else speed.median_ms,
        speedup=None if speed is None else speed.speedup,
        closeness=_closeness(gates),
        accuracy_drop=None if drop is None else drop.value,
        seconds=None if made is None else made.seconds,
        target=candidate.target,
    )


def _why_not(
    candidate: PrecisionTrial,
    chosen: PrecisionTrial,
    speeds: Mapping[str, ModelSpeed],
    *,
    prefer: Prefer,
) -> str:
    """Why one that is proven was not kept."""
    if prefer == "size":
        return f"not smaller than {chosen.name}"
    if chosen.name not in speeds:
        return f"{chosen.name} comes first"
    if candidate.name not in speeds:
        return "could not be timed here"
    ratio = speeds[chosen.name].speedup / speeds[candidate.name].speedup
    if ratio > 1 / (1 - TIE):
        return f"takes {ratio:.2f} times as long as {chosen.name}"
    if ratio < 1 - TIE or candidate.size_bytes < chosen.size_bytes:
        return f"{chosen.name} comes first"  # by a profile that lists what this machine cannot time
    return f"as fast as {chosen.name} within {TIE:.0%}, and not smaller"


def _verdict(candidate: PrecisionTrial, *, chosen: bool) -> Verdict:
    if chosen:
        return "chosen"
    if candidate.passed:
        return "passed"
    return "not made" if candidate.made is None else "failed"


def _closeness(gates: Mapping[str, GateResult]) -> GateValue | None:
    for name in _CLOSENESS:
        if name in gates:
            return GateValue(gate=name, value=gates[name].value, n=gates[name].n)
    return None
