"""The preprocessing written down literally: slow, plain, and equal to Pillow to the last bit.

docs/preprocessing.md is the specification in words, this is the same in code: what the Swift,
Kotlin and TypeScript modules must compute, step by step. Tests hold it against Pillow, so that a
Pillow which computes otherwise is noticed. `Fault` holds the mistakes that apps make; the
conformance set says which of its photos show which of them.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from edgeseed.core.color import display_p3_to_srgb
from edgeseed.core.preprocess import Interpolation, Preprocess

Pixels = npt.NDArray[np.uint8]
Alpha = Literal["none", "straight", "premultiplied"]
PhotoProfile = Literal["srgb", "display-p3"]
Matrix = Literal["bt601", "bt709"]
Range = Literal["full", "video"]
Fault = Literal[
    "bgr",
    "no-antialias",
    "half-pixel-shift",
    "crop-off-by-one",
    "orientation-ignored",
    "alpha-premultiplied",
    "p3-as-srgb",
    "scaled",
    "nhwc",
    "float-rounding",
]
FAULTS: dict[Fault, str] = {
    "bgr": "the channels are in the order blue, green, red",
    "no-antialias": "the photo was resized without antialiasing",
    "half-pixel-shift": "the resize puts pixel centres on whole numbers: half a pixel off",
    "crop-off-by-one": "the square is cut out one pixel further right and down",
    "orientation-ignored": "the EXIF orientation was not applied",
    "alpha-premultiplied": "colours multiplied by alpha were taken as they are, over black",
    "p3-as-srgb": "Display P3 values were taken for sRGB",
    "scaled": "the pixels were scaled or normalised before the model, which does that itself",
    "nhwc": "the tensor is in the order height, width, channels",
    "float-rounding": "the resize rounds once at its end instead of after each of its two passes",
}
PRECISION_BITS = 22
"""Fraction bits of a resize coefficient: 32 - 8 bits of a pixel - 2 of headroom, as in Pillow."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class StoredPhoto:
    """A photo as it lies in a file: not yet upright, with alpha and profile not yet applied."""

    pixels: Pixels
    """(H, W, 3), or (H, W, 4) with alpha."""
    alpha: Alpha = "none"
    orientation: int = 1
    """EXIF's, 1 to 8."""
    profile: PhotoProfile = "srgb"


def preprocess_photo(
    photo: StoredPhoto, preprocess: Preprocess, *, fault: Fault | None = None
) -> npt.NDArray[np.float32]:
    """The tensor that a model gets.

    Args:
        photo: The photo.
        preprocess: Of the model.
        fault: A mistake to make on purpose.

    Returns:
        (C, H, W) float32 values, RGB or grey, whole numbers 0 to 255; with a fault also other
        shapes and values.
    """
    pixels = photo.pixels[..., :3]
    if photo.profile == "display-p3" and fault != "p3-as-srgb":
        pixels = display_p3_to_srgb(pixels)
    if photo.alpha != "none":
        alpha = photo.pixels[..., 3]
        if fault == "alpha-premultiplied":
            pixels = pixels if photo.alpha == "premultiplied" else premultiply(pixels, alpha)
        else:
            pixels = over_white(pixels, alpha, premultiplied=photo.alpha == "premultiplied")
    if fault != "orientation-ignored":
        pixels = upright(pixels, photo.orientation)
    box = resize_and_crop(pixels, preprocess, fault=fault)
    return _as_tensor(box, preprocess, fault=fault)


def _as_tensor(
    box: Pixels, preprocess: Preprocess, *, fault: Fault | None
) -> npt.NDArray[np.float32]:
    if fault == "bgr":
        box = box[..., ::-1]
    if preprocess.channels == 1:
        box = as_grey(box)[..., None]
    tensor = box if fault == "nhwc" else box.transpose(2, 0, 1)
    if fault == "scaled":
        return preprocess.normalize(np.ascontiguousarray(tensor))
    return np.ascontiguousarray(tensor, np.float32)


def as_grey(pixels: Pixels) -> Pixels:
    """(H, W) grey of (H, W, 3) RGB: ITU-R 601 in whole numbers."""
    red, green, blue = np.moveaxis(pixels.astype(np.int64), -1, 0)
    grey: Pixels = ((19595 * red + 38470 * green + 7471 * blue + (1 << 15)) >> 16).astype(np.uint8)
    return grey


