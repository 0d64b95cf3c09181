"""`edgeseed evaluate`: the table of what was measured."""

import json
from typing import Any

import pytest
from click.testing import CliRunner

from edgeseed.cli._main import cli
from edgeseed.core.preprocess import Preprocess
from edgeseed.distill.evaluation.baseline import Baseline, BaselineMetric
from edgeseed.distill.evaluation.evaluate import EvaluationResult
from edgeseed.distill.evaluation.metric import Metric

METRICS = tuple(
    Metric(
        name=name, top1_percent=top1, top5_percent=None, standard_error_percent=1.25, n=450,
        num_train=1347, num_classes=10, protocol=name, settings={},
    )
    for name, top1 in (("knn-20", 90.0), ("linear", 94.5))
)  # fmt: skip
BASELINE = Baseline(
    name="untrained", network="net", seeds=(0, 1),
    metrics=(
        BaselineMetric(
            name="knn-20", values_percent=(80.0, 82.0), mean_percent=81.0, sd_percent=1.0,
            gain_points=9.0,
        ),
    ),
)  # fmt: skip


def printed(monkeypatch: pytest.MonkeyPatch, *words: str, **changes: Any) -> str:
    values: dict[str, Any] = {
        "network": "net", "weights_digest": "", "data": "digits", "train_fingerprint": "",
        "test_fingerprint": "", "split": "its own test split", "seed": 0, "metrics": METRICS,
        "preprocess": Preprocess(image_size=32, resize=32), "environment": {}, **changes,
    }  # fmt: skip
    monkeypatch.setattr("edgeseed.distill.evaluate", lambda **_: EvaluationResult(**values))
    result = CliRunner().invoke(cli, ["evaluate", "s", "--data", "digits", *words])
    assert result.exit_code == 0, result.output
    return result.output


def test_each_protocol_is_a_row_with_its_error_and_its_photos(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lines = printed(monkeypatch).splitlines()
    assert lines[0] == "net on digits, tested on its own test split"
    assert lines[1].split() == ["protocol", "top-1", "s.e.", "labels", "n"]
    assert lines[2].split() == ["knn-20", "90.00", "%", "±", "1.25", "1347", "450"]
    assert len(lines) == 4


def test_the_untrained_network_stands_beside_what_it_was_measured_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lines = printed(monkeypatch, baseline=BASELINE).splitlines()
    assert lines[1].split()[-3:] == ["untrained", "above", "it"]
    assert lines[2].endswith("81.00 ± 1.00 %  +9.00")
    assert lines[3].split()[-2:] == ["1347", "450"]
    assert lines[4] == "untrained: net with fresh weights, seeds 0, 1"


def test_photos_that_were_left_out_and_a_classifier_are_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    text = printed(monkeypatch, num_broken=2, classifier="c.safetensors")
    assert "left out: 2 photos that cannot be read\nclassifier: c.safetensors\n" in text


def test_json_is_the_result_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    value = json.loads(printed(monkeypatch, "--json"))
    assert [metric["name"] for metric in value["metrics"]] == ["knn-20", "linear"]
