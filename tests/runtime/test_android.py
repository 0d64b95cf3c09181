"""What an Android phone says of itself: the tools' own lines, answered by a table."""

from collections.abc import Callable, Mapping

import pytest

from edgeseed.runtime.android import (
    Heat,
    big_cores,
    describe,
    read_heat,
    read_machine,
    read_properties,
    read_state,
    thermals_of,
)

PROPERTIES = """[ro.product.model]: [Pixel 9]
[ro.product.manufacturer]: [Google]
[ro.soc.model]: [Tensor G4]
[ro.soc.manufacturer]: [Google]
[ro.build.version.release]: [16]
[ro.build.version.sdk]: [36]
[ro.build.id]: []
[ro.product.cpu.abi]: [arm64-v8a]
"""
BATTERY = """Current Battery Service state:
  AC powered: false
  level: 83
  temperature: 312
"""
# Two lists: what the service remembers, and what the hardware says now.
THERMAL = """IsStatusOverride: false
Thermal Status: 2
Cached temperatures:
	Temperature{mValue=77.0, mType=0, mName=CPU, mStatus=3}
HAL Ready: true
Current temperatures from HAL:
	Temperature{mValue=41.5, mType=3, mName=VIRTUAL-SKIN, mStatus=1}
	Temperature{mValue=-99.9, mType=2, mName=TYPE_GPU, mStatus=0}
	Temperature{mValue=50.25, mType=0, mName=TYPE_CPU, mStatus=0}
Current cooling devices from HAL:
	CoolingDevice{mValue=0, mType=2, mName=thermal-cpufreq-0}
"""
CPUINFO = """processor	: 0
Features	: fp asimd asimddp i8mm
CPU implementer	: 0x41
CPU variant	: 0x0
CPU part	: 0xd80
CPU revision	: 1

processor	: 1
CPU implementer	: 0x41
CPU variant	: 0x0
CPU part	: 0xd81
CPU revision	: 1
"""
PHONE = {
    "getprop": PROPERTIES, "dumpsys battery": BATTERY, "dumpsys thermalservice": THERMAL,
    "cat /proc/cpuinfo": CPUINFO, "cat /proc/meminfo": "MemTotal:       11745308 kB\n",
    "cat /sys/devices/system/cpu/present": "0-7\n",
    "cat /sys/devices/system/cpu/cpu*/cpufreq/scaling_governor": "sched_pixel\nsched_pixel\n",
}  # fmt: skip


def shell(answers: Mapping[str, str]) -> Callable[[str], str]:
    def run(line: str) -> str:
        for name in ("scaling_cur_freq", "cpuinfo_max_freq"):
            if f"cpufreq/{name};" in line:
                return answers.get(name, "")
        return answers.get(line, "")

    return run


def test_all_properties_are_read_and_empty_ones_are_no_facts() -> None:
    properties = read_properties(shell(PHONE))
    assert properties["ro.product.model"] == "Pixel 9"
    assert properties["ro.build.id"] == ""
    assert describe(properties) == {
        "model": "Pixel 9", "maker": "Google", "SoC": "Tensor G4", "SoC maker": "Google",
        "Android": "16", "API level": "36",
    }  # fmt: skip


def test_temperatures_are_those_of_now_and_a_sensor_that_is_off_is_absent() -> None:
    heat = read_heat(shell(PHONE))
    assert heat.status == 2
    assert heat.battery_c == 31.2
    assert heat.temperature_c == {"virtual-skin": 41.5, "cpu": 50.25, "battery": 31.2}


def test_a_phone_older_than_android_10_tells_its_battery_alone() -> None:
    heat = read_heat(shell({"dumpsys battery": BATTERY}))
    assert heat == Heat(status=None, temperature_c={"battery": 31.2}, battery_c=31.2)
    assert read_heat(shell({})) == Heat(status=None, temperature_c={}, battery_c=None)


def test_a_state_names_every_limit_in_force() -> None:
    saving = {**PHONE, "dumpsys power | grep mIsPowerSaveMode=": "  mIsPowerSaveMode=true\n"}
    state = read_state(shell(saving), read_heat(shell(PHONE)), settings={"brightness": "low"})
    assert state.facts == {
        "battery level": "83 %", "battery temperature": "31.2 °C",
        "thermal status": "2 (moderate)", "battery saver": "on", "brightness": "low",
    }  # fmt: skip
    assert state.throttling == ["thermal status 2 (moderate)", "the battery saver is on"]


@pytest.mark.parametrize(("status", "expected"), [(0, []), (9, ["thermal status 9 (unknown)"])])
def test_a_calm_phone_has_no_limit_and_an_unknown_status_is_told(
    status: int, expected: list[str]
) -> None:
    heat = Heat(status=status, temperature_c={}, battery_c=None)
    assert read_state(shell({}), heat, settings={}).throttling == expected


def test_a_record_of_heat_is_none_where_the_phone_tells_nothing() -> None:
    assert thermals_of(Heat(status=None, temperature_c={}, battery_c=None)) is None
    found = thermals_of(Heat(status=1, temperature_c={"cpu": 40.0}, battery_c=None))
    assert found is not None
    assert found.temperature_c == {"cpu": 40.0}


def test_the_machine_is_what_its_files_say() -> None:
    frequencies = {
        "scaling_cur_freq": "/sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq 820000\n",
        "cpuinfo_max_freq": "/sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq 1950000\n"
        "/sys/devices/system/cpu/cpu7/cpufreq/cpuinfo_max_freq 3105000\n",
    }
    phone = shell({**PHONE, **frequencies})
    machine = read_machine(phone, read_properties(phone))
    assert (machine.model, machine.cpu) == ("Pixel 9", "Google Tensor G4")
    assert machine.architecture == "aarch64"
    assert machine.system == "Android 16 (API 36, build not told)"
    assert (machine.logical_cores, machine.usable_cores) == (8, 8)
    assert machine.memory_mib == 11745308 / 1024
    assert machine.governors == ["sched_pixel"]
    assert machine.frequency_mhz == {"cpu0": 820.0}
    assert machine.max_frequency_mhz == {"cpu0": 1950.0, "cpu7": 3105.0}
    assert machine.cpu_parts == ["0x41:0xd80:0x0:1", "0x41:0xd81:0x0:1"]
    assert machine.instruction_sets == ["fp", "asimd", "asimddp", "i8mm"]


def test_what_a_phone_does_not_tell_is_absent() -> None:
    machine = read_machine(shell({}), {})
    assert (machine.model, machine.cpu, machine.architecture) == (None, "unknown", "unknown")
    assert (machine.logical_cores, machine.usable_cores, machine.memory_mib) == (None, 1, None)
    assert machine.cpu_parts == []


@pytest.mark.parametrize(
    ("maximum", "expected"),
    [
        ({"cpu0": 1950.0, "cpu1": 1950.0, "cpu10": 3105.0, "cpu9": 3105.0}, [9, 10]),
        ({"cpu0": 2000.0, "cpu1": 2000.0}, []),
        ({}, []),
    ],
)
def test_the_fastest_cores_are_found_where_they_differ(
    maximum: dict[str, float], expected: list[int]
) -> None:
    assert big_cores(maximum) == expected
