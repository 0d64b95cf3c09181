"""Which results may be ranked with which, and what may be said of two of them."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import PurePath
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

import numpy as np

from edgeseed.core.errors import ConfigError, GateError
from edgeseed.runtime.accuracy import Share
from edgeseed.runtime.conditions import METRICS, Rule, parse_rule
from edgeseed.runtime.result import Result
from edgeseed.runtime.state import SETTINGS
from edgeseed.runtime.summary import NS_PER_MS, Estimate

Headline = Literal["p90", "p50", "mean"]
Verdict = Literal["first", "faster", "slower", "indistinguishable", "not ranked"]

# Two processes that run one model on one machine differ, however narrow each one's own interval is.
# On a quiet virtual machine p90 of neighbouring runs was more than 10 % apart in 1 of 10 pairs, and
# more than 15 % in 1 of 40 (benchmarks/results/latency_fidelity.json, 210 runs). With neighbours on
# every core p90 was up to 258 % apart (latency_repeatability_busy.json): there it measures them.
MIN_DIFFERENCE = 0.15
"""Two single runs that differ by less are called indistinguishable. Runs in turns need less."""

MIN_REPEATS = 3
"""Runs of each bundle from which on the spread between runs is judged, not that within one."""
MIN_BETWEEN_RUNS = 0.03
"""Nothing less is called a difference, however alike a few runs came out by chance."""
# Student's t, two-sided 95 %, by degrees of freedom (the first entry is a placeholder).
T_QUANTILES = (
    float("inf"), 12.71, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201,
    2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086,
)  # fmt: skip

OTHER_PHOTOS = (
    "of different photos, so they do not compare: profile all results with the same --data"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Ratio:
    """A percentile over the first result's; the ends come from the ends of the two intervals."""

    value: float
    low: float | None
    high: float | None

    @classmethod
    def of(cls, estimate: Estimate, first: Estimate) -> "Ratio":
        """The ratio of two estimates."""
        return cls(
            value=estimate.value / first.value,
            low=_divide(estimate.low, first.high),
            high=_divide(estimate.high, first.low),
        )


def _divide(value: float | None, by: float | None) -> float | None:
    return None if value is None or by is None else value / by


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One result in its group."""

    label: str
    result: Result
    ratio: Ratio
    verdict: Verdict
    photos: str = ""
    """Mark of the photos that its accuracy is of, where not all results are of the same ones."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Group:
    """Results of one protocol on one machine: only these are ranked with each other.

    Attributes:
        title: protocol and machine, for people.
        headline: what they are ranked by: p90; p50 where other processes kept the machine busy;
            the mean where a runner keeps no samples.
        rows: by the headline, those that are not valid last.
        first: the first valid result that was given: what the ratios refer to.
        given_first: the label of the first result that was given, valid or not.
        key: what all its results have in common, by name.
    """

    title: str
    headline: Headline
    rows: tuple[Row, ...]
    first: Result
    given_first: str
    key: Mapping[str, str]


