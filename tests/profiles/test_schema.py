from pathlib import Path

import pytest

from edgeseed import profiles
from edgeseed.core.errors import ConfigError, UnknownNameError
from edgeseed.profiles.schema import read
from edgeseed.runtime.devices import DEVICES

PRECISIONS = {"fp32", "fp16", "w8", "int8"}
LATER = {"ssh", "adb", "apple", "browser"}
"""Kinds of device that a profile may name before edgeseed has them."""


@pytest.mark.parametrize("name", profiles.names())
def test_every_profile_is_whole(name: str) -> None:
    profile = profiles.load(name)

    assert profile.name == name
    assert profile.engines
    assert profile.transport in {*DEVICES.names(), *LATER}
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
    assert profile.memory_gib


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


WHOLE = """
title = "X"
kind = "board"
soc = "Y"
transport = "ssh"
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
        ('kind = "board"', 'kind = "toaster"', "kind='toaster'.*any, board, phone"),
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
