"""`edgeseed distill`: what is printed of a run."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner

from edgeseed.cli._main import cli
from edgeseed.cli.distill import training_text


def run(**changes: Any) -> Any:
    student = Path("o/student.safetensors")
    values = {
        "method": "regress", "epochs": 3, "num_photos": 500, "seconds": 61.7, "device": "cpu",
        "images_per_second": 24.4, "loss": 0.5, "floor": None, "knn": None, "student": student,
        "networks": {"student": student}, "out": Path("o"), **changes,
    }  # fmt: skip
    return SimpleNamespace(**values)


def test_a_run_is_told_with_its_speed_loss_and_files() -> None:
    assert training_text(run()) == (
        "regress: 3 epochs of 500 photos in 62 s on cpu (24 images/s)\n"
        "loss 0.5000\n"
        "student: o/student.safetensors\n"
        "curves:  o/curves.svg"
    )


def test_what_only_some_runs_have_is_told_of_those() -> None:
    peer = Path("o/peer.safetensors")
    networks = {"student": Path("o/student.safetensors"), "peer": peer}
    text = training_text(
        run(epochs=1, floor=0.25, knn=0.875, networks=networks, images_per_second=1.234)
    )
    assert "1 epoch of" in text
    assert "(1.2 images/s)" in text
    assert "loss 0.5000 (it cannot be below 0.2500), kNN accuracy 87.50%" in text
    assert "\npeer:    o/peer.safetensors\n" in text


def test_words_become_the_arguments_of_the_call(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[dict[str, Any]] = []

    def distill(**options: Any) -> Any:
        calls.append(options)
        return run()

    monkeypatch.setattr("edgeseed.distill.distill", distill)
    words = ["--teacher", "t", "--student", "s", "--data", "d", "--out", "o", "--set", "a=1"]
    printed = CliRunner().invoke(cli, ["distill", *words, "--drop-se", "--set", "views.flip=0"])
    assert printed.exit_code == 0, printed.output
    assert calls[0]["teacher"] == "t"
    assert calls[0]["drop_se"] is True
    assert list(calls[0]["settings"]) == ["a=1", "views.flip=0"]
    assert calls[0]["resume"] is False


def test_of_several_processes_the_first_prints(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgeseed.distill.distill", lambda **_: run())
    words = ["distill", "--student", "s", "--data", "d", "--out", "o"]
    monkeypatch.setenv("RANK", "1")
    assert CliRunner().invoke(cli, words).stdout == ""
    monkeypatch.setenv("RANK", "0")
    assert CliRunner().invoke(cli, words).stdout.startswith("regress: 3 epochs")
