"""Energy of the timed runs, where the system has a meter and an ordinary user may read it.

It runs on the device: Python 3.8 and the standard library. On a Jetson `tegrastats` prints the
power of each rail; Intel and AMD count energy in RAPL (`/sys/class/powercap`), which since Linux
5.10 only root may read. Where nothing can be read the answer says why: a power figure is measured
or absent, never estimated.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from edgeseed.runtime.tegrastats import Sampler

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from edgeseed.runtime.tegrastats import Tegrastats

SYSFS = Path("/sys")
UJ_PER_J = 1e6
MW_PER_W = 1000
# Rails contain each other, so that a sum over all of them counts twice. `VDD_IN` (Orin Nano and NX)
# and `VIN` (Thor) are the whole board's; AGX Orin has no such rail, and its three are apart.
WHOLE_BOARD = ("VDD_IN", "VIN")
SEPARATE = ("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0")


@dataclass(frozen=True)
class Power:
    """Energy used by each domain over one span, and the mean power.

    A domain is a CPU package or a board's rail, not this process: everything else that ran is in
    the figure.

    Attributes:
        source: `rapl` or `tegrastats`.
        seconds: the span.
        energy_j: by domain; domains do not contain each other.
        rails_w: mean power of every rail that the board measures. They may contain each other.
    """

    source: str
    seconds: float
    energy_j: dict[str, float]
    rails_w: dict[str, float] = field(default_factory=dict)

    @property
    def mean_w(self) -> float:
        """Mean power of all domains together."""
        return sum(self.energy_j.values()) / self.seconds

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able copy, with the mean power in it."""
        return dict(asdict(self), mean_w=self.mean_w)


class PowerMeter:
    """Reads the counters when it is made, and again at `stop()`.

    Attributes:
        board: what tegrastats printed, from `stop` on; empty where there is none.
    """

    def __init__(
        self, sysfs: Path = SYSFS, *, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self._clock = clock
        self.board: list[Tegrastats] = []
        self._sampler = Sampler.start()
        self._domains = _Domain.find(sysfs / "class" / "powercap")
        self._before = [domain.read_uj() for domain in self._domains]
        self._started = clock()

    @property
    def unavailable(self) -> str | None:
        """Why there is no figure, or None when there is one."""
        if self._sampler is not None:
            return None if _rails(self.board) else "tegrastats printed no power rail"
        if not self._domains:
            return "this system has no RAPL energy counter"
        if any(reading is None for reading in self._before):
            return "the RAPL energy counters may be read by root only"
        return None

    def stop(self) -> Power | None:
        """Energy since the meter was made; None where `unavailable` says why."""
        seconds = self._clock() - self._started
        if self._sampler is not None:
            self.board = self._sampler.stop()
            return _power_of_rails(self.board, seconds)
        if self.unavailable is not None:
            return None
        energy_j = {}
        for domain, before in zip(self._domains, self._before):  # noqa: B905 - Python 3.8
            after = domain.read_uj()
            if after is None or before is None:
                return None
            energy_j[domain.name] = domain.spent_uj(before, after) / UJ_PER_J
        return Power("rapl", seconds, energy_j)


def _rails(lines: list[Tegrastats]) -> dict[str, float]:
    """Mean power of each rail in W."""
    sums: dict[str, list[int]] = {}
    for line in lines:
        for rail, milliwatts in line.power_mw.items():
            sums.setdefault(rail, []).append(milliwatts)
    return {rail: sum(values) / len(values) / MW_PER_W for rail, values in sums.items()}


def _power_of_rails(lines: list[Tegrastats], seconds: float) -> Power | None:
    rails = _rails(lines)
    whole = [rail for rail in WHOLE_BOARD if rail in rails]
    counted = whole[:1] or [rail for rail in SEPARATE if rail in rails]
    if not counted:
        return None
    energy_j = {rail: rails[rail] * seconds for rail in counted}
    return Power("tegrastats", seconds, energy_j, rails)


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
