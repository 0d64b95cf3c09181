"""The folder of a run: settings, metrics, curves, the state to go on from, and the students."""

import json
import pickle
import shutil
import struct
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import save
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter

from edgeseed.core.config import read_toml, to_plain, write_toml
from edgeseed.core.console import note, say
from edgeseed.core.errors import ArtifactError, ConfigError, UsageError
from edgeseed.core.files import (
    append_jsonl,
    atomic_file,
    disk_errors,
    read_json,
    sweep_temporaries,
    write_json,
    write_text,
)
from edgeseed.core.network import save_student
from edgeseed.core.student import StudentSpec
from edgeseed.distill.networks.frozen import Student

CONFIG, METRICS, STATE, CURVES, HEADS, EVENTS = (
    "config.toml", "metrics.jsonl", "state.pt", "curves.svg", "heads.safetensors", "tensorboard",
)  # fmt: skip
_RENAMED = {"during": "knn_every_epochs"}
"""Fields of `[run]` that older runs have under another name."""
_FIRST_FORM = {"width": "none", "channels": 3}
"""Fields of `[student]` that older runs lack, as they were."""
INPUTS, LABELS = "inputs.json", "labels.txt"
_WORTHLESS = {CONFIG, INPUTS, METRICS, CURVES, EVENTS, LABELS}
"""What a run has written before its first state: nothing is lost with it."""
# What pickle and torch raise of broken bytes.
_UNREADABLE = (
    RuntimeError, OSError, EOFError, ValueError, LookupError, TypeError, AttributeError,
    AssertionError, MemoryError, struct.error, pickle.UnpicklingError,
)  # fmt: skip
RESUMABLE = {
    ("run", "devices"), ("run", "teacher_cache"), ("training", "workers"), ("training", "cache"),
    ("training", "log_steps"), ("training", "checkpoint_minutes"),
}  # fmt: skip
"""Settings that a resumed run may change: they do not touch the result."""


