from pathlib import Path

from edgeseed.runtime.thermals import Thermals, read_thermals


def zone(sysfs: Path, number: int, name: str, temp: str) -> None:
    folder = sysfs / "class" / "thermal" / f"thermal_zone{number}"
    folder.mkdir(parents=True)
    (folder / "type").write_text(f"{name}\n")
    (folder / "temp").write_text(f"{temp}\n")


def test_zones_are_read_in_degrees_and_named(tmp_path: Path) -> None:
    zone(tmp_path, 0, "cpu-thermal", "52968")
    zone(tmp_path, 1, "gpu-thermal", "47625")

    assert read_thermals(tmp_path) == Thermals({"cpu-thermal": 52.968, "gpu-thermal": 47.625}, None)


def test_two_zones_of_one_name_are_kept_apart(tmp_path: Path) -> None:
    zone(tmp_path, 0, "acpitz", "40000")
    zone(tmp_path, 1, "acpitz", "41000")

    found = read_thermals(tmp_path)

    assert found is not None
    assert sorted(found.temperature_c.values()) == [40, 41]


def test_a_sensor_that_cannot_be_read_is_absent_and_not_zero(tmp_path: Path) -> None:
    zone(tmp_path, 0, "cpu-thermal", "52968")
    zone(tmp_path, 1, "modem", "")

    found = read_thermals(tmp_path)

    assert found is not None
    assert set(found.temperature_c) == {"cpu-thermal"}


def test_throttle_events_of_all_cores_are_added(tmp_path: Path) -> None:
    for core, count in enumerate((3, 4)):
        folder = tmp_path / f"devices/system/cpu/cpu{core}/thermal_throttle"
        folder.mkdir(parents=True)
        (folder / "core_throttle_count").write_text(f"{count}\n")

    assert read_thermals(tmp_path) == Thermals({}, 7)


def test_a_system_without_sensors_has_no_thermals(tmp_path: Path) -> None:
    assert read_thermals(tmp_path) is None
