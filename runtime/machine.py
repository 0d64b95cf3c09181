"""What the device is and how busy it is: the facts without which a latency means nothing.

It runs on the device: Python 3.8 and the standard library. A fact that the system does not tell
is None, never a guess.
"""

from __future__ import annotations

import os
import platform
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

ROOT = Path("/")
BUSY_LOOK_SECONDS = 0.5
MIB = 2**20

# Instruction sets that decide which kernels an engine chooses, as /proc/cpuinfo names them. Two
# processors of one name that differ in these are two machines: EfficientNet-B0's int8 gains 1.44
# times on an AMD EPYC without avx_vnni and 1.14 on one with it.
X86_SETS = (
    "sse4_1", "sse4_2", "avx", "f16c", "fma", "avx2", "avx_vnni", "avx_vnni_int8", "avx512f",
    "avx512bw", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_tile", "amx_int8", "amx_bf16",
)  # fmt: skip
ARM_SETS = ("asimd", "asimdhp", "asimddp", "i8mm", "bf16", "sve", "sve2", "sme")


@dataclass(frozen=True)
class Machine:
    """Facts that do not change during a run. Frequencies in MHz, memory in MiB.

    Attributes:
        model: the board's or computer's name.
        cpu: the processor's name.
        usable_cores: that this process may run on; fewer than `logical_cores` where it is pinned.
        cpu_quota: cores' worth of time that the process's own control group allows; None: no limit.
        memory_limit_mib: of the process's own control group; None: no limit.
        cpu_family, cpu_model, cpu_stepping: of x86: which generation of a name it is.
        cpu_parts: of Arm: `implementer:part:variant:revision` of each kind of core.
        instruction_sets: those of X86_SETS or ARM_SETS that the processor has.
        max_frequency_mhz: the most that each core may be clocked at.
    """

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
    memory_limit_mib: float | None = None
    cpu_family: int | None = None
    cpu_model: int | None = None
    cpu_stepping: int | None = None
    cpu_parts: list[str] = field(default_factory=list)
    instruction_sets: list[str] = field(default_factory=list)
    max_frequency_mhz: dict[str, float] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able copy."""
        return asdict(self)


def read_machine(root: Path = ROOT) -> Machine:
    """Read what this machine is. `root` is where /proc and /sys are found."""
    cpuinfo = _read(root / "proc/cpuinfo") or ""
    cpus = root / "sys/devices/system/cpu"
    first = _first_processor(cpuinfo)
    return Machine(
        model=_model(root),
        cpu=_cpu_name(cpuinfo),
        architecture=platform.machine(),
        system=platform.platform(),
        python=platform.python_version(),
        logical_cores=os.cpu_count(),
        usable_cores=_usable_cores(),
        cpu_quota=_smallest(_cpu_quota(group) for group in _control_groups(root, "cpu")),
        memory_mib=_memory_mib(),
        governors=_governors(cpus),
        frequency_mhz=read_clocks(root),
        container=_container(root),
        # Only x86 says so here; elsewhere the flag's absence proves nothing.
        virtual_machine=(" hypervisor" in cpuinfo) if "flags\t" in cpuinfo else None,
        memory_limit_mib=_smallest(
            _memory_limit(group) for group in _control_groups(root, "memory")
        ),
        cpu_family=_whole(first.get("cpu family")),
        cpu_model=_whole(first.get("model")),
        cpu_stepping=_whole(first.get("stepping")),
        cpu_parts=_cpu_parts(cpuinfo),
        instruction_sets=_instruction_sets(first),
        max_frequency_mhz=_frequencies(cpus, "cpuinfo_max_freq"),
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


def _first_processor(cpuinfo: str) -> dict[str, str]:
    """The fields of the first processor's block."""
    lines = cpuinfo.partition("\n\n")[0].splitlines()
    pairs = (line.partition(":") for line in lines)
    return {key.strip(): value.strip() for key, _, value in pairs}


def _whole(text: str | None) -> int | None:
    return int(text) if text is not None and text.isdigit() else None


def _cpu_parts(cpuinfo: str) -> list[str]:
    """Each kind of Arm core once; empty elsewhere."""
    parts = set()
    for block in cpuinfo.split("\n\n"):
        fields = _first_processor(block)
        if "CPU part" in fields:
            names = ("implementer", "part", "variant", "revision")
            parts.add(":".join(fields.get("CPU " + name, "?") for name in names))
    return sorted(parts)


def _instruction_sets(processor: dict[str, str]) -> list[str]:
    has = set((processor.get("flags") or processor.get("Features") or "").split())
    return [name for name in X86_SETS + ARM_SETS if name in has]


def _smallest(limits: Iterable[float | None]) -> float | None:
    found = [limit for limit in limits if limit is not None]
    return min(found) if found else None


def _control_groups(root: Path, controller: str) -> list[Path]:
    """Folders of this process's own control group and of all above it: each may set a limit."""
    mounted = root / "sys/fs/cgroup"
    groups = [mounted, mounted / controller]
    for line in (_read(root / "proc/self/cgroup") or "").splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0":
            tops = [mounted]
        elif controller in controllers.split(","):
            tops = [mounted / controller, mounted / controllers]
        else:
            continue
        parts = [part for part in path.split("/") if part and part != ".."]
        groups += [top.joinpath(*parts[:i]) for top in tops for i in range(1, len(parts) + 1)]
    return groups


def _cpu_quota(group: Path) -> float | None:
    """Cores' worth of CPU time a group allows (version 2, then 1); None: no limit."""
    quota, _, period = (_read(group / "cpu.max") or "").partition(" ")
    if not period:
        quota = _read(group / "cpu.cfs_quota_us") or ""
        period = _read(group / "cpu.cfs_period_us") or ""
    try:
        cores = int(quota) / int(period)
    except (ValueError, ZeroDivisionError):
        return None  # "max 100000", or no such group
    return cores if cores > 0 else None


def _memory_limit(group: Path) -> float | None:
    text = _read(group / "memory.max") or _read(group / "memory.limit_in_bytes")
    limit = _whole(text)
    # Version 1 writes "no limit" as the largest number of pages that it can count.
    return None if limit is None or limit >= 1 << 60 else limit / MIB


def _memory_mib() -> float | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / MIB
    except (AttributeError, ValueError, OSError):
        return None


def _governors(cpus: Path) -> list[str]:
    texts = (_read(path) for path in cpus.glob("cpu[0-9]*/cpufreq/scaling_governor"))
    return sorted({text for text in texts if text})


def read_clocks(root: Path = ROOT) -> dict[str, float]:
    """Current clock of each core in MHz; empty where the system does not tell."""
    return _frequencies(root / "sys/devices/system/cpu", "scaling_cur_freq")


def _frequencies(cpus: Path, name: str) -> dict[str, float]:
    frequencies = {}
    for path in sorted(cpus.glob("cpu[0-9]*/cpufreq/" + name)):
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
