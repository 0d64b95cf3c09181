"""Any device with a browser: a page that we serve measures the bundle. No cable, nothing installed.

`browser[?unit=wasm|webgpu][&wait=SECONDS][&host=ADDRESS][&port=PORT][&scheme=http|https]`. The
page is served on this machine alone, or with `--lan` to the local network: then over https, with a
certificate made on the spot, since browsers give threads, WebGPU and fine clocks to secure pages
only. The command prints the link (and with `--lan` its QR code); whoever opens it runs the model.
"""

import io
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Self
from urllib.parse import parse_qsl

import numpy as np
from numpy.typing import NDArray

from edgeseed.core.bundle import Bundle
from edgeseed.core.console import say
from edgeseed.core.errors import ConfigError
from edgeseed.core.optional import require
from edgeseed.profiles import EngineFacts, Profile
from edgeseed.runtime.agent.job_file import Job
from edgeseed.runtime.device import Device, Observation
from edgeseed.runtime.runners.browser import Listening, Serving, Timeouts, measure_in_browser

ENGINE = "onnxruntime-web"
UNITS = ("wasm", "webgpu")
LOOPBACK = "127.0.0.1"
DEFAULT_THREADS = 2
"""Every phone and laptop has two cores; `--threads` or a profile says more."""
DEFAULT_WAIT_SECONDS = 300.0
# An address of the documentation's own network (RFC 5737): connecting a datagram socket sends
# nothing, but makes the system choose the interface that leads out.
_ELSEWHERE = ("192.0.2.1", 9)


@dataclass(frozen=True, kw_only=True, slots=True)
class BrowserAddress:
    """What follows `browser`.

    Attributes:
        unit: `wasm` (the CPU) or `webgpu`.
        lan: whether the local network may open the page.
        host: address to listen on; None for loopback, or this machine's with `lan`.
        port: 0 for any that is free.
        scheme: `http` or `https`; None for https in the network and http on loopback.
        wait: seconds until somebody must have opened the page.
        ort_web: folder with onnxruntime-web; None for the pinned version.
    """

    unit: str = "wasm"
    lan: bool = False
    host: str | None = None
    port: int = 0
    scheme: str | None = None
    wait: float = DEFAULT_WAIT_SECONDS
    ort_web: str | None = None


def parse_address(text: str) -> BrowserAddress:
    """Read `?name=value&...`.

    Raises:
        ConfigError: If a name is unknown or a value does not fit.
    """
    if text and not text.startswith("?"):
        raise ConfigError(
            f"--device browser takes no address, found {text!r}; write: browser?unit=wasm"
        )
    values: dict[str, Any] = {}
    for name, value in parse_qsl(text[1:], keep_blank_values=True):
        field = name.replace("-", "_")
        if field not in _READERS:
            raise ConfigError(
                f"--device browser: {name!r} is none of its options; they are: "
                f"{', '.join(key.replace('_', '-') for key in _READERS)}"
            )
        try:
            values[field] = _READERS[field](value)
        except ValueError as error:
            raise ConfigError(f"--device browser: {name}={value} is not {error}") from error
    return BrowserAddress(**values)


def _one_of(*allowed: str) -> Any:
    def read(value: str) -> str:
        if value not in allowed:
            raise ValueError(f"one of {', '.join(allowed)}")
        return value

    return read


def _port(value: str) -> int:
    if not value.isascii() or not value.isdigit() or not 0 <= int(value) < 65536:
        raise ValueError("a port from 0 to 65535")
    return int(value)


def _seconds(value: str) -> float:
    if not value.isascii() or not value.isdigit() or not 0 < int(value) <= 86400:
        raise ValueError("a whole number of seconds from 1 to 86400")
    return float(value)


def _text(value: str) -> str:
    if not value.strip():
        raise ValueError("a name or path")
    return value


_READERS: dict[str, Any] = {
    "unit": _one_of(*UNITS),
    "lan": lambda value: _one_of("0", "1")(value) == "1",
    "host": _text,
    "port": _port,
    "scheme": _one_of("http", "https"),
    "wait": _seconds,
    "ort_web": _text,
}


class BrowserDevice(Device):
    """A page on loopback or in the local network.

    Args:
        address: how to serve it.
        open_page: brings the link to the device; by default it is printed.
    """

    kind = "browser"
    options: ClassVar[tuple[str, ...]] = ("lan", "ort-web")

    def __init__(
        self, address: BrowserAddress, *, open_page: Callable[[Listening], None] | None = None
    ) -> None:
        self._address = address
        self._open_page = open_page or self._announce

    @classmethod
    def from_address(cls, address: str) -> Self:
        """See `parse_address`."""
        return cls(parse_address(address))

    @property
    def name(self) -> str:
        """`browser`, or `browser?lan=1`: never the host, the token or a path."""
        return "browser?lan=1" if self._address.lan else "browser"

    def engine_for(self, profile: Profile, target: str) -> EngineFacts:
        """onnxruntime-web on this address's unit, with the profile's threads."""
        if target != "onnx":
            raise ConfigError(
                f"a browser runs onnx bundles, this one is for {target}: export with --target onnx"
            )
        threads = DEFAULT_THREADS
        if profile.form_factor != "any":
            threads = max(profile.engine_for(target).threads, 1)
        return EngineFacts(
            name=ENGINE,
            target=target,
            unit=self._address.unit,
            precisions=("int8", "w8", "fp32", "fp16"),
            threads=threads,
        )

    def measure(self, bundle: Bundle, job: Job, *, pixels: NDArray[np.uint8] | None) -> Observation:
        """Serve the page, wait for somebody to open it, and bring back what it measured."""
        if job.unit not in UNITS:
            raise ConfigError(f"--unit {job.unit}: a browser has the units {' and '.join(UNITS)}")
        serving = self._serving()
        return measure_in_browser(
            bundle,
            job,
            pixels=pixels,
            name=self.name,
            serving=serving,
            open_page=self._open_page,
            ort_web=self._address.ort_web,
            limits=Timeouts(open=self._address.wait),
        )

    def _serving(self) -> Serving:
        address = self._address
        if address.host is not None and address.host != LOOPBACK and not address.lan:
            raise ConfigError(
                f"--device browser?host={address.host} opens the page to the network: say "
                "so with --lan"
            )
        host = address.host or (own_address() if address.lan else LOOPBACK)
        scheme = address.scheme or ("https" if address.lan else "http")
        return Serving(host=host, port=address.port, https=scheme == "https")

    def _announce(self, listening: Listening) -> None:
        say(f"open this link on the device; it is good for one run:\n\n  {listening.url}\n")
        if not self._address.lan:
            return
        if listening.fingerprint is not None:
            say(
                "the browser will warn of a certificate that it does not know: it was made for "
                f"this run, go on to the page. Its SHA-256: {listening.fingerprint}\n"
            )
        say(qr_code(listening.url))


def own_address() -> str:
    """This machine's address in the local network.

    Raises:
        ConfigError: If there is no network.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(_ELSEWHERE)
            return str(probe.getsockname()[0])
        except OSError as error:
            raise ConfigError(
                "--lan: this machine has no address in a network; connect it, or name one: "
                "--device 'browser?host=ADDRESS'"
            ) from error


def qr_code(text: str) -> str:
    """A QR code of half blocks for the terminal."""
    segno = require("segno", extra="browser", why="the QR code of --lan")
    out = io.StringIO()
    segno.make(text, error="m").terminal(out=out, compact=True)
    return out.getvalue()


DEVICE = BrowserDevice
