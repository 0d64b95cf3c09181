"""What `proof.py` measures of a network: kNN and linear probes on frozen features.

The protocols are those of `edgeseed evaluate`. Photos are embedded once for all of them, and their
pixels are kept in files, since every network of a run sees the same.
"""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from edgeseed.core.environment import environment
from edgeseed.core.network import load_student, save_student
from edgeseed.core.photos import open_photos
from edgeseed.core.preprocess import Preprocess
from edgeseed.distill.evaluation.baseline import Pixels
from edgeseed.distill.evaluation.evaluate import LabelledFeatures, measure_knn, measure_linear
from edgeseed.distill.evaluation.knn import KnnSettings
from edgeseed.distill.evaluation.linear import LinearSettings
from edgeseed.distill.teachers import load_network

SHARES = {"10pc": 0.1, "1pc": 0.01}
"""Of the labels of the training photos, as many of each class; the small is within the large."""
MONITOR_BANK, MONITOR_QUERIES = 5000, 1000
"""Training photos for the untrained level of the curves, as many as `--during` takes."""
_SETS = {
    "train": "photos/train", "test": "photos/test", "fashion-train": "photos/fashion-train",
    "fashion-test": "photos/fashion-test", "digits-train": "digits", "digits-test": "digits:test",
}  # fmt: skip
_BATCH = 250
PIXELS = "pixels"
"""In place of a network: `Pixels` of edgeseed."""


class Photos:
    """Pixels and labels of the sets under a folder, decoded once.

    Args:
        out: The folder; the pixels' files go to its `pixels`.
    """

    def __init__(self, out: Path) -> None:
        self._out = out

    def pixels(self, name: str, preprocess: Preprocess) -> npt.NDArray[np.uint8]:
        """(N, 3, H, W) uint8, read from a file as needed."""
        key = f"{name}-{preprocess.image_size}-{preprocess.resize}-{preprocess.interpolation}"
        path = self._out / "pixels" / f"{key}.npy"
        if not path.is_file():
            photos = self._open(name)
            path.parent.mkdir(exist_ok=True)
            stacked = np.stack([preprocess.pixels(photos.image(i)) for i in range(len(photos))])
            unfinished = path.with_suffix(".unfinished.npy")
            np.save(unfinished, stacked)
            unfinished.rename(path)
        found: npt.NDArray[np.uint8] = np.load(path, mmap_mode="r")
        return found

    def labels(self, name: str) -> Tensor:
        """(N,) classes."""
        labels = self._open(name).labels
        assert labels is not None
        return torch.from_numpy(labels.copy())

    def _open(self, name: str) -> Any:
        source = _SETS[name]
        return open_photos(self._out / source if "/" in source else source, labels=True)


