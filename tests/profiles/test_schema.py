from pathlib import Path

import pytest

from edgeseed import profiles
from edgeseed.core.errors import ConfigError, UnknownNameError
from edgeseed.profiles.schema import read
from edgeseed.runtime.devices import DEVICES

PRECISIONS = {"fp32", "fp16", "w8", "int8"}


@pytest.mark.parametrize("name", profiles.names())
def test_every_profile_is_whole(name: str) -> None:
    profile = profiles.load(name)

    assert profile.name == name
    assert profile.engines
    assert profile.device_kind in DEVICES.names()
    for engine in profile.engines:
        assert set(engine.precisions) <= PRECISIONS
        assert engine.precisions
        assert engine.threads >= 1


@pytest.mark.parametrize("name", [name for name in profiles.names() if name != "host"])
def test_a_device_that_was_never_measured_says_so(name: str) -> None:
    profile = profiles.load(name)

    if not profile.measured:
        assert profile.notes[0] == "Not run on the real device."
    assert profile.sources
    assert profile.memory_gib or profile.form_factor == "computer"


def test_this_machine_is_the_default() -> None:
    assert profiles.load("host").engine_for("onnx").name == "onnxruntime"


def test_an_unknown_profile_suggests_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'jetson-orin-nano'"):
        profiles.load("jetson-orin-nanu")


def test_an_engine_is_found_by_what_it_takes() -> None:
    jetson = profiles.load("jetson-orin-nano")

    assert jetson.engine_for("tensorrt").unit == "gpu"
    with pytest.raises(ConfigError, match=r"runs no coreml bundle; .*: tensorrt, onnx"):
        jetson.engine_for("coreml")


@pytest.mark.parametrize("name", [name for name in profiles.names() if name != "host"])
def test_a_profile_says_what_its_device_calls_itself(name: str) -> None:
    profile = profiles.load(name)

    assert profile.architecture in {"x86_64", "aarch64"}
    assert profile.models or profile.form_factor == "computer"
    for published in profile.published:
        assert published.latency_ms > 0
        assert "https://" in published.source


@pytest.mark.parametrize(
    ("name", "architecture", "model", "contradicts"),
    [
        # An x86 server reported as "Google Pixel 8", valid.
        ("pixel-8", "x86_64", None, True),
        ("pixel-8", "aarch64", "Pixel 8", False),
        ("pixel-8", "arm64", "Pixel 8 Pro", False),
        ("pixel-8", "aarch64", "SM-S921B", True),
        ("galaxy-s24", "aarch64", "SM-S921B", False),
        ("raspberry-pi-5", "aarch64", "Raspberry Pi 5 Model B Rev 1.0", False),
        ("raspberry-pi-5", "aarch64", "Raspberry Pi 4 Model B Rev 1.5", True),
        ("jetson-orin-nano", "aarch64", "NVIDIA Jetson AGX Orin Developer Kit", True),
        # A browser does not tell either.
        ("pixel-8", "unknown", None, False),
        ("host", "riscv64", "Anything", False),
    ],
)
def test_a_machine_that_is_another_device_contradicts_the_profile(
    name: str, architecture: str, model: str | None, contradicts: bool
) -> None:
    found = profiles.load(name).mismatch(architecture=architecture, model=model, cpu="A CPU")

    assert bool(found) == contradicts
    if contradicts:
        assert found.startswith(f"the profile is {profiles.load(name).title}")
        assert f"the machine says {architecture}, {model or 'A CPU'}" in found


def test_published_latencies_are_found_by_network_and_unit() -> None:
    pi = profiles.load("raspberry-pi-5")

    found = pi.published_for(network="mobilenetv3_large_100.ra_in1k", precision="fp32", unit="cpu")

    assert found is not None
    assert found.latency_ms == 7.35
    assert pi.published_for(network="mobilenetv3_large_100", precision="int8", unit="cpu") is None


WHOLE = """
title = "X"
form_factor = "board"
soc = "Y"
device_kind = "ssh"
measured = false
[[engines]]
name = "onnxruntime"
target = "onnx"
unit = "cpu"
precisions = ["int8"]
"""


def test_a_profile_of_ones_own_can_be_read(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(WHOLE)

    assert read(tmp_path / "mine.toml").name == "mine"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('soc = "Y"', 'sock = "Y"', "sock"),
        ('soc = "Y"', "", "soc"),
        (
            'form_factor = "board"',
            'form_factor = "toaster"',
            "form_factor='toaster'.*any, computer, board, phone",
        ),
        ("[[engines]]", "[[engine]]", "engine"),
        ('unit = "cpu"', 'units = "cpu"', "setting of engine"),
        ("measured = false", "measured = maybe", "not valid TOML"),
    ],
)
def test_a_profile_that_does_not_fit_says_where(
    tmp_path: Path, old: str, new: str, message: str
) -> None:
    (tmp_path / "mine.toml").write_text(WHOLE.replace(old, new))

    with pytest.raises(ConfigError, match=message):
        read(tmp_path / "mine.toml")
