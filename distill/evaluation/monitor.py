"""kNN accuracy while a run goes on, so that "is it learning?" has an answer.

A monitor on a few thousand photos, not the protocol of `evaluate`: without a test split of its own
the set lends photos for queries that the student has seen (never their labels).
"""

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from edgeseed.core.errors import DataError
from edgeseed.core.photos import PhotoSet
from edgeseed.distill.data.views import uniforms
from edgeseed.distill.evaluation.knn import knn_accuracy
from edgeseed.distill.method import Method
from edgeseed.distill.networks.frozen import Student

K = 20
TEMPERATURE = 0.07
_MAX_BANK, _MAX_QUERIES = 5000, 1000
_QUERY_SHARE = 0.2
_BATCH = 256


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
        self._pixels: tuple[Tensor, Tensor] | None = None

    def __call__(self, method: Method[Any]) -> dict[str, float]:
        """Embeds bank and queries; the method is in eval mode."""
        student = next(iter(method.networks().values()))
        if self._pixels is None:
            self._pixels = _pixels(self._bank, student), _pixels(self._queries, student)
        bank, queries = (_embed(student, pixels) for pixels in self._pixels)
        accuracy = knn_accuracy(
            bank, _labels(self._bank), queries, _labels(self._queries), k=K, temperature=TEMPERATURE
        )
        return {
            "knn": accuracy,
            "knn_k": K,
            "knn_temperature": TEMPERATURE,
            "knn_train_photos": len(self._bank),
            "knn_test_photos": len(self._queries),
        }


def _pixels(photos: PhotoSet, student: Student) -> Tensor:
    crops: list[npt.NDArray[np.uint8]] = [
        student.preprocess.pixels(photos.image(index)) for index in range(len(photos))
    ]
    return torch.from_numpy(np.stack(crops))


@torch.no_grad()
def _embed(student: Student, pixels: Tensor) -> Tensor:
    device = student.input.mean.device
    return torch.cat(
        [
            student(part.to(device).float() / 255).embedding.cpu()
            for part in torch.split(pixels, _BATCH)
        ]
    )


def _labels(photos: PhotoSet) -> Tensor:
    assert photos.labels is not None
    return torch.from_numpy(photos.labels.copy())
