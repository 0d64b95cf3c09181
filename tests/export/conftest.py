"""The tiny student's bundles, made once and copied for each test that damages one."""

import shutil
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from support.export import (
    CLASSES,
    save_tiny_student,
    tinted_photo,
    tiny_preprocess,
    tiny_student,
)

from edgeseed.core.network import StudentNetwork
from edgeseed.export import export


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    # The suite runs beside others: more threads would only wait for each other.
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def network() -> StudentNetwork:
    return tiny_student()


@pytest.fixture(scope="session")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("export")


@pytest.fixture(scope="session")
def photos(workplace: Path) -> Path:
    """Class folders with 16 photos each, of other seeds than the head was fitted on."""
    return save_photos(workplace / "photos", range(100, 116))


@pytest.fixture(scope="session")
def many_photos(workplace: Path) -> Path:
    """48 of each class, where one decision of the proof must not be three points."""
    return save_photos(workplace / "many_photos", range(300, 348))


def save_photos(root: Path, seeds: range) -> Path:
    for kind in CLASSES:
        (root / kind).mkdir(parents=True)
        for seed in seeds:
            tinted_photo(kind, seed).save(root / kind / f"{seed}.png")
    return root


@pytest.fixture(scope="session")
def student(workplace: Path, network: StudentNetwork) -> Path:
    return save_tiny_student(workplace / "student.safetensors", network)


@pytest.fixture(scope="session")
def made_fp32(workplace: Path, student: Path, photos: Path) -> Path:
    export(student, precision="fp32", calibration=photos, out=workplace / "fp32")
    return workplace / "fp32"


@pytest.fixture(scope="session")
def made_int8(workplace: Path, student: Path, photos: Path) -> Path:
    export(
        student,
        precision="int8",
        calibration=photos,
        out=workplace / "int8",
        min_agreement=0.9,  # one of 32 photos is 3 points, and CPUs train unlike students
        quantization={"max_float_layers": 0},
    )
    return workplace / "int8"


@pytest.fixture(scope="session")
def pixels() -> npt.NDArray[np.uint8]:
    """(40, 3, 32, 32) photos that no student was trained on."""
    photos = [tinted_photo(kind, seed) for seed in range(200, 210) for kind in CLASSES]
    return np.stack([tiny_preprocess().pixels(photo) for photo in photos])


@pytest.fixture
def fp32_bundle(made_fp32: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(made_fp32, tmp_path / "fp32"))


@pytest.fixture
def int8_bundle(made_int8: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(made_int8, tmp_path / "int8"))
