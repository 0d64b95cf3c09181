"""An accuracy with everything that makes it comparable."""

import json

import pytest
import torch

from edgeseed.distill.evaluation.metric import Metric, make_metric


def metric(num_classes: int, *, right: int = 15, n: int = 20) -> Metric:
    """Of `n` photos, the first `right` have the best score for their class."""
    labels = torch.arange(n) % num_classes
    guesses = torch.where(torch.arange(n) < right, labels, (labels + 1) % num_classes)
    return make_metric(
        "linear", torch.nn.functional.one_hot(guesses, num_classes).float(), labels,
        num_train=100, protocol="linear-1", settings={"lrs": (0.1, 0.2)},
    )  # fmt: skip


def test_the_share_of_right_first_guesses_has_its_standard_error() -> None:
    found = metric(10)
    assert found.top1_percent == 75
    # The root of p (1 - p) / n.
    assert found.standard_error_percent == pytest.approx(9.682, abs=1e-3)
    assert (found.n, found.num_train, found.num_classes) == (20, 100, 10)


@pytest.mark.parametrize(("num_classes", "has_top5"), [(2, False), (5, False), (6, True)])
def test_five_guesses_count_only_where_there_are_more_classes(
    num_classes: int, has_top5: bool
) -> None:
    found = metric(num_classes)
    assert (found.top5_percent is not None) is has_top5
    if found.top5_percent is not None:
        assert found.top5_percent >= found.top1_percent


def test_it_is_json_with_its_settings() -> None:
    values = json.loads(json.dumps(metric(10).to_dict()))
    assert values["settings"] == {"lrs": [0.1, 0.2]}
    assert values["protocol"] == "linear-1"
    assert values["detail"] == {}
