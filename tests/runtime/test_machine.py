import os
from pathlib import Path

import pytest

from edgeseed.runtime import machine
from edgeseed.runtime.machine import LoadMeter, load_now, read_machine, read_memory

TICK = os.sysconf("SC_CLK_TCK")


def write(root: Path, name: str, text: str) -> None:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_text(text)


def test_a_boards_own_name_is_read_from_its_device_tree(tmp_path: Path) -> None:
    write(tmp_path, "proc/device-tree/model", "Raspberry Pi 5 Model B Rev 1.0\0")

    assert read_machine(tmp_path).model == "Raspberry Pi 5 Model B Rev 1.0"


def test_governors_and_frequencies_are_read(tmp_path: Path) -> None:
    for core, khz in enumerate((2400000, 1500000)):
        folder = f"sys/devices/system/cpu/cpu{core}/cpufreq"
        write(tmp_path, f"{folder}/scaling_governor", "ondemand\n")
        write(tmp_path, f"{folder}/scaling_cur_freq", f"{khz}\n")

    found = read_machine(tmp_path)

    assert found.governors == ["ondemand"]
    assert found.frequency_mhz == {"cpu0": 2400, "cpu1": 1500}


@pytest.mark.parametrize(
    ("files", "quota"),
    [
        ({"sys/fs/cgroup/cpu.max": "150000 100000\n"}, 1.5),
        ({"sys/fs/cgroup/cpu.max": "max 100000\n"}, None),
        (
            {
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "50000\n",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
            },
            0.5,
        ),
        (
            {
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
            },
            None,
        ),
        ({}, None),
    ],
)
def test_a_containers_cpu_limit_is_read(
    tmp_path: Path, files: dict[str, str], quota: float | None
) -> None:
    for name, text in files.items():
        write(tmp_path, name, text)

    assert read_machine(tmp_path).cpu_quota == quota


def test_containers_and_virtual_machines_are_seen(tmp_path: Path) -> None:
    write(tmp_path, ".dockerenv", "")
    write(tmp_path, "proc/cpuinfo", "model name\t: A CPU\nflags\t\t: fpu hypervisor avx2\n")

    found = read_machine(tmp_path)

    assert (found.container, found.virtual_machine, found.cpu) == ("docker", True, "A CPU")


def test_an_arm_board_does_not_say_whether_it_is_virtual(tmp_path: Path) -> None:
    write(tmp_path, "proc/cpuinfo", "Features\t: fp asimd\n")

    assert read_machine(tmp_path).virtual_machine is None


def test_a_system_that_tells_nothing_is_still_described(tmp_path: Path) -> None:
    found = read_machine(tmp_path)

    assert found.model is None
    assert found.governors == []
    assert found.cpu


def stat(busy_s: float, steal_s: float) -> str:
    return f"cpu  {round(busy_s * TICK)} 0 0 5000 0 0 0 {round(steal_s * TICK)} 0 0\ncpu0 1 2 3\n"


def test_the_work_of_others_is_counted_without_our_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, now = [10.0], [100.0]
    monkeypatch.setattr(machine, "_own_cpu_seconds", lambda: own[0])
    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    write(tmp_path, "proc/stat", stat(500, 0))
    meter = LoadMeter(tmp_path)
    own[0], now[0] = 14.0, 104.0
    write(tmp_path, "proc/stat", stat(510, 1))

    load = meter.stop()

    # Ten seconds of CPU in four of time, four of them ours.
    assert load.other_cores == pytest.approx(1.5)
    assert load.stolen_cores == pytest.approx(0.25)


def test_a_system_without_proc_counts_nothing(tmp_path: Path) -> None:
    load = LoadMeter(tmp_path).stop()

    assert (load.other_cores, load.stolen_cores) == (None, None)


def test_looking_at_this_machine_takes_no_cpu_of_its_own() -> None:
    assert load_now(0.05).seconds >= 0.05


def test_memory_is_read_from_proc(tmp_path: Path) -> None:
    write(tmp_path, "proc/self/status", "Name:\tx\nVmHWM:\t  204800 kB\nVmRSS:\t  102400 kB\n")

    found = read_memory(tmp_path)

    assert (found.resident_mib, found.peak_mib) == (100, 200)


def test_without_proc_the_peak_comes_from_getrusage(tmp_path: Path) -> None:
    found = read_memory(tmp_path)

    assert found.resident_mib is None
    assert found.peak_mib is not None
    assert found.peak_mib > 1


def test_the_limit_of_the_processs_own_group_counts_and_of_those_above(tmp_path: Path) -> None:
    # Only the root group's was seen: a service limited to half a core measured as if it had all.
    write(tmp_path, "proc/self/cgroup", "0::/system.slice/job.service\n")
    write(tmp_path, "sys/fs/cgroup/system.slice/cpu.max", "50000 100000\n")
    write(tmp_path, "sys/fs/cgroup/system.slice/job.service/cpu.max", "max 100000\n")
    write(tmp_path, "sys/fs/cgroup/system.slice/job.service/memory.max", "536870912\n")

    found = read_machine(tmp_path)

    assert found.cpu_quota == 0.5
    assert found.memory_limit_mib == 512


def test_the_own_group_of_version_1_is_found(tmp_path: Path) -> None:
    write(tmp_path, "proc/self/cgroup", "5:memory:/docker/abc\n3:cpu,cpuacct:/docker/abc\n0::/\n")
    write(tmp_path, "sys/fs/cgroup/cpu,cpuacct/docker/abc/cpu.cfs_quota_us", "150000\n")
    write(tmp_path, "sys/fs/cgroup/cpu,cpuacct/docker/abc/cpu.cfs_period_us", "100000\n")
    write(
        tmp_path, "sys/fs/cgroup/memory/docker/abc/memory.limit_in_bytes", "9223372036854771712\n"
    )

    found = read_machine(tmp_path)

    assert (found.cpu_quota, found.memory_limit_mib) == (1.5, None)


ZEN_5 = """processor\t: 0
cpu family\t: 26
model\t\t: 2
model name\t: AMD EPYC
stepping\t: 1
flags\t\t: fpu sse4_2 avx2 fma avx512f avx512_vnni avx_vnni hypervisor

processor\t: 1
cpu family\t: 26
"""


def test_the_generation_behind_a_processors_name_is_read(tmp_path: Path) -> None:
    write(tmp_path, "proc/cpuinfo", ZEN_5)

    found = read_machine(tmp_path)

    assert (found.cpu_family, found.cpu_model, found.cpu_stepping) == (26, 2, 1)
    assert found.instruction_sets == ["sse4_2", "fma", "avx2", "avx_vnni", "avx512f", "avx512_vnni"]
    assert found.cpu_parts == []


def test_the_kinds_of_core_of_an_arm_chip_are_read(tmp_path: Path) -> None:
    block = (
        "processor\t: {}\nFeatures\t: fp asimd asimddp\nCPU implementer\t: 0x41\nCPU part\t: {}\n"
    )
    write(tmp_path, "proc/cpuinfo", "\n".join([block.format(0, "0xd05"), block.format(1, "0xd0b")]))

    found = read_machine(tmp_path)

    assert found.cpu_parts == ["0x41:0xd05:?:?", "0x41:0xd0b:?:?"]
    assert found.instruction_sets == ["asimd", "asimddp"]
    assert found.cpu_family is None
