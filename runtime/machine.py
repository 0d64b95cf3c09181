"""What the device is and how busy it is: the facts without which a latency means nothing.

It runs on the device: Python 3.8 and the standard library. A fact that the system does not tell
is None, never a guess.
"""

from __future__ import annotations

import os
import platform
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any

ROOT = Path("/")
BUSY_LOOK_SECONDS = 0.5
MIB = 2**20


@dataclass(frozen=True)
class Machine:
    """Facts that do not change during a run. Frequencies in MHz, memory in MiB."""

    model: str | None
    cpu: str
    architecture: str
    system: str
    python: str | None
    logical_cores: int | None
    usable_cores: int
    cpu_quota: float | None
    memory_mib: float | None
    governors: list[str]
    frequency_mhz: dict[str, float]
    container: str | None
    virtual_machine: bool | None

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able copy."""
        return asdict(self)


def read_machine(root: Path = ROOT) -> Machine:
    """Read what this machine is. `root` is where /proc and /sys are found."""
    cpuinfo = _read(root / "proc/cpuinfo") or ""
    return Machine(
        model=_model(root),
        cpu=_cpu_name(cpuinfo),
        architecture=platform.machine(),
        system=platform.platform(),
        python=platform.python_version(),
        logical_cores=os.cpu_count(),
        usable_cores=_usable_cores(),
        cpu_quota=_cpu_quota(root / "sys/fs/cgroup"),
        memory_mib=_memory_mib(),
        governors=_governors(root / "sys/devices/system/cpu"),
        frequency_mhz=_frequencies(root / "sys/devices/system/cpu"),
        container=_container(root),
        # Only x86 says so here; elsewhere the flag's absence proves nothing.
        virtual_machine=(" hypervisor" in cpuinfo) if "flags\t" in cpuinfo else None,
    )


def _read(path: Path) -> str | None:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return None


def _model(root: Path) -> str | None:
    """The board's name: a device tree has it on Arm, DMI on x86."""
    for place in ("proc/device-tree/model", "sys/class/dmi/id/product_name"):
        text = _read(root / place)
        if text:
            return text.strip("\0")
    return None


def _cpu_name(cpuinfo: str) -> str:
    for line in cpuinfo.splitlines():
        key, _, value = line.partition(":")
        if key.strip() in ("model name", "Hardware"):
            return value.strip()
    return platform.processor() or platform.machine()


def _usable_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _cpu_quota(cgroup: Path) -> float | None:
    """Cores' worth of CPU time this container may use (cgroup v2, then v1); None: no limit."""
    quota, _, period = (_read(cgroup / "cpu.max") or "").partition(" ")
    if not period:
        quota = _read(cgroup / "cpu/cpu.cfs_quota_us") or ""
        period = _read(cgroup / "cpu/cpu.cfs_period_us") or ""
    try:
        cores = int(quota) / int(period)
    except (ValueError, ZeroDivisionError):
        return None  # "max 100000", or no cgroup at all
    return cores if cores > 0 else None


def _memory_mib() -> float | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / MIB
    except (AttributeError, ValueError, OSError):
        return None


def _governors(cpus: Path) -> list[str]:
    texts = (_read(path) for path in cpus.glob("cpu[0-9]*/cpufreq/scaling_governor"))
    return sorted({text for text in texts if text})


def _frequencies(cpus: Path) -> dict[str, float]:
    """Current frequency of each core; the whole answer is empty where cpufreq is absent."""
    frequencies = {}
    for path in sorted(cpus.glob("cpu[0-9]*/cpufreq/scaling_cur_freq")):
        text = _read(path)
        if text and text.isdigit():
            frequencies[path.parts[-3]] = int(text) / 1000
    return frequencies


def _container(root: Path) -> str | None:
    if (root / ".dockerenv").exists():
        return "docker"
    if (root / "run/.containerenv").exists():
        return "podman"
    return os.environ.get("container")  # noqa: SIM112 - systemd spells it so


@dataclass(frozen=True)
class Load:
    """How busy the machine was, apart from us, over one span.

    `other_cores` is CPU time of other processes and `stolen_cores` what a hypervisor gave to
    other guests, both in cores' worth; None where the system does not count them.
    """

    seconds: float
    other_cores: float | None
    stolen_cores: float | None
    load_average: float | None

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able copy."""
        return asdict(self)


class LoadMeter:
    """Counts the machine's CPU time from when it is made until `stop()`."""

    def __init__(self, root: Path = ROOT) -> None:
        self._stat = root / "proc/stat"
        self._started = time.perf_counter()
        self._own = _own_cpu_seconds()
        self._busy, self._stolen = _cpu_seconds(self._stat)

    def stop(self) -> Load:
        """The load since the meter was made, without this process's own."""
        seconds = time.perf_counter() - self._started
        own = _own_cpu_seconds() - self._own
        busy, stolen = _cpu_seconds(self._stat)
        others = None
        if busy is not None and self._busy is not None and seconds > 0:
            # /proc/stat counts in ticks of 10 ms, so that a short span can come out below zero.
            others = max(0.0, busy - self._busy - own) / seconds
        taken = None
        if stolen is not None and self._stolen is not None and seconds > 0:
            taken = (stolen - self._stolen) / seconds
        return Load(seconds, others, taken, _load_average())


def load_now(seconds: float = BUSY_LOOK_SECONDS) -> Load:
    """Look at the machine for a moment without using it.

    A load average remembers the minute before, which was often our own work (training, export);
    this does not.
    """
    meter = LoadMeter()
    time.sleep(seconds)
    return meter.stop()


def _own_cpu_seconds() -> float:
    times = os.times()
    return times.user + times.system


def _cpu_seconds(stat: Path) -> tuple[float | None, float | None]:
    """Seconds of CPU time used by everyone, and stolen by the hypervisor, since boot."""
    line = (_read(stat) or "").partition("\n")[0].split()
    if len(line) < 9 or line[0] != "cpu":
        return None, None
    user, nice, system, _idle, _iowait, irq, softirq, steal = (int(text) for text in line[1:9])
    tick = os.sysconf("SC_CLK_TCK")
    return (user + nice + system + irq + softirq) / tick, steal / tick


def _load_average() -> float | None:
    try:
        return os.getloadavg()[0]
    except (AttributeError, OSError):
        return None


@dataclass(frozen=True)
class Memory:
    """This process's resident memory in MiB: now, and the most it ever was."""

    resident_mib: float | None
    peak_mib: float | None


def read_memory(root: Path = ROOT) -> Memory:
    """Read this process's memory, from /proc or else from getrusage."""
    status = _read(root / "proc/self/status") or ""
    fields = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
    resident, peak = (_kib(fields.get(name)) for name in ("VmRSS", "VmHWM"))
    return Memory(resident, peak if peak is not None else _rusage_peak_mib())


def _kib(field: str | None) -> float | None:
    return int(field.split()[0]) / 1024 if field else None


def _rusage_peak_mib() -> float | None:
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / MIB if platform.system() == "Darwin" else peak / 1024
