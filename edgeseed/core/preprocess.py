"""From a photo to a model's input: one specification for training, export, device and app.

docs/preprocessing.md states it in whole numbers, for whoever computes it in another language.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal, TypedDict

import numpy as np
import numpy.typing as npt
from PIL import Image

from edgeseed.core.errors import ArtifactError
from edgeseed.core.reading import read_record

Interpolation = Literal["nearest", "bilinear", "bicubic"]
_RESAMPLING = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
}
_MAX_SIDE = 2**14
"""In pixels: 16 times the largest input of any network in timm. A file may claim any number."""
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


LUMA = (0.299, 0.587, 0.114)
"""Share of red, green and blue in grey: ITU-R 601."""
GREY_MEAN = (0.459,)
GREY_STD = (0.226,)
"""Of ImageNet's photos as grey: IMAGENET_MEAN weighted by LUMA; the std is that of the colours."""
FOURTH_MEAN = (*IMAGENET_MEAN, 0.5)
FOURTH_STD = (*IMAGENET_STD, 0.25)
"""Nobody knows what a fourth channel holds: the middle of its range, and half of that."""
_NORMALIZATION = {
    1: (GREY_MEAN, GREY_STD), 3: (IMAGENET_MEAN, IMAGENET_STD), 4: (FOURTH_MEAN, FOURTH_STD),
}  # fmt: skip
COLORS = {1: "grey", 3: "RGB", 4: "RGB and a fourth channel"}
"""What a network's input is called, by its channels."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Preprocess:
    """How a photo becomes a model's input.

    The photo is resized (antialiased) until it just covers a box of the input's shape and the
    height `resize`. Of a square input that is: its shorter side is resized to `resize`. Then the
    middle of the input's size is cut out, and each channel becomes `(pixel / 255 - mean) / std`. An
    exported model holds the last step inside its graph, so an app does only the first two.

    There is a mean for each channel: three in the order RGB, one for grey, or RGB and a fourth.
    """

    image_size: int
    """Height of the input, in pixels, and its width where `width` says no other."""
    resize: int
    """Height of the box that the resized photo covers, in pixels; at least `image_size`."""
    width: int | None = None
    """Width of the input, in pixels; None for a square."""
    interpolation: Interpolation = "bilinear"
    mean: tuple[float, ...] = IMAGENET_MEAN
    """Of each channel, on the scale 0 to 1."""
    std: tuple[float, ...] = IMAGENET_STD
    """Of each channel, on the scale 0 to 1."""

    def __post_init__(self) -> None:
        if not 1 <= self.image_size <= self.resize <= _MAX_SIDE:
            raise ValueError(
                f"image_size={self.image_size} and resize={self.resize}: need 1 <= image_size <= "
                f"resize <= {_MAX_SIDE}"
            )
        if self.width is not None and not 1 <= self.width <= _MAX_SIDE:
            raise ValueError(f"width={self.width} must be from 1 to {_MAX_SIDE}")
        if self.width == self.image_size:
            object.__setattr__(self, "width", None)
        if self.interpolation not in _RESAMPLING:
            raise ValueError(
                f"interpolation={self.interpolation!r} is not one of {', '.join(_RESAMPLING)}"
            )
        if len(self.mean) != len(self.std) or len(self.mean) not in COLORS or min(self.std) <= 0:
            raise ValueError(
                f"mean={self.mean} and std={self.std}: need one of each a channel, 1, 3 or 4 of "
                "each, and std above 0"
            )

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the input, in pixels."""
        return self.image_size, self.image_size if self.width is None else self.width

    @property
    def box(self) -> tuple[float, float]:
        """Height and width of the box that the resized photo just covers, in pixels."""
        height, width = self.size
        return self.resize, self.resize * width / height

    @property
    def box_text(self) -> str:
        """Such as "36 pixels of height and 60 of width", for people."""
        height, width = self.box
        return f"{height:g} pixels of height and {width:g} of width"

    @property
    def channels(self) -> int:
        """Of the input: 3, 1 for grey, or 4."""
        return len(self.mean)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of the input."""
        return (self.channels, *self.size)

    @property
    def size_text(self) -> str:
        """Such as "224" or "96x160" (height x width), for messages."""
        return str(self.image_size) if self.width is None else f"{self.image_size}x{self.width}"

    def pixels(self, photo: Image.Image) -> npt.NDArray[np.uint8]:
        """Resizes and crops.

        Args:
            photo: An RGB photo of any size; RGBA for 4 channels.

        Returns:
            (channels, height, width) uint8.
        """
        if self.channels == 4:
            # Each for itself: Pillow would weigh colours by alpha, and this is no alpha.
            *colours, fourth = photo.split()
            parts = self._fitted(Image.merge("RGB", colours)), self._fitted(fourth)
            fitted = np.dstack([np.asarray(part) for part in parts])
        elif self.channels == 1:
            # ITU-R 601 in whole numbers: (19595 R + 38470 G + 7471 B + 2**15) >> 16.
            fitted = np.asarray(self._fitted(photo).convert("L"))[..., None]
        else:
            fitted = np.asarray(self._fitted(photo))
        return np.ascontiguousarray(fitted.astype(np.uint8, copy=False).transpose(2, 0, 1))

    def _fitted(self, photo: Image.Image) -> Image.Image:
        height, width = self.size
        photo_width, photo_height = photo.size
        box_height, box_width = self.box
        scale = max(box_height / photo_height, box_width / photo_width)
        new_width = max(width, _half_up(photo_width * scale))
        new_height = max(height, _half_up(photo_height * scale))
        left, top = (new_width - width) // 2, (new_height - height) // 2
        # Width first, then height, in calls of their own: each pass rounds to bytes, so the order
        # shows. Pillow 13 changed it for tall photos; older ones and other languages did not.
        photo = self._resized(photo, (new_width, photo_height))
        photo = photo.crop((left, 0, left + width, photo_height))
        photo = self._resized(photo, (width, new_height))
        return photo.crop((0, top, width, top + height))

    def _resized(self, photo: Image.Image, size: tuple[int, int]) -> Image.Image:
        return photo if photo.size == size else photo.resize(size, _RESAMPLING[self.interpolation])

    def normalize(self, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Normalises (N, C, H, W) or (C, H, W) pixels to float32 as the network was trained on."""
        mean = np.array(self.mean, np.float32).reshape(-1, 1, 1)
        std = np.array(self.std, np.float32).reshape(-1, 1, 1)
        return (pixels.astype(np.float32) / np.float32(255) - mean) / std

    def to_dict(self) -> dict[str, Any]:
        """As JSON; a square input has no `width`, as before there were others."""
        values = {
            **dataclasses.asdict(self),
            "mean": list(self.mean),
            "std": list(self.std),
            "color": COLORS[self.channels],
        }
        if self.width is None:
            del values["width"]
        return values

    @classmethod
    def from_dict(
        cls, values: Mapping[str, Any], *, what: str = "the preprocess block"
    ) -> "Preprocess":
        """From `to_dict`'s form.

        Raises:
            ArtifactError: If a field is missing, unknown or makes no sense.
        """
        found = read_record(cls, values, what=what, derived={"Preprocess": ("color",)})
        color = values.get("color", "RGB")
        if color != COLORS[found.channels]:
            raise ArtifactError(
                f"{what}: color {color!r} does not fit {found.channels} means; it would be "
                f"{COLORS[found.channels]!r}"
            )
        return found


class Normalization(TypedDict):
    """Two fields of `Preprocess`."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


def normalization(channels: int) -> Normalization:
    """The `mean` and `std` that a network of this many channels is trained with."""
    mean, std = _NORMALIZATION[channels]
    return {"mean": mean, "std": std}


def _half_up(value: float) -> int:
    # As an app in Swift or Kotlin would; Python's round() goes to the even side.
    return int(value + 0.5)
