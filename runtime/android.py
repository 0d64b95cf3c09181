"""What an Android phone says of itself through adb, read from the tools that every phone has.

`getprop`, `dumpsys battery`, `dumpsys thermalservice` (Android 10 and newer), /proc and /sys. What
a phone does not tell is absent, never guessed.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass

from edgeseed.runtime.machine import Machine
from edgeseed.runtime.measurement import DeviceState
from edgeseed.runtime.thermals import Thermals

Shell = Callable[[str], str]

# PowerManager.THERMAL_STATUS_*: from `moderate` on, a user notices.
_STATUS = ("none", "light", "moderate", "severe", "critical", "emergency", "shutdown")
_ABSENT_C = -50.0
"""Phones give −99.9 for a sensor that is off."""
_FACTS = (
    ("model", "ro.product.model"),
    ("maker", "ro.product.manufacturer"),
    ("SoC", "ro.soc.model"),
    ("SoC maker", "ro.soc.manufacturer"),
    ("Android", "ro.build.version.release"),
    ("API level", "ro.build.version.sdk"),
    ("build", "ro.build.id"),
)
_ABIS = {"arm64-v8a": "aarch64", "armeabi-v7a": "armv7l", "x86_64": "x86_64"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Heat:
    """How warm a phone is.

    Attributes:
        status: 0 (none) to 6 (shutdown) of Android's thermal service; None before Android 10.
        temperature_c: by sensor; the battery's among them.
        battery_c: of the battery; None where it is not told.
    """

    status: int | None
    temperature_c: dict[str, float]
    battery_c: float | None


def read_properties(shell: Shell) -> dict[str, str]:
    """All of `getprop`."""
    return dict(re.findall(r"^\[([^\]]+)\]: \[(.*)\]\r?$", shell("getprop"), flags=re.MULTILINE))


def read_heat(shell: Shell) -> Heat:
    """Temperatures, and how far the phone holds itself back."""
    battery = shell("dumpsys battery")
    tenths = re.search(r"^\s*temperature: (-?\d+)", battery, flags=re.MULTILINE)
    battery_c = None if tenths is None else int(tenths[1]) / 10
    thermal = shell("dumpsys thermalservice")
    status = re.search(r"Thermal Status: (\d+)", thermal)
    # What the service remembers may be an hour old; what it asks the hardware now is not.
    now = thermal.partition("Current temperatures from HAL")[2] or thermal
    now = now.partition("Current cooling devices")[0]
    sensors = {
        match[2].lower().removeprefix("type_"): float(match[1])
        for match in re.finditer(r"Temperature\{mValue=(-?[\d.]+),.*?mName=([^,}]+)", now)
    }
    temperature_c = {name: value for name, value in sensors.items() if value > _ABSENT_C}
    if battery_c is not None:
        temperature_c["battery"] = battery_c
    return Heat(
        status=None if status is None else int(status[1]),
        temperature_c=temperature_c,
        battery_c=battery_c,
    )


def read_state(shell: Shell, heat: Heat, *, settings: dict[str, str]) -> DeviceState:
    """Facts and limits of this moment.

    Args:
        shell: runs a line on the phone.
        heat: read just now.
        settings: what we set, to be recorded beside what was found.
    """
    facts = {}
    battery = shell("dumpsys battery")
    level = re.search(r"^\s*level: (\d+)", battery, flags=re.MULTILINE)
    if level is not None:
        facts["battery level"] = f"{level[1]} %"
    if heat.battery_c is not None:
        facts["battery temperature"] = f"{heat.battery_c:g} °C"
    if heat.status is not None:
        facts["thermal status"] = f"{heat.status} ({_status_name(heat.status)})"
    if "mIsPowerSaveMode=true" in shell("dumpsys power | grep mIsPowerSaveMode="):
        facts["battery saver"] = "on"
    throttling = []
    if heat.status:
        throttling.append(f"thermal status {heat.status} ({_status_name(heat.status)})")
    if "battery saver" in facts:
        throttling.append("the battery saver is on")
    return DeviceState({**facts, **settings}, throttling)


def _status_name(status: int) -> str:
    return _STATUS[status] if status < len(_STATUS) else "unknown"


def thermals_of(heat: Heat) -> Thermals | None:
    """The record of a measurement; None where the phone tells nothing."""
    return Thermals(heat.temperature_c, None) if heat.temperature_c else None


def describe(properties: dict[str, str]) -> dict[str, str]:
    """Facts of the phone by plain names."""
    return {name: properties[key] for name, key in _FACTS if properties.get(key)}


def read_machine(shell: Shell, properties: dict[str, str]) -> Machine:
    """What the phone is."""
    facts = describe(properties)
    cpuinfo = shell("cat /proc/cpuinfo")
    memory = re.search(r"MemTotal:\s+(\d+) kB", shell("cat /proc/meminfo"))
    cpus = "/sys/devices/system/cpu/cpu*/cpufreq"
    present = re.search(r"0-(\d+)", shell("cat /sys/devices/system/cpu/present"))
    soc = " ".join(facts[name] for name in ("SoC maker", "SoC") if name in facts)
    abi = properties.get("ro.product.cpu.abi", "")
    features = re.search(r"^Features\s*:\s*(.*)$", cpuinfo, flags=re.MULTILINE)
    cores = None if present is None else int(present[1]) + 1
    return Machine(
        model=facts.get("model"),
        cpu=soc or properties.get("ro.hardware", "unknown"),
        architecture=_ABIS.get(abi, abi or "unknown"),
        system=f"Android {facts.get('Android', '?')} (API {facts.get('API level', '?')}, "
        f"{facts.get('build', 'build not told')})",
        python=None,
        logical_cores=cores,
        usable_cores=cores or 1,
        cpu_quota=None,
        memory_mib=None if memory is None else int(memory[1]) / 1024,
        governors=sorted(set(shell(f"cat {cpus}/scaling_governor").split())),
        frequency_mhz=_frequencies(shell, "scaling_cur_freq"),
        container=None,
        virtual_machine=None,
        cpu_parts=_cpu_parts(cpuinfo),
        instruction_sets=[] if features is None else features[1].split(),
        max_frequency_mhz=_frequencies(shell, "cpuinfo_max_freq"),
    )


def _frequencies(shell: Shell, name: str) -> dict[str, float]:
    """MHz by core."""
    line = f'for f in /sys/devices/system/cpu/cpu*/cpufreq/{name}; do echo "$f $(cat $f)"; done'
    found = re.findall(r"/(cpu\d+)/cpufreq/\w+ (\d+)", shell(line))
    return {core: int(khz) / 1000 for core, khz in found}


def _cpu_parts(cpuinfo: str) -> list[str]:
    parts = set()
    for block in cpuinfo.split("\n\n"):
        fields = dict(re.findall(r"^CPU (\w+)\s*: (\S+)$", block, flags=re.MULTILINE))
        if "part" in fields:
            names = ("implementer", "part", "variant", "revision")
            parts.add(":".join(fields.get(name, "?") for name in names))
    return sorted(parts)


def big_cores(maximum_mhz: dict[str, float]) -> list[int]:
    """The fastest cluster's cores; empty where all are alike or nothing is told."""
    if len(set(maximum_mhz.values())) < 2:
        return []
    fastest = max(maximum_mhz.values())
    return sorted(int(name[3:]) for name, mhz in maximum_mhz.items() if mhz == fastest)
