"""Means of what a run logs, summed on the device so that a step need not wait for it."""

import math
import time
from collections.abc import Mapping

import torch
from torch import Tensor

from edgeseed.distill import distributed


class Meter:
    """Means of named scalars since the last reset.

    Args:
        device: Where they are summed.
    """

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self._device = device
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}

    def add(self, values: Mapping[str, Tensor | float]) -> None:
        """Takes one step's scalars."""
        for name, value in values.items():
            value = torch.as_tensor(value, device=self._device).detach().float()
            self._sums[name] = self._sums[name] + value if name in self._sums else value
            self._counts[name] = self._counts.get(name, 0) + 1

    def means(self) -> dict[str, float]:
        """The mean of each, over all ranks."""
        return {
            name: float(distributed.mean(total / self._counts[name]))
            for name, total in self._sums.items()
        }

    def is_finite(self) -> bool:
        """Whether this rank's sums are numbers; asks no other rank."""
        return all(math.isfinite(float(total)) for total in self._sums.values())

    def reset(self) -> None:
        """Forgets all."""
        self._sums.clear()
        self._counts.clear()

    def state_dict(self) -> dict[str, dict[str, float]]:
        """The sums so far, of this rank."""
        sums = {name: float(total) for name, total in self._sums.items()}
        return {"sums": sums, "counts": {name: float(n) for name, n in self._counts.items()}}

    def load_state_dict(self, state: Mapping[str, Mapping[str, float]]) -> None:
        """Goes on from `state_dict`'s sums."""
        self._sums = {
            name: torch.tensor(total, device=self._device) for name, total in state["sums"].items()
        }
        self._counts = {name: int(count) for name, count in state["counts"].items()}


class Stopwatch:
    """How long the run computed, and how long it waited for photos."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Starts anew."""
        self._start = time.perf_counter()
        self._waited = 0.0
        self.images = 0

    def waited(self, seconds: float) -> None:
        """Adds time in which the device had nothing to do for want of photos."""
        self._waited += seconds

    @property
    def seconds(self) -> float:
        """Since the start."""
        return time.perf_counter() - self._start

    def report(self) -> dict[str, float]:
        """Images a second over all ranks, and the share of time spent waiting for photos."""
        seconds = max(self.seconds, 1e-9)
        return {
            "seconds": round(seconds, 3),
            "images_per_second": round(self.images / seconds, 1),
            "data_wait_percent": round(100 * self._waited / seconds, 1),
        }
