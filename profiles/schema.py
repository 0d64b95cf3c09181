"""A device's facts, one .toml each: what runs on it, and what is worth trying there.

A profile says what to ask of a device that edgeseed may never have seen: engine, compute unit,
threads. It holds no latency: those are measured, and lie in results.
"""

import dataclasses
from pathlib import Path
from typing import Literal

from edgeseed.core.config import build_config, read_toml
from edgeseed.core.errors import ConfigError
from edgeseed.core.registry import unknown_name

FOLDER = Path(__file__).parent
Kind = Literal["any", "board", "phone"]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class EngineFacts:
    """One engine that the device has."""

    name: str
    """As in `runtime/engines`; it may be one that this edgeseed does not have yet."""
    target: str
    """The export target whose bundles it takes."""
    unit: str
    """The compute unit to ask for."""
    precisions: tuple[str, ...]
    """Precisions that make sense there, the one to try first at the front."""
    threads: int = 1
    scheme: str | None = None
    """The integers of int8 there, as `export --scheme` takes them; None for the target's first."""
    versions: tuple[str, ...] = ()
    """Versions of its library that the device's systems bring, oldest first."""
    note: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Profile:
    """What is known about a device without measuring it."""

    name: str
    """The file's name, and what `--profile` takes."""
    title: str
    kind: Kind
    soc: str
    transport: str
    """The kind of device that reaches it, as in `--device KIND:ADDRESS`."""
    engines: tuple[EngineFacts, ...]
    """The one to use first at the front."""
    measured: bool
    """Whether edgeseed ever ran on the real device."""
    compute_capability: str = ""
    """Of its NVIDIA GPU: engines are built for one."""
    dla_cores: int = 0
    """Deep Learning Accelerators of an NVIDIA Jetson."""
    memory_gib: tuple[int, ...] = ()
    """The sizes it is sold with."""
    software: dict[str, str] = dataclasses.field(default_factory=dict)
    """Versions that matter to an engine, such as JetPack's TensorRT."""
    notes: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()

    def engine_for(self, target: str) -> EngineFacts:
        """The engine that takes bundles of `target`.

        Raises:
            ConfigError: If the device has none.
        """
        for engine in self.engines:
            if engine.target == target:
                return engine
        known = ", ".join(engine.target for engine in self.engines)
        raise ConfigError(
            f"profile {self.name} runs no {target} bundle; export for one of its targets: {known}"
        )


def names() -> tuple[str, ...]:
    """The names of all profiles, sorted. Reads none of them."""
    return tuple(sorted(path.stem for path in FOLDER.glob("*.toml")))


def load(name: str) -> Profile:
    """The profile of this name.

    Raises:
        UnknownNameError: If there is none; the nearest is suggested.
        ConfigError: If the file has an unknown field or a value that does not fit.
    """
    if name not in names():
        raise unknown_name("profile", name, names())
    return read(FOLDER / f"{name}.toml")


def read(path: Path) -> Profile:
    """Read one profile's file.

    Raises:
        ConfigError: If a field is missing, unknown or does not fit; the file is named.
    """
    values = read_toml(path)
    try:
        tables = values.pop("engines", [])
        engines = tuple(
            build_config(EngineFacts, values=table, what=f"engine of {path.name}")
            for table in tables
        )
        if not engines:
            raise ConfigError(f"{path}: it names no engine; add an [[engines]] table")
        facts = {**values, "name": path.stem, "engines": engines}
        return build_config(Profile, values=facts, what=f"profile {path.name}")
    except TypeError as error:
        raise ConfigError(f"{path}: {error}") from error