@dataclass(frozen=True, kw_only=True, slots=True)
class GateOutcome:
    """One limit, held against one result."""

    rule: str
    label: str
    passed: bool
    detail: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """Results, grouped by what may be ranked together, in the order in which they were given.

    Attributes:
        groups: see `Group`.
        photos: what the accuracies are of, by the mark in `Row.photos`; one entry, without a mark,
            where all are of the same photos.
    """

    groups: tuple[Group, ...]
    photos: Mapping[str, str]

    @property
    def same_photos(self) -> bool:
        """Whether the accuracies may be compared with each other."""
        return len(self.photos) <= 1

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able summary, without the samples."""
        return {
            "groups": [_group_to_dict(group) for group in self.groups],
            "photos": dict(self.photos),
            "same_photos": self.same_photos,
        }

    def table(self, *, notes: bool = True) -> str:
        """The comparison as plain text.

        Args:
            notes: whether what is to be known of each result stands below its group.
        """
        groups = [_group_table(group, notes=notes) for group in self.groups]
        for index, group in enumerate(self.groups[1:], start=1):
            why = difference(self.groups[0], group)
            groups[index] = f"not ranked with the results above: {why}\n{groups[index]}"
        return "\n\n".join([*groups, *([self.photos_text()] if self.photos else [])])

    def photos_text(self) -> str:
        """Which photos the accuracies are of, and whether they may be compared."""
        if self.same_photos:
            return f"top-1 and agreement: on {next(iter(self.photos.values()))}"
        lines = [f"  {mark} {text}" for mark, text in self.photos.items()]
        return "\n".join([f"top-1 and agreement are {OTHER_PHOTOS}", *lines])

    def check(self, fail_if: str | Sequence[str]) -> tuple[GateOutcome, ...]:
        """Hold every limit against every result.

        Args:
            fail_if: limits as in runtime/conditions.py, such as `"p90>+5%"`.

        Returns:
            What was held, one per limit and result.

        Raises:
            ConfigError: If a limit is not understood, or cannot be held against a result: it has
                no such figure, or is not comparable with the first. The pair is named.
            GateError: If a result breaks a limit or is not valid; all that do are named.
        """
        texts = [fail_if] if isinstance(fail_if, str) else list(fail_if)
        rules = [parse_rule(text) for text in texts]
        outcomes = tuple(outcome for rule in rules for outcome in self._hold(rule))
        failed = [outcome for outcome in outcomes if not outcome.passed]
        if failed:
            raise GateError("; ".join(f"{item.label}: {item.detail}" for item in failed))
        return outcomes

    def _hold(self, rule: Rule) -> Iterator[GateOutcome]:
        """One limit against every result: each holds, fails, or is an error that names it."""
        baseline = self.groups[0]
        if rule.is_relative and sum(len(group.rows) for group in self.groups) < 2:
            raise ConfigError(
                f"--fail-if {rule.text!r} compares with the first result, and there is no other; "
                "give two results, or --baseline"
            )
        for group in self.groups:
            if rule.is_relative and group is not baseline:
                raise ConfigError(
                    f"--fail-if {rule.text!r}: {group.rows[0].label} cannot be compared with the "
                    f"first result, {baseline.given_first}: {difference(baseline, group)}. "
                    "Measure both alike, or set an absolute limit such as p90>8ms"
                )
            for row in group.rows:
                if not (rule.is_relative and row.label == group.given_first):
                    yield _hold_one(rule, row, group)


def difference(first: Group, other: Group) -> str:
    """Which of the facts that must be equal differ between two groups, in words."""
    names = dict.fromkeys([*first.key, *other.key])
    parts = [
        f"{name} {first.key.get(name, 'not known')} and {other.key.get(name, 'not known')}"
        for name in names
        if first.key.get(name) != other.key.get(name)
    ]
    return "they differ in " + "; ".join(parts)


def rank(results: Sequence[Result], *, files: Sequence[str] | None = None) -> Comparison:
    """Group results by what may be ranked together; the first of a group is its baseline.

    Args:
        results: in the order in which they were given.
        files: their files' names, which tell bundles of one name apart.
    """
    labels = _labels(results, files)
    marks, photos = _mark_photos(results)
    members: dict[tuple[tuple[str, str], ...], list[_Member]] = {}
    versions = _versions(results)
    for member in map(_Member, labels, results, marks):
        key = _comparable(member.result, versions)
        members.setdefault(tuple(key.items()), []).append(member)
    return Comparison(
        groups=tuple(_make_group(rows, dict(key)) for key, rows in members.items()),
        photos=MappingProxyType(photos),
    )


class _Member(NamedTuple):
    label: str
    result: Result
    photos: str


def _mark_photos(results: Sequence[Result]) -> tuple[list[str], dict[str, str]]:
    """A mark for each result's photos, and what the marks mean; no mark where all are the same."""
    sets = dict.fromkeys(key for key in map(photo_set, results) if key is not None)
    names = {key: f"[{number}]" for number, key in enumerate(sets, start=1)}
    if len(sets) == 1:
        names = dict.fromkeys(sets, "")
    texts: dict[str, str] = {}
    marks = []
    for result in results:
        key = photo_set(result)
        marks.append("" if key is None else names[key])
        if result.accuracy is not None and key is not None:
            count = _count(result.accuracy.n, "photo")
            texts.setdefault(names[key], f"{count} ({result.accuracy.source})")
    return marks, texts


