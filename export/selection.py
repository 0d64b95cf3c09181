"""`--precision auto`: makes every precision, keeps those that are proven, and chooses one.

With `prefer="speed"`, the fastest on this machine, and of those as fast within 5 % the smallest;
int8 that is not faster than float is reported and not chosen. With `prefer="size"`, the smallest.
Where this machine cannot tell the speed (Core ML off a Mac, another processor's integers, another
device's profile), the order of the device's profile decides, and without a profile the size.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from edgeseed.core.bundle import GateResult
from edgeseed.core.console import say
from edgeseed.core.errors import GateError, WorkError
from edgeseed.export.bundling.builder import Form, Workshop, plainest, speed_record
from edgeseed.export.bundling.writer import Made
from edgeseed.export.proof.verify import advice, shortfall
from edgeseed.export.speed import TIE, Speed, compare_speed

Prefer = Literal["speed", "size"]
_CLOSENESS = ("parity", "top1_agreement", "self_retrieval")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Attempt:
    """One precision that was tried, or could not be."""

    form: Form
    made: Made | None = None
    problem: str = ""
    """Why there is no model, or which gates it does not hold."""
    helps: str = ""
    """Which knob helps against the problem."""

    @property
    def name(self) -> str:
        """The precision."""
        return self.form.precision

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

    attempt: Attempt
    why: str
    speeds: Mapping[str, Speed]
    record: dict[str, Any]
    """For the manifest."""


def try_form(workshop: Workshop, form: Form, folder: Path) -> Attempt:
    """Makes one precision in an empty folder; what fails is part of the result."""
    say(f"trying {workshop.target.name} {form.precision}")
    folder.mkdir()
    try:
        made = workshop.make(form, folder)
    except WorkError as error:
        return Attempt(form=form, problem=str(error), helps="see the message")
    failed = [gate for gate in made.gates if not gate.passed]
    problem = "; ".join(f"{gate.name} {shortfall(gate)}" for gate in failed)
    return Attempt(form=form, made=made, problem=problem, helps=advice(failed[0]) if failed else "")


def time_attempts(workshop: Workshop, attempts: Sequence[Attempt]) -> dict[str, Speed]:
    """The speed of every attempt that this machine can tell, all in one interleaved run."""
    runs = {}
    for attempt in attempts:
        run = None if attempt.made is None else attempt.made.evidence.model.single_run()
        if run is not None:
            runs[attempt.name] = run
    if not runs:
        return {}
    wanted = plainest(workshop.target)
    return compare_speed(runs, baseline=wanted if wanted in runs else next(iter(runs)))


def select(
    attempts: Sequence[Attempt],
    speeds: Mapping[str, Speed],
    *,
    baseline: str,
    prefer: Prefer = "speed",
    profile: str | None = None,
) -> Selection:
    """Chooses among the attempts, which are in the order of preference of the target or profile.

    Raises:
        GateError: If none is proven; why, for each, and what helps.
    """
    passing = [attempt for attempt in attempts if attempt.passed]
    if not passing:
        reasons = "; ".join(f"{attempt.name}: {attempt.problem}" for attempt in attempts)
        raise GateError(f"no precision passes: {reasons}; what helps: {_what_helps(attempts)}")
    slower = _not_faster(passing, speeds, baseline=baseline)
    chosen, why = _choose(passing, speeds, slower=slower, prefer=prefer, profile=profile)
    rows = [
        _row(attempt, speeds, baseline=baseline, chosen=attempt is chosen, slower=slower)
        for attempt in attempts
    ]
    record = {"prefer": prefer, "profile": profile, "chosen": chosen.name, "why": why,
              "candidates": rows}  # fmt: skip
    return Selection(attempt=chosen, why=why, speeds=speeds, record=record)


def selected_speed(selection: Selection, *, baseline: str) -> dict[str, Any] | None:
    """The manifest's record of the chosen model's speed beside all the others."""
    made = selection.attempt.made
    assert made is not None
    if selection.attempt.name not in selection.speeds:
        return None
    return speed_record(
        dict(selection.speeds),
        precision=selection.attempt.name,
        baseline=baseline,
        runner=made.runner,
    )


def _what_helps(attempts: Sequence[Attempt]) -> str:
    # In the order in which they were tried, each once.
    return "; ".join(dict.fromkeys(attempt.helps for attempt in attempts if attempt.helps))


def _not_faster(
    passing: Sequence[Attempt], speeds: Mapping[str, Speed], *, baseline: str
) -> set[str]:
    """Integer models that are no faster than the float model."""
    return {
        attempt.name
        for attempt in passing
        if attempt.form.scheme is not None
        and attempt.name in speeds
        and baseline in speeds
        and speeds[attempt.name].speedup <= 1
    }


def _choose(
    passing: Sequence[Attempt],
    speeds: Mapping[str, Speed],
    *,
    slower: set[str],
    prefer: Prefer,
    profile: str | None,
) -> tuple[Attempt, str]:
    if prefer == "size":
        return _smallest(passing), "the smallest that passes, as asked by --prefer size"
    if all(attempt.name in speeds for attempt in passing):
        eligible = [attempt for attempt in passing if attempt.name not in slower]
        fastest = max(speeds[attempt.name].speedup for attempt in eligible)
        near = [a for a in eligible if speeds[a.name].speedup >= fastest * (1 - TIE)]
        others = "" if len(near) == 1 else f", and the smallest of those within {TIE:.0%} of it"
        return _smallest(near), f"as fast as the fastest on this machine{others}"
    if profile is not None:
        return passing[0], f"the first choice of profile {profile} that passes; not timed there"
    return _smallest(passing), "the smallest that passes; this machine cannot tell the speed of all"


def _smallest(attempts: Sequence[Attempt]) -> Attempt:
    return min(attempts, key=lambda attempt: attempt.size_bytes)


def _row(
    attempt: Attempt,
    speeds: Mapping[str, Speed],
    *,
    baseline: str,
    chosen: bool,
    slower: set[str],
) -> dict[str, Any]:
    speed = speeds.get(attempt.name)
    row: dict[str, Any] = {
        "precision": attempt.name,
        "scheme": attempt.form.scheme,
        "verdict": _verdict(attempt, chosen=chosen),
        "reason": attempt.problem,
        "size_bytes": None,
        "median_ms": None if speed is None else speed.median_ms,
        "speedup": None if speed is None else speed.speedup,
        "closeness": None,
        "accuracy_drop": None,
        "seconds": None,
    }
    if attempt.name in slower:
        row["reason"] = f"not faster than {baseline} here"
    if attempt.made is not None:
        gates = {gate.name: gate for gate in attempt.made.gates}
        row["size_bytes"] = attempt.size_bytes
        row["seconds"] = attempt.made.seconds
        row["closeness"] = _closeness(gates)
        if "accuracy_drop" in gates:
            row["accuracy_drop"] = gates["accuracy_drop"].value
    return row


def _verdict(attempt: Attempt, *, chosen: bool) -> str:
    if chosen:
        return "chosen"
    if attempt.passed:
        return "passed"
    return "not made" if attempt.made is None else "failed"


def _closeness(gates: Mapping[str, GateResult]) -> dict[str, Any] | None:
    for name in _CLOSENESS:
        if name in gates:
            return {"gate": name, "value": gates[name].value, "n": gates[name].n}
    return None
