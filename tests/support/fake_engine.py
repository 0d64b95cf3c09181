"""An engine without a library, for tests: a fixed linear map of each channel's mean.

Its model is a JSON file: `{"weights": [[...]], "head": [[...]] | null, "delay_ms": 0,
"actual": "cpu", "layers": {name: ns} | null}`. It runs on the device: Python 3.8 and numpy.
"""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

import numpy as np

from edgeseed.runtime.engine import (
    Engine,
    EngineError,
    EngineTensor,
    LayerTime,
    LayerTimes,
    Placement,
)

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Any

    from edgeseed.runtime.engine import Tensors


class FakeEngine(Engine):
    """Computes `embedding = weights @ mean(image)` and, with a head, `logits = head @ embedding`.

    Args:
        model: what the JSON file holds; `delay_ms` is slept in every run, and `actual` is the
            unit it will claim to have run on.
        unit: the unit that was asked for.
    """

    name = "fake"
    targets = ("fake",)
    units = ("cpu", "npu")

    def __init__(self, model: dict[str, Any], *, unit: str = "cpu") -> None:
        self.inputs = (EngineTensor("image", (None, 3, None, None), "float32"),)
        self._weights = np.asarray(model["weights"], dtype=np.float32)
        self._head = None if model.get("head") is None else np.asarray(model["head"], np.float32)
        sizes = {"embedding": len(self._weights)}
        if self._head is not None:
            sizes["logits"] = len(self._head)
        self.outputs = tuple(EngineTensor(name, (None, n), "float32") for name, n in sizes.items())
        self.placement = Placement(unit, model.get("actual", unit), None)
        self.settings = {}
        self._delay_s = model.get("delay_ms", 0) / 1000
        self.closed = False

    @classmethod
    def version(cls) -> str:
        """A version that no real engine has."""
        return "0"

    @classmethod
    def open(cls, model: Path, *, unit: str, threads: int) -> FakeEngine:
        """Read the JSON file."""
        if unit not in cls.units:
            raise EngineError(f"fake has no unit {unit!r}; it has: {', '.join(cls.units)}")
        return cls(json.loads(model.read_text(encoding="utf-8")), unit=unit)

    def infer(self, feeds: Tensors) -> Tensors:
        """Sleep, then compute."""
        if self._delay_s:
            time.sleep(self._delay_s)
        image = np.asarray(feeds["image"], dtype=np.float32)
        outputs: Tensors = {"embedding": image.mean(axis=(2, 3)) @ self._weights.T}
        if self._head is not None:
            outputs["logits"] = outputs["embedding"] @ self._head.T
        return outputs

    @classmethod
    def time_layers(
        cls, model: Path, *, unit: str, threads: int, feeds: Tensors, runs: int
    ) -> LayerTimes | None:
        """What the file says under `layers`, such as `{"conv": 5000}`; "broken" fails."""
        layers = json.loads(model.read_text(encoding="utf-8")).get("layers")
        if layers == "broken":
            raise RuntimeError("the profiler is gone\nand more")
        if layers is None:
            return None
        times = [LayerTime(name, "Conv", unit, ns) for name, ns in layers.items()]
        return LayerTimes(runs, sum(layers.values()), times)

    def close(self) -> None:
        """Remember that it was closed."""
        self.closed = True


ENGINE = FakeEngine