def photo_set(result: Result) -> str | None:
    """What is equal for two results that were asked the same photos; None where there were none."""
    accuracy = result.accuracy
    if accuracy is None or (accuracy.top1 is None and accuracy.agreement is None):
        return None
    # Older files do not say which photos a bundle held: those of one bundle are its own.
    return accuracy.fingerprint or f"{accuracy.source} of {result.bundle.digest}"


def _versions(results: Sequence[Result]) -> dict[str, set[str]]:
    """Versions of each engine among the results."""
    versions: dict[str, set[str]] = {}
    for result in results:
        versions.setdefault(result.engine.name, set()).add(result.engine.version)
    return versions


def _comparable(result: Result, versions: Mapping[str, set[str]]) -> dict[str, str]:
    """What must be equal for two latencies to be ranked: how was measured, and where.

    Two engines may be compared, two versions of one may not.
    """
    machine, protocol = result.device.machine, result.protocol
    generation = (machine.cpu_family, machine.cpu_model, machine.cpu_stepping)
    name, version = result.engine.name, result.engine.version
    facts = {
        "protocol": f"{protocol.name} ({protocol.min_runs} runs, {protocol.min_seconds:g} s)",
        "runner": result.engine.runner,
        "engine's version": f"{name} {version}" if len(versions[name]) > 1 else "one",
        "device": _way_to(result),
        "board or computer": machine.model,
        "processor": machine.cpu,
        "architecture": machine.architecture,
        "family, model and stepping": (
            None if generation == (None, None, None) else " ".join(map(str, generation))
        ),
        "kinds of core": ", ".join(machine.cpu_parts),
        "instruction sets": ", ".join(machine.instruction_sets),
        "cores": machine.logical_cores,
        "usable cores": machine.usable_cores,
        "CPU quota": machine.cpu_quota,
        "GiB of memory": None if machine.memory_mib is None else round(machine.memory_mib / 1024),
        "governor": ", ".join(machine.governors),
        **{f"device's {name}": text for name, text in _settings_of(result).items()},
    }
    # What neither file tells is no difference: older ones are ranked with each other.
    return {
        name: "not known" if value is None or value == "" else str(value)
        for name, value in facts.items()
    }


def _way_to(result: Result) -> str:
    # A file's name says nothing of the device that it came from.
    name = result.device.device
    return "file" if name.startswith("file:") else name


def _settings_of(result: Result) -> dict[str, str]:
    """What the device's own tools say that it was set to."""
    facts = {} if result.state_before is None else result.state_before.facts
    return {name: facts[name] for name in SETTINGS if name in facts}


def _make_group(members: list[_Member], key: Mapping[str, str]) -> Group:
    # A baseline that does not count would make every ratio worthless.
    first = next((each.result for each in members if each.result.valid), members[0].result)
    headline = _headline([each.result for each in members])
    runs = _runs_by_bundle([each.result for each in members], headline)
    rows = [_row(member, first, headline, runs) for member in members]
    # What is not valid comes last, however fast it claims to be.
    rows.sort(key=lambda row: (not row.result.valid, headline_estimate(row.result, headline).value))
    return Group(
        title=_title(first),
        headline=headline,
        rows=tuple(rows),
        first=first,
        given_first=members[0].label,
        key=MappingProxyType(dict(key)),
    )


def _headline(results: Sequence[Result]) -> Headline:
    if any(result.latency is None for result in results):
        return "mean"
    return "p50" if any(is_disturbed(result) for result in results) else "p90"


def headline_estimate(result: Result, headline: Headline) -> Estimate:
    """The figure of a result that it is ranked by; a mean has no interval here."""
    if headline == "mean" or result.latency is None:
        return Estimate(value=result.mean_ms, low=None, high=None)
    return result.latency.p90 if headline == "p90" else result.latency.p50


def _identity(result: Result) -> tuple[object, ...]:
    """What is equal for two runs of one bundle, set alike."""
    engine = result.engine
    return (result.bundle.digest, engine.name, engine.threads, result.placement.requested)


