"""The quickstart: what it runs, and the commands that it prints."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from support.quickstart import trained

from edgeseed import quickstart
from edgeseed.distill.evaluation.evaluate import EvaluationResult


def test_the_command_that_is_printed_measures_the_untrained_network_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[dict[str, Any]] = []

    def evaluate(student: Any, **options: Any) -> EvaluationResult:
        calls.append(options)
        measured: EvaluationResult = trained("x", linear=90.0).evaluation
        return measured

    monkeypatch.setattr(quickstart, "evaluate", evaluate)
    made = quickstart._Quickstart(tmp_path, seed=4, plan=quickstart.QuickstartPlan())
    run = cast(Any, SimpleNamespace(student="s.safetensors", seconds=1.0, epochs=1))
    made._evaluated("student", "net, distilled", run, is_student=True)
    made._evaluated("alone", "net alone", run)
    assert [call["baseline"] for call in calls] == ["untrained", None]
    assert "--baseline untrained --baseline-seeds 3" in made.commands[0]
