"""`edgeseed pretrain`: how words become a call."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner

from edgeseed.cli._main import cli


def test_it_is_told_like_a_distillation(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[dict[str, Any]] = []

    def pretrain(**options: Any) -> Any:
        calls.append(options)
        return SimpleNamespace(
            method="moco", epochs=2, num_photos=9, seconds=1.0, device="cpu", loss=1.0, floor=None,
            images_per_second=18.0, knn=None, student="o/student.safetensors", networks={},
            out=Path("o"),
        )  # fmt: skip

    monkeypatch.setattr("edgeseed.distill.pretrain", pretrain)
    words = ["--method", "moco", "--model", "resnet50", "--data", "d", "--out", "o"]
    printed = CliRunner().invoke(cli, ["pretrain", *words])
    assert printed.exit_code == 0, printed.output
    assert calls[0]["method"] == "moco"
    assert calls[0]["model"] == "resnet50"
    assert printed.output.startswith("moco: 2 epochs of 9 photos in 1 s on cpu (18 images/s)\n")


def test_a_teacher_is_no_option_of_it() -> None:
    refused = CliRunner().invoke(cli, ["pretrain", "--teacher", "t", "--data", "d", "--out", "o"])
    assert refused.exit_code == 2
    assert "--teacher" in refused.output
