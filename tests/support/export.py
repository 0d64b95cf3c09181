"""A tiny student that decides firmly, and photos of four kinds, for tests."""

import copy
import functools
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from edgeseed.core.network import StudentNetwork, build_student, save_student
from edgeseed.core.preprocess import Preprocess
from edgeseed.core.student import Architecture, StudentSpec
from edgeseed.export.samples import synthetic_photo

SIZE = 32
CLASSES = ("blue", "green", "plain", "red")
_TINTS = {"blue": (0.3, 0.5, 1), "green": (0.3, 1, 0.4), "plain": (1, 1, 1), "red": (1, 0.4, 0.3)}


def tiny_preprocess() -> Preprocess:
    """A resize that is not the identity, so that its mode matters."""
    return Preprocess(image_size=SIZE, resize=36, interpolation="bicubic")


def tinted_photo(kind: str, seed: int) -> Image.Image:
    """A photo of one of `CLASSES`."""
    field = np.asarray(synthetic_photo(44, seed=seed)).astype(np.float32)
    return Image.fromarray((field * np.array(_TINTS[kind], np.float32)).astype(np.uint8))


def lively(network: StudentNetwork, pixels: npt.NDArray[np.uint8]) -> StudentNetwork:
    """Gives batch norms scales that differ, and the statistics of real inputs."""
    generator = torch.Generator().manual_seed(0)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.5, 1.5, generator=generator)
            torch.nn.init.normal_(module.bias, 0.0, 0.2, generator=generator)
            module.momentum = None
            module.reset_running_stats()
    network.train()
    with torch.no_grad():
        network(torch.from_numpy(tiny_preprocess().normalize(pixels)))
    return network.eval()


def train(
    network: StudentNetwork, pixels: npt.NDArray[np.uint8], labels: npt.NDArray[np.int64]
) -> None:
    """A few steps, so that the decisions are too firm for quantization to tip over."""
    images = torch.from_numpy(tiny_preprocess().normalize(pixels))
    targets = torch.from_numpy(labels)
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    network.train()
    for _ in range(40):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(network(images).logits, targets).backward()
        optimizer.step()
    network.eval()


def tiny_student(
    name: str = "test_efficientnet", *, head: bool = True, trained: bool = True, **kwargs: Any
) -> StudentNetwork:
    """A timm network in evaluation mode, of the test's own to change.

    Args:
        name: Of the timm architecture.
        head: Whether it has a head for `CLASSES`.
        trained: Whether it is trained for a second to tell them apart (with a head only).
        **kwargs: For timm.
    """
    network, random_state = _tiny_student(name, head, trained, tuple(kwargs.items()))
    # As if it had been made just now: some tests draw numbers afterwards.
    torch.set_rng_state(random_state)
    return copy.deepcopy(network)


@functools.cache  # a dozen tests ask for the same one, and each would train it for a second
def _tiny_student(
    name: str, head: bool, trained: bool, kwargs: tuple[tuple[str, Any], ...]
) -> tuple[StudentNetwork, torch.Tensor]:
    torch.manual_seed(0)
    architecture = Architecture(name=name, kwargs=dict(kwargs))
    network = build_student(architecture, num_classes=len(CLASSES) if head else None)
    photos = [(kind, seed) for seed in range(16) for kind in CLASSES]
    pixels = np.stack([tiny_preprocess().pixels(tinted_photo(kind, seed)) for kind, seed in photos])
    lively(network, pixels)
    if head and trained:
        train(network, pixels, np.array([CLASSES.index(kind) for kind, _ in photos]))
    return network, torch.get_rng_state()


def save_tiny_student(
    path: Path, network: StudentNetwork, name: str = "test_efficientnet", **kwargs: Any
) -> Path:
    """Writes a student file; `name` and `kwargs` as for `tiny_student`."""
    spec = StudentSpec(
        architecture=Architecture(name=name, kwargs=dict(kwargs)),
        preprocess=tiny_preprocess(),
        embedding_dim=network.embedding_dim,
        classes=None if network.head is None else CLASSES,
    )
    save_student(path, network, spec)
    return path
