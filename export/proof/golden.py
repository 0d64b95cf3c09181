"""Golden photos: what an app tests itself with, and `verify` the model.

```text
golden/000.png ...  photos as they come, before any resize
golden/inputs.npy   (G, 3, H, W) uint8, the photos after `preprocess`; as float32 the model's input
golden/float.npz    embedding (G, D) [, logits (G, C)] of the float student in torch
golden/model.npz    the same outputs of the exported model
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

from edgeseed.core.errors import ArtifactError
from edgeseed.core.photos import decode
from edgeseed.core.preprocess import Preprocess
from edgeseed.export.proof.reference import Outputs

FOLDER = "golden"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Golden:
    """The contents of `golden/`."""

    photos: tuple[Image.Image, ...]
    inputs: npt.NDArray[np.uint8]
    float_outputs: Outputs
    model_outputs: Outputs


def golden_inputs(photos: Sequence[Image.Image], preprocess: Preprocess) -> npt.NDArray[np.uint8]:
    """(G, 3, H, W) pixels of the golden photos."""
    return np.stack([preprocess.pixels(photo) for photo in photos])


def write_golden(folder: Path, golden: Golden) -> None:
    """Writes `golden/` into a bundle."""
    place = folder / FOLDER
    place.mkdir()
    for index, photo in enumerate(golden.photos):
        photo.save(place / f"{index:03}.png")
    np.save(place / "inputs.npy", golden.inputs)
    arrays: dict[str, Any] = {**golden.float_outputs}
    np.savez(place / "float.npz", **arrays)
    arrays = {**golden.model_outputs}
    np.savez(place / "model.npz", **arrays)


def read_golden(folder: Path) -> Golden:
    """Reads `golden/` of a bundle.

    Raises:
        ArtifactError: If a part is missing or not what it should be.
    """
    place = folder / FOLDER
    try:
        photos = tuple(decode(path) for path in sorted(place.glob("*.png")))
        inputs = np.load(place / "inputs.npy", allow_pickle=False)
        return Golden(
            photos=photos,
            inputs=inputs,
            float_outputs=read_outputs(place / "float.npz"),
            model_outputs=read_outputs(place / "model.npz"),
        )
    except (OSError, ValueError, KeyError) as error:
        raise ArtifactError(f"{place} cannot be read ({error}); export the bundle anew") from error


def read_outputs(path: Path) -> Outputs:
    """Arrays by name out of an .npz file."""
    with np.load(path, allow_pickle=False) as arrays:
        return {name: arrays[name] for name in arrays.files}
