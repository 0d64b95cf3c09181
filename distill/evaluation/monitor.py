"""kNN accuracy while a run goes on, so that "is it learning?" has an answer.

A monitor on a few thousand photos, not the protocol of `evaluate`: without a test split of its own
the set lends photos for queries that the student has seen (never their labels).
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from edgeseed.core.errors import DataError
from edgeseed.core.photos import PhotoSet
from edgeseed.distill.data.views import uniforms
from edgeseed.distill.evaluation.knn import knn_accuracy
from edgeseed.distill.method import Method
from edgeseed.distill.networks.frozen import Student
from edgeseed.distill.networks.inference import PreparedPhotos, embed_prepared, prepare

K = 20
TEMPERATURE = 0.07
_MAX_BANK, _MAX_QUERIES = 5000, 1000
_QUERY_SHARE = 0.2


class KnnScore:
    """Measures the first network of a method.

    Args:
        photos: The training photos, with labels.

    Raises:
        DataError: If there are no labels.
    """

    def __init__(self, photos: PhotoSet) -> None:
        if photos.labels is None:
            raise DataError(f"kNN accuracy needs labels, and {photos.name} has none")
        test = photos.test()
        shuffled = np.argsort(uniforms(0, np.arange(len(photos)), count=1)[:, 0])
        if test is None or test.labels is None:
            num_queries = min(_MAX_QUERIES, max(1, int(len(photos) * _QUERY_SHARE)))
            self._queries = photos.subset(shuffled[:num_queries])
            shuffled = shuffled[num_queries:]
        else:
            order = np.argsort(uniforms(0, np.arange(len(test)), count=1)[:, 0])
            self._queries = test.subset(order[:_MAX_QUERIES])
        self._bank = photos.subset(shuffled[:_MAX_BANK])
        self._prepared: tuple[PreparedPhotos, PreparedPhotos] | None = None

    def __call__(self, method: Method[Any]) -> dict[str, float]:
        """Embeds bank and queries; the method is in eval mode."""
        student = next(iter(method.networks().values()))
        if self._prepared is None:
            self._prepared = (
                prepare(self._bank, student.preprocess), prepare(self._queries, student.preprocess),
            )  # fmt: skip
        bank, queries = self._prepared
        accuracy = knn_accuracy(
            _embed(student, bank), _labels(bank), _embed(student, queries), _labels(queries),
            k=K, temperature=TEMPERATURE,
        )  # fmt: skip
        return {
            "knn": accuracy,
            "knn_k": K,
            "knn_temperature": TEMPERATURE,
            "knn_train_photos": len(bank.photos),
            "knn_test_photos": len(queries.photos),
        }


def _embed(student: Student, prepared: PreparedPhotos) -> Tensor:
    return embed_prepared(
        student.network, prepared, preprocess=student.preprocess, device=student.input.mean.device
    )


def _labels(prepared: PreparedPhotos) -> Tensor:
    labels = prepared.photos.labels
    assert labels is not None
    return torch.from_numpy(labels.copy())
