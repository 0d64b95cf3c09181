"""Where a model can be measured, one file a kind of device; adding one touches nothing else."""

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING
from urllib.parse import urlencode

from edgeseed.core.errors import ConfigError
from edgeseed.core.registry import Registry

if TYPE_CHECKING:
    from edgeseed.runtime.device import Device

DEVICES = Registry("edgeseed.runtime.devices", attribute="DEVICE", kind="device")


def open_device(text: str, *, options: Mapping[str, str] | None = None) -> "Device":
    """The device that `KIND[:ADDRESS][?NAME=VALUE&...]` names, such as `ssh:pi@raspberrypi`.

    Args:
        text: what `--device` was.
        options: further options by name, from options of the command line such as `--lan`.

    Raises:
        UnknownNameError: If there is no such kind; the nearest is suggested.
        ConfigError: If the kind needs an address and has none, or the other way round, or has no
            such option.
    """
    name, mark, address = re.fullmatch(r"([^:?]*)([:?]?)(.*)", text, re.DOTALL).groups()  # type: ignore[union-attr]  # matches any text
    kind: type[Device] = DEVICES.load(name)
    for option in options or ():
        if option not in kind.options:
            takers = [other for other in DEVICES.names() if option in DEVICES.load(other).options]
            raise ConfigError(
                f"--{option} does not go with --device {name}; it goes with: {', '.join(takers)}"
            )
    query = urlencode(options or {})
    address = f"?{address}" if mark == "?" else address
    if query:
        address += f"{'&' if '?' in address else '?'}{query}"
    return kind.from_address(address)
