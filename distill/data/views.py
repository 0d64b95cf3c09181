"""Views of photos: crops and colours as in the papers, a whole batch at a time, on the device.

A photo comes as a *canvas*: a square uint8 image, stretched from the photo, with the photo's shape
beside it, so that a batch is one tensor and crops still have true proportions. From it to a view:

* Crop, resize (antialiased), flip and blur are linear and separable, so all of them are one matrix
  for the rows and one for the columns: `view = R · canvas · Cᵀ`.
* Brightness, contrast, saturation, hue and greyscale are, up to clipping, one 3x3 matrix and an
  offset a photo. (Hue turns the chroma plane of YIQ, as NVIDIA DALI does, not the hexagon of HSV.
  The order is fixed; torchvision shuffles it.)
* Every random number is a hash of (seed, photo, pass, view, which draw). It depends on nothing
  else: not on the batch it fell into, the number of workers or ranks, or what was drawn before. So
  a resumed run draws the same, and a replayed pass gives the same pixels.
"""

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from edgeseed.core.preprocess import LUMA
from edgeseed.distill.training.device import send

Floats = npt.NDArray[np.float64]

REFERENCE_SIZE = 224
"""Pixels of the views for which the papers state their blur."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Crop:
    """How one view is cut and coloured. Probabilities are per photo.

    Attributes:
        size: Height of the view, in pixels, and its width where `width` says no other.
        width: Width of the view, in pixels; None for a square.
        scale: Least and most share of the photo's area that is cut out.
        ratio: Least and most width / height of what is cut out, over that of the view.
        centered: Cut from the middle, without any randomness of place, size or shape.
        flip: Probability of a mirror image, left to right.
        jitter: Probability that colours are changed at all.
        brightness: Factor up to 1 ± this.
        contrast: Factor up to 1 ± this.
        saturation: Factor up to 1 ± this.
        hue: Turn of the colour circle, up to ± this; 0.5 is half a turn.
        grey: Probability of greyscale.
        blur: Probability of a Gaussian blur.
        blur_sigma: Least and most width of the blur in pixels of a 224-pixel view; scales with
            `size`.
        solarize: Probability that values of 0.5 and above are inverted.
        interpolation: Of the resize.
    """

    size: int
    width: int | None = None
    scale: tuple[float, float] = (0.2, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    centered: bool = False
    flip: float = 0.5
    jitter: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0
    grey: float = 0.0
    blur: float = 0.0
    blur_sigma: tuple[float, float] = (0.1, 2.0)
    solarize: float = 0.0
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"

    def __post_init__(self) -> None:
        if min(self.shape) < 8:
            width = "" if self.width is None else f" and width={self.width}"
            raise ValueError(f"size={self.size}{width} must be at least 8 pixels")
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise ValueError(
                f"scale={self.scale} must be two shares, above 0 and up to 1, in order"
            )
        if not 0 < self.ratio[0] <= self.ratio[1]:
            raise ValueError(f"ratio={self.ratio} must be two positive numbers in order")
        for name in ("flip", "jitter", "grey", "blur", "solarize"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}={getattr(self, name)} is a probability, between 0 and 1")

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of the view, in pixels."""
        return self.size, self.size if self.width is None else self.width

    @property
    def aspect(self) -> float:
        """Width of the view over its height."""
        return self.shape[1] / self.size

    def in_shape_of(self, height: int, width: int) -> "Crop":
        """This crop in the shape of an input; a smaller one is whole patches wide if so high.

        Args:
            height: Of the input, in pixels.
            width: Of the input, in pixels.
        """
        if width == height:
            return self
        if self.size == height:
            return dataclasses.replace(self, width=width)
        step = 16 if self.size % 16 == 0 else 8
        near = step * round(self.size * width / height / step)
        return dataclasses.replace(self, width=max(step, near))


def moco_crop(size: int, *, min_scale: float = 0.2) -> Crop:
    """MoCo v2's view (arXiv 2003.04297), and SEED's: jitter .4/.4/.4/.1, grey .2, blur .5."""
    return Crop(
        size=size, scale=(min_scale, 1.0), jitter=0.8, brightness=0.4, contrast=0.4,
        saturation=0.4, hue=0.1, grey=0.2, blur=_blur_for(size, 0.5),
    )  # fmt: skip


def simclr_crop(size: int, *, min_scale: float = 0.08) -> Crop:
    """SimCLR's view (arXiv 2002.05709); below 64 pixels, half the strength and no blur (B.9)."""
    strength = 1.0 if size >= _SMALL else 0.5
    return Crop(
        size=size, scale=(min_scale, 1.0), jitter=0.8, brightness=0.8 * strength,
        contrast=0.8 * strength, saturation=0.8 * strength, hue=0.2 * strength, grey=0.2,
        blur=_blur_for(size, 0.5),
    )  # fmt: skip


