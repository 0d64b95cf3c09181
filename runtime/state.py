"""What a board's own tools say of it: power mode and throttling of Jetsons and Raspberry Pis.

It runs on the device: Python 3.8 and the standard library. A tool that is absent, needs root or
says something else gives no fact; nothing is set, only read.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from edgeseed.runtime.measurement import DeviceState

if TYPE_CHECKING:
    from collections.abc import Callable

    Run = Callable[..., "str | None"]

ROOT = Path("/")
POWER_MODE = "power mode"
SETTINGS = (POWER_MODE, "GPU clock", "fixed performance", "core affinity")
"""Facts that decide how fast a device is: results that differ in one are not comparable."""
THROTTLED = "get_throttled"
_TOOL_SECONDS = 10
# documentation/asciidoc/computers/os/graphics-utilities.adoc of raspberrypi/documentation: the bit,
# and sixteen bits above it whether it was ever set since boot.
_PI_BITS = (
    (0, "under-voltage"),
    (1, "the CPU's clock is capped"),
    (2, "throttled"),
    (3, "the soft temperature limit is active"),
)
_SINCE_BOOT = 16


def read_state(
    before: DeviceState | None = None, *, root: Path = ROOT, run: Run | None = None
) -> DeviceState | None:
    """Facts by name, and the limits in force; None where no tool of a board answers.

    Args:
        before: the state at the start of the timed runs; what came into force since is told too.
        root: where /etc is found.
        run: runs a tool; gives its output, or None where it failed.
    """
    run = run or _run
    facts: dict[str, str] = {}
    throttling: list[str] = []
    _add_jetson(facts, root, run)
    _add_raspberry_pi(facts, throttling, before, run)
    return DeviceState(facts, throttling) if facts else None


def _run(*command: str) -> str | None:
    if shutil.which(command[0]) is None:
        return None
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            timeout=_TOOL_SECONDS, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.decode("utf-8", "replace") if done.returncode == 0 else None


def _add_jetson(facts: dict[str, str], root: Path, run: Run) -> None:
    mode = re.search(r"NV Power Mode:\s*(\S+)", run("nvpmodel", "-q") or "")
    if mode is not None:
        facts[POWER_MODE] = mode[1]
    # It asks for root on some releases; without an answer the fact is absent.
    shown = run("jetson_clocks", "--show") or ""
    clocks = re.search(r"GPU MinFreq=(\d+) MaxFreq=(\d+) CurrentFreq=(\d+)", shown)
    if clocks is not None:
        facts["GPU clock"] = "pinned" if clocks[1] == clocks[2] else "not pinned"
    try:
        release = (root / "etc" / "nv_tegra_release").read_text(errors="replace")
    except OSError:
        return
    found = re.match(r"# R(\d+) \(release\), REVISION: ([\d.]+)", release)
    if found is not None:
        facts["L4T"] = found[1] + "." + found[2]


def _add_raspberry_pi(
    facts: dict[str, str], throttling: list[str], before: DeviceState | None, run: Run
) -> None:
    match = re.match(r"throttled=(0x[0-9a-fA-F]+)", run("vcgencmd", "get_throttled") or "")
    if match is None:
        return
    facts[THROTTLED] = match[1]
    bits = int(match[1], 16)
    earlier = int(before.facts.get(THROTTLED, "0x0"), 16) if before is not None else bits
    for bit, meaning in _PI_BITS:
        since_boot = 1 << (bit + _SINCE_BOOT)
        now = bits & (1 << bit)
        if now or (bits & since_boot and not earlier & since_boot):
            when = "now" if now else "during the run"
            throttling.append(f"{meaning} {when} (vcgencmd get_throttled {match[1]})")
    volts = re.match(r"volt=([\d.]+)V", run("vcgencmd", "measure_volts") or "")
    if volts is not None:
        facts["core volts"] = volts[1]
