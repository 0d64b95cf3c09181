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
_ARCHITECTURES = {
    "x86_64": "x86_64", "amd64": "x86_64", "aarch64": "aarch64", "arm64": "aarch64",
    "armv7l": "armv7l", "armv8l": "armv7l",
}  # fmt: skip
FormFactor = Literal["any", "computer", "board", "phone"]


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
class PublishedLatency:
    """What others measured on the device: a number to be suspicious against, not ours."""

    network: str
    """timm's name."""
    precision: str
    engine: str
    unit: str
    latency_ms: float
    """One image of 224 by 224."""
    source: str
    """A link, or where to look it up."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Profile:
    """What is known about a device without measuring it."""

    name: str
    """The file's name, and what `--profile` takes."""
    title: str
    form_factor: FormFactor
    soc: str
    device_kind: str
    """The kind of device that reaches it, as in `--device KIND:ADDRESS`."""
    engines: tuple[EngineFacts, ...]
    """The one to use first at the front."""
    measured: bool
    """Whether edgeseed ever ran on the real device."""
    compute_capability: str = ""
    """Of its NVIDIA GPU: engines are built for one."""
    dla_cores: int = 0
    """Deep Learning Accelerators of an NVIDIA Jetson."""
    architecture: str = ""
    """As Python's `platform.machine()` says: `aarch64`, `x86_64`. Empty: any."""
    models: tuple[str, ...] = ()
    """What the machine's own name holds, one of them: a device tree's, or Android's
    `ro.product.model`. Empty: any."""
    published: tuple["PublishedLatency", ...] = ()
    memory_gib: tuple[int, ...] = ()
    """The sizes it is sold with."""
    software: dict[str, str] = dataclasses.field(default_factory=dict)
    """Versions that matter to an engine, such as JetPack's TensorRT."""
    notes: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()

    def mismatch(self, *, architecture: str, model: str | None, cpu: str) -> str:
        """How a machine's own facts contradict this profile, in words; empty where they do not.

        Args:
            architecture: of the machine; one that is not known (a browser's) contradicts nothing.
            model: its own name, or None where it does not tell.
            cpu: its processor, for the message.
        """
        found = _ARCHITECTURES.get(architecture.lower())
        here = f"the machine says {architecture}, {model or cpu}"
        if self.architecture and found and found != self.architecture:
            return f"the profile is {self.title} ({self.architecture}), {here}"
        names = [name.lower() for name in self.models]
        if names and model is not None and not any(name in model.lower() for name in names):
            return f"the profile is {self.title}, {here}"
        return ""

    def published_for(self, *, network: str, precision: str, unit: str) -> PublishedLatency | None:
        """What others measured for the same network, precision and unit; None if nothing is known.

        Args:
            network: timm's name, with or without a pretrained tag.
            precision: of the bundle.
            unit: that was asked for.
        """
        for item in self.published:
            if (item.network, item.precision, item.unit) == (
                network.partition(".")[0],
                precision,
                unit,
            ):
                return item
        return None

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
            f"profile {self.name} runs no {target} bundle; export for one of its targets: {known}, "
            "or name another --profile or --device ('edgeseed devices' lists them)"
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
        published = tuple(
            build_config(PublishedLatency, values=table, what=f"published latency of {path.name}")
            for table in values.pop("published", [])
        )
        facts = {**values, "name": path.stem, "engines": engines, "published": published}
        return build_config(Profile, values=facts, what=f"profile {path.name}")
    except TypeError as error:
        raise ConfigError(f"{path}: {error}") from error
