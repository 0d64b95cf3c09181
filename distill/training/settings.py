"""From options, `--set` and a TOML file to the settings of a run, whole and checked."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from edgeseed.core.config import build_config, read_toml, split_override, to_plain
from edgeseed.core.console import note
from edgeseed.core.errors import ConfigError
from edgeseed.core.pretrained import is_trained
from edgeseed.core.registry import unknown_name
from edgeseed.distill.data.views import ViewPlan, ViewSettings
from edgeseed.distill.method import Method
from edgeseed.distill.training.options import ALL_LABELS, Activation, Precision, UserSettings
from edgeseed.distill.training.recipe import Recipe
from edgeseed.distill.training.trainer import TrainingConfig

_MAX_SEED = 2**62
_MAX_IMAGE_SIZE = 4096


def check_seed(seed: int) -> None:
    """Refuses a seed that a generator does not take.

    Raises:
        ConfigError: If it is negative, or longer than 62 bits.
    """
    if not 0 <= seed < _MAX_SEED:
        raise ConfigError(f"seed={seed} must be from 0 to {_MAX_SEED - 1}")


def check_size(image_size: int | None) -> None:
    """Refuses an image size that no network is made for.

    Raises:
        ConfigError: If it is below 8 pixels, or so large that a photo would fill the memory.
    """
    if image_size is not None and not 8 <= image_size <= _MAX_IMAGE_SIZE:
        raise ConfigError(
            f"--image-size {image_size}: use at least 8 pixels and at most {_MAX_IMAGE_SIZE}"
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class RunSettings:
    """What is run: the section `[run]` of config.toml.

    Attributes:
        method: Name in `METHODS`.
        student: Network that is trained and kept: a timm name, or a student file to go on from.
        teacher: Frozen network, as `load_teacher` reads it; None for methods without one.
        peer: Second trainable network, for methods that have one.
        networks: Networks of further roles, each "ROLE=NAME".
        labels: Which labels a method that uses any may see, as `choose_labels` reads it.
        data: Photos, as `open_photos` reads them.
        image_size: Side of the student's input, in pixels; None chooses by student and photos.
        seed: Of everything that is drawn.
        devices: See `choose_device`.
        precision: See `choose_dtypes`.
        knn_every_epochs: Epochs between two measurements of kNN accuracy; None never measures.
        teacher_cache: Folder of the teacher's answers; None keeps none.
    """

    method: str
    student: str
    teacher: str | None = None
    peer: str | None = None
    networks: tuple[str, ...] = ()
    labels: str = ALL_LABELS
    data: str
    image_size: int | None = None
    seed: int = 0
    devices: str = "auto"
    precision: Precision = "auto"
    knn_every_epochs: int | None = None
    teacher_cache: str | None = None

    def __post_init__(self) -> None:
        if self.knn_every_epochs is not None and self.knn_every_epochs < 1:
            raise ConfigError(f"knn_every_epochs={self.knn_every_epochs} must be at least 1 epoch")
        check_seed(self.seed)
        check_size(self.image_size)

    @property
    def roles(self) -> dict[str, str]:
        """Role -> network, of all networks beside the student.

        Raises:
            ConfigError: If a role is given twice, or without a network.
        """
        given = {"teacher": self.teacher, "peer": self.peer}
        roles = {role: name for role, name in given.items() if name is not None}
        for text in self.networks:
            role, name = split_override(text)
            if not name or role in roles or role == "student":
                raise ConfigError(f"--network {text}: give each role one network, as ROLE=NAME")
            roles[role] = name
        return roles


@dataclass(frozen=True, kw_only=True, slots=True)
class FinetuneSettings:
    """What is fine-tuned: the section `[run]` of config.toml. See `FinetuneOptions`."""

    command: Literal["finetune"] = "finetune"
    student: str
    data: str
    test_data: str | None = None
    labels: str = ALL_LABELS
    projection: bool = False
    image_size: int | None = None
    seed: int = 0
    devices: str = "auto"
    precision: Precision = "auto"

    def __post_init__(self) -> None:
        check_seed(self.seed)
        check_size(self.image_size)


@dataclass(frozen=True, kw_only=True, slots=True)
class RunDefaults:
    """Settings of `[run]` that `--config` restores where no option says otherwise.

    The rest of `[run]` (the method, networks, photos and labels) is what is run, and said by the
    call.
    """

    image_size: int | None = None
    seed: int = 0
    precision: Precision = "auto"


def run_defaults(config: Path | None, **given: Any) -> RunDefaults:
    """Settings of `[run]` that a file may restore: the defaults, then the file's, then the call's.

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
    defaults = build_config(RunDefaults, values=taken, what=f"{config}: [run]")
    return replace(defaults, **{name: value for name, value in given.items() if value is not None})


