"""Golden photos: what an app tests itself with, and `verify` the model.

```text
golden/000.png ...  photos as they come, before any resize
golden/inputs.npy   (G, 3, H, W) uint8, the photos after `preprocess`; as float32 the model's input
golden/float.npz    embedding (G, D) [, logits (G, C)] of the float student in torch
golden/model.npz    the same outputs of the exported model, and those that the export added
```

An app that resizes differently from `preprocess` gets other inputs; an app with right inputs and
wrong outputs runs the model wrongly. The two tell apart the mistakes that otherwise just cost
accuracy.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from edgeseed.core.arrays import read_array, read_arrays
from edgeseed.core.bundle import GOLDEN, GOLDEN_FLOAT, GOLDEN_INPUTS, GOLDEN_MODEL
from edgeseed.core.photos import decode
from edgeseed.core.preprocess import Preprocess
from edgeseed.export.proof.reference import Outputs


@dataclasses.dataclass(frozen=True, kw_only=True)
class Golden:
    """The contents of `golden/`."""

    photos: tuple[Image.Image, ...]
    inputs: npt.NDArray[np.uint8]
    float_outputs: Outputs
    model_outputs: dict[str, npt.NDArray[Any]]


def golden_inputs(photos: Sequence[Image.Image], preprocess: Preprocess) -> npt.NDArray[np.uint8]:
    """(G, 3, H, W) pixels of the golden photos."""
    return np.stack([preprocess.pixels(photo) for photo in photos])


def write_golden(folder: Path, golden: Golden) -> None:
    """Writes `golden/` into a bundle."""
    (folder / GOLDEN).mkdir()
    for index, photo in enumerate(golden.photos):
        photo.save(folder / GOLDEN / f"{index:03}.png")
    np.save(folder / GOLDEN_INPUTS, golden.inputs)
    arrays: dict[str, Any] = {**golden.float_outputs}
    np.savez(folder / GOLDEN_FLOAT, **arrays)
    arrays = {**golden.model_outputs}
    np.savez(folder / GOLDEN_MODEL, **arrays)


def _read_photo(path: Path) -> Image.Image:
    # Those of a network of three channels were decoded to RGB before they were written.
    with Image.open(path) as header:
        channels = 4 if header.mode == "RGBA" else 3
    return decode(path, channels=channels)


def read_golden(folder: Path) -> Golden:
    """Reads `golden/` of a bundle.

    Raises:
        ArtifactError: If a part is missing or not what it should be.
    """
    return Golden(
        photos=tuple(_read_photo(path) for path in sorted((folder / GOLDEN).glob("*.png"))),
        inputs=read_array(folder / GOLDEN_INPUTS),
        float_outputs=read_arrays(folder / GOLDEN_FLOAT),
        model_outputs=read_arrays(folder / GOLDEN_MODEL),
    )