class RunFolder:
    """Reads and writes a run's folder. Only the main process has one.

    Args:
        path: The folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._events: SummaryWriter | None = None
        self._drawn_at = time.monotonic()

    def check_free(self) -> None:
        """Makes sure that a new run may begin here: in no folder, an empty one, or a worthless one.

        Worthless is what a run leaves that failed before it saved anything: the corrected call
        may have its folder.

        Raises:
            UsageError: If there is something in the folder.
        """
        if not self.path.exists():
            return
        sweep_temporaries(self.path)
        if not self.path.is_dir() or (any(self.path.iterdir()) and not self._is_worthless()):
            raise UsageError(
                f"{self.path} exists and is not empty; add --resume to go on with that run, "
                "or choose another --out"
            )

    def _is_worthless(self) -> bool:
        names = {path.name for path in self.path.iterdir()}
        # The first file of a run is one that nobody else has: a config.toml may be the user's own.
        return INPUTS in names and names <= _WORTHLESS

    def start(self, config: Mapping[str, Any], inputs: Mapping[str, Any]) -> None:
        """Begins a new run.

        Args:
            config: Sections of settings.
            inputs: What it is trained on and with; see `check_inputs`.
        """
        if self.path.is_dir() and any(self.path.iterdir()):
            say(f"{self.path}: a run that had saved nothing is begun anew")
            for name in _WORTHLESS:
                _remove(self.path / name)
        # First: by this file `check_free` knows a run that ended before it had saved anything.
        write_json(self.path / INPUTS, inputs)
        write_toml(self.path / CONFIG, config)

    def write_settings(self, config: Mapping[str, Any]) -> None:
        """Writes config.toml anew: a resumed run may have other devices, or more epochs."""
        write_toml(self.path / CONFIG, config)

    def settings_before(self) -> dict[str, Any]:
        """The sections of the run in the folder.

        Raises:
            UsageError: If there is no run in the folder.
        """
        sweep_temporaries(self.path)
        if not (self.path / CONFIG).is_file():
            raise UsageError(
                f"{self.path} holds no run to resume (no {CONFIG}); leave out --resume"
            )
        before = read_toml(self.path / CONFIG)
        run = before.get("run")
        if isinstance(run, dict):
            before["run"] = {_RENAMED.get(name, name): value for name, value in run.items()}
        if isinstance(before.get("student"), dict):
            before["student"] = {**_FIRST_FORM, **before["student"]}
        return before

    def check_settings(self, config: Mapping[str, Any], *, may_be_longer: bool) -> None:
        """Makes sure that a run goes on with the settings it had.

        Args:
            config: Sections of settings, as they are now.
            may_be_longer: Whether there may be more epochs than before.

        Raises:
            UsageError: If there is no run in the folder.
            ConfigError: If the run had other settings.
        """
        _check_same(
            self.settings_before(), to_plain(config), self.path, may_be_longer=may_be_longer
        )

    def check_inputs(self, inputs: Mapping[str, Any]) -> None:
        """Makes sure that a run goes on with the photos, labels and networks it had.

        Raises:
            ConfigError: If it had others; the message says what differs.
            ArtifactError: If the list of what it had is broken.
        """
        path = self.path / INPUTS
        if not path.is_file():
            note(
                f"{self.path} was begun by an older edgeseed, which did not write down its photos, "
                "labels and teacher: whether they are the same is not checked"
            )
            return
        before = read_json(path, what="what a run is trained on")
        if not all(isinstance(facts, Mapping | None) for facts in before.values()):
            raise ArtifactError(
                f"{path} is broken: not all of its entries are objects; begin anew with another "
                "--out"
            )
        differing = [
            text
            for name in sorted({*before, *inputs})
            if (text := _difference(name, before.get(name), inputs.get(name)))
        ]
        if differing:
            raise ConfigError(
                f"{self.path} cannot go on: {'; '.join(differing)}; bring back what it was begun "
                "with, or begin anew with another --out"
            )

    def has_state(self) -> bool:
        """Whether there is a state to go on from."""
        return (self.path / STATE).is_file()

    # ------------------------------------------------------------------ state

    def save_state(self, state: Mapping[str, Any]) -> None:
        """Writes what a resumed run needs, whole or not at all."""
        # Through Python's own file: torch's would not say that the disk is full.
        with atomic_file(self.path / STATE) as temporary, temporary.open("wb") as file:
            torch.save(dict(state), file)

    def load_state(self) -> dict[str, Any]:
        """Reads `save_state`'s file, without pickle's power to run code.

        Raises:
            ArtifactError: If it is broken.
        """
        path = self.path / STATE
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
        except _UNREADABLE as error:
            raise ArtifactError(
                f"{path} cannot be read; it is broken: remove it and resume to start the run again"
            ) from error
        return cast(dict[str, Any], state)

    # ------------------------------------------------------------------ metrics

    def log(self, record: Mapping[str, Any]) -> None:
        """Appends one record to metrics.jsonl and to the TensorBoard events."""
        append_jsonl(self.path / METRICS, record)
        with disk_errors(self.path / EVENTS):
            if self._events is None:
                self._events = SummaryWriter(str(self.path / EVENTS))
            for name, value in record.items():
                if isinstance(value, (int, float)) and name not in ("step", "epoch"):
                    self._events.add_scalar(f"{record['kind']}/{name}", value, int(record["step"]))

    def records(self) -> list[dict[str, Any]]:
        """All records so far; what is none, as a last line that a crash cut off, is left out."""
        path = self.path / METRICS
        if not path.is_file():
            return []
        found = []
        for line in path.read_text(encoding="utf-8", errors="replace").split("\n"):
            try:
                record = json.loads(line)
            except (ValueError, RecursionError):
                continue
            if isinstance(record, dict) and isinstance(record.get("step"), int):
                found.append(record)
        return found

    def forget_after(self, step: int) -> None:
        """Drops records that a resumed run will write again."""
        kept = [record for record in self.records() if record["step"] <= step]
        lines = (json.dumps(record, allow_nan=False) + "\n" for record in kept)
        write_text(self.path / METRICS, "".join(lines))

    def draw_curves(self, *, at_most_every_s: float = 0.0) -> None:
        """Draws curves.svg from the records of whole epochs, unless it was drawn just now."""
        from edgeseed.distill.training.curves import draw_curves

        if time.monotonic() - self._drawn_at >= at_most_every_s:
            draw_curves(self.path / CURVES, self.records())
            self._drawn_at = time.monotonic()

    def close(self) -> None:
        """Flushes the events."""
        if self._events is not None:
            with disk_errors(self.path / EVENTS):
                self._events.close()

    # ------------------------------------------------------------------ results

    def save_networks(
        self,
        networks: Mapping[str, Student],
        *,
        provenance: Mapping[str, Any],
        metrics: tuple[dict[str, Any], ...],
        best: bool = False,
    ) -> dict[str, Path]:
        """Writes each as `<name>.safetensors`; with `best`, the first as `best.safetensors`."""
        paths: dict[str, Path] = {}
        for name, student in networks.items():
            stem = ("best" if not paths else f"best-{name}") if best else name
            paths[name] = self.path / f"{stem}.safetensors"
            spec = StudentSpec(
                architecture=student.architecture,
                preprocess=student.preprocess,
                embedding_dim=student.embedding_dim,
                classes=student.classes,
                provenance=dict(provenance),
                metrics=metrics,
            )
            save_student(paths[name], student.network, spec)
        return paths

    def save_heads(self, heads: Mapping[str, nn.Module]) -> None:
        """Writes the heads that student files leave out; keys start with the head's name."""
        tensors: dict[str, Tensor] = {
            f"{name}.{key}": value.detach().cpu().contiguous().clone()
            for name, head in heads.items()
            for key, value in head.state_dict().items()
        }
        if tensors:
            with atomic_file(self.path / HEADS) as temporary:
                temporary.write_bytes(save(tensors))


def _remove(path: Path) -> None:
    with disk_errors(path):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _difference(name: str, before: Any, now: Any) -> str | None:
    """How one of a run's inputs differs; None if it is the same, wherever it lies."""
    old, new = before or {}, now or {}
    for key in sorted({*old, *new} - {"name"}):
        if old.get(key) != new.get(key):
            kind = key.replace("_", " ")
            return f"its {name} had {kind} {_short(old.get(key))}, now {_short(new.get(key))}"
    return None


def _short(value: Any) -> str:
    if value is None:
        return "none"
    return f"{value[:8]}…" if isinstance(value, str) and len(value) > 16 else str(value)


def _check_same(
    before: Mapping[str, Any], now: Mapping[str, Any], path: Path, *, may_be_longer: bool
) -> None:
    for section in sorted({*before, *now}):
        old, new = before.get(section, {}), now.get(section, {})
        for name in sorted({*old, *new}):
            if (section, name) == ("recipe", "epochs") and name in old and old[name] < new[name]:
                if may_be_longer:
                    continue
                raise ConfigError(
                    f"{path} was run with recipe.epochs={old[name]}, now it is {new[name]}; "
                    "only runs of distill and pretrain can be made longer: choose another --out"
                )
            # None has no form in TOML: a field that is not there is None.
            if (section, name) not in RESUMABLE and old.get(name) != new.get(name):
                raise ConfigError(
                    f"{path} was run with {section}.{name}={old.get(name)}, now it is "
                    f"{new.get(name)}; "
                    "resume with the same settings, or choose another --out"
                )
