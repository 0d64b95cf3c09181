"""`edgeseed finetune`: how words become a call, and what is printed of the classifier."""

from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner

from edgeseed.cli._main import cli


@pytest.mark.parametrize(("epochs", "passes"), [(1, "1 pass in"), (60, "60 passes in")])
def test_accuracy_is_told_with_its_photos_and_labels(
    monkeypatch: pytest.MonkeyPatch, epochs: int, passes: str
) -> None:
    calls: list[dict[str, Any]] = []

    def finetune(**options: Any) -> Any:
        calls.append(options)
        return SimpleNamespace(
            num_labels=50, labels="5pc", epochs=epochs, seconds=12.3,
            metric=SimpleNamespace(top1_percent=71.25, n=400), split="held out",
            student="o/student.safetensors",
        )  # fmt: skip

    monkeypatch.setattr("edgeseed.distill.finetune", finetune)
    words = ["s.safetensors", "--data", "d", "--labels", "5pc", "--out", "o", "--projection"]
    printed = CliRunner().invoke(cli, ["finetune", *words])
    assert printed.exit_code == 0, printed.output
    assert calls[0]["labels"] == "5pc"
    assert calls[0]["projection"] is True
    assert printed.output == (
        f"50 labels (5pc), {passes} 12 s: top-1 71.25 % (n=400, held out)\n"
        "classifier: o/student.safetensors\n"
    )
