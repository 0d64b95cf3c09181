"""Where a model can be measured, one file a kind of device; adding one touches nothing else."""

from typing import TYPE_CHECKING

from edgeseed.core.registry import Registry

if TYPE_CHECKING:
    from edgeseed.runtime.device import Device

DEVICES = Registry("edgeseed.runtime.devices", attribute="DEVICE", kind="device")


def open_device(text: str) -> "Device":
    """The device that `KIND` or `KIND:ADDRESS` names, such as `host` or `ssh:pi@raspberrypi`.

    Raises:
        UnknownNameError: If there is no such kind; the nearest is suggested.
        ConfigError: If the kind needs an address and has none, or the other way round.
    """
    kind, _, address = text.partition(":")
    device: Device = DEVICES.load(kind).from_address(address)
    return device