class _Repeat(NamedTuple):
    measured_at: str
    value: float
    valid: bool


_Runs = Mapping[tuple[object, ...], Sequence[_Repeat]]


def _runs_by_bundle(results: Sequence[Result], headline: Headline) -> _Runs:
    """The headline of each run, by bundle, in the order in which they were measured."""
    runs: dict[tuple[object, ...], list[_Repeat]] = {}
    for result in sorted(results, key=lambda each: each.measured_at):
        value = headline_estimate(result, headline).value
        run = _Repeat(result.measured_at, value, result.valid)
        runs.setdefault(_identity(result), []).append(run)
    return runs


def _row(
    member: _Member,
    first: Result,
    headline: Headline,
    runs: _Runs,
) -> Row:
    return Row(
        label=member.label,
        result=member.result,
        ratio=Ratio.of(
            headline_estimate(member.result, headline), headline_estimate(first, headline)
        ),
        verdict=_verdict(member.result, first, headline, runs),
        photos=member.photos,
    )


def _verdict(
    result: Result,
    first: Result,
    headline: Headline,
    runs: _Runs,
) -> Verdict:
    if not (result.valid and first.valid):
        return "not ranked"
    if result is first:
        return "first"
    if headline == "mean":
        return "not ranked"  # without a spread nothing tells a difference from chance
    own, other = runs[_identity(result)], runs[_identity(first)]
    # The runs of one process are more alike than processes are, so repeats judge better.
    if min(sum(run.valid for run in each) for each in (own, other)) >= MIN_REPEATS:
        if _identity(result) == _identity(first):
            return "indistinguishable"  # another run of the first
        return _verdict_between_runs(own, other)
    found, baseline = headline_estimate(result, headline), headline_estimate(first, headline)
    if abs(found.value / baseline.value - 1) < MIN_DIFFERENCE or found.overlaps(baseline):
        return "indistinguishable"
    return "faster" if found.value < baseline.value else "slower"


def _verdict_between_runs(own: Sequence[_Repeat], other: Sequence[_Repeat]) -> Verdict:
    """Whether two bundles' runs differ by more than runs of one bundle do.

    Runs, not images, are what repeats: the spread within one run says nothing about the next hour.
    On the logarithm, since latencies differ by factors. Runs in turns are compared neighbour by
    neighbour (Student's paired test), since what changes with the hour touches both; others as two
    samples (Welch 1947).
    """
    pairs = _in_turns(own, other)
    if len(pairs) >= MIN_REPEATS:
        ratios = np.log(np.asarray(pairs)) @ [1.0, -1.0]
        difference, square = float(ratios.mean()), float(ratios.var(ddof=1)) / ratios.size
        num_runs = ratios.size
    else:
        logs = [np.log([run.value for run in runs if run.valid]) for runs in (own, other)]
        difference = float(logs[0].mean() - logs[1].mean())
        square = sum(float(values.var(ddof=1)) / values.size for values in logs)
        # The smaller sample's degrees of freedom: never fewer than Welch's own would be safe with.
        num_runs = min(values.size for values in logs)
    quantile = T_QUANTILES[min(num_runs - 1, len(T_QUANTILES) - 1)]
    if abs(difference) <= max(quantile * math.sqrt(square), math.log1p(MIN_BETWEEN_RUNS)):
        return "indistinguishable"
    return "faster" if difference < 0 else "slower"


def _in_turns(own: Sequence[_Repeat], other: Sequence[_Repeat]) -> list[tuple[float, float]]:
    """Runs that were measured one after the other, where both count; none if not in turns."""
    if len(own) != len(other):
        return []
    pairs = list(zip(own, other, strict=True))
    ends = [max(run.measured_at for run in pair) for pair in pairs]
    begins = [min(run.measured_at for run in pair) for pair in pairs]
    if any(end >= begin for end, begin in zip(ends, begins[1:], strict=False)):
        return []
    return [(one.value, two.value) for one, two in pairs if one.valid and two.valid]


def is_disturbed(result: Result) -> bool:
    """Whether other work on the machine moved its latencies."""
    return any(reason.code == "busy" for reason in result.reasons)


