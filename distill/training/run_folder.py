"""The folder of a run: settings, metrics, curves, the state to go on from, and the students."""

import json
import pickle
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import save
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter

from edgeseed.core.config import read_toml, to_plain, write_toml
from edgeseed.core.errors import ArtifactError, ConfigError, UsageError
from edgeseed.core.files import append_jsonl, atomic_file, disk_errors, write_text
from edgeseed.core.network import save_student
from edgeseed.core.student import StudentSpec
from edgeseed.distill.networks.frozen import Student

CONFIG, METRICS, STATE, CURVES, HEADS, EVENTS = (
    "config.toml", "metrics.jsonl", "state.pt", "curves.png", "heads.safetensors", "tensorboard",
)  # fmt: skip
_UNREADABLE = (RuntimeError, OSError, EOFError, ValueError, KeyError, pickle.UnpicklingError)
RESUMABLE = {
    ("run", "devices"), ("training", "workers"), ("training", "cache"), ("training", "log_steps"),
    ("training", "checkpoint_minutes"),
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
        """Makes sure that a new run may begin here.

        Raises:
            UsageError: If there is something in the folder.
        """
        if self.path.exists() and (not self.path.is_dir() or any(self.path.iterdir())):
            raise UsageError(
                f"{self.path} exists and is not empty; add --resume to go on with that run, "
                "or choose another --out"
            )

    def start(self, config: Mapping[str, Any]) -> None:
        """Begins a new run."""
        write_toml(self.path / CONFIG, config)

    def reopen(self, config: Mapping[str, Any]) -> bool:
        """Prepares to go on with a run.

        Returns:
            Whether there is a state to go on from.

        Raises:
            UsageError: If there is no run in the folder.
            ConfigError: If the run had other settings.
        """
        if not (self.path / CONFIG).is_file():
            raise UsageError(
                f"{self.path} holds no run to resume (no {CONFIG}); leave out --resume"
            )
        _check_same(read_toml(self.path / CONFIG), to_plain(config), self.path)
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
        """All records so far; a last line that was cut off by a crash is left out."""
        path = self.path / METRICS
        if not path.is_file():
            return []
        found = []
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                found.append(cast(dict[str, Any], json.loads(line)))
            except json.JSONDecodeError:
                continue
        return found

    def forget_after(self, step: int) -> None:
        """Drops records that a resumed run will write again."""
        kept = [record for record in self.records() if record["step"] <= step]
        lines = (json.dumps(record, allow_nan=False) + "\n" for record in kept)
        write_text(self.path / METRICS, "".join(lines))

    def draw_curves(self, *, at_most_every_s: float = 0.0) -> None:
        """Draws curves.png from the records of whole epochs, unless it was drawn just now."""
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


def _check_same(before: Mapping[str, Any], now: Mapping[str, Any], path: Path) -> None:
    for section in sorted({*before, *now}):
        old, new = before.get(section, {}), now.get(section, {})
        for name in sorted({*old, *new}):
            # None has no form in TOML: a field that is not there is None.
            if (section, name) not in RESUMABLE and old.get(name) != new.get(name):
                raise ConfigError(
                    f"{path} was run with {section}.{name}={old.get(name)}, now it is "
                    f"{new.get(name)}; "
                    "resume with the same settings, or choose another --out"
                )
