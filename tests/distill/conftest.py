"""Photos and networks that are small enough to train on in a second."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from support.distill import IMAGE_SIZE, tiny_student

from edgeseed.core.network import save_student
from edgeseed.core.preprocess import Preprocess
from edgeseed.core.student import StudentSpec

MakePhotos = Callable[..., Path]


@pytest.fixture(autouse=True)
def one_thread() -> None:
    # The suite runs beside others: more threads would only wait for each other.
    torch.set_num_threads(1)


@pytest.fixture
def make_photos(tmp_path: Path) -> MakePhotos:
    """Writes noisy photos whose colour tells their class: `make_photos(24, classes=2)`."""
    return photos_in(tmp_path)


@pytest.fixture(scope="session")
def kept_photos(tmp_path_factory: pytest.TempPathFactory) -> MakePhotos:
    """The same, for fixtures of many tests."""
    return photos_in(tmp_path_factory.mktemp("kept"))


def photos_in(place: Path) -> MakePhotos:
    def make(
        count: int, *, classes: int = 0, size: tuple[int, int] = (36, 32), name: str = "photos"
    ) -> Path:
        rng = np.random.default_rng(0)
        root = place / name
        for index in range(count):
            folder = root / f"class{index % classes}" if classes else root
            folder.mkdir(parents=True, exist_ok=True)
            pixels = rng.integers(0, 120, (size[1], size[0], 3))
            if classes:
                pixels[:, :, index % classes % 3] += 120
            Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{index:03}.png")
        return root

    return make


@pytest.fixture(scope="session")
def teacher_file(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A student file with random weights, as a teacher."""
    student = tiny_student("test_resnet", seed=1)
    path = tmp_path_factory.mktemp("teacher") / "teacher.safetensors"
    spec = StudentSpec(
        architecture=student.architecture,
        preprocess=Preprocess(image_size=IMAGE_SIZE, resize=IMAGE_SIZE),
        embedding_dim=student.embedding_dim,
    )
    save_student(path, student.network, spec)
    return str(path)