def over_white(pixels: Pixels, alpha: Pixels, *, premultiplied: bool) -> Pixels:
    """Colours with alpha laid over white.

    Args:
        pixels: (H, W, 3).
        alpha: (H, W).
        premultiplied: Whether the colours are multiplied by alpha already.
    """
    colors, opacity = pixels.astype(np.int64), alpha.astype(np.int64)[..., None]
    if premultiplied:
        flat: Pixels = np.minimum(colors + 255 - opacity, 255).astype(np.uint8)
        return flat
    # Pillow's alpha_composite over an opaque ground: 7 more bits, and a rounded division by 255.
    sums = 128 * (colors * opacity + 255 * (255 - opacity)) + (128 << 7)
    return ((((sums >> 8) + sums) >> 8) >> 7).astype(np.uint8)


def premultiply(pixels: Pixels, alpha: Pixels) -> Pixels:
    """Colours times alpha, to the nearest; ties do not occur, 255 being odd."""
    products = pixels.astype(np.int64) * alpha.astype(np.int64)[..., None]
    return ((products * 2 + 255) // 510).astype(np.uint8)


_UPRIGHT: dict[int, Callable[[Pixels], Pixels]] = {
    1: lambda p: p,
    2: lambda p: p[:, ::-1],
    3: lambda p: p[::-1, ::-1],
    4: lambda p: p[::-1],
    5: lambda p: p.transpose(1, 0, 2),
    6: lambda p: p[::-1].transpose(1, 0, 2),
    7: lambda p: p[::-1, ::-1].transpose(1, 0, 2),
    8: lambda p: p[:, ::-1].transpose(1, 0, 2),
}


def upright(pixels: Pixels, orientation: int) -> Pixels:
    """(H, W, 3) pixels turned as EXIF's orientation 1 to 8 demands; another number means 1."""
    return _UPRIGHT.get(orientation, _UPRIGHT[1])(pixels)


def resized_size(width: int, height: int, preprocess: Preprocess) -> tuple[int, int]:
    """Width and height after the resize: rounded half up, and at least those of the input."""
    box_height, box_width = preprocess.size
    if preprocess.width is None:
        scale = preprocess.resize / min(width, height)
    else:
        resized_width = preprocess.resize * box_width / box_height
        scale = max(preprocess.resize / height, resized_width / width)
    new_width = max(box_width, math.floor(width * scale + 0.5))
    new_height = max(box_height, math.floor(height * scale + 0.5))
    return new_width, new_height


def resize_and_crop(
    pixels: Pixels, preprocess: Preprocess, *, fault: Fault | None = None
) -> Pixels:
    """The input's (H', W', 3) of an upright (H, W, 3) photo; only what is kept is computed."""
    height, width, _ = pixels.shape
    new_width, new_height = resized_size(width, height, preprocess)
    box_height, box_width = preprocess.size
    left, top = (new_width - box_width) // 2, (new_height - box_height) // 2
    if fault == "crop-off-by-one":
        left, top = min(left + 1, new_width - box_width), min(top + 1, new_height - box_height)
    if preprocess.interpolation == "nearest":
        rows, columns = _nearest(height, new_height), _nearest(width, new_width)
        return pixels[rows[top : top + box_height]][:, columns[left : left + box_width]]
    # The horizontal pass comes first, and its result is rounded to bytes. A pass whose size does
    # not change is left out.
    values: npt.NDArray[Any] = pixels
    for axis, old, new, start, size in (
        (1, width, new_width, left, box_width), (0, height, new_height, top, box_height),
    ):  # fmt: skip
        kept = range(start, start + size)
        if old == new:
            values = np.take(values, kept, axis=axis)
        else:
            windows = [
                coefficients(old, new, i, preprocess.interpolation, fault=fault) for i in kept
            ]
            apply = _apply_floats if fault == "float-rounding" else _apply_integers
            values = np.stack([apply(values, axis, *window) for window in windows], axis=axis)
    if fault == "float-rounding":
        values = np.clip(np.floor(np.asarray(values, np.float64) + 0.5), 0, 255)
    return np.asarray(values).astype(np.uint8)


def coefficients(
    old: int, new: int, index: int, interpolation: Interpolation, *, fault: Fault | None = None
) -> tuple[int, list[float]]:
    """Which pixels of `old` the pixel `index` of `new` is made of, and in which proportions.

    All in double precision, in this order, without fused multiply-add.

    Returns:
        The first pixel, and the weight of it and each that follows; together 1.
    """
    kernel, radius = _KERNELS[interpolation]
    scale = old / new
    stretch = max(scale, 1.0) if fault != "no-antialias" else 1.0
    support = radius * stretch
    center = index * scale + 0.5 if fault == "half-pixel-shift" else (index + 0.5) * scale
    first = max(0, int(center - support + 0.5))
    last = min(old, int(center + support + 0.5))
    inverse = 1.0 / stretch
    weights = [kernel((x + first - center + 0.5) * inverse) for x in range(last - first)]
    total = 0.0
    for weight in weights:
        total += weight
    return first, [weight / total if total != 0.0 else weight for weight in weights]


def _bilinear(x: float) -> float:
    x = abs(x)
    return 1.0 - x if x < 1.0 else 0.0


def _bicubic(x: float) -> float:
    a = -0.5
    x = abs(x)
    if x < 1.0:
        return ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0
    if x < 2.0:
        return (((x - 5.0) * x + 8.0) * x - 4.0) * a
    return 0.0


_KERNELS: dict[str, tuple[Callable[[float], float], float]] = {
    "bilinear": (_bilinear, 1.0),
    "bicubic": (_bicubic, 2.0),
}


def to_fixed(weight: float) -> int:
    """A weight as a whole number of 2**-22, halves away from zero."""
    scaled = weight * (1 << PRECISION_BITS)
    return int(scaled - 0.5) if scaled < 0 else int(scaled + 0.5)


def _apply_integers(
    values: npt.NDArray[Any], axis: int, first: int, weights: list[float]
) -> Pixels:
    window = np.take(values, range(first, first + len(weights)), axis=axis).astype(np.int64)
    fixed = np.array([to_fixed(weight) for weight in weights], np.int64)
    sums = np.tensordot(window, fixed, axes=(axis, 0)) + (1 << (PRECISION_BITS - 1))
    clipped: Pixels = np.clip(sums >> PRECISION_BITS, 0, 255).astype(np.uint8)
    return clipped


def _apply_floats(
    values: npt.NDArray[Any], axis: int, first: int, weights: list[float]
) -> npt.NDArray[np.float64]:
    window = np.take(values, range(first, first + len(weights)), axis=axis).astype(np.float64)
    return np.tensordot(window, np.array(weights), axes=(axis, 0))


def _nearest(old: int, new: int) -> list[int]:
    """Which pixel of `old` each pixel of `new` is. Pillow adds the step up, so this does too."""
    step = old / new
    position = step * 0.5
    found = []
    for _ in range(new):
        found.append(min(int(position), old - 1))
        position += step
    return found


YUV_CONSTANTS: dict[tuple[Matrix, Range], tuple[int, int, int, int, int, int]] = {
    # (black, luma, V to red, U to green, V to green, U to blue); all but black times 65536
    ("bt601", "full"): (0, 65536, 91881, 22553, 46802, 116130),
    ("bt601", "video"): (16, 76309, 104597, 25675, 53279, 132201),
    ("bt709", "full"): (0, 65536, 103206, 12276, 30679, 121609),
    ("bt709", "video"): (16, 76309, 117489, 13975, 34925, 138438),
}
"""ITU-R BT.601-7 and BT.709-6, rounded to the nearest."""


def yuv_to_rgb(luma: Pixels, u: Pixels, v: Pixels, *, matrix: Matrix, range_: Range) -> Pixels:
    """A camera frame as RGB.

    Args:
        luma: (H, W).
        u: ((H + 1) // 2, (W + 1) // 2), blue-difference; each value stands for 2x2 pixels.
        v: The same, red-difference.
        matrix: Whose weights of red, green and blue.
        range_: Whether black is 0 and white 255 (full), or 16 and 235 (video).

    Returns:
        (H, W, 3).
    """
    black, gain, v_red, u_green, v_green, u_blue = YUV_CONSTANTS[matrix, range_]
    height, width = luma.shape
    y = gain * (luma.astype(np.int64) - black) + 32768
    blue_difference, red_difference = (
        plane.repeat(2, axis=0).repeat(2, axis=1)[:height, :width].astype(np.int64) - 128
        for plane in (u, v)
    )
    channels = (
        y + v_red * red_difference,
        y - u_green * blue_difference - v_green * red_difference,
        y + u_blue * blue_difference,
    )
    return np.stack([np.clip(c >> 16, 0, 255) for c in channels], axis=-1).astype(np.uint8)
