"""What the side of a training canvas costs in time, and what it keeps of a photo's detail.

    python benchmarks/canvas.py PHOTO.jpg... [--rounds 5]

Views of 224 px are cut from canvases of several sides. Detail is the mean absolute difference of
neighbouring pixels of a view, over that of the same view cut from a canvas with all of the photo's
pixels. Time is processor time of one thread: JPEG file to canvas, and canvas to two MoCo views.
"""

import argparse
import io
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from PIL import Image

from edgeseed.core.photos import decode, open_photos
from edgeseed.distill.data.canvases import _DRAFT_MARGIN, make_canvas
from edgeseed.distill.data.views import Augmenter, Crop, ViewPlan, moco_crop

SIZE = 224
LONG_SIDES = (500, 1600, 4000)
SIDES = (280, 360, 448, 512, 640)
AREAS = (0.08, 0.2, 0.4, 0.7, 1.0)
NUM_CROPS = 3


def detail(view: torch.Tensor) -> float:
    """Mean absolute difference of neighbours, in both directions."""
    return float((view.diff(dim=-1).abs().mean() + view.diff(dim=-2).abs().mean()) / 2)


def view_of(photo: Image.Image, crop: Crop, *, side: int, index: int) -> torch.Tensor:
    """(1, 3, SIZE, SIZE): one crop, cut from a canvas; equal for equal `index` but for the side."""
    canvas = torch.from_numpy(make_canvas(photo, side).copy())[None]
    augmenter = Augmenter(ViewPlan(crops=(crop,)), seed=0)
    shapes = np.array([photo.size], np.int64)
    return augmenter(canvas, shapes, np.array([index]), period=0, step=0)[0]


def kept_detail(photos: list[Image.Image], area: float) -> dict[int, float]:
    """Canvas side -> detail kept, the mean over photos and crops."""
    crop = Crop(size=SIZE, scale=(area, area), flip=0.0)
    found: dict[int, list[float]] = {side: [] for side in SIDES}
    for number, photo in enumerate(photos):
        whole = max(photo.size)
        for index in range(NUM_CROPS):
            place = number * 1000 + index
            reference = detail(view_of(photo, crop, side=whole, index=place))
            for side in SIDES:
                kept = detail(view_of(photo, crop, side=min(side, whole), index=place))
                found[side].append(kept / reference)
    return {side: statistics.mean(values) for side, values in found.items()}


def milliseconds(call: Callable[[], object], rounds: int) -> float:
    """Median processor time of a call."""
    times = []
    for _ in range(rounds):
        began = time.process_time()
        call()
        times.append(1000 * (time.process_time() - began))
    return statistics.median(times)


def costs(folder: Path, rounds: int) -> dict[int, dict[str, float]]:
    """Canvas side -> milliseconds a photo, to the canvas and from it to two views."""
    photos = open_photos(folder)
    plan = ViewPlan(crops=(moco_crop(SIZE), moco_crop(SIZE)))
    augmenter = Augmenter(plan, seed=0, channels_last=True)
    found = {}
    for side in SIDES:

        def canvas_of(index: int, side: int = side) -> np.ndarray:
            return make_canvas(photos.draft(index, _DRAFT_MARGIN * side).image, side)

        def make_all() -> list[np.ndarray]:
            return [canvas_of(index) for index in range(len(photos))]

        canvases = torch.from_numpy(np.stack(make_all()))
        shapes = np.full((len(photos), 2), SIZE, np.int64)
        indices = np.arange(len(photos))

        def augment(
            canvases: torch.Tensor = canvases, shapes: np.ndarray = shapes,
            indices: np.ndarray = indices,
        ) -> object:  # fmt: skip
            return augmenter(canvases, shapes, indices, period=0, step=0)

        found[side] = {
            "canvas_ms": milliseconds(make_all, rounds) / len(photos),
            "views_ms": milliseconds(augment, rounds) / len(photos),
        }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("photos", nargs="+", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    results = []
    for long_side in LONG_SIDES:
        with tempfile.TemporaryDirectory() as name:
            shrunk = []
            for number, path in enumerate(arguments.photos):
                photo = decode(path)
                photo.thumbnail((long_side, long_side), Image.Resampling.LANCZOS)
                file = io.BytesIO()
                photo.save(file, "JPEG", quality=90)
                (Path(name) / f"{number:02}.jpg").write_bytes(file.getvalue())
                shrunk.append(photo)
            # More than 1600 px would only make the reference slow: no side here comes near.
            for photo in shrunk:
                photo.thumbnail((1600, 1600), Image.Resampling.LANCZOS)
            results.append(
                {
                    "long_side": long_side,
                    "num_photos": len(shrunk),
                    "detail": {str(area): kept_detail(shrunk, area) for area in AREAS},
                    "cost": costs(Path(name), arguments.rounds),
                }
            )
    print(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
