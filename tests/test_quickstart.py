"""The quickstart's page: what training is worth, above the same network untrained."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from edgeseed import _quickstart_report as report
from edgeseed import quickstart
from edgeseed.core.preprocess import Preprocess
from edgeseed.distill.evaluation.baseline import Baseline, BaselineMetric
from edgeseed.distill.evaluation.evaluate import EvaluationResult, Metric

LEVELS = {"knn-20": 82.8, "linear": 86.8}


def metric(name: str, top1_percent: float) -> Metric:
    return Metric(
        name=name, top1_percent=top1_percent, top5_percent=None, standard_error_percent=1.0, n=450,
        num_train=1347, num_classes=10, protocol="p", settings={},
    )  # fmt: skip


def trained(name: str, baseline: Baseline | None = None, **top1: float) -> quickstart.Trained:
    evaluation = EvaluationResult(
        network=name, weights_digest="", data="digits", train_fingerprint="", test_fingerprint="",
        split="", seed=0, preprocess=Preprocess(image_size=32, resize=32), environment={},
        metrics=tuple(metric(key.replace("_", "-"), value) for key, value in top1.items()),
        baseline=baseline,
    )  # fmt: skip
    return quickstart.Trained(
        name=name, what=f"net, {name}", seconds=40, epochs=3, evaluation=evaluation
    )


@pytest.fixture
def result() -> quickstart.QuickstartResult:
    """The alone student is below the untrained network by kNN-20 and above it by the probe."""
    baseline = Baseline(
        name="untrained", network="net", seeds=(0, 1, 2),
        metrics=tuple(
            BaselineMetric(name=name, values_percent=(level,) * 3, mean_percent=level,
                           sd_percent=0.5, gain_points=0.0)
            for name, level in LEVELS.items()
        ),
    )  # fmt: skip
    found = SimpleNamespace(
        teacher=trained("teacher", knn_20=94.8, linear=97.0),
        student=trained("student", baseline, knn_20=90.0, linear=90.4),
        alone=trained("alone", knn_20=77.8, linear=87.8),
    )
    return cast("quickstart.QuickstartResult", found)


def test_the_table_has_a_row_for_the_network_untrained(result: Any) -> None:
    markup = report._accuracies(result).markup
    assert "net, untrained" in markup
    assert "82.8 %" in markup
    assert "86.8 %" in markup
    assert "3 seeds" in markup


def test_the_teachers_worth_is_said_above_the_untrained_network(result: Any) -> None:
    text = report._worth(result)
    assert "With the teacher it rose by +7.2, +3.6 points (knn-20, linear)" in text
    assert "alone by -5.0, +1.0" in text


def test_the_chart_shows_the_untrained_level_even_below_all_trained_ones(result: Any) -> None:
    items = (result.student, result.alone, result.teacher)
    drawn = report._dots(items, 60.0, 600).render()
    assert 'class="limit"' in drawn
    assert "untrained: 60.0 %" in drawn


def test_the_command_that_is_printed_measures_the_untrained_network_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[dict[str, Any]] = []

    def evaluate(student: Any, **options: Any) -> EvaluationResult:
        calls.append(options)
        return trained("x", linear=90.0).evaluation

    monkeypatch.setattr(quickstart, "evaluate", evaluate)
    made = quickstart._Quickstart(tmp_path, seed=4, plan=quickstart.QuickstartPlan())
    run = cast(Any, SimpleNamespace(student="s.safetensors", seconds=1.0, epochs=1))
    made._evaluated("student", "net, distilled", run, is_student=True)
    made._evaluated("alone", "net alone", run)
    assert [call["baseline"] for call in calls] == ["untrained", None]
    assert "--baseline untrained --baseline-seeds 3" in made.commands[0]