@dataclass(frozen=True, kw_only=True, slots=True)
class StudentSettings:
    """How the student is built: `--set student.FIELD=VALUE`. See `create_student`.

    Attributes:
        activation: "relu6" in place of SiLU and hard-swish.
        drop_se: Whether squeeze-and-excitation is left out.
        reduce_stride: Divides the total stride, for small photos.
        width: Of the input, in pixels, where it is not square: the image size is its height.
        channels: Of the input: RGB, 1 for grey, or RGB and a fourth of RGBA files.
    """

    activation: Literal["keep", "relu6"] = "keep"
    drop_se: bool = False
    reduce_stride: Literal[1, 2, 4] = 1
    width: int | None = None
    channels: Literal[1, 3, 4] = 3

    def __post_init__(self) -> None:
        if self.width is not None and not 8 <= self.width <= _MAX_IMAGE_SIZE:
            raise ValueError(
                f"width={self.width} must be from 8 to {_MAX_IMAGE_SIZE} pixels, or none for a "
                "square"
            )


def student_settings(*, activation: Activation, drop_se: bool) -> dict[str, Any]:
    """The options of that name, as settings."""
    changes: dict[str, Any] = {}
    if activation != "keep":
        changes["student.activation"] = activation
    if drop_se:
        changes["student.drop_se"] = True
    return changes


def check_form(student: str, settings: StudentSettings) -> None:
    """Refuses to build a student otherwise than its weights were trained.

    Raises:
        ConfigError: If a student that comes with weights is asked to change its form.
    """
    if is_trained(student) and settings != StudentSettings():
        raise ConfigError(
            f"{student} is trained and keeps its form: leave out activation, drop_se, "
            "reduce_stride, width and channels, or start from a timm name"
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
    overrides: UserSettings,
    config: Path | None,
) -> Settings:
    """Makes the settings: the method's own, then the file's, then options, then `--set`.

    Args:
        method: The method's class.
        name: Its name, for messages.
        options: Fields of the recipe that were given as options; None is not given.
        overrides: Fields of the method by their name, `recipe.field` and so on for the rest.
        config: A TOML file with the sections of a run's config.toml.

    Raises:
        ConfigError: If a section, field or value does not fit.
    """
    values = _read_sections(config)
    changes = _by_section(overrides)
    given = {key: value for key, value in options.items() if value is not None}
    recipe = {**to_plain(method.RECIPE), **values["recipe"], **given}
    if "warmup_epochs" not in values["recipe"]:
        # The paper's warm-up is meant for the paper's length: a run of five epochs is not all
        # warm-up.
        recipe["warmup_epochs"] = min(
            recipe["warmup_epochs"], _WARMUP_SHARE * float(recipe["epochs"])
        )
    values["recipe"] = recipe

    def build(kind: Any, section: str, what: str) -> Any:
        return build_config(kind, values={**values[section], **changes[section]}, what=what)

    return Settings(
        method=build(method.Config, "method", f"method {name}"),
        recipe=build(Recipe, "recipe", "the recipe"),
        views=build(ViewSettings, "views", "the views"),
        training=build(TrainingConfig, "training", "training"),
        student=build(StudentSettings, "student", "the student"),
    )


