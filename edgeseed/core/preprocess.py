"""From a photo to a model's input: one specification for training, export, device and app.

docs/preprocessing.md states it in whole numbers, for whoever computes it in another language.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

from edgeseed.core.errors import ArtifactError

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


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Preprocess:
    """How a photo becomes a model's input; the colour order is always RGB.

    The shorter side is resized to `resize` (antialiased), the centre square of `image_size` is cut
    out, and each channel becomes `(pixel / 255 - mean) / std`. An exported model holds the last
    step inside its graph, so an app does only the first two.
    """

    image_size: int
    """Height and width of the input, in pixels."""
    resize: int
    """Shorter side after the resize, in pixels; at least `image_size`."""
    interpolation: Interpolation = "bilinear"
    mean: tuple[float, float, float] = IMAGENET_MEAN
    """Of each RGB channel, on the scale 0 to 1."""
    std: tuple[float, float, float] = IMAGENET_STD
    """Of each RGB channel, on the scale 0 to 1."""

    def __post_init__(self) -> None:
        if not 1 <= self.image_size <= self.resize <= _MAX_SIDE:
            raise ValueError(
                f"image_size={self.image_size} and resize={self.resize}: need 1 <= image_size <= "
                f"resize <= {_MAX_SIDE}"
            )
        if self.interpolation not in _RESAMPLING:
            raise ValueError(
                f"interpolation={self.interpolation!r} is not one of {', '.join(_RESAMPLING)}"
            )
        if len(self.mean) != 3 or len(self.std) != 3 or min(self.std) <= 0:
            raise ValueError(
                f"mean={self.mean} and std={self.std}: need three of each, std above 0"
            )

    def pixels(self, photo: Image.Image) -> npt.NDArray[np.uint8]:
        """Resizes and crops.

        Args:
            photo: An RGB photo of any size.

        Returns:
            (3, image_size, image_size) uint8, RGB.
        """
        width, height = photo.size
        scale = self.resize / min(width, height)
        new_width, new_height = self._scaled(width, scale), self._scaled(height, scale)
        left, top = (new_width - self.image_size) // 2, (new_height - self.image_size) // 2
        # Width first, then height, in calls of their own: each pass rounds to bytes, so the order
        # shows. Pillow 13 changed it for tall photos; older ones and other languages did not.
        photo = self._resized(photo, (new_width, height))
        photo = photo.crop((left, 0, left + self.image_size, height))
        photo = self._resized(photo, (self.image_size, new_height))
        photo = photo.crop((0, top, self.image_size, top + self.image_size))
        return np.ascontiguousarray(np.asarray(photo, dtype=np.uint8).transpose(2, 0, 1))

    def _resized(self, photo: Image.Image, size: tuple[int, int]) -> Image.Image:
        return photo if photo.size == size else photo.resize(size, _RESAMPLING[self.interpolation])

    def _scaled(self, side: int, scale: float) -> int:
        # Half up, as an app in Swift or Kotlin would; Python's round() goes to the even side.
        return max(self.image_size, int(side * scale + 0.5))

    def normalize(self, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Normalises (N, 3, H, W) or (3, H, W) pixels to float32 as the network was trained on."""
        mean = np.array(self.mean, np.float32).reshape(3, 1, 1)
        std = np.array(self.std, np.float32).reshape(3, 1, 1)
        return (pixels.astype(np.float32) / np.float32(255) - mean) / std

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return {
            **dataclasses.asdict(self),
            "mean": list(self.mean),
            "std": list(self.std),
            "color": "RGB",
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Preprocess":
        """From `to_dict`'s form.

        Raises:
            ArtifactError: If a field is missing, unknown or makes no sense.
        """
        fields = dict(values)
        color = fields.pop("color", "RGB")
        if color != "RGB":
            raise ArtifactError(
                f"preprocess: color {color!r} is not RGB, the only order edgeseed uses"
            )
        try:
            fields["mean"], fields["std"] = tuple(fields["mean"]), tuple(fields["std"])
            return cls(**fields)
        except (KeyError, TypeError, ValueError) as error:
            raise ArtifactError(f"the preprocess block is not valid: {error}") from error
