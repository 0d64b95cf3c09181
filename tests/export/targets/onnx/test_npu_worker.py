"""The worker that runs photos on the simulated NPU, with a session that stands in for it."""

import dataclasses
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from edgeseed.export.targets.onnx import npu_worker


@dataclasses.dataclass
class FakeValue:
    name: str
    shape: list[int | str]


class FakeSession:
    """Doubles the mean of each photo."""

    def __init__(self, batch: int | str) -> None:
        self.batch, self.sizes = batch, list[int]()

    def get_inputs(self) -> list[FakeValue]:
        return [FakeValue("image", [self.batch, 3, 4, 4])]

    def get_outputs(self) -> list[FakeValue]:
        return [FakeValue("embedding", [self.batch, 1])]

    def run(self, names: list[str], feeds: dict[str, Any]) -> list[npt.NDArray[np.float32]]:
        assert names == ["embedding"]
        self.sizes.append(len(feeds["image"]))
        return [2 * feeds["image"].mean(axis=(1, 2, 3))[:, None]]


@pytest.mark.parametrize("batch", [1, 2, 4, "batch"])
def test_the_worker_runs_photos_in_the_batch_of_the_file(batch: int | str) -> None:
    pixels = np.arange(5, dtype=np.uint8)[:, None, None, None] * np.ones((1, 3, 4, 4), np.uint8)
    session = FakeSession(batch)
    found = npu_worker.run(session, pixels, seconds=60)
    assert found["embedding"].ravel().tolist() == [0, 2, 4, 6, 8]
    assert set(session.sizes) == {batch if isinstance(batch, int) else 1}


def test_the_worker_begins_no_photo_when_its_time_is_over() -> None:
    found = npu_worker.run(FakeSession(1), np.ones((5, 3, 4, 4), np.uint8), seconds=-1)
    assert len(found["embedding"]) == 1
