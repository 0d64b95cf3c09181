"""A run's folder: who may begin there, and what must be the same to go on."""

from pathlib import Path
from typing import Any

import pytest

from edgeseed.core.errors import ConfigError, UsageError
from edgeseed.distill.training.run_folder import RunFolder

CONFIG: dict[str, Any] = {
    "run": {"method": "seed", "devices": "cpu"},
    "recipe": {"epochs": 10, "lr": 0.1},
    "training": {"workers": 2},
}
INPUTS: dict[str, Any] = {
    "photos": {"name": "photos/", "num_photos": 24, "fingerprint": "a" * 64},
    "teacher": {"name": "t", "weights": "b" * 64},
}


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    run = RunFolder(tmp_path / "run")
    run.check_free()
    run.start(CONFIG, INPUTS)
    return run


def changed(values: dict[str, Any], section: str, **changes: Any) -> dict[str, Any]:
    return {**values, section: {**values[section], **changes}}


def test_a_run_that_saved_nothing_gives_way(folder: RunFolder) -> None:
    folder.log({"kind": "steps", "step": 1, "loss": 1.0})
    folder.close()
    folder.check_free()
    folder.start(changed(CONFIG, "recipe", lr=0.2), INPUTS)
    assert folder.records() == []
    assert folder.settings_before()["recipe"]["lr"] == 0.2


@pytest.mark.parametrize("name", ["state.pt", "best.safetensors", "notes.txt"])
def test_a_run_that_saved_something_does_not(folder: RunFolder, name: str) -> None:
    (folder.path / name).write_bytes(b"x")
    with pytest.raises(UsageError, match="exists and is not empty"):
        folder.check_free()


def test_a_folder_of_something_else_is_never_taken(tmp_path: Path) -> None:
    # These names are also those of other programs' files.
    (tmp_path / "metrics.jsonl").write_text("{}\n")
    (tmp_path / "config.toml").write_text("mine = true\n")
    with pytest.raises(UsageError, match="exists and is not empty"):
        RunFolder(tmp_path).check_free()


def test_what_touches_no_result_may_change(folder: RunFolder) -> None:
    config = changed(changed(CONFIG, "run", devices="cuda"), "training", workers=0)
    folder.check_settings(config, may_be_longer=False)


def test_more_epochs_may_be_allowed_fewer_never(folder: RunFolder) -> None:
    folder.check_settings(changed(CONFIG, "recipe", epochs=20), may_be_longer=True)
    with pytest.raises(ConfigError, match="only runs of distill and pretrain"):
        folder.check_settings(changed(CONFIG, "recipe", epochs=20), may_be_longer=False)
    with pytest.raises(ConfigError, match=r"recipe\.epochs=10, now it is 5"):
        folder.check_settings(changed(CONFIG, "recipe", epochs=5), may_be_longer=True)


def test_inputs_may_lie_elsewhere_and_must_be_the_same(folder: RunFolder) -> None:
    folder.check_inputs(changed(INPUTS, "photos", name="moved/"))
    with pytest.raises(ConfigError, match="its photos had num photos 24, now 25"):
        folder.check_inputs(changed(INPUTS, "photos", num_photos=25))
    with pytest.raises(ConfigError, match="its teacher had weights bbbbbbbb…, now none"):
        folder.check_inputs({"photos": INPUTS["photos"]})
    both = changed(changed(INPUTS, "photos", num_photos=25), "teacher", weights="c" * 64)
    with pytest.raises(ConfigError, match=r"its photos had .*; its teacher had weights"):
        folder.check_inputs(both)


def test_a_folder_without_a_run_cannot_be_resumed(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds no run to resume"):
        RunFolder(tmp_path).settings_before()
