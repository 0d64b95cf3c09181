"""`edgeseed gallery`: what is printed of a gallery."""

from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner

from edgeseed.cli._main import cli


def test_accuracy_and_threshold_are_told_with_their_photos(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls: list[dict[str, Any]] = []

    def gallery(**options: Any) -> Any:
        calls.append(options)
        return SimpleNamespace(
            gallery="g.bin", num_entries=15, num_classes=3, embedding_dim=64, num_held_out=1,
            accuracy=0.9, threshold=0.5, accepted=0.8, accepted_accuracy=0.95,
            unknown_rejected=0.7,
        )  # fmt: skip

    monkeypatch.setattr("edgeseed.export.gallery", gallery)
    printed = CliRunner().invoke(cli, ["gallery", "s", "--data", "d", "--out", "g.bin"])
    assert printed.exit_code == 0
    assert calls == [
        {"model": "s", "data": "d", "out": "g.bin", "per_class": 5, "max_held_out": 1000, "seed": 0}
    ]
    assert printed.output == (
        "g.bin: 15 photos of 3 classes, 64 values each\n"
        "  on 1 photo not in it: 90.0% right\n"
        "  threshold 0.5000: accepts 80.0% of them, 95.0% of those right;\n"
        "  rejects 70.0% where their class is taken out of the gallery\n"
    )
