"""How `--device browser` is read and announced; what it measures is in runners/browser."""

from pathlib import Path
from typing import Any

import pytest

from edgeseed import profiles
from edgeseed.core.bundle import Bundle
from edgeseed.core.errors import ConfigError, MissingDependencyError, WorkError
from edgeseed.runtime import profile
from edgeseed.runtime.devices import browser, open_device
from edgeseed.runtime.devices.browser import BrowserAddress, BrowserDevice, parse_address, qr_code
from edgeseed.runtime.runners.browser import Listening


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("", BrowserAddress()),
        ("?unit=webgpu", BrowserAddress(unit="webgpu")),
        (
            "?lan=1&host=10.0.0.5&port=8443&scheme=http&wait=20&ort-web=/opt/ort",
            BrowserAddress(
                lan=True, host="10.0.0.5", port=8443, scheme="http", wait=20.0, ort_web="/opt/ort"
            ),
        ),
    ],
)
def test_addresses_are_read(text: str, address: BrowserAddress) -> None:
    assert parse_address(text) == address


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("?unit=cuda", "unit=cuda is not one of wasm, webgpu"),
        ("?unti=wasm", "'unti' is none of its options; they are: unit, lan, host, port"),
        ("?port=70000", "port=70000 is not a port from 0 to 65535"),
        ("?wait=soon", "wait=soon is not a whole number of seconds"),
        ("?lan=yes", "lan=yes is not one of 0, 1"),
        ("?scheme=ftp", "scheme=ftp is not one of http, https"),
        ("?host=", "host= is not a name or path"),
        ("pixel", "takes no address, found 'pixel'"),
    ],
)
def test_an_address_that_does_not_fit_says_what_does(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_address(text)

    assert message in str(caught.value)


def test_options_of_the_command_line_join_those_of_the_address() -> None:
    device = open_device("browser?unit=webgpu", options={"lan": "1", "ort-web": "/a b&c"})

    assert isinstance(device, BrowserDevice)
    assert device._address == BrowserAddress(unit="webgpu", lan=True, ort_web="/a b&c")
    assert device.name == "browser?lan=1"


def test_a_host_of_the_network_needs_the_word_lan(bundle: Bundle, tmp_path: Path) -> None:
    device = open_device("browser?host=10.0.0.5")

    with pytest.raises(ConfigError, match="opens the page to the network: say so with --lan"):
        profile(bundle.path, device=device, out=tmp_path / "r.json")


def test_a_bundle_that_no_browser_runs_says_what_to_export(
    tensorrt_bundle: Any, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"a browser runs onnx bundles.*--target onnx"):
        profile(tensorrt_bundle().path, device="browser", out=tmp_path / "r.json")


def test_a_unit_that_no_browser_has_lists_those_it_has(bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--unit cuda: a browser has the units wasm and webgpu"):
        profile(bundle.path, device="browser", unit="cuda", out=tmp_path / "r.json")


def test_threads_are_the_profiles_or_two() -> None:
    device = open_device("browser")

    assert device.engine_for(profiles.load("host"), "onnx").threads == 2
    assert device.engine_for(profiles.load("pixel-8"), "onnx").threads == 4


def test_the_link_is_printed_and_in_the_network_as_a_qr_code(
    capsys: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("segno")
    listening = Listening(url="https://10.0.0.5:8443/abc/", port=8443, fingerprint="AB:CD")

    BrowserDevice(BrowserAddress())._announce(listening)
    alone = capsys.readouterr().err
    BrowserDevice(BrowserAddress(lan=True))._announce(listening)
    shared = capsys.readouterr().err

    assert "https://10.0.0.5:8443/abc/\n" in alone
    assert "█" not in alone
    assert "https://10.0.0.5:8443/abc/\n" in shared
    assert "AB:CD" in shared
    assert "█" in shared


def test_a_qr_code_is_square_and_fits_a_terminal() -> None:
    pytest.importorskip("segno")

    lines = qr_code("https://192.168.178.123:65535/abcdefgh2345/").splitlines()

    assert len({len(line) for line in lines}) == 1
    assert len(lines[0]) <= 60


def test_without_its_library_the_qr_code_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "segno", None)

    with pytest.raises(MissingDependencyError, match=r"pip install 'edgeseed\[browser\]'"):
        qr_code("https://x/")


def test_a_link_that_nobody_opens_ends_the_command(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgeseed.runtime.runners.browser import run
    from edgeseed.runtime.runners.browser.package import FILES

    for name in FILES["wasm"]:
        (tmp_path / name).write_bytes(b"engine")
    monkeypatch.setattr(run, "_POLL_SECONDS", 0.05)
    device = BrowserDevice(BrowserAddress(ort_web=str(tmp_path), wait=0.1))

    with pytest.raises(WorkError, match=r"^browser: nobody opened the page within 0\.1 s"):
        profile(bundle.path, device=device, out=tmp_path / "r.json")

    assert not (tmp_path / "r.json").exists()


def test_this_machines_own_address_is_found_or_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    class Unreachable:
        def __init__(self, *arguments: Any) -> None: ...
        def __enter__(self) -> "Unreachable":
            return self

        def __exit__(self, *error: object) -> None: ...
        def connect(self, address: Any) -> None:
            raise OSError("Network is unreachable")

    monkeypatch.setattr("socket.socket", Unreachable)

    with pytest.raises(ConfigError, match=r"no address in a network.*browser\?host=ADDRESS"):
        browser.own_address()
