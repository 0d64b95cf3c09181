"""Colours of a photo as sRGB: what an embedded ICC profile means for its pixels.

A photo without a profile is sRGB. One with a profile is converted to sRGB before anything else, as
browsers, Android and Apple's frameworks do; Pillow alone would take the numbers as they are.
iPhones write Display P3. That conversion is done in whole numbers that every edgeseed module
computes alike (docs/preprocessing.md); any other profile is left to LittleCMS.
"""

import functools
import io
import struct
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageCms

Profile = Literal["srgb", "display-p3", "other"]
LINEAR_MAX = 65535
P3_TO_SRGB = ((20070, -3686, 0), (-689, 17073, 0), (-322, -1288, 17994))
"""Display P3 to sRGB on linear values, times 2**14.

Each row adds up to 2**14, so that greys stay as they are. Both have the white point D65.
Primaries: SMPTE EG 432-1 and IEC 61966-2-1."""
_MATRIX_BITS = 14
# Red, green and blue as XYZ under D50, as profiles of these spaces state them.
_PRIMARIES: dict[Profile, tuple[tuple[float, float, float], ...]] = {
    "srgb": ((0.4360, 0.2225, 0.0139), (0.3851, 0.7169, 0.0971), (0.1431, 0.0606, 0.7141)),
    "display-p3": ((0.5151, 0.2412, -0.0011), (0.2920, 0.6922, 0.0419), (0.1571, 0.0666, 0.7841)),
}
# Writers round differently; Adobe RGB and Rec. 2020 are further away by an order of magnitude.
_PRIMARY_TOLERANCE = 0.003
_CURVE_TOLERANCE = 0.004


def srgb_to_linear(value: float) -> float:
    """Light of an sRGB or Display P3 value, both on the scale 0 to 1 (IEC 61966-2-1)."""
    return value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4


@functools.cache
def linear_table() -> npt.NDArray[np.int32]:
    """(256,) light of each 8-bit value, 0 to 65535, rounded half up."""
    values = [int(LINEAR_MAX * srgb_to_linear(value / 255) + 0.5) for value in range(256)]
    return np.array(values, np.int32)


@functools.cache
def encoding_table() -> npt.NDArray[np.uint8]:
    """(65536,) the 8-bit value of each light: how many steps between values it has passed."""
    steps = [LINEAR_MAX * srgb_to_linear((value - 0.5) / 255) for value in range(1, 256)]
    return np.searchsorted(steps, np.arange(LINEAR_MAX + 1), side="right").astype(np.uint8)


def display_p3_to_srgb(pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Display P3 pixels as sRGB; colours that sRGB lacks are clipped in each channel.

    Args:
        pixels: (..., 3) RGB.
    """
    red, green, blue = (linear_table()[pixels[..., channel]] for channel in range(3))
    converted = np.empty(pixels.shape, np.uint8)
    # A channel at a time: NumPy multiplies matrices of whole numbers three times as slowly.
    for channel, (from_red, from_green, from_blue) in enumerate(P3_TO_SRGB):
        # The largest sum is below 2**31: 20070 * 65535 + 2**13.
        light = from_red * red + from_green * green + from_blue * blue + (1 << (_MATRIX_BITS - 1))
        np.clip(light >> _MATRIX_BITS, 0, LINEAR_MAX, out=light)
        converted[..., channel] = encoding_table()[light]
    return converted


def to_srgb(image: Image.Image) -> Image.Image:
    """The image with its embedded profile applied; without one, or with a broken one, as it is.

    Args:
        image: Of any mode; alpha is kept.
    """
    content = image.info.get("icc_profile")
    if not content:
        return image
    profile = identify_profile(content)
    if profile == "srgb":
        return image
    if profile == "display-p3":
        return _from_display_p3(image)
    return _convert_by_profile(image, content)


def _from_display_p3(image: Image.Image) -> Image.Image:
    if image.mode not in ("RGB", "RGBA"):
        image = image.convert("RGBA" if "transparency" in image.info else "RGB")
    pixels = np.asarray(image).copy()
    pixels[..., :3] = display_p3_to_srgb(pixels[..., :3])
    return Image.fromarray(pixels)


def _convert_by_profile(image: Image.Image, content: bytes) -> Image.Image:
    if image.mode not in ("L", "RGB", "RGBA", "CMYK"):
        # 16-bit and palette images: profiles of these are rare, and LittleCMS takes none of them.
        return image
    output = "RGBA" if image.mode == "RGBA" else "RGB"
    try:
        return _transform(content, image.mode, output).apply(image)
    except (ImageCms.PyCMSError, OSError, ValueError):
        # As browsers do: a profile that no one can read says nothing.
        return image


@functools.lru_cache(maxsize=16)
def _transform(content: bytes, mode: str, output: str) -> ImageCms.ImageCmsTransform:
    source = ImageCms.ImageCmsProfile(io.BytesIO(content))
    return ImageCms.ImageCmsTransform(
        source,
        ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")),
        mode,
        output,
        ImageCms.Intent.RELATIVE_COLORIMETRIC,
    )


@functools.lru_cache(maxsize=64)
def identify_profile(content: bytes) -> Profile:
    """Which space an ICC profile describes, by its primaries and its curve, never by its name."""
    try:
        tags = _read_tags(content)
        primaries = [_read_xyz(tags[name]) for name in (b"rXYZ", b"gXYZ", b"bXYZ")]
        curves = [_half_light(tags[name]) for name in (b"rTRC", b"gTRC", b"bTRC")]
    except (KeyError, struct.error, IndexError, ValueError):
        return "other"
    if max(abs(curve - srgb_to_linear(0.5)) for curve in curves) > _CURVE_TOLERANCE:
        return "other"
    for profile, known in _PRIMARIES.items():
        if np.abs(np.subtract(primaries, known)).max() <= _PRIMARY_TOLERANCE:
            return profile
    return "other"


def _read_tags(content: bytes) -> dict[bytes, bytes]:
    (count,) = struct.unpack_from(">I", content, 128)
    if count > 100:
        raise ValueError(f"{count} tags")
    entries = [struct.unpack_from(">4sII", content, 132 + 12 * index) for index in range(count)]
    return {name: content[start : start + size] for name, start, size in entries}


def _read_xyz(tag: bytes) -> tuple[float, ...]:
    return tuple(value / 65536 for value in struct.unpack_from(">3i", tag, 8))


def _half_light(tag: bytes) -> float:
    """The light that a curve gives to the value one half."""
    if tag[:4] == b"para":
        (kind,) = struct.unpack_from(">H", tag, 8)
        num_parameters = (1, 3, 4, 5, 7)[kind]
        values = [v / 65536 for v in struct.unpack_from(f">{num_parameters}i", tag, 12)]
        gamma, a, b = (values[0], 1.0, 0.0) if kind == 0 else values[:3]
        return float((a * 0.5 + b) ** gamma)
    if tag[:4] != b"curv":
        raise ValueError("neither a table nor a formula")
    (count,) = struct.unpack_from(">I", tag, 8)
    if count == 0:
        return 0.5
    table = struct.unpack_from(f">{count}H", tag, 12)
    if count == 1:
        return float(0.5 ** (table[0] / 256))
    return float(np.interp(0.5, np.linspace(0, 1, count), table) / 65535)