def make_views(method: type[Method[Any]], settings: Settings, *, size: tuple[int, int]) -> ViewPlan:
    """The method's views with the user's changes.

    Args:
        method: The method's class.
        settings: Of the run.
        size: Height and width of the student's input, in pixels. Small crops of a method have the
            same shape.

    Raises:
        ConfigError: If a crop cannot be made so.
    """
    height, width = size
    try:
        plan = settings.views.apply(method.views(settings.method, height))
        return replace(plan, crops=tuple(crop.in_shape_of(height, width) for crop in plan.crops))
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(f"the views: {error}") from error


def is_given(
    name: str, *, options: Mapping[str, Any], overrides: UserSettings, config: Path | None
) -> bool:
    """Whether a field of the recipe was said by an option, by `--set` or by the file."""
    said = name in _by_section(overrides)["recipe"] or name in _read_sections(config)["recipe"]
    return options.get(name) is not None or said


def as_mapping(settings: UserSettings) -> dict[str, Any]:
    """Settings as field -> value, whether they were given so or as `"field=value"` strings.

    A section may be a mapping of its own: `{"recipe": {"lr": 0.1}}` is `{"recipe.lr": 0.1}`.

    Raises:
        ConfigError: If a string is not of that form.
    """
    if not isinstance(settings, Mapping):
        return dict(split_override(text) for text in settings)
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        name = name.replace("-", "_")
        if isinstance(value, Mapping):
            flat |= {f"{name}.{inner}": item for inner, item in value.items()}
        else:
            flat[name] = value
    return flat


def _read_sections(config: Path | None) -> dict[str, dict[str, Any]]:
    sections: dict[str, dict[str, Any]] = {name: {} for name in _SECTIONS}
    if config is None:
        return sections
    for name, section in read_toml(config).items():
        if name == "run":
            continue  # See `run_defaults`.
        if name not in sections:
            raise ConfigError(f"{config}: {unknown_name('section', name, ('run', *_SECTIONS))}")
        if not isinstance(section, dict):
            raise ConfigError(
                f"{config}: {name} is a value; settings stand in sections, as [{name}]"
            )
        sections[name] = section
    return sections


def _by_section(overrides: UserSettings) -> dict[str, dict[str, Any]]:
    split: dict[str, dict[str, Any]] = {name: {} for name in _SECTIONS}
    for name, value in as_mapping(overrides).items():
        prefix, dot, rest = name.partition(".")
        if not dot:
            split["method"][name] = value
        elif prefix in _PREFIXES:
            split[prefix][rest] = value
        else:
            raise ConfigError(
                f"--set {name}={value}: {unknown_name('group of settings', prefix, _PREFIXES)}"
            )
    return split


def plain_sections(
    run: RunSettings | FinetuneSettings, settings: Settings
) -> dict[str, dict[str, Any]]:
    """All settings as TOML takes them; None is written as "none", which is read as None."""
    sections = {"run": to_plain(run), **to_plain(settings)}
    return {
        name: {
            key: "none" if value is None else value
            for key, value in section.items()
            if (name, key, value) != ("run", "networks", [])
        }
        for name, section in sections.items()
    }


def go_on_longer(settings: Settings, before: Mapping[str, Any], *, keeps_warmup: bool) -> Settings:
    """The settings of a run that goes on for more epochs than it had.

    Args:
        settings: As the call says them.
        before: The sections of the run's config.toml.
        keeps_warmup: Whether the warm-up stays as it was: the call says no other.
    """
    recipe = before.get("recipe", {})
    if not keeps_warmup or settings.recipe.epochs < recipe.get("epochs", 0):
        return settings
    warmup = float(recipe.get("warmup_epochs", settings.recipe.warmup_epochs))
    return replace(settings, recipe=dataclasses.replace(settings.recipe, warmup_epochs=warmup))
