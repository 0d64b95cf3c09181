"""What every kind of device must be, and how `--device` is read."""

import subprocess
import sys
from pathlib import Path

import pytest
from support.fake_device import FakeDevice

from edgeseed.core.errors import ConfigError, UnknownNameError
from edgeseed.runtime.device import Device
from edgeseed.runtime.devices import DEVICES, open_device
from edgeseed.runtime.devices.host import HostDevice


@pytest.mark.parametrize("name", DEVICES.names())
def test_a_kind_of_device_is_named_after_its_file(name: str) -> None:
    kind = DEVICES.load(name)

    assert issubclass(kind, Device)
    assert kind.kind == name
    assert DEVICES.summary(name)


def test_listing_kinds_imports_none_of_them() -> None:
    code = (
        "import sys; from edgeseed.runtime.devices import DEVICES; DEVICES.names();"
        "bad = {'numpy', 'subprocess', 'edgeseed.runtime.devices.host'} & set(sys.modules);"
        "assert not bad, bad"
    )
    subprocess.run([sys.executable, "-P", "-c", code], check=True)


def test_the_fake_is_not_offered_to_users() -> None:
    assert "host" in DEVICES.names()
    assert not any("fake" in name for name in DEVICES.names())


def test_host_is_opened_by_its_name() -> None:
    device = open_device("host")

    assert isinstance(device, HostDevice)
    assert device.name == "host"


def test_host_takes_no_address() -> None:
    with pytest.raises(ConfigError, match=r"takes no address, found 'pi@board'"):
        open_device("host:pi@board")


def test_an_unknown_kind_suggests_the_nearest_and_lists_all() -> None:
    with pytest.raises(
        UnknownNameError, match=r"unknown device 'hots'; did you mean 'host'\?.*known"
    ):
        open_device("hots:somewhere")


def test_a_fake_whose_agent_dies_gives_back_nothing(tmp_path: Path) -> None:
    assert FakeDevice.from_address("").name == "fake"
