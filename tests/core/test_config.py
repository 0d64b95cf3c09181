"""Configs from mappings, text and TOML."""

import dataclasses
from pathlib import Path
from typing import Literal

import pytest

from edgeseed.core.config import build_config, read_toml, write_toml
from edgeseed.core.errors import (
    ConfigError,
)


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


def build(*overrides: str, **values: object) -> Example:
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
def test_strings_are_read_by_the_fields_type(
    override: str,
    field: str,
    expected: float | int | bool | str | tuple[float, ...] | tuple[str, ...] | None,
) -> None:
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
def test_a_bad_setting_says_field_value_and_what_is_allowed(override: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        build(override)
    assert message in str(caught.value)


def test_overrides_win_over_values() -> None:
    assert build("size=9", size=4, rate=2) == Example(size=9, rate=2.0)


def test_toml_survives_a_round_trip(tmp_path: Path) -> None:
    values = {
        "a": 1,
        "b": [1.5, 2.0],
        "t": {"x": True, "name": 'q"\\ ü', "deep": {"y": "z"}},
        "odd key": 1,
    }
    write_toml(tmp_path / "c.toml", {**values, "none": None})
    assert read_toml(tmp_path / "c.toml") == values


def test_a_missing_or_broken_toml_is_a_config_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read"):
        read_toml(tmp_path / "none.toml")
    (tmp_path / "bad.toml").write_text("a = ")
    with pytest.raises(ConfigError, match="not valid TOML"):
        read_toml(tmp_path / "bad.toml")
