"""The picture of a run."""

from pathlib import Path
from xml.etree import ElementTree

import pytest

from edgeseed.distill.training.curves import draw_curves


@pytest.mark.parametrize("knn", [False, True])
def test_curves_have_a_panel_for_loss_and_one_for_knn_where_it_was_measured(
    tmp_path: Path, knn: bool
) -> None:
    records = [
        {"kind": "epoch", "epoch": 1.0, "step": 3, "loss": 2.0, "floor": 1.0},
        {"kind": "steps", "epoch": 1.3, "step": 4, "loss": 1.9},
        {"kind": "epoch", "epoch": 2.0, "step": 6, "loss": 1.5, "floor": 1.0},
    ]
    if knn:
        records[2]["knn"] = 0.5
    draw_curves(tmp_path / "curves.svg", records)
    picture = ElementTree.parse(tmp_path / "curves.svg").getroot()
    labels = [each.get("aria-label") for each in picture if each.get("role") == "group"]
    assert labels[0] == "Loss. from 2 to 1.5"
    assert labels[1:] == (["kNN accuracy. from 50.0 % to 50.0 %"] if knn else [])


def test_nothing_is_drawn_before_the_first_epoch_is_over(tmp_path: Path) -> None:
    draw_curves(tmp_path / "curves.svg", [])
    assert not (tmp_path / "curves.svg").exists()
