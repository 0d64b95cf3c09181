"""`edgeseed quickstart`: what is printed at its end."""

from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner

from edgeseed.cli._main import cli
from edgeseed.quickstart_result import commands_for_own_photos


def evaluation(percent: float, baseline: Any = None) -> Any:
    return SimpleNamespace(
        metric=lambda name: SimpleNamespace(top1_percent={"linear": percent}[name]),
        baseline=baseline,
    )


def test_three_accuracies_the_report_and_the_next_commands_are_printed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    untrained = SimpleNamespace(metric=lambda name: SimpleNamespace(mean_percent=86.8))
    result = SimpleNamespace(
        seconds=187.4, report="o/report.html",
        student=SimpleNamespace(evaluation=evaluation(90.4, untrained)),
        alone=SimpleNamespace(evaluation=evaluation(79.7)),
    )  # fmt: skip
    calls: list[dict[str, Any]] = []

    def quickstart(**options: Any) -> Any:
        calls.append(options)
        return result

    monkeypatch.setattr("edgeseed.quickstart.quickstart", quickstart)
    printed = CliRunner().invoke(cli, ["quickstart", "--out", "o", "--seed", "3"]).output
    assert calls == [{"out": "o", "seed": 3}]
    assert (
        "done in 187 s: the distilled student has 90.4 % top-1 by a linear probe, the same network "
        "without a teacher 79.7 %, untrained 86.8 %\nreport: o/report.html\n" in printed
    )
    assert all(command in printed for command in commands_for_own_photos())