def measure(network: str, photos: Photos, *, image_size: int | None, device: str) -> dict[str, Any]:
    """Accuracies on the photos of the same kind as in training.

    Args:
        network: As `evaluate` takes it, or `PIXELS`.
        photos: What it is measured on.
        image_size: Of a network that has no size of its own, in pixels.
        device: Where it runs.

    Returns:
        `metrics`, by name in percent, and the `environment` of machine and code. `monitor knn-20`
        is by the protocol of `--during`, on photos drawn as there.
    """
    found = _Found(network, photos, image_size=image_size, device=device, sets=("train", "test"))
    found.add("", found.sides("train", "test"))
    labels = found.labels["train"]
    for name, share in SHARES.items():
        few = found.sides("train", "test", few_of_each(labels, share))
        found.add(f"{name} ", few, knn=False)
    order = torch.from_numpy(np.random.default_rng(1).permutation(len(labels)))
    queries = min(MONITOR_QUERIES, len(order) // 5)
    drawn = dataclasses.replace(
        found.sides("train", "test", order[queries : queries + MONITOR_BANK]),
        test=found.embedded["train"][order[:queries]],
        test_labels=labels[order[:queries]],
    )
    found.add("monitor ", drawn, linear=False)
    return found.to_dict()


def measure_transfer(
    network: str, photos: Photos, *, image_size: int | None, device: str
) -> dict[str, Any]:
    """As `measure`, on photos that no network was trained on."""
    sets = tuple(name for name in _SETS if name not in ("train", "test"))
    found = _Found(network, photos, image_size=image_size, device=device, sets=sets)
    for name in ("fashion", "digits"):
        found.add(f"{name} ", found.sides(f"{name}-train", f"{name}-test"))
    return found.to_dict()


class _Found:
    """Embeddings of the sets, each made once, and what was measured on them."""

    def __init__(
        self, network: str, photos: Photos, *, image_size: int | None, device: str,
        sets: tuple[str, ...],
    ) -> None:  # fmt: skip
        loaded: Any
        if network == PIXELS:
            assert image_size is not None
            loaded, preprocess = Pixels(), Preprocess(image_size=image_size, resize=image_size)
        else:
            loaded = load_network(network, image_size=image_size).to(device)
            preprocess = loaded.preprocess
        self.embedded = {
            name: _embed(loaded, photos.pixels(name, preprocess), preprocess, torch.device(device))
            for name in sets
        }
        self.labels = {name: photos.labels(name) for name in sets}
        self.metrics: dict[str, float] = {}

    def sides(self, train: str, test: str, chosen: Tensor | None = None) -> LabelledFeatures:
        rows = slice(None) if chosen is None else chosen
        return LabelledFeatures(
            train=self.embedded[train][rows], train_labels=self.labels[train][rows],
            test=self.embedded[test], test_labels=self.labels[test],
            num_classes=int(self.labels[train].max()) + 1,
        )  # fmt: skip

    def add(
        self, prefix: str, features: LabelledFeatures, *, knn: bool = True, linear: bool = True
    ) -> None:
        metrics = measure_knn(features, settings=KnnSettings()) if knn else []
        if linear:
            metrics.append(measure_linear(features, settings=LinearSettings(), seed=0)[0])
        for metric in metrics:
            self.metrics[f"{prefix}{metric.name}"] = round(metric.top1_percent, 3)

    def to_dict(self) -> dict[str, Any]:
        return {"metrics": self.metrics, "environment": environment()}


def few_of_each(labels: Tensor, share: float) -> Tensor:
    """Indices of a share of each class, at least two; a smaller share is part of a larger one."""
    chosen: list[npt.NDArray[np.int64]] = []
    for label in labels.unique():
        members = np.flatnonzero((labels == label).numpy())
        count = max(2, round(share * len(members)))
        chosen.append(members[np.random.default_rng(0).permutation(len(members))[:count]])
    return torch.from_numpy(np.sort(np.concatenate(chosen)))


@torch.no_grad()
def take_statistics(path: Path, photos: Photos) -> None:
    """Gives the batch norms of a student file mean and variance of the training photos.

    A training does so by the way. The weights stay as they are.
    """
    network, spec = load_student(path)
    norms = [module for module in network.modules() if isinstance(module, _BatchNorm)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the mean over all photos, in place of a moving one
        norm.train()
    pixels = photos.pixels("train", spec.preprocess)
    for images in _images(pixels, spec.preprocess, torch.device("cpu")):
        network(images)
    save_student(path, network.eval(), spec)


@torch.no_grad()
def _embed(
    network: Any, pixels: npt.NDArray[np.uint8], preprocess: Preprocess, device: torch.device
) -> Tensor:
    """(N, D) float32 features, on the CPU."""
    images = _images(pixels, preprocess, device)
    return torch.cat([network(x).embedding.float().cpu() for x in images])


def _images(
    pixels: npt.NDArray[np.uint8], preprocess: Preprocess, device: torch.device
) -> Iterator[Tensor]:
    mean, std = (
        torch.tensor(values, device=device).view(3, 1, 1)
        for values in (preprocess.mean, preprocess.std)
    )
    for start in range(0, len(pixels), _BATCH):
        part = torch.from_numpy(pixels[start : start + _BATCH].copy()).to(device)
        images = (part.float() / 255 - mean) / std
        # On a CPU depthwise convolutions are up to 1.8 times as fast in this layout.
        yield images.contiguous(memory_format=torch.channels_last)
