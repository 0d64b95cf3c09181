from pathlib import Path

import pytest

from edgeseed.runtime.power import PowerMeter


class Rapl:
    """A powercap tree as Linux shows it."""

    def __init__(self, sysfs: Path) -> None:
        self.powercap = sysfs / "class" / "powercap"
        self.set("intel-rapl:0", "package-0", 1_000_000)
        self.set("intel-rapl:0:0", "core", 999)

    def set(self, folder: str, name: str, energy_uj: int) -> None:
        path = self.powercap / folder
        path.mkdir(parents=True, exist_ok=True)
        (path / "name").write_text(f"{name}\n")
        (path / "energy_uj").write_text(f"{energy_uj}\n")
        (path / "max_energy_range_uj").write_text("262143328850\n")


def meter(sysfs: Path) -> PowerMeter:
    times = iter([0.0, 2.0])
    return PowerMeter(sysfs, clock=lambda: next(times))


def test_energy_of_a_package_is_read_and_its_cores_are_not_counted_twice(tmp_path: Path) -> None:
    rapl = Rapl(tmp_path)
    started = meter(tmp_path)
    rapl.set("intel-rapl:0", "package-0", 31_000_000)

    power = started.stop()

    assert power is not None
    assert power.energy_j == {"package-0": 30}
    assert power.mean_w == 15
    assert power.to_dict()["mean_w"] == 15
    assert started.unavailable is None


def test_a_counter_that_wrapped_is_understood(tmp_path: Path) -> None:
    rapl = Rapl(tmp_path)
    rapl.set("intel-rapl:0", "package-0", 262_143_000_000)
    started = meter(tmp_path)
    rapl.set("intel-rapl:0", "package-0", 671_150)

    power = started.stop()

    assert power is not None
    assert power.energy_j["package-0"] == pytest.approx(1.0)


def test_a_system_without_a_counter_says_so(tmp_path: Path) -> None:
    started = meter(tmp_path)

    assert started.stop() is None
    assert started.unavailable == "this system has no RAPL energy counter"


def test_a_counter_for_root_only_says_so(tmp_path: Path) -> None:
    Rapl(tmp_path)
    # Tests may run as root, so the file is made unreadable by content: Linux gives EACCES instead.
    (tmp_path / "class/powercap/intel-rapl:0/energy_uj").write_text("")
    started = meter(tmp_path)

    assert started.stop() is None
    assert "root only" in str(started.unavailable)