def _title(result: Result) -> str:
    machine = result.device.machine
    where = machine.model or result.device.title
    cores = f"{machine.logical_cores} cores" if machine.logical_cores else "cores unknown"
    return f"{result.protocol.name} on {where} ({machine.cpu}, {cores})"


def _labels(results: Sequence[Result], files: Sequence[str] | None) -> list[str]:
    """A name for each result: the bundle's folder, with what differs where several share it."""
    folders = [result.bundle.folder for result in results]
    return [
        folder if folders.count(folder) == 1 else _unique_label(index, results, files)
        for index, folder in enumerate(folders)
    ]


_PARTS: tuple[Callable[[Result], str], ...] = (
    lambda result: result.bundle.precision,
    lambda result: _count(result.engine.threads, "thread"),
    lambda result: result.protocol.name,
    lambda result: result.device.machine.model or result.device.machine.cpu,
)


def _unique_label(index: int, results: Sequence[Result], files: Sequence[str] | None) -> str:
    """The folder with the first property in which all results of that folder differ."""
    one = results[index]
    twins = [result for result in results if result.bundle.folder == one.bundle.folder]
    for part in _PARTS:
        if len({part(twin) for twin in twins}) == len(twins):
            return f"{one.bundle.folder} · {part(one)}"
    name = f"result {index + 1}" if files is None else _shortest_name(index, files)
    return f"{one.bundle.folder} · {name}"


def _shortest_name(index: int, files: Sequence[str]) -> str:
    """A file's name without its folder and ending, if no other has the same; else its path."""
    names = [PurePath(file).stem for file in files]
    return names[index] if names.count(names[index]) == 1 else files[index]


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")


# --------------------------------------------------------------------------- limits


_TAILS = frozenset({"p90", "p95", "p99"})


def _hold_one(rule: Rule, row: Row, group: Group) -> GateOutcome:
    first = group.first
    for reason in row.result.reasons:
        if reason.invalidates:
            detail = f"not valid ({reason.message}), so {rule.text} cannot be held"
            return GateOutcome(rule=rule.text, label=row.label, passed=False, detail=detail)
    if rule.is_relative and row.result is first:
        # The first result that was given is not valid, so another stood in for it in the table.
        raise ConfigError(
            f"--fail-if {rule.text!r}: the first result, {group.given_first}, is not valid, so "
            f"{row.label} cannot be compared with it; measure it again"
        )
    disturbed = is_disturbed(row.result) or is_disturbed(first)
    if rule.is_relative and rule.metric in _TAILS and disturbed:
        busy = row.label if is_disturbed(row.result) else "the first result"
        raise ConfigError(
            f"--fail-if {rule.text!r}: other work on the machine made the slow runs of {busy}, so "
            f"{rule.metric} does not tell the models apart; measure both on a quiet machine, or "
            "limit p50"
        )
    metric = METRICS[rule.metric]
    value = _read(rule, row.result, row.label)
    limit = rule.limit(_read(rule, first, "the first result") if rule.is_relative else None)
    if rule.is_relative and metric.of_photos and not _same_question(row.result, first, rule):
        raise ConfigError(
            f"--fail-if {rule.text!r}: {row.label} and the first result are {OTHER_PHOTOS}"
            if photo_set(row.result) != photo_set(first)
            else f"--fail-if {rule.text!r}: {row.label} and the first result count agreement "
            "differently (top-1, or self-retrieval among another number of photos); profile both "
            "again"
        )
    passed = not rule.breaks(value, limit)
    detail = f"{metric.title} is {metric.format(value)}, limit {metric.format(limit)}"
    detail += f" ({rule.text})"
    if not passed and rule.is_relative and row.verdict == "indistinguishable":
        detail += "; the two are indistinguishable: measure both in turns, with --repeat 10"
    return GateOutcome(rule=rule.text, label=row.label, passed=passed, detail=detail)


def _same_question(result: Result, first: Result, rule: Rule) -> bool:
    """Whether two shares are of the same photos and, for agreement, count the same thing."""
    if photo_set(result) != photo_set(first):
        return False
    if rule.metric != "agreement" or result.accuracy is None or first.accuracy is None:
        return True
    asked = [(item.agreement_of, item.agreement_pool) for item in (result.accuracy, first.accuracy)]
    return asked[0] == asked[1]


