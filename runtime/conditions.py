"""`--fail-if "p90>+5%"`: a limit on a result, absolute or against the first result of its group.

```text
p90>8ms        p90 is above 8 ms
p90>+5%        p90 is more than 5 % above the first result's
top1<0.9       top-1 is below 90 %; 90% says the same. 90 alone is refused: it would be 9000 %
top1<-1pt      top-1 is more than one percentage point below the first result's
cpu>+20%       CPU time an image grew by more than 20 %: steadier than p90 on a shared CI machine
```
"""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from edgeseed.core.errors import ConfigError
from edgeseed.core.registry import unknown_name
from edgeseed.runtime.result import Result
from edgeseed.runtime.summary import Estimate

MB = 1e6


@dataclass(frozen=True, kw_only=True, slots=True)
class ResultFigure:
    """A figure of a result that a limit can be set on."""

    title: str
    unit: str
    """Also the suffix that an absolute limit may carry; a share is given as 0.9 or 90%."""
    read: Callable[[Result], float | None]
    decimals: int = 3
    of_photos: bool = False
    """Whether it depends on which photos were run."""
    largest: float = math.inf
    """No value is above it: a limit that is, was meant in another unit."""

    def format(self, value: float) -> str:
        """The value with its unit."""
        if self.unit == "%":
            return f"{value:.1%}"
        return f"{value:.{self.decimals}g} {self.unit}".strip()


def _percentile(name: str) -> Callable[[Result], float | None]:
    def read(result: Result) -> float | None:
        if result.latency is None:
            return None
        estimate: Estimate = getattr(result.latency, name)
        return estimate.value

    return read


def _drift(result: Result) -> float | None:
    return None if result.latency is None else result.latency.drift


def _top1(result: Result) -> float | None:
    share = None if result.accuracy is None else result.accuracy.top1
    return None if share is None else share.value


def _agreement(result: Result) -> float | None:
    share = None if result.accuracy is None else result.accuracy.agreement
    return None if share is None else share.value


def _cosine(result: Result) -> float | None:
    return None if result.accuracy is None else result.accuracy.cosine


METRICS: Mapping[str, ResultFigure] = MappingProxyType(
    {
        "p50": ResultFigure(title="p50", unit="ms", read=_percentile("p50")),
        "p90": ResultFigure(title="p90", unit="ms", read=_percentile("p90")),
        "p95": ResultFigure(title="p95", unit="ms", read=_percentile("p95")),
        "p99": ResultFigure(title="p99", unit="ms", read=_percentile("p99")),
        "cpu": ResultFigure(title="CPU time", unit="ms", read=lambda result: result.cpu_ms),
        "mean": ResultFigure(title="mean", unit="ms", read=lambda result: result.mean_ms),
        "drift": ResultFigure(title="drift", unit="", read=_drift),
        "load": ResultFigure(title="load", unit="ms", read=lambda result: result.load_ms),
        "first-run": ResultFigure(
            title="first run", unit="ms", read=lambda result: result.first_run_ms
        ),
        "throughput": ResultFigure(
            title="throughput", unit="/s", read=lambda result: 1000 / result.mean_ms
        ),
        "size": ResultFigure(
            title="model size", unit="MB", read=lambda result: result.bundle.size_bytes / MB
        ),
        "memory": ResultFigure(
            title="peak memory", unit="MiB", read=lambda result: result.memory.peak_mib, decimals=4
        ),
        "energy": ResultFigure(title="energy", unit="mJ", read=lambda result: result.energy_mj),
        "top1": ResultFigure(title="top-1", unit="%", read=_top1, of_photos=True, largest=1.0),
        "agreement": ResultFigure(
            title="agreement", unit="%", read=_agreement, of_photos=True, largest=1.0
        ),
        "cosine": ResultFigure(
            title="mean cosine", unit="", read=_cosine, decimals=5, of_photos=True, largest=1.0
        ),
    }
)

_RULE = re.compile(
    r"(?P<metric>[a-z0-9-]+)\s*(?P<sign>[<>])\s*"
    r"(?P<direction>[+-]?)(?P<number>\d+(\.\d+)?|\.\d+)\s*(?P<suffix>%|pt|ms|MB|MiB|mJ|/s|)"
)
_FORMS = '"p90>8ms", "p90>+5%", "top1<90%" or "top1<-1pt"'


@dataclass(frozen=True, kw_only=True, slots=True)
class Rule:
    """A parsed limit: a result fails when its metric is on the wrong side of it."""

    text: str
    metric: str
    sign: Literal["<", ">"]
    kind: Literal["absolute", "percent", "points"]
    amount: float
    """In the metric's unit; for `percent` and `points` a signed fraction."""

    @property
    def is_relative(self) -> bool:
        """Whether it compares with the first result."""
        return self.kind != "absolute"

    def limit(self, baseline: float | None) -> float:
        """The limit in the metric's unit; a relative rule needs the first result's value."""
        if self.kind == "absolute":
            return self.amount
        assert baseline is not None
        return baseline * (1 + self.amount) if self.kind == "percent" else baseline + self.amount

    def breaks(self, value: float, limit: float) -> bool:
        """Whether `value` fails."""
        return value > limit if self.sign == ">" else value < limit


def parse_rule(text: str) -> Rule:
    """Parse one limit.

    Raises:
        ConfigError: If it is not of a form that the module's docstring shows.
        UnknownNameError: If there is no such metric; the nearest is suggested.
    """
    match = _RULE.fullmatch(text.strip())
    if match is None:
        raise ConfigError(f"--fail-if {text!r} is not understood; write it like {_FORMS}")
    name, direction, suffix = match["metric"], match["direction"], match["suffix"]
    if name not in METRICS:
        raise unknown_name("metric of --fail-if", name, METRICS)
    kind = _kind(text, METRICS[name], direction, suffix)
    amount = float(f"{direction}{match['number']}") / (100 if suffix in ("%", "pt") else 1)
    _check_reach(text, METRICS[name], kind, amount)
    sign: Literal["<", ">"] = "<" if match["sign"] == "<" else ">"
    return Rule(text=text.strip(), metric=name, sign=sign, kind=kind, amount=amount)


def _check_reach(text: str, metric: ResultFigure, kind: str, amount: float) -> None:
    """Refuse a limit beyond what the metric can be: it would always hold, or never."""
    if kind == "absolute" and amount > metric.largest:
        percent = metric.unit == "%"
        said = f"{amount:.0%}" if percent else f"{amount:g}"
        meant = f"; for a percentage write {text.strip()}%" if percent else ""
        largest = f"{metric.largest:.0%}" if percent else f"{metric.largest:g}"
        raise ConfigError(
            f"--fail-if {text!r} is {said}: {metric.title} is never above {largest}{meant}"
        )


def _kind(
    text: str, metric: ResultFigure, direction: str, suffix: str
) -> Literal["absolute", "percent", "points"]:
    if direction:
        if suffix == "%":
            return "percent"
        if suffix == "pt" and metric.unit == "%":
            return "points"
        allowed = "% or pt" if metric.unit == "%" else "%"
        raise ConfigError(
            f"--fail-if {text!r}: a change (+ or -) of {metric.title} is given in {allowed}"
        )
    if suffix not in ("", metric.unit):
        hint = f"; for a change write {text.replace('>', '>+').replace('<', '<-')}"
        raise ConfigError(
            f"--fail-if {text!r}: {metric.title} is in {metric.unit or 'no unit'}, not in {suffix}"
            + (hint if suffix in ("%", "pt") else "")
        )
    return "absolute"
