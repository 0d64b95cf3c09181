"""From options, `--set` and a TOML file to the settings of a run, whole and checked."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from edgeseed.core.config import build_config, read_toml, split_override, to_plain
from edgeseed.core.console import note
from edgeseed.core.errors import ConfigError
from edgeseed.core.registry import unknown_name
from edgeseed.distill.data.views import ViewSettings
from edgeseed.distill.method import Method
from edgeseed.distill.training.recipe import Recipe
from edgeseed.distill.training.trainer import TrainingConfig

ALL_LABELS = "100%"


@dataclass(frozen=True, kw_only=True, slots=True)
class RunSettings:
    """What is run: the section `[run]` of config.toml.

    Attributes:
        method: Name in `METHODS`.
        student: Network that is trained and kept: a timm name, or a student file to go on from.
        teacher: Frozen network, as `load_teacher` reads it; None for methods without one.
        peer: Second trainable network, for methods that have one.
        labels: Which labels a method that uses any may see, as `choose_labels` reads it.
        data: Photos, as `open_photos` reads them.
        image_size: Side of the student's input, in pixels; None chooses by student and photos.
        seed: Of everything that is drawn.
        devices: See `choose_device`.
        precision: See `choose_dtypes`.
        during: Epochs between two measurements of kNN accuracy; None never measures.
    """

    method: str
    student: str
    teacher: str | None = None
    peer: str | None = None
    labels: str = ALL_LABELS
    data: str
    image_size: int | None = None
    seed: int = 0
    devices: str = "auto"
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    during: int | None = None

    def __post_init__(self) -> None:
        if self.during is not None and self.during < 1:
            raise ConfigError(f"during={self.during} must be at least 1 epoch")
        if self.seed < 0:
            raise ConfigError(f"seed={self.seed} must not be negative")


@dataclass(frozen=True, kw_only=True, slots=True)
class Dials:
    """What a file takes back of its `[run]`, where the call does not say it; see `RunSettings`.

    The rest of `[run]` (the method, networks, photos and labels) is what is run, and said by the
    call.
    """

    image_size: int | None = None
    seed: int = 0
    precision: Literal["auto", "fp32", "bf16"] = "auto"


def set_dials(config: Path | None, **given: Any) -> Dials:
    """Makes the dials: their defaults, then the file's, then what the call gave.

    Args:
        config: A TOML file with the sections of a run's config.toml.
        given: What the call gave; None is not given. The file is asked for these names alone.

    Raises:
        ConfigError: If the file's values do not fit.
    """
    section = {} if config is None else read_toml(config).get("run", {})
    if not isinstance(section, dict):
        raise ConfigError(f"{config}: run is a value; settings stand in sections, as [run]")
    taken = {
        name: section[name] for name, value in given.items() if value is None and name in section
    }
    if taken:
        values = ", ".join(f"{name}={value}" for name, value in taken.items())
        note(
            f"{config}: {values} as in that run; method, networks, photos and labels are the call's"
        )
    dials = build_config(Dials, values=taken, what=f"{config}: [run]")
    return replace(dials, **{name: value for name, value in given.items() if value is not None})


@dataclass(frozen=True, kw_only=True, slots=True)
class StudentSettings:
    """How the student is built: `--set student.FIELD=VALUE`. See `create_student`."""

    activation: Literal["keep", "relu6"] = "keep"
    drop_se: bool = False
    reduce_stride: Literal[1, 2, 4] = 1


Activation = Literal["keep", "relu6"]


def student_overrides(*, activation: Activation, drop_se: bool) -> tuple[str, ...]:
    """The options of that name, as `--set` would say them."""
    changes = (f"student.activation={activation}",) if activation != "keep" else ()
    return (*changes, "student.drop_se=true") if drop_se else changes


def check_form(student: str, settings: StudentSettings) -> None:
    """Refuses to build a student file otherwise than it was trained.

    Raises:
        ConfigError: If a student file is asked to change its form.
    """
    if student.endswith(".safetensors") and settings != StudentSettings():
        raise ConfigError(
            f"{student} is trained and keeps its form: leave out activation, drop_se and "
            "reduce_stride, or start from a timm name"
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """All settings of a run but `[run]`; one section of config.toml each."""

    method: Any
    recipe: Recipe
    views: ViewSettings = field(default_factory=ViewSettings)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    student: StudentSettings = field(default_factory=StudentSettings)


_SECTIONS = ("method", "recipe", "views", "training", "student")
_WARMUP_SHARE = 0.1
_PREFIXES = tuple(name for name in _SECTIONS if name != "method")


def build_settings(
    method: type[Method[Any]],
    *,
    name: str,
    options: Mapping[str, Any],
    overrides: Sequence[str],
    config: Path | None,
) -> Settings:
    """Makes the settings: the method's own, then the file's, then options, then `--set`.

    Args:
        method: The method's class.
        name: Its name, for messages.
        options: Fields of the recipe that were given as options; None is not given.
        overrides: `field=value` for the method, `recipe.field=value` and so on for the rest.
        config: A TOML file with the sections of a run's config.toml.

    Raises:
        ConfigError: If a section, field or value does not fit.
    """
    values = _read_sections(config)
    split = _split_overrides(overrides)
    given = {key: value for key, value in options.items() if value is not None}
    recipe = {**to_plain(method.RECIPE), **values["recipe"], **given}
    if "warmup_epochs" not in values["recipe"]:
        # The paper's warm-up is meant for the paper's length: a run of five epochs is not all
        # warm-up.
        recipe["warmup_epochs"] = min(
            recipe["warmup_epochs"], _WARMUP_SHARE * float(recipe["epochs"])
        )
    return Settings(
        method=build_config(
            method.Config, values=values["method"], overrides=split["method"], what=f"method {name}"
        ),
        recipe=build_config(Recipe, values=recipe, overrides=split["recipe"], what="the recipe"),
        views=build_config(
            ViewSettings, values=values["views"], overrides=split["views"], what="the views"
        ),
        training=build_config(
            TrainingConfig, values=values["training"], overrides=split["training"], what="training"
        ),
        student=build_config(
            StudentSettings,
            values=values["student"],
            overrides=split["student"],
            what="the student",
        ),
    )


def is_given(
    name: str, *, options: Mapping[str, Any], overrides: Sequence[str], config: Path | None
) -> bool:
    """Whether a field of the recipe was said by an option, by `--set` or by the file."""
    said = {split_override(text)[0] for text in _split_overrides(overrides)["recipe"]}
    return options.get(name) is not None or name in said or name in _read_sections(config)["recipe"]


def _read_sections(config: Path | None) -> dict[str, dict[str, Any]]:
    sections: dict[str, dict[str, Any]] = {name: {} for name in _SECTIONS}
    if config is None:
        return sections
    for name, section in read_toml(config).items():
        if name == "run":
            continue  # See `set_dials`.
        if name not in sections:
            raise ConfigError(f"{config}: {unknown_name('section', name, ('run', *_SECTIONS))}")
        if not isinstance(section, dict):
            raise ConfigError(
                f"{config}: {name} is a value; settings stand in sections, as [{name}]"
            )
        sections[name] = section
    return sections


def _split_overrides(overrides: Sequence[str]) -> dict[str, list[str]]:
    split: dict[str, list[str]] = {name: [] for name in _SECTIONS}
    for text in overrides:
        prefix, dot, rest = text.partition(".")
        if not dot or "=" in prefix:
            split["method"].append(text)
        elif prefix in _PREFIXES:
            split[prefix].append(rest)
        else:
            raise ConfigError(
                f"--set {text}: {unknown_name('group of settings', prefix, _PREFIXES)}"
            )
    return split


def plain_sections(run: RunSettings, settings: Settings) -> dict[str, dict[str, Any]]:
    """All settings as TOML takes them; None is written as "none", which is read as None."""
    sections = {"run": to_plain(run), **to_plain(settings)}
    return {
        name: {key: "none" if value is None else value for key, value in section.items()}
        for name, section in sections.items()
    }
