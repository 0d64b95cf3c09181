"""A tiny student that decides firmly, photos of four kinds, and its bundles, made once."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from edgeseed.core.network import StudentNetwork, build_student, save_student
from edgeseed.core.preprocess import Preprocess
from edgeseed.core.student import Architecture, StudentSpec
from edgeseed.export import export
from edgeseed.export.samples import synthetic_photo

SIZE = 32
CLASSES = ("blue", "green", "plain", "red")
_TINTS = {"blue": (0.3, 0.5, 1), "green": (0.3, 1, 0.4), "plain": (1, 1, 1), "red": (1, 0.4, 0.3)}


def preprocess() -> Preprocess:
    return Preprocess(image_size=SIZE, resize=36, interpolation="bicubic")


def tinted_photo(kind: str, seed: int) -> Image.Image:
    field = np.asarray(synthetic_photo(44, seed=seed)).astype(np.float32)
    return Image.fromarray((field * np.array(_TINTS[kind], np.float32)).astype(np.uint8))


def lively(network: StudentNetwork, pixels: np.ndarray) -> StudentNetwork:
    """Gives batch norms scales that differ, and the statistics of real inputs, as training would."""
    generator = torch.Generator().manual_seed(0)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.5, 1.5, generator=generator)
            torch.nn.init.normal_(module.bias, 0.0, 0.2, generator=generator)
            module.momentum = None
            module.reset_running_stats()
    network.train()
    with torch.no_grad():
        network(torch.from_numpy(preprocess().normalize(pixels)))
    return network.eval()


def train(network: StudentNetwork, pixels: np.ndarray, labels: np.ndarray) -> None:
    """A few steps, so that the decisions are firm: what quantization loses must not tip them over."""
    images = torch.from_numpy(preprocess().normalize(pixels))
    targets = torch.from_numpy(labels)
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    network.train()
    for _ in range(40):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(network(images).logits, targets).backward()
        optimizer.step()
    network.eval()


def build_tiny(
    name: str = "test_efficientnet", *, head: bool = True, **kwargs: object
) -> StudentNetwork:
    torch.manual_seed(0)
    architecture = Architecture(name=name, kwargs=dict(kwargs))
    network = build_student(architecture, num_classes=len(CLASSES) if head else None)
    photos = [(kind, seed) for seed in range(16) for kind in CLASSES]
    pixels = np.stack([preprocess().pixels(tinted_photo(kind, seed)) for kind, seed in photos])
    lively(network, pixels)
    if head:
        train(network, pixels, np.array([CLASSES.index(kind) for kind, _ in photos]))
    return network


def save_tiny(
    path: Path, network: StudentNetwork, name: str = "test_efficientnet", **kwargs: object
) -> Path:
    spec = StudentSpec(
        architecture=Architecture(name=name, kwargs=dict(kwargs)),
        preprocess=preprocess(),
        embedding_dim=network.embedding_dim,
        classes=None if network.head is None else CLASSES,
    )
    save_student(path, network, spec)
    return path


@pytest.fixture(scope="session")
def network() -> StudentNetwork:
    return build_tiny()


@pytest.fixture(scope="session")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("export")


@pytest.fixture(scope="session")
def photos(workplace: Path) -> Path:
    """Class folders with 16 photos each, of other seeds than the head was fitted on."""
    root = workplace / "photos"
    for kind in CLASSES:
        (root / kind).mkdir(parents=True)
        for seed in range(100, 116):
            tinted_photo(kind, seed).save(root / kind / f"{seed}.png")
    return root


@pytest.fixture(scope="session")
def student(workplace: Path, network: StudentNetwork) -> Path:
    return save_tiny(workplace / "student.safetensors", network)


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
        quantization={"max_float_layers": 0},
    )
    return workplace / "int8"


def _copier(made: Path, tmp_path: Path) -> Callable[[], Path]:
    def copy() -> Path:
        shutil.copytree(made, tmp_path / made.name)
        return tmp_path / made.name

    return copy


@pytest.fixture
def fp32_bundle(made_fp32: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return _copier(made_fp32, tmp_path)()


@pytest.fixture
def int8_bundle(made_int8: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return _copier(made_int8, tmp_path)()
