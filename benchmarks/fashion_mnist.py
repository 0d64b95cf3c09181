"""Fashion-MNIST as a `PhotoSet`, read from its IDX files by torchvision.

On Debian `apt install dataset-fashion-mnist` puts the files to /usr/share/datasets/fashion-mnist.
"""

import functools
import gzip
import shutil
import tempfile
from pathlib import Path

import numpy as np
from torchvision.datasets.mnist import read_image_file, read_label_file

from edgeseed.core.photos import PhotoSet, photos_from_arrays

NAME = "fashion-mnist"
FOLDER = Path("/usr/share/datasets/fashion-mnist")
CLASSES = (
    "T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag",
    "ankle boot",
)  # fmt: skip


def open_fashion_mnist(source: str, split: str = "train") -> PhotoSet:
    """The 60,000 training or 10,000 test photos, grey, 28x28.

    Args:
        source: `fashion-mnist`, or `fashion-mnist=FOLDER` with the IDX files, plain or gzipped.
        split: `train`, whose `test()` gives the other, or `test`.
    """
    folder = Path(source.partition("=")[2] or FOLDER)
    stem = "train" if split == "train" else "t10k"
    with tempfile.TemporaryDirectory() as unpacked:
        pixels = read_image_file(str(_plain(folder, f"{stem}-images-idx3-ubyte", unpacked)))
        labels = read_label_file(str(_plain(folder, f"{stem}-labels-idx1-ubyte", unpacked)))
    return photos_from_arrays(
        pixels.numpy(),
        labels.numpy().astype(np.int64),
        name=source if split == "train" else f"{source}:test",
        classes=CLASSES,
        open_test=functools.partial(open_fashion_mnist, source, "test")
        if split == "train"
        else None,
    )


def _plain(folder: Path, name: str, unpacked: str) -> Path:
    """The file, unpacked where it is gzipped: torchvision reads plain ones only."""
    if (folder / name).is_file():
        return folder / name
    packed = folder / f"{name}.gz"
    if not packed.is_file():
        raise SystemExit(
            f"{folder / name}[.gz] does not exist; on Debian `apt install dataset-fashion-mnist` "
            "puts it there, elsewhere give its folder: fashion-mnist=FOLDER"
        )
    target = Path(unpacked) / name
    with gzip.open(packed) as source, target.open("wb") as file:
        shutil.copyfileobj(source, file)
    return target
