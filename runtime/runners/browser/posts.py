"""Checks what a page posts: whoever holds the link could send anything."""

import json
import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeseed.core.errors import ArtifactError
from edgeseed.runtime.agent.job_file import Job
from edgeseed.runtime.runners.browser.work import FLOAT_BYTES

EVENTS_BYTES = 1 << 16
MEASUREMENT_BYTES = 64 << 20
"""Of the measurement: ten minutes of a model that takes 0.1 ms are 6 million samples, 40 MB."""
_TEXT_CHARACTERS = 500
_EVENTS: dict[str, dict[str, type | tuple[type, ...]]] = {
    "stage": {"name": str},
    "progress": {"stage": str, "runs": int},
    "error": {"kind": str, "message": str},
    "hidden": {},
}
_STAGES = ("check", "load", "golden", "warm-up", "measure", "timed", "photos")


def read_events(body: bytes) -> list[dict[str, Any]]:
    """The events of one post.

    Raises:
        ArtifactError: If they are none that a page sends.
    """
    events = _json(body, what="events")
    if not isinstance(events, list):
        raise ArtifactError("the page's events are not a list")
    return [_event(event) for event in events]


def _event(event: Any) -> dict[str, Any]:
    name = event.get("event") if isinstance(event, dict) else None
    fields = _EVENTS.get(name) if isinstance(name, str) else None
    if fields is None or any(
        not isinstance(event.get(name), kind) for name, kind in fields.items()
    ):
        raise ArtifactError(f"the page sent an event that is none: {str(event)[:80]!r}")
    if event.get("stage", event.get("name", "check")) not in _STAGES:
        raise ArtifactError(f"the page sent an unknown stage: {str(event)[:80]!r}")
    if event["event"] == "progress" and event["stage"] != "photos":
        _number(event.get("seconds"), "progress: seconds", above=0)
    if event["event"] == "error":
        event["message"] = _one_line(event["message"])
    return dict(event)


def read_output(body: bytes, *, n: int, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """One output of all photos, (n, *shape) float32.

    Raises:
        ArtifactError: If it has another size.
    """
    if len(body) != output_bytes(n, shape):
        raise ArtifactError(
            f"the page sent {len(body)} bytes as an output of {n} photos, "
            f"{output_bytes(n, shape)} were expected"
        )
    return np.frombuffer(body, dtype="<f4").reshape(n, *shape).astype(np.float32)


def output_bytes(n: int, shape: tuple[int, ...]) -> int:
    """Size of one output of `n` photos."""
    return n * math.prod(shape) * FLOAT_BYTES


def read_measurement(body: bytes, *, job: Job, outputs: Iterable[str]) -> dict[str, Any]:
    """The measurement, held to what this job can have given.

    Args:
        body: as posted.
        job: what was asked.
        outputs: names of the model's outputs.

    Raises:
        ArtifactError: If a field is missing, of another type, or cannot be true; it is named.
    """
    values = _json(body, what="measurement")
    if not isinstance(values, dict):
        raise ArtifactError("the page's measurement is not a JSON object")
    for name in _FIELDS.keys() - values.keys():
        raise ArtifactError(f"the page's measurement has no {name}")
    for name in values.keys() - _FIELDS.keys():
        raise ArtifactError(f"the page's measurement has an unknown field: {_one_line(name)[:40]}")
    for name, kind in _FIELDS.items():
        if not isinstance(values[name], kind) or isinstance(values[name], bool):
            raise ArtifactError(
                f"the page's measurement: {name} is a {type(values[name]).__name__}"
            )
    _check_times(values)
    _check_golden(values["golden"], job, outputs)
    _check_placement(values["placement"], job)
    _check_texts(values)
    return values


_FIELDS: dict[str, type | tuple[type, ...]] = {
    "runner": str,
    "machine": dict,
    "numpy": type(None),
    "engine_version": str,
    "load_ns": int,
    "first_run_ns": int,
    "settings": dict,
    "limitations": list,
    "placement": dict,
    "golden": dict,
    "samples_ns": list,
    "elapsed_ns": int,
    "cpu_ns": type(None),
    "warm_up": dict,
    "load_before": dict,
    "load_during": dict,
    "memory_before": dict,
    "memory_library": dict,
    "memory_model": dict,
    "thermals": list,
    "power": type(None),
    "power_unavailable": str,
}


def _check_times(values: Mapping[str, Any]) -> None:
    samples = values["samples_ns"]
    if not samples or not all(type(sample) is int and sample > 0 for sample in samples):
        raise ArtifactError("the page's measurement: samples_ns is not a list of positive integers")
    if not sum(samples) <= values["elapsed_ns"] * 1.01:
        raise ArtifactError(
            f"the page's measurement: its samples take {sum(samples)} ns together, more than "
            f"elapsed_ns, {values['elapsed_ns']}"
        )
    if min(values["load_ns"], values["first_run_ns"]) < 0:
        raise ArtifactError("the page's measurement: load_ns or first_run_ns is below 0")
    warm_up = values["warm_up"]
    if set(warm_up) != {"runs", "seconds", "steady"} or type(warm_up["steady"]) is not bool:
        raise ArtifactError("the page's measurement: warm_up needs runs, seconds and steady")
    _number(warm_up["seconds"], "warm_up.seconds", above=0)


def _check_golden(golden: Mapping[str, Any], job: Job, outputs: Iterable[str]) -> None:
    errors = golden.get("relative_error")
    if not isinstance(errors, dict) or set(errors) != set(outputs):
        raise ArtifactError("the page's measurement: golden does not name the model's outputs")
    for name, error in errors.items():
        # Written this way round so that NaN fails.
        if not _number(error, f"golden.{name}", above=0) <= job.golden_tolerance:
            raise ArtifactError(
                f"the page's measurement: it timed a model whose golden {name} is off by "
                f"{error:.3g} (limit {job.golden_tolerance:.3g})"
            )


def _check_placement(placement: Mapping[str, Any], job: Job) -> None:
    if placement.get("requested") != job.unit or not isinstance(placement.get("actual"), str):
        raise ArtifactError(
            f"the page's measurement: placement is not an answer to unit {job.unit}"
        )


def _check_texts(values: dict[str, Any]) -> None:
    if not all(isinstance(text, str) for text in values["limitations"]):
        raise ArtifactError("the page's measurement: limitations are not texts")
    values["limitations"] = [_one_line(text) for text in values["limitations"]]
    for block in (values["machine"], values["settings"]):
        for name, value in block.items():
            if isinstance(value, str):
                block[name] = _one_line(value)


def _json(body: bytes, *, what: str) -> Any:
    try:
        return json.loads(body, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise ArtifactError(f"the page's {what} cannot be read as JSON ({error})") from error


def _no_constant(text: str) -> float:
    raise ValueError(f"{text} is no JSON number")


def _number(value: Any, name: str, *, above: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not value >= above:
        raise ArtifactError(f"the page's {name} is not a number from {above:g} up")
    return float(value)


def _one_line(text: str) -> str:
    """Printable, short and on one line: it reaches the terminal and the report."""
    shown = "".join(letter if letter.isprintable() else " " for letter in text)
    return shown[:_TEXT_CHARACTERS]
