"""Configs, registries, lazy names and the preprocess block."""

import dataclasses
import os
import subprocess
import sys
from typing import Literal

import numpy as np
import pytest
from PIL import Image

from edgeseed.core.config import build_config, read_toml, write_toml
from edgeseed.core.errors import (
    ArtifactError,
    ConfigError,
    MissingDependencyError,
    UnknownNameError,
)
from edgeseed.core.optional import require
from edgeseed.core.preprocess import Preprocess
from edgeseed.core.registry import Registry


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Example:
    rate: float = 0.1
    size: int = 3
    on: bool = False
    mode: Literal["a", "b", 3] = "a"
    limit: int | None = 5
    pair: tuple[float, float] = (0.0, 1.0)
    names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.size < 0:
            raise ValueError(f"size={self.size} must be at least 0")


def build(*overrides, **values):
    return build_config(Example, values=values, overrides=overrides, what="example")


@pytest.mark.parametrize(
    ("override", "field", "expected"),
    [
        ("rate=1e-3", "rate", 1e-3),
        ("size=65_536", "size", 65536),
        ("on=true", "on", True),
        ("on=off", "on", False),  # argparse's type=bool would make it True
        ("mode=b", "mode", "b"),
        ("mode=3", "mode", 3),
        ("limit=none", "limit", None),
        ("limit=7", "limit", 7),
        ("pair=0.2,0.4", "pair", (0.2, 0.4)),
        ("names=x,y,z", "names", ("x", "y", "z")),
    ],
)
def test_strings_are_read_by_the_fields_type(override, field, expected):
    assert getattr(build(override), field) == expected


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("rate=fast", "rate='fast' is not a finite number"),
        # nan passed as a learning rate, and ended as a traceback in a run folder.
        ("rate=nan", "rate='nan' is not a finite number"),
        ("rate=inf", "rate='inf' is not a finite number"),
        ("size=1.5", "size='1.5' is not a whole number"),
        ("on=maybe", "on='maybe' is not true or false"),
        ("mode=c", "mode='c' is not one of a, b, 3"),
        ("pair=1", "pair='1' is not a list"),
        ("limit=x", "limit='x' is not a whole number or none"),
        ("size=-1", "example: size=-1 must be at least 0"),
        ("siz=1", "unknown setting of example 'siz'; did you mean 'size'?"),
        ("size", "not of the form field=value"),
    ],
)
def test_a_bad_setting_says_field_value_and_what_is_allowed(override, message):
    with pytest.raises(ConfigError) as caught:
        build(override)
    assert message in str(caught.value)


def test_overrides_win_over_values():
    assert build("size=9", size=4, rate=2) == Example(size=9, rate=2.0)


def test_toml_survives_a_round_trip(tmp_path):
    values = {
        "a": 1,
        "b": [1.5, 2.0],
        "t": {"x": True, "name": 'q"\\ ü', "deep": {"y": "z"}},
        "odd key": 1,
    }
    write_toml(tmp_path / "c.toml", {**values, "none": None})
    assert read_toml(tmp_path / "c.toml") == values


def test_a_missing_or_broken_toml_is_a_config_error(tmp_path):
    with pytest.raises(ConfigError, match="cannot read"):
        read_toml(tmp_path / "none.toml")
    (tmp_path / "bad.toml").write_text("a = ")
    with pytest.raises(ConfigError, match="not valid TOML"):
        read_toml(tmp_path / "bad.toml")


# ------------------------------------------------------------------ registries


@pytest.mark.parametrize(
    ("module", "table"),
    [
        ("edgeseed.distill.methods", "METHODS"),
        ("edgeseed.export.targets", "TARGETS"),
        ("edgeseed.runtime.engines", "ENGINES"),
        ("edgeseed.runtime.devices", "DEVICES"),
    ],
)
def test_every_registry_lists_without_importing_and_summarises_each(module, table):
    code = (
        f"import sys; from {module} import {table} as r; names = r.names(); assert names; "
        "assert all(r.summary(n) for n in names); "
        "assert 'torch' not in sys.modules and 'onnx' not in sys.modules and 'coremltools' not "
        "in sys.modules"
    )
    subprocess.run([sys.executable, "-P", "-c", code], check=True)


def test_unknown_plug_in_names_the_nearest_and_lists_all():
    registry = Registry("edgeseed.distill.methods", attribute="METHOD", kind="method")
    with pytest.raises(
        UnknownNameError, match=r"unknown method 'regres'; did you mean 'regress'\? known: .*seed"
    ):
        registry.load("regres")


@pytest.mark.parametrize("name", ["_method", "../x", "", "os"])
def test_only_listed_names_are_ever_imported(name):
    with pytest.raises(UnknownNameError):
        Registry("edgeseed.distill.methods", attribute="METHOD", kind="method").load(name)


def test_a_missing_package_says_the_command_that_installs_it():
    with pytest.raises(
        MissingDependencyError,
        match=r"--target x needs no_such_package.*pip install 'edgeseed\[x\]'",
    ):
        require("no_such_package", extra="x", why="--target x")


# ------------------------------------------------------------------ preprocess


def test_pixels_are_resized_by_the_shorter_side_and_cut_from_the_middle():
    photo = Image.new("RGB", (40, 20))
    photo.paste((255, 0, 0), (10, 0, 30, 20))
    pixels = Preprocess(image_size=10, resize=10, interpolation="nearest").pixels(photo)
    assert pixels.shape == (3, 10, 10)
    assert (pixels[0] == 255).all()
    assert (pixels[1:] == 0).all()


@pytest.mark.parametrize("size", [(1, 500), (500, 1), (3, 3), (33, 32), (32, 33)])
def test_any_photo_gives_the_size_that_was_asked_for(size):
    pixels = Preprocess(image_size=32, resize=33).pixels(Image.new("RGB", size))
    assert pixels.shape == (3, 32, 32)


def test_normalize_is_the_formula():
    preprocess = Preprocess(image_size=2, resize=2, mean=(0.1, 0.2, 0.3), std=(0.5, 0.25, 1.0))
    pixels = np.array([[[0]], [[51]], [[255]]], np.uint8)
    expected = [(0 - 0.1) / 0.5, (0.2 - 0.2) / 0.25, (1 - 0.3) / 1.0]
    assert np.allclose(preprocess.normalize(pixels).ravel(), expected, atol=1e-6)


def test_a_preprocess_block_survives_a_round_trip():
    preprocess = Preprocess(image_size=24, resize=27, interpolation="bicubic", std=(0.5, 0.5, 0.5))
    assert Preprocess.from_dict(preprocess.to_dict()) == preprocess


@pytest.mark.parametrize(
    "change",
    [{"color": "BGR"}, {"std": [0, 1, 1]}, {"resize": 1}, {"x": 1}, {"interpolation": "magic"}],
)
def test_a_preprocess_block_that_makes_no_sense_is_refused(change):
    values = {**Preprocess(image_size=24, resize=27).to_dict(), **change}
    with pytest.raises(ArtifactError):
        Preprocess.from_dict(values)


def test_importing_edgeseed_switches_telemetry_of_onnx_runtime_off():
    # ONNX Runtime 1.29 began to upload usage from Linux; quickstart promises to need no network.
    code = "import edgeseed, os; assert os.environ['ORT_DISABLE_TELEMETRY'] == '1'"
    environment = {k: v for k, v in os.environ.items() if k != "ORT_DISABLE_TELEMETRY"}
    subprocess.run([sys.executable, "-P", "-c", code], check=True, env=environment)
