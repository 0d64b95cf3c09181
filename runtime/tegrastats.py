"""Lines of NVIDIA's `tegrastats`, as JetPack 5, 6 and 7 write them on Orin and Thor.

It runs on the device: Python 3.8 and the standard library. The format is not documented as one, and
has changed: JetPack 7 writes temperatures twice (`cpu@52.9C/52.9C`), rails three times, and the
GPU's clocks as a list, on Thor without a load. So everything is looked for by its own form, and
what a line does not have is None or absent, never zero. (jetson_stats parses the same lines, under
the AGPL; nothing here is from it.)
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any

_RAM = re.compile(r"\bRAM (\d+)/(\d+)MB")
_CPUS = re.compile(r"\bCPU \[([^\]]*)\]")
_CPU = re.compile(r"(\d+)%@(\d+)")
# `10%@1300`, `0%@[1300,1300]`, `@[1000,1000,1000]`, or a load alone; JetPack 5 adds GR3D2_FREQ.
_GPU = re.compile(r"\bGR3D\d?_FREQ (?:(\d+)%)?(?:@(?:\[([\d,]+)\]|(\d+)))?")
_MEMORY_CLOCK = re.compile(r"\bEMC_FREQ (?:(\d+)%)?")
_TEMPERATURE = re.compile(r"\b([A-Za-z]\w*)@(-?\d+(?:\.\d+)?)C")
_RAIL = re.compile(r"\b([A-Z][A-Z0-9_]*) (-?\d+)mW/(-?\d+)mW")
# A sensor whose part of the chip is switched off reads this.
_ABSENT_C = -256.0
_NOT_CONNECTED = "NC"


@dataclass(frozen=True)
class Tegrastats:
    """One line.

    Attributes:
        ram_used_mib, ram_total_mib: CPU and GPU share it.
        cpu_load: percent of each core; None for one that is off.
        cpu_mhz: clock of each core; None for one that is off.
        gpu_load: percent, or None where the line has none (Thor).
        gpu_mhz: clock of each graphics cluster.
        memory_load: percent of the memory's bandwidth.
        temperature_c: by sensor.
        power_mw: now, by rail. Rails may contain each other, so they are not to be summed blindly:
            `VDD_IN` (Orin Nano, NX) and `VIN` (Thor) are the whole board's.
        average_mw: as `power_mw`, averaged by tegrastats since it started.
    """

    ram_used_mib: int | None
    ram_total_mib: int | None
    cpu_load: tuple[int | None, ...]
    cpu_mhz: tuple[int | None, ...]
    gpu_load: int | None
    gpu_mhz: tuple[int, ...]
    memory_load: int | None
    temperature_c: dict[str, float]
    power_mw: dict[str, int]
    average_mw: dict[str, int]

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able copy."""
        return asdict(self)


def parse_line(line: str) -> Tegrastats | None:
    """Read one line; None where it is no line of tegrastats."""
    ram = _RAM.search(line)
    rails = [match for match in _RAIL.finditer(line) if match[1] != _NOT_CONNECTED]
    if ram is None and not rails:
        return None
    cores = _cores(line)
    gpu_load, gpu_mhz = _gpu(line)
    memory = _MEMORY_CLOCK.search(line)
    sensors = {match[1].lower(): float(match[2]) for match in _TEMPERATURE.finditer(line)}
    return Tegrastats(
        ram_used_mib=None if ram is None else int(ram[1]),
        ram_total_mib=None if ram is None else int(ram[2]),
        cpu_load=tuple(None if core is None else core[0] for core in cores),
        cpu_mhz=tuple(None if core is None else core[1] for core in cores),
        gpu_load=gpu_load,
        gpu_mhz=gpu_mhz,
        memory_load=None if memory is None or memory[1] is None else int(memory[1]),
        temperature_c={name: value for name, value in sensors.items() if value != _ABSENT_C},
        power_mw={match[1]: int(match[2]) for match in rails},
        average_mw={match[1]: int(match[3]) for match in rails},
    )


def _cores(line: str) -> list[tuple[int, int] | None]:
    match = _CPUS.search(line)
    if match is None:
        return []
    found = [_CPU.fullmatch(text.strip()) for text in match[1].split(",")]
    return [None if core is None else (int(core[1]), int(core[2])) for core in found]


def _gpu(line: str) -> tuple[int | None, tuple[int, ...]]:
    loads: list[int] = []
    clocks: list[int] = []
    for match in _GPU.finditer(line):
        loads += [] if match[1] is None else [int(match[1])]
        text = match[2] or match[3]
        clocks += [] if text is None else [int(clock) for clock in text.split(",")]
    return (max(loads) if loads else None), tuple(clocks)


class Sampler:
    """Runs `tegrastats` beside the timed runs and keeps what it prints.

    It is a process of its own with a line a second into a file: nothing is read while runs are
    timed. `start` gives None where there is no tegrastats.
    """

    INTERVAL_SECONDS = 1.0

    def __init__(self, program: str) -> None:
        self._lines = tempfile.TemporaryFile()  # noqa: SIM115 - closed by `stop`
        interval = str(round(self.INTERVAL_SECONDS * 1000))
        self._process = subprocess.Popen(
            [program, "--interval", interval],
            stdin=subprocess.DEVNULL,
            stdout=self._lines,
            stderr=subprocess.DEVNULL,
        )

    @classmethod
    def start(cls) -> Sampler | None:
        """Start sampling, where the board has the program."""
        program = shutil.which("tegrastats")
        if program is None:
            return None
        try:
            return cls(program)
        except OSError:
            return None

    def stop(self) -> list[Tegrastats]:
        """End the process; what it printed, a line about every `INTERVAL_SECONDS`."""
        self._process.terminate()
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._lines.seek(0)
        text = self._lines.read().decode("utf-8", "replace")
        self._lines.close()
        parsed = (parse_line(line) for line in text.splitlines())
        return [line for line in parsed if line is not None]
