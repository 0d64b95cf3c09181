"""The quickstart's page: what training is worth, above the same network untrained."""

from types import SimpleNamespace
from typing import Any, cast

import pytest
from support.quickstart import trained

from edgeseed import _quickstart_report as report
from edgeseed.distill.evaluation.baseline import Baseline, BaselineMetric
from edgeseed.quickstart_result import QuickstartResult

LEVELS = {"knn-20": 82.8, "linear": 86.8}


@pytest.fixture
def result() -> QuickstartResult:
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
    return cast("QuickstartResult", found)


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
