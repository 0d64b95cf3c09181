"""Temperatures and throttle counters, where Linux lets an ordinary user read them.

It runs on the device: Python 3.8 and the standard library. Every reading names its sensor, and a
sensor that cannot be read is absent, never zero.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any

SYSFS = Path("/sys")


@dataclass(frozen=True)
class Thermals:
    """One reading: °C by sensor, and how often each core was throttled since boot."""

    temperature_c: dict[str, float]
    throttle_count: int | None

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able copy."""
        return asdict(self)


def read_thermals(sysfs: Path = SYSFS) -> Thermals | None:
    """Read every thermal zone and throttle counter; None when the system shows neither."""
    temperatures = _temperatures(sysfs / "class" / "thermal")
    throttled = _throttle_count(sysfs / "devices" / "system" / "cpu")
    if not temperatures and throttled is None:
        return None
    return Thermals(temperatures, throttled)


def _temperatures(folder: Path) -> dict[str, float]:
    readings: dict[str, float] = {}
    for zone in sorted(folder.glob("thermal_zone*")):
        try:
            name = (zone / "type").read_text().strip()
            millidegrees = int((zone / "temp").read_text())
        except (OSError, ValueError):
            continue  # a zone whose sensor is asleep answers EINVAL or EAGAIN
        key = name if name not in readings else name + " (" + zone.name + ")"
        readings[key] = millidegrees / 1000
    return readings


def _throttle_count(folder: Path) -> int | None:
    counts = []
    for counter in folder.glob("cpu[0-9]*/thermal_throttle/core_throttle_count"):
        try:
            counts.append(int(counter.read_text()))
        except (OSError, ValueError):
            continue
    return sum(counts) if counts else None
