"""kNN accuracy while a run goes on."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from support.distill import tiny_inputs

from edgeseed.core.errors import DataError
from edgeseed.core.photos import open_photos
from edgeseed.distill.evaluation.monitor import KnnScore
from edgeseed.distill.methods.regress import Regress, RegressConfig

MakePhotos = Callable[..., Path]


def method() -> Regress:
    torch.manual_seed(0)
    return Regress(RegressConfig(), tiny_inputs(Regress)).eval()


def test_photos_that_differ_in_colour_are_classified(make_photos: MakePhotos) -> None:
    score = KnnScore(open_photos(make_photos(60, classes=3), labels=True))
    result = score(method())
    assert result["knn"] > 0.8
    assert (result["knn_train_photos"], result["knn_test_photos"]) == (48, 12)
    assert score(method()) == result


def test_no_photo_is_both_known_and_asked_for(make_photos: MakePhotos) -> None:
    score = KnnScore(open_photos(make_photos(40, classes=2), labels=True))
    assert not set(score._bank.indices.tolist()) & set(score._queries.indices.tolist())


def test_own_test_split_is_used_where_a_set_has_one() -> None:
    score = KnnScore(open_photos("digits"))
    assert score._queries.name == "digits:test"


def test_photos_without_labels_are_refused(make_photos: MakePhotos) -> None:
    with pytest.raises(DataError, match="needs labels"):
        KnnScore(open_photos(make_photos(6)))