def regression_crop(size: int) -> Crop:
    """LightlyTrain's view for distillation: crops from .14, SimCLR's colours at half strength."""
    return Crop(
        size=size, scale=(0.14, 1.0), jitter=0.8, brightness=0.4, contrast=0.4, saturation=0.2,
        hue=0.1, grey=0.2,
    )  # fmt: skip


def weak_crop(size: int, *, min_scale: float = 0.2) -> Crop:
    """Crop and flip alone, as SimReg and CompRess use it, and SimCLRv2 for its distillation."""
    return Crop(size=size, scale=(min_scale, 1.0))


def center_crop(size: int) -> Crop:
    """The middle of the photo: no randomness at all."""
    return Crop(size=size, scale=(1.0, 1.0), ratio=(1.0, 1.0), centered=True, flip=0.0)


_SMALL = 64
PRESETS: dict[str, Callable[[int], Crop]] = {
    "moco": moco_crop,
    "simclr": simclr_crop,
    "regression": regression_crop,
    "weak": weak_crop,
    "center": center_crop,
}


def _blur_for(size: int, probability: float) -> float:
    # Below 64 pixels the papers' blur is narrower than a pixel, and SimCLR leaves it out.
    return probability if size >= _SMALL else 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class ViewPlan:
    """The views that each photo is turned into.

    Attributes:
        crops: One a view, in the order of `Batch.views`.
        mixup: Whether each batch is blended with itself reversed, `λ x + (1 - λ) x'`, with one
            λ ~ U(0, 1) a batch and the same blend in every view and for every network.
    """

    crops: tuple[Crop, ...]
    mixup: bool = False


_MAX_STRENGTH = 10.0
_MAX_SIZE = 4096
_MAX_REPLAY = 100_000