def _read(rule: Rule, result: Result, label: str) -> float:
    value = METRICS[rule.metric].read(result)
    if value is None:
        raise ConfigError(
            f"--fail-if {rule.text!r}: {label} has no {METRICS[rule.metric].title}; {_remedy(rule)}"
        )
    if not math.isfinite(value):
        raise ConfigError(
            f"--fail-if {rule.text!r}: {label}'s {METRICS[rule.metric].title} is {value}, not a "
            "number to compare; profile again"
        )
    return value


def _remedy(rule: Rule) -> str:
    if METRICS[rule.metric].of_photos:
        return "profile it with --data, labelled where accuracy is asked for"
    return "its runner or device does not tell it; take another figure, such as mean"


# --------------------------------------------------------------------------- text


_LEFT = (0, 8)
"""Columns of words: the label and the verdict."""


def _header(headline: Headline) -> tuple[str, ...]:
    return (
        "", "p50 ms", "p90 ms", f"{headline}'s 95 % interval", "p99 ms", "CPU ms", "runs",
        f"{headline} × first", "", "size MB", "top-1", "agreement",
    )  # fmt: skip


def _group_table(group: Group, *, notes: bool) -> str:
    lines = [_header(group.headline), *(_cells(row, group.headline) for row in group.rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    table = "\n".join(
        "  ".join(
            cell.ljust(width) if column in _LEFT else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )
    if not notes:
        return f"{group.title}\n{table}"
    remarks = [
        f"{row.label}: {'not valid: ' if reason.invalidates else ''}{reason.message}"
        for row in group.rows
        for reason in row.result.reasons
    ]
    if group.headline == "p50":
        remarks.append("ranked by p50: other work on the machine makes its p90, not the models")
    return "\n".join([group.title, table, *remarks])


def _cells(row: Row, headline: Headline) -> tuple[str, ...]:
    accuracy = row.result.accuracy
    mark = "" if row.result.valid else " (not valid)"
    return (
        row.label + mark,
        *_latency_cells(row.result, headline),
        "" if row.result.cpu_ms is None else f"{row.result.cpu_ms:.3g}",
        str(row.result.num_runs),
        f"{row.ratio.value:.2f}",
        row.verdict,
        f"{row.result.bundle.size_bytes / 1e6:.2f}",
        _percent(None if accuracy is None else accuracy.top1, row.photos),
        _percent(None if accuracy is None else accuracy.agreement, row.photos),
    )


def _latency_cells(result: Result, headline: Headline) -> tuple[str, str, str, str]:
    """p50, p90, the headline's interval, p99; of a runner without samples what it printed."""
    if result.latency is None:
        reported = {} if result.reported is None else result.reported.percentiles_ns
        p50, p90, p99 = (
            f"{reported[name] / NS_PER_MS:.3g}" if name in reported else "–"
            for name in ("50", "90", "99")
        )
        return p50, p90, f"mean {result.mean_ms:.3g}", p99
    latency = result.latency
    return (
        f"{latency.p50.value:.3g}",
        f"{latency.p90.value:.3g}",
        interval_text(headline_estimate(result, headline)),
        f"{latency.p99.value:.3g}",
    )


def interval_text(estimate: Estimate) -> str:
    """`4.31 … 4.40`; an end that the samples do not bound is a question mark."""
    low, high = ("?" if end is None else f"{end:.3g}" for end in (estimate.low, estimate.high))
    return f"{low} … {high}"


def _percent(share: Share | None, mark: str) -> str:
    return "–" if share is None else f"{share.value:.1%} {mark}".rstrip()


def _group_to_dict(group: Group) -> dict[str, Any]:
    return {
        "title": group.title,
        "headline": group.headline,
        "rows": [_row_to_dict(row) for row in group.rows],
    }


def _row_to_dict(row: Row) -> dict[str, Any]:
    values = row.result.to_dict()
    del values["samples_ns"]
    return {
        "label": row.label,
        "verdict": row.verdict,
        "ratio": asdict(row.ratio),
        "photos": row.photos,
        "result": values,
    }
