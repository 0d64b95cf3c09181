"""From options, `--set` and a file to settings: who wins, and what is refused."""

from pathlib import Path
from typing import Any

import pytest

from edgeseed.core.config import write_toml
from edgeseed.core.errors import ConfigError
from edgeseed.distill.methods.seed import Seed
from edgeseed.distill.training.settings import (
    RunDefaults,
    RunSettings,
    Settings,
    build_settings,
    plain_sections,
    run_defaults,
)


def build(
    *overrides: str, config: Path | None = None, epochs: int | None = None, lr: float | None = None
) -> Settings:
    return build_settings(
        Seed,
        name="seed",
        options={"epochs": epochs, "lr": lr},
        overrides=overrides,
        config=config,
    )


def test_method_brings_its_papers_recipe() -> None:
    recipe = build().recipe
    assert recipe == Seed.RECIPE
    assert (recipe.optimizer, recipe.lr, recipe.epochs, recipe.batch_size) == (
        "sgd",
        0.03,
        200,
        256,
    )


def test_set_beats_option_beats_file_beats_method(tmp_path: Path) -> None:
    config = tmp_path / "mine.toml"
    config.write_text(
        "[recipe]\nlr = 0.1\nepochs = 7\nmomentum = 0.8\n[method]\ntau_student = 0.5\n"
    )
    settings = build("recipe.lr=0.3", config=config, epochs=9, lr=0.2)
    assert (settings.recipe.lr, settings.recipe.epochs) == (0.3, 9)
    assert settings.recipe.momentum == 0.8
    assert settings.method.tau_student == 0.5


def test_short_run_has_a_short_warm_up_unless_it_was_asked_for() -> None:
    assert build(epochs=10).recipe.warmup_epochs == 1.0
    assert build(epochs=10, lr=1.0).recipe.warmup_epochs == 1.0
    assert build("recipe.warmup_epochs=4", epochs=10).recipe.warmup_epochs == 4.0
    assert build(epochs=100).recipe.warmup_epochs == 5.0


def test_written_settings_are_read_back_as_they_were(tmp_path: Path) -> None:
    settings = build("recipe.clip_norm=1.5", "views.mixup=true", "queue_size=none")
    sections = plain_sections(RunSettings(method="seed", student="s", data="d"), settings)
    write_toml(tmp_path / "config.toml", sections)
    assert build(config=tmp_path / "config.toml") == settings


def test_value_in_place_of_a_section_is_an_error(tmp_path: Path) -> None:
    config = tmp_path / "mine.toml"
    config.write_text("recipe = 3\n")
    with pytest.raises(ConfigError, match=r"settings stand in sections, as \[recipe\]"):
        build(config=config)


def test_dials_of_another_run_are_taken_back_unless_the_call_has_its_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # README: config.toml holds all settings, --config takes it back. Seed and size were left aside.
    config = tmp_path / "mine.toml"
    config.write_text('[run]\nmethod = "kd"\nseed = 3\nimage_size = 64\nprecision = "bf16"\n')
    given: dict[str, Any] = {"image_size": None, "seed": 0, "precision": None}
    assert run_defaults(config, **given) == RunDefaults(image_size=64, seed=0, precision="bf16")
    assert "image_size=64, precision=bf16 as in that run" in capsys.readouterr().err
    assert run_defaults(None, **given) == RunDefaults()
    assert capsys.readouterr().err == ""
    config.write_text("[run]\nseed = 1.5\n")
    with pytest.raises(ConfigError, match=r"mine\.toml: \[run\]: seed=1\.5 is not a whole number"):
        run_defaults(config, seed=None)


@pytest.mark.parametrize(
    "text", ["views.flip=2x", "training.workers=-1", "recipe.optimizer=adagrad"]
)
def test_value_that_does_not_fit_is_an_error(text: str) -> None:
    with pytest.raises(ConfigError, match=text.split(".")[1].split("=")[0]):
        build(text)