@dataclass(frozen=True, kw_only=True, slots=True)
class ViewSettings:
    """What a user may change of a method's views: `--set views.FIELD=VALUE`.

    None keeps what the method has.

    Attributes:
        preset: Another style for every view; sizes stay as the method has them.
        min_scale: Least share of the area that a full-size view shows.
        flip: Probability of a mirror image; 0 for text, digits or anything with a left and a right.
        jitter_strength: Multiplies how far colours go; 0 switches them off.
        grey: Probability of greyscale.
        blur: Probability of blur.
        mixup: Whether batches are blended.
        teacher_size: Side of the teacher's input, in pixels; none takes the student's.
        canvas: Side that photos are kept at, in pixels; 0 chooses by the views and the photos.
        replay: After how many epochs the same views come again, so that the teacher need not look
            at them twice; 0 never repeats. Long runs overfit to a few fixed views (arXiv
            2106.05237).
    """

    preset: Literal["moco", "simclr", "regression", "weak", "center"] | None = None
    min_scale: float | None = None
    flip: float | None = None
    jitter_strength: float = 1.0
    grey: float | None = None
    blur: float | None = None
    mixup: bool | None = None
    teacher_size: int | None = None
    canvas: int = 0
    replay: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.jitter_strength <= _MAX_STRENGTH:
            raise ValueError(
                f"jitter_strength={self.jitter_strength} must be from 0 to {_MAX_STRENGTH}"
            )
        if self.min_scale is not None and not 0 < self.min_scale <= 1:
            raise ValueError(f"min_scale={self.min_scale} must be above 0 and up to 1")
        for name in ("flip", "grey", "blur"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 1:
                raise ValueError(f"{name}={value} is a probability, between 0 and 1")
        for name in ("canvas", "teacher_size"):
            size = getattr(self, name)
            if size and not 8 <= size <= _MAX_SIZE:
                raise ValueError(f"{name}={size} must be from 8 to {_MAX_SIZE} pixels")
        if self.teacher_size == 0 or not 0 <= self.replay <= _MAX_REPLAY:
            raise ValueError(
                f"teacher_size={self.teacher_size} must be none or a size, and "
                f"replay={self.replay} from 0 to {_MAX_REPLAY}"
            )

    def apply(self, plan: ViewPlan) -> ViewPlan:
        """The method's plan with the user's changes."""
        full_size = max(crop.size for crop in plan.crops)
        return ViewPlan(
            crops=tuple(self._apply_to(crop, full_size=full_size) for crop in plan.crops),
            mixup=plan.mixup if self.mixup is None else self.mixup,
        )

    def _apply_to(self, crop: Crop, *, full_size: int) -> Crop:
        if self.preset is not None:
            crop = dataclasses.replace(PRESETS[self.preset](crop.size), width=crop.width)
        changes = {
            name: value
            for name in ("flip", "grey", "blur")
            if (value := getattr(self, name)) is not None
        }
        if self.min_scale is not None and crop.size == full_size and not crop.centered:
            changes["scale"] = (self.min_scale, max(self.min_scale, crop.scale[1]))
        for name in ("brightness", "contrast", "saturation", "hue"):
            changes[name] = getattr(crop, name) * self.jitter_strength
        return dataclasses.replace(crop, **changes)


# --------------------------------------------------------------------------- random numbers

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def _mix(values: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """SplitMix64's finaliser (Steele, Lea, Flood 2014): a bijection that scatters all bits."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def uniforms(*key: int | npt.NDArray[np.int64], count: int) -> Floats:
    """Uniform numbers in [0, 1) that depend on the key alone.

    Args:
        key: Whole numbers; one may be an array of shape (B,).
        count: Numbers a key.

    Returns:
        (B, count), or (1, count) without an array.
    """
    with np.errstate(over="ignore"):
        state = np.zeros(1, np.uint64)
        for part in key:
            state = _mix(state + np.atleast_1d(np.asarray(part)).astype(np.uint64) + _GOLDEN)
        steps = np.arange(1, count + 1, dtype=np.uint64) * _GOLDEN
        bits = _mix(state[:, None] + steps)
    # 53 bits are what a double holds.
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53


# --------------------------------------------------------------------------- geometry

_CROP_ATTEMPTS = 10
# Two for each try of a crop; then place (2), flip, jitter, colours (4), grey, blur (2), solarize. A
# further draw goes to the end: the others keep their numbers, and old seeds their views.
_NUM_DRAWS = 2 * _CROP_ATTEMPTS + 12


@dataclass(frozen=True, slots=True)
class _Draws:
    """What chance decided for one view of B photos; all fields (B,) unless said."""

    left: Floats
    top: Floats
    width: Floats
    height: Floats
    flip: npt.NDArray[np.bool_]
    colour: Floats
    """(B, 4) factors of brightness, contrast, saturation, and the turn of hue."""
    grey: npt.NDArray[np.bool_]
    blur: Floats
    """Sigma in pixels of the view; 0 where there is none."""
    solarize: npt.NDArray[np.bool_]


def _draw(crop: Crop, numbers: Floats, shapes: Floats) -> _Draws:
    box, rest = numbers[:, : 2 * _CROP_ATTEMPTS], numbers[:, 2 * _CROP_ATTEMPTS :]
    width, height = _crop_shares(crop, box, shapes)
    place = np.full_like(rest[:, :2], 0.5) if crop.centered else rest[:, :2]
    strengths = np.array([crop.brightness, crop.contrast, crop.saturation, crop.hue])
    swing = (2 * rest[:, 4:8] - 1) * strengths * (rest[:, 3:4] < crop.jitter)
    colour = swing + np.array([1.0, 1.0, 1.0, 0.0])
    colour[:, :3] = colour[:, :3].clip(min=0.0)
    low, high = (sigma * crop.size / REFERENCE_SIZE for sigma in crop.blur_sigma)
    return _Draws(
        left=place[:, 0] * (1 - width),
        top=place[:, 1] * (1 - height),
        width=width,
        height=height,
        flip=rest[:, 2] < crop.flip,
        colour=colour,
        grey=rest[:, 8] < crop.grey,
        blur=np.where(rest[:, 9] < crop.blur, low + (high - low) * rest[:, 10], 0.0),
        solarize=rest[:, 11] < crop.solarize,
    )


def _crop_shares(crop: Crop, numbers: Floats, shapes: Floats) -> tuple[Floats, Floats]:
    """Width and height of the crop as shares of the photo's.

    The first of ten tries that fits; if none does, the largest crop within the allowed ratios, as
    torchvision's RandomResizedCrop does it.
    """
    aspect = (shapes[:, 0] / shapes[:, 1])[:, None]
    area = crop.scale[0] + (crop.scale[1] - crop.scale[0]) * numbers[:, 0::2]
    # Of the photo, such that the view is not distorted whatever its own shape.
    least, most = (ratio * crop.aspect for ratio in crop.ratio)
    low, high = math.log(least), math.log(most)
    ratio = np.exp(low + (high - low) * numbers[:, 1::2])
    # As shares of the photo's sides, so that width * height = area, width / height * aspect =
    # ratio.
    widths, heights = np.sqrt(area * ratio / aspect), np.sqrt(area * aspect / ratio)
    fits = (widths <= 1) & (heights <= 1)
    first = fits.argmax(axis=1)
    rows = np.arange(len(first))
    nearest = aspect[:, 0].clip(least, most)
    width = np.minimum(1.0, nearest / aspect[:, 0])
    height = np.minimum(1.0, aspect[:, 0] / nearest)
    found = fits.any(axis=1)
    return (
        np.where(found, widths[rows, first], width),
        np.where(found, heights[rows, first], height),
    )


def _resize_matrix(
    start: Floats, share: Floats, *, canvas: int, size: int, cubic: bool, device: torch.device
) -> Tensor:
    """(B, size, canvas): a row makes one pixel of the view, with Pillow's antialiased kernels."""
    begin = send((start * canvas).astype(np.float32), device)[:, None, None]
    step = send((share * canvas / size).astype(np.float32), device)[:, None, None]
    centers = begin + (torch.arange(size, device=device)[:, None] + 0.5) * step
    pixels = torch.arange(canvas, device=device) + 0.5
    distance = ((pixels - centers) / step.clamp(min=1.0)).abs()
    weights = _cubic(distance) if cubic else (1 - distance).clamp(min=0)
    return weights / weights.sum(2, keepdim=True)


def _cubic(distance: Tensor) -> Tensor:
    near = (1.5 * distance - 2.5) * distance**2 + 1
    far = ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
    return torch.where(distance < 1, near, torch.where(distance < 2, far, 0.0))


_FARTHEST = 14.0
"""Negative exponent beyond which a weight, under a millionth, is left out."""


def _blur_matrix(sigma: Tensor, *, size: int) -> Tensor:
    """(B, size, size) rows of a Gaussian, cut off at the border and made to sum to one."""
    position = torch.arange(size, device=sigma.device)
    squares = (position[:, None] - position).square()
    exponent = squares / (2 * sigma.square())[:, None, None]
    # Far tails would be denormal numbers, which CPUs multiply ten times slower: they are zero here.
    weights = torch.exp(-exponent.clamp(max=_FARTHEST)).masked_fill_(exponent > _FARTHEST, 0.0)
    return weights / weights.sum(2, keepdim=True)


# --------------------------------------------------------------------------- colours

_RGB_TO_YIQ = torch.tensor([LUMA, (0.5959, -0.2746, -0.3213), (0.2115, -0.5227, 0.3112)])
_YIQ_TO_RGB = torch.linalg.inv(_RGB_TO_YIQ)


def _colour_matrix(draws: _Draws) -> Tensor:
    """(B, 3, 3): saturation, then hue, then grey; all of them leave grey pixels as they are."""
    saturation, turn = torch.from_numpy(draws.colour[:, 2:]).float().unbind(1)
    grey = torch.tensor(LUMA).expand(3, 3)
    saturated = torch.lerp(grey, torch.eye(3), saturation[:, None, None])
    angle = 2 * math.pi * turn
    rotation = torch.eye(3).repeat(len(turn), 1, 1)
    rotation[:, 1, 1] = rotation[:, 2, 2] = angle.cos()
    rotation[:, 1, 2] = -angle.sin()
    rotation[:, 2, 1] = angle.sin()
    matrix: Tensor = _YIQ_TO_RGB @ rotation @ _RGB_TO_YIQ @ saturated
    matrix[torch.from_numpy(draws.grey)] = grey
    return matrix


def _recolour(views: Tensor, draws: _Draws) -> Tensor:
    """Applies all colour changes of (B, 3, H, W) pixels as one affine map a photo."""
    brightness, contrast = torch.from_numpy(draws.colour[:, :2]).float().unbind(1)
    gain = send(brightness * contrast, views.device)
    matrix = send(_colour_matrix(draws), views.device) * gain[:, None, None]
    luma = views.mean((2, 3)) @ send(torch.tensor(LUMA), views.device)
    # Contrast blends with the mean grey after the change of brightness.
    offset = send((1 - contrast) * brightness, views.device) * luma
    flat = torch.baddbmm(offset[:, None, None], matrix, views.flatten(2))
    return flat.view_as(views)


# --------------------------------------------------------------------------- the whole

_CHUNK = 32
"""Photos at a time on the CPU, so that what lies between two steps stays in its caches."""


class Augmenter:
    """Makes the views of a batch of canvases.

    Args:
        plan: Which views.
        seed: Of the run.
        device: Where views are made.
        channels_last: Memory layout of the views.
        replays: Whether passes come again, so that answers to their views may be kept.
    """

    def __init__(
        self,
        plan: ViewPlan,
        *,
        seed: int,
        device: torch.device | str = "cpu",
        channels_last: bool = False,
        replays: bool = False,
    ) -> None:
        self.plan = plan
        self.replays = replays
        self.seed = seed
        self.device = torch.device(device)
        self._layout = torch.channels_last if channels_last else torch.contiguous_format

    @torch.no_grad()
    def __call__(
        self,
        canvases: Tensor,
        shapes: npt.NDArray[np.int64],
        indices: npt.NDArray[np.int64],
        *,
        period: int,
        step: int,
    ) -> tuple[Tensor, ...]:
        """Makes one tensor a view.

        Args:
            canvases: (B, C, S, S) uint8, C of 3, or 4 with a channel that is no colour.
            shapes: (B, 2) width and height of each photo.
            indices: (B,) which photos these are.
            period: Which pass over the photos this is; equal passes give equal views.
            step: Which batch of the pass, for what a whole batch shares (mixup).

        Returns:
            For each crop of the plan, (B, C, height, width) float32 in 0..1.
        """
        views = []
        for number, crop in enumerate(self.plan.crops):
            draws = uniforms(self.seed, period, number, indices, count=_NUM_DRAWS)
            views.append(self._view(crop, canvases, draws, shapes.astype(np.float64)))
        if self.plan.mixup:
            # -1 is the number of no view, so that no crop draws the same.
            share = float(uniforms(self.seed, period, -1, step, count=1)[0, 0])
            views = [torch.lerp(view.flip(0), view, share) for view in views]
        return tuple(view.contiguous(memory_format=self._layout) for view in views)

    def _view(self, crop: Crop, canvases: Tensor, numbers: Floats, shapes: Floats) -> Tensor:
        length = _CHUNK if self.device.type == "cpu" else len(canvases)
        parts = [
            self._render(
                crop,
                send(canvases[start : start + length], self.device),
                _draw(crop, numbers[start : start + length], shapes[start : start + length]),
            )
            for start in range(0, len(canvases), length)
        ]
        return torch.cat(parts) if len(parts) > 1 else parts[0]

    def _render(self, crop: Crop, canvases: Tensor, draws: _Draws) -> Tensor:
        views = _resample(crop, canvases, draws)
        if views.shape[1] > 3:
            # What a fourth channel measures has no brightness and no hue.
            colours = self._colour(crop, views[:, :3].contiguous(), draws)
            return torch.cat([colours, views[:, 3:].clamp(0, 1)], dim=1)
        return self._colour(crop, views, draws)

    def _colour(self, crop: Crop, views: Tensor, draws: _Draws) -> Tensor:
        if crop.jitter or crop.grey:
            views = _recolour(views, draws)
        views = views.clamp_(0, 1)
        if crop.solarize:
            chosen = send(draws.solarize, self.device)[:, None, None, None]
            views = torch.where(chosen & (views >= 0.5), 1 - views, views)
        return views


def _resample(crop: Crop, canvases: Tensor, draws: _Draws) -> Tensor:
    """Crop, resize, flip and blur: `R · canvas · Cᵀ` for each photo and channel."""
    count, channels, side, _ = canvases.shape
    height, width = crop.shape
    device, cubic = canvases.device, crop.interpolation == "bicubic"
    rows = _resize_matrix(
        draws.top, draws.height, canvas=side, size=height, cubic=cubic, device=device
    )
    columns = _resize_matrix(
        draws.left, draws.width, canvas=side, size=width, cubic=cubic, device=device
    )
    flip = send(draws.flip, device)[:, None, None]
    columns = torch.where(flip, columns.flip(1), columns)
    blurred = draws.blur.nonzero()[0]
    if len(blurred):
        # Blur and colours commute: one mixes places, the other channels. So blur may come first.
        chosen = send(blurred, device)
        sigma = send(draws.blur[blurred].astype(np.float32), device)
        rows[chosen] = _blur_matrix(sigma, size=height) @ rows[chosen]
        columns[chosen] = _blur_matrix(sigma, size=width) @ columns[chosen]
    # Rows first in memory, so that both products are plain batched matrix products.
    pixels = canvases.transpose(1, 2).contiguous().to(torch.float32).div_(255)
    narrow = torch.bmm(pixels.view(count, side * channels, side), columns.transpose(1, 2))
    small = torch.bmm(rows, narrow.view(count, side, channels * width))
    return small.view(count, height, channels, width).transpose(1, 2).contiguous()
