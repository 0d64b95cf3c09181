"""Energy counters, where the system has them and an ordinary user may read them.

It runs on the device: Python 3.8 and the standard library. Today that is RAPL on Intel and AMD
(`/sys/class/powercap`), which since Linux 5.10 only root may read. Where nothing can be read the
answer says why: a power figure is measured or absent, never estimated.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

SYSFS = Path("/sys")
UJ_PER_J = 1e6


@dataclass(frozen=True)
class Power:
    """Energy used by each domain over one span, and the mean power.

    A domain is a CPU package, not this process: everything else that ran is in the figure.
    """

    source: str
    seconds: float
    energy_j: dict[str, float]

    @property
    def mean_w(self) -> float:
        """Mean power of all domains together."""
        return sum(self.energy_j.values()) / self.seconds

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able copy, with the mean power in it."""
        return dict(asdict(self), mean_w=self.mean_w)


class PowerMeter:
    """Reads the counters when it is made, and again at `stop()`."""

    def __init__(
        self, sysfs: Path = SYSFS, *, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self._clock = clock
        self._domains = _Domain.find(sysfs / "class" / "powercap")
        self._before = [domain.read_uj() for domain in self._domains]
        self._started = clock()

    @property
    def unavailable(self) -> str | None:
        """Why there is no figure, or None when there is one."""
        if not self._domains:
            return "this system has no RAPL energy counter"
        if any(reading is None for reading in self._before):
            return "the RAPL energy counters may be read by root only"
        return None

    def stop(self) -> Power | None:
        """Energy since the meter was made; None where `unavailable` says why."""
        seconds = self._clock() - self._started
        if self.unavailable is not None:
            return None
        energy_j = {}
        for domain, before in zip(self._domains, self._before):  # noqa: B905 - Python 3.8
            after = domain.read_uj()
            if after is None or before is None:
                return None
            energy_j[domain.name] = domain.spent_uj(before, after) / UJ_PER_J
        return Power("rapl", seconds, energy_j)


@dataclass(frozen=True)
class _Domain:
    """One RAPL package: a counter of microjoules that wraps at `range_uj`."""

    name: str
    folder: Path
    range_uj: int

    @classmethod
    def find(cls, powercap: Path) -> list[_Domain]:
        """The packages only: a package's counter already holds its cores' (intel-rapl:0:0)."""
        domains = []
        for folder in sorted(powercap.glob("intel-rapl:[0-9]*")):
            if folder.name.count(":") > 1:
                continue
            try:
                name = (folder / "name").read_text().strip()
                range_uj = int((folder / "max_energy_range_uj").read_text())
            except (OSError, ValueError):
                continue
            domains.append(cls(name, folder, range_uj))
        return domains

    def read_uj(self) -> int | None:
        try:
            return int((self.folder / "energy_uj").read_text())
        except (OSError, ValueError):
            return None

    def spent_uj(self, before: int, after: int) -> int:
        return after - before if after >= before else after + self.range_uj - before
