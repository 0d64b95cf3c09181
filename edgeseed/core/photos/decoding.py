"""The only place that decodes images: upright 8-bit RGB, whatever phones and scanners made.

For networks of four channels the fourth is kept as it is: an alpha channel that measures something,
such as depth or near infrared.

EXIF rotation, CMYK, grey, 16 bits, alpha and animation are handled.
"""

import functools
import io
import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from edgeseed.core.color import to_srgb
from edgeseed.core.console import note
from edgeseed.core.errors import DataError

_ORIENTATION = 0x112
_TURNED = range(5, 9)
"""EXIF orientations that swap width and height."""


class Draft(NamedTuple):
    """A photo to be made small: see `PhotoSet.draft`."""

    image: Image.Image
    """Upright, 8-bit RGB; perhaps a half, a quarter or an eighth of its size."""
    size: tuple[int, int]
    """Width and height of the whole photo, in pixels."""


def decode(
    source: str | Path | bytes, *, name: str | None = None, channels: int = 3
) -> Image.Image:
    """Reads one photo as upright 8-bit sRGB.

    The first frame of an animation; alpha over white; 16 bits scaled to 8; EXIF rotation and ICC
    profile applied (docs/preprocessing.md).

    Args:
        source: A file, or the bytes of one.
        name: What it is called in messages; by default its path.
        channels: Of the network that will see it. With 4 the photo comes as RGBA, its fourth
            channel untouched; with 1 as RGB, because `Preprocess` makes it grey.

    Raises:
        DataError: If it is no image, truncated, too large to be a photo, or has no fourth channel.
    """
    return _decode(source, side=None, name=name, channels=channels).image


def decode_draft(
    source: str | Path | bytes, *, side: int, name: str | None = None, channels: int = 3
) -> Draft:
    """As `decode`, but a JPEG may come smaller; see `PhotoSet.draft`."""
    return _decode(source, side=side, name=name, channels=channels)


def _decode(
    source: str | Path | bytes, *, side: int | None, name: str | None, channels: int
) -> Draft:
    try:
        with warnings.catch_warnings():
            # Large panoramas are fine; what is beyond twice that is refused by Pillow as an error.
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
                image.seek(0)
                whole = image.size
                if side is not None:
                    image.draft(None, (side, side))
                image.load()
                is_turned = image.getexif().get(_ORIENTATION) in _TURNED
                size = (whole[1], whole[0]) if is_turned else whole
                upright = ImageOps.exif_transpose(image)
                return Draft(_to_rgba(upright) if channels == 4 else _to_rgb(upright), size)
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        name = name or ("the image" if isinstance(source, bytes) else str(source))
        raise DataError(f"{name} cannot be read as an image: {reason_of(error)}") from error


def _to_rgb(image: Image.Image) -> Image.Image:
    rgb = _flatten(to_srgb(image))
    # The pixels are sRGB now; a PNG written of them must not say otherwise.
    rgb.info.pop("icc_profile", None)
    return rgb


def _to_rgba(image: Image.Image) -> Image.Image:
    """Colours as sRGB, and the fourth channel as the file has it, not blended with anything."""
    if image.mode not in ("RGBA", "RGBX"):
        raise ValueError(
            f"it has no fourth channel (Pillow calls it {image.mode}); this network needs one: "
            "give PNG, TIFF or WebP files of red, green, blue and one channel more"
        )
    fourth = image.getchannel(3)
    colours = Image.merge("RGB", image.split()[:3])
    colours.info = dict(image.info)
    return Image.merge("RGBA", (*_to_rgb(colours).split(), fourth))


def _flatten(image: Image.Image) -> Image.Image:
    if image.mode == "RGB":
        return image
    if image.mode.startswith("I") or image.mode == "F":
        return _high_range_to_rgb(image)
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return image.convert("RGB")


def _high_range_to_rgb(image: Image.Image) -> Image.Image:
    values = np.asarray(image).astype(np.float64)
    # A single NaN would make the whole photo black, and a clipped height map would be white.
    if not np.isfinite(values).all():
        raise ValueError("it holds NaN or infinite values")
    low, high = values.min(initial=0.0), values.max(initial=0.0)
    if image.mode == "F":
        full = 1.0 if high <= 1.0 else 255.0
        _say_float_range()
    else:
        # Mode "I" also holds 8-bit values in some files; "I;16" never does.
        full = 255.0 if image.mode == "I" and high <= 255 else 65535.0
    if low < 0 or high > full:
        raise ValueError(
            f"its values go from {low:g} to {high:g}, which is neither 0 to 1, 0 to 255 nor 16 "
            "bits: scale them first"
        )
    scaled = np.rint(values * (255.0 / full)).astype(np.uint8)
    return Image.fromarray(scaled).convert("RGB")


@functools.cache
def _say_float_range() -> None:
    """Once a process: the range of a float photo is a guess from its values."""
    note("float photos are read as 0 to 1 where no value is above 1, else as 0 to 255")


def reason_of(error: BaseException) -> str:
    """Why a file cannot be read, in a few words."""
    if isinstance(error, UnidentifiedImageError):
        return "not an image in a format that Pillow knows"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__
