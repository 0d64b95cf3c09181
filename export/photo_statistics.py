"""What the calibration photos are, before hours rest on them: enough, different, of the right kind.

int8's ranges and its proof are only as good as the photos they come from. The statistics are
cheap (pixels, and the float student on at most 64 of them), need no labels, and are recorded.

Whether photos are of the kind that the student learnt from, the student itself can tell: its batch
norms hold mean and variance of every channel over its training photos. The shift of a photo set is
how far its own lie from these, in training standard deviations, in the middle of all channels of
the first batch norms. Grey photos hardly shift a student of colour photos, but they mute those of
its first filters that answer to colour. (An EfficientNet-Lite0 with its ImageNet weights, on
CIFAR-10 enlarged: as they are 0.06 and no filter muted, without colour 0.10 and a fifth, too dark
0.58, of noise 0.96.) A student without batch norms is only asked by its input normalisation.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from edgeseed.core.config import to_plain
from edgeseed.core.console import warn
from edgeseed.core.errors import DataError
from edgeseed.core.network import StudentNetwork
from edgeseed.core.preprocess import Preprocess
from edgeseed.export.proof.gates import Array
from edgeseed.export.samples import MIN_PHOTOS, Photos

_LOOKED_AT = 256
_SHOWN = 64
_BATCH = 16
_NUM_NORMS = 8
# Below this standard deviation of its grey values, a photo shows nothing: black frames, lens caps.
_EMPTY_CONTRAST = 4.0
# Mean difference between the channels of a pixel; JPEG alone makes about 1 of grey.
_GREY_COLOUR = 3.0
_THUMBNAIL = 8
# Most that two photos' thumbnails may differ anywhere, of 255, to be copies of one another.
_SAME = 3.0
# Of the fewest photos that are taken, half calibrate and half are the proof.
_LEAST_DISTINCT = MIN_PHOTOS // 2
_DEAD, _QUIET = 0.03, 0.25

MAX_EMPTY = 0.1
MIN_DISTINCT = 0.8
MAX_SHIFT = 0.5
MAX_MUTED = 0.1
MAX_SAME_CLASS = 0.95
MAX_COSINE = 0.98
MIN_SCALE = 0.5


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class PhotoStatistics:
    """What was found; shares are of `n` photos."""

    n: int
    distinct: int
    """Photos that differ from all before them, compared as thumbnails."""
    empty: float
    """Share that is all but one colour."""
    grey: float
    """Share without colour."""
    brightness: float
    """Mean of all pixels, 0..255."""
    contrast: float
    """Mean over the photos of the standard deviation of their grey values, 0..255."""
    enlarged: float | None
    """Share that was less than half of the model's size and had to be blown up."""
    shift: float
    """Distance from the training photos, in their standard deviations: see the module."""
    shift_of: str
    """What the shift was measured on: `batch norms`, or `input` where there are none."""
    muted: float | None
    """Share of the first filters that vary less than a quarter as much as they did in training."""
    cosine: float
    """Mean cosine between the float embeddings of different photos: 1 is "all alike"."""
    same_class: float | None
    """Largest share that the float student puts into one class."""

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        plain: dict[str, Any] = to_plain(self)
        return plain


def check_photos(photos: Photos, network: StudentNetwork, preprocess: Preprocess) -> dict[str, Any]:
    """Measures photos, warns of what is wrong, and refuses those that cannot calibrate.

    Returns:
        The statistics and the warnings, for the manifest.

    Raises:
        DataError: If fewer than 8 of them differ, or nearly all show nothing.
    """
    found = measure_photos(photos, network, preprocess)
    reason = reason_to_refuse(found)
    if reason:
        raise DataError(reason)
    warnings = doubts(found)
    for line in warnings:
        warn(line)
    return {**found.to_dict(), "warnings": list(warnings)}


def reason_to_refuse(found: PhotoStatistics) -> str | None:
    """Why photos cannot calibrate anything; None where they can."""
    if found.empty > 1 - MAX_EMPTY:
        return (
            f"calibration photos: {found.empty:.0%} of {found.n} are all but one colour; ranges "
            "taken from them fit no real photo: give photos like those that the app will see"
        )
    if found.distinct < _LEAST_DISTINCT:
        return (
            f"calibration photos: only {found.distinct} of {found.n} differ from one another; "
            f"ranges and proof would rest on these: give at least {MIN_PHOTOS} different ones"
        )
    return None


def doubts(found: PhotoStatistics) -> tuple[str, ...]:
    """A line for each thing that makes the photos worse than they could be."""
    lines = []
    if found.distinct < MIN_DISTINCT * found.n:
        lines.append(
            f"only {found.distinct} of {found.n} differ from one another, so that agreement rests "
            "on fewer photos than it says; remove the copies"
        )
    if found.empty > MAX_EMPTY:
        lines.append(
            f"{found.empty:.0%} of {found.n} are all but one colour and calibrate nothing; "
            "remove them"
        )
    if found.same_class is not None and found.same_class > MAX_SAME_CLASS:
        lines.append(
            f"the float student sees the same class in {found.same_class:.0%} of them, so that "
            "agreement is easy and proves little; give photos of all classes"
        )
    elif found.cosine > MAX_COSINE:
        lines.append(
            f"all look alike to the float student (mean cosine {found.cosine:.3f}), so that the "
            "ranges will not fit others; give more varied photos"
        )
    evidence = _strangeness(found)
    if evidence:
        lines.append(
            f"they are not like those that the student learnt from ({evidence}{_clues(found)}), so "
            "that int8 will be tuned to the wrong kind; give photos like those that the app will "
            "see"
        )
    return tuple(f"calibration photos: {line}" for line in lines)


def _strangeness(found: PhotoStatistics) -> str:
    if found.shift > MAX_SHIFT:
        return f"{found.shift:.1f} standard deviations off in the middle of its {found.shift_of}"
    if found.muted is not None and found.muted > MAX_MUTED:
        return f"{found.muted:.0%} of its first filters find next to nothing in them"
    return ""


def _clues(found: PhotoStatistics) -> str:
    clues = {
        f"{found.grey:.0%} of them are grey": found.grey > 0.5,
        f"{found.enlarged or 0:.0%} are blown up from less than half the size": (
            found.enlarged or 0
        ) > 0.5,
        "they are very dark": found.brightness < 40,
        "they are very bright": found.brightness > 215,
        "they have little contrast": found.contrast < 20,
    }  # fmt: skip
    said = [clue for clue, holds in clues.items() if holds]
    return f"; {', '.join(said)}" if said else ""


def measure_photos(
    photos: Photos, network: StudentNetwork, preprocess: Preprocess
) -> PhotoStatistics:
    """Looks at up to 256 photos, and shows 64 of them to the float student."""
    pixels = photos.pixels[_evenly(len(photos), _LOOKED_AT)]
    greys, colours, thumbnails = [], [], []
    for photo in pixels:
        values = np.asarray(photo, np.float32)
        greys.append(values.mean(axis=0))
        colours.append(float(np.ptp(values[:3], axis=0).mean()))
        thumbnails.append(_thumbnail(values))
    contrast = np.array([grey.std() for grey in greys])
    shown = photos.pixels[_evenly(len(photos), _SHOWN)]
    seen = _show(network, preprocess, shown)
    return PhotoStatistics(
        n=len(pixels),
        distinct=_num_distinct(np.stack(thumbnails)),
        empty=float(np.mean(contrast < _EMPTY_CONTRAST)),
        # Of a network that sees no colours, all photos are grey.
        grey=float(preprocess.channels > 1 and np.mean(np.array(colours) < _GREY_COLOUR)),
        brightness=float(np.mean([grey.mean() for grey in greys])),
        contrast=float(contrast.mean()),
        enlarged=_enlarged(photos, preprocess),
        shift=_input_shift(preprocess, shown) if seen.shift is None else seen.shift,
        shift_of="input" if seen.shift is None else "batch norms",
        muted=seen.muted,
        cosine=_mean_cosine(seen.embedding),
        same_class=None if seen.logits is None else _largest_class(seen.logits),
    )


def _evenly(count: int, most: int) -> npt.NDArray[np.int64]:
    return np.unique(np.linspace(0, count - 1, min(count, most)).astype(np.int64))


def _thumbnail(photo: Array) -> Array:
    """(64 C,) mean colours of 8 x 8 cells."""
    high, wide = (side // _THUMBNAIL for side in photo.shape[1:])
    if high and wide:
        whole = photo[:, : high * _THUMBNAIL, : wide * _THUMBNAIL]
        photo = whole.reshape(len(photo), _THUMBNAIL, high, _THUMBNAIL, wide).mean(axis=(2, 4))
    return photo.ravel()


def _num_distinct(thumbnails: Array) -> int:
    """How many differ from all before them: copies, even compressed anew, do not."""
    return sum(
        not np.any(np.abs(thumbnails[:index] - one).max(axis=1, initial=0) <= _SAME)
        for index, one in enumerate(thumbnails)
    )


def _enlarged(photos: Photos, preprocess: Preprocess) -> float | None:
    if photos.sides is None:
        return None
    return float(np.mean(photos.sides < MIN_SCALE * preprocess.resize))


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Seen:
    """What the float student made of some photos."""

    embedding: Array
    logits: Array | None
    shift: float | None
    muted: float | None


def _show(network: StudentNetwork, preprocess: Preprocess, pixels: npt.NDArray[np.uint8]) -> _Seen:
    norms = [part for part in network.modules() if isinstance(part, nn.BatchNorm2d)][:_NUM_NORMS]
    moments: dict[nn.BatchNorm2d, list[Tensor]] = {norm: [] for norm in norms}

    def note(norm: nn.BatchNorm2d) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def add(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            values = inputs[0].float()
            # (B, 2, C): mean and mean square of each photo's channels
            both = [values.mean(dim=(2, 3)), values.square().mean(dim=(2, 3))]
            moments[norm].append(torch.stack(both, dim=1))

        return add

    hooks = [norm.register_forward_pre_hook(note(norm)) for norm in norms]
    try:
        embeddings, logits = [], []
        with torch.inference_mode():
            for start in range(0, len(pixels), _BATCH):
                batch = preprocess.normalize(np.asarray(pixels[start : start + _BATCH]))
                images = torch.from_numpy(batch).contiguous(memory_format=torch.channels_last)
                output = network(images)
                embeddings.append(output.embedding.numpy())
                if output.logits is not None:
                    logits.append(output.logits.numpy())
    finally:
        for hook in hooks:
            hook.remove()
    return _Seen(
        embedding=np.concatenate(embeddings),
        logits=np.concatenate(logits) if logits else None,
        shift=_norm_shift(moments),
        muted=_muted(norms[0], moments[norms[0]]) if norms else None,
    )


def _norm_shift(moments: dict[nn.BatchNorm2d, list[Tensor]]) -> float | None:
    """Median over all channels of the distance between two normal distributions, here and there.

    `sqrt((mean - m)^2 + (deviation - s)^2) / s`, m and s from training.
    """
    shifts = []
    for norm, parts in moments.items():
        if parts and norm.running_mean is not None and norm.running_var is not None:
            mean, deviation = _distribution(parts)
            spread = torch.sqrt(norm.running_var.double() + norm.eps)
            offset = mean - norm.running_mean.double()
            shifts.append(torch.hypot(offset, deviation - spread) / spread)
    return float(torch.cat(shifts).median()) if shifts else None


def _distribution(parts: list[Tensor]) -> tuple[Tensor, Tensor]:
    """(C,) means and standard deviations from the parts' means and mean squares."""
    mean, square = torch.cat(parts).double().mean(dim=0)
    return mean, torch.sqrt((square - mean.square()).clamp_min(0))


def _muted(norm: nn.BatchNorm2d, parts: list[Tensor]) -> float | None:
    if not parts or norm.running_var is None:
        return None
    trained = torch.sqrt(norm.running_var.double())
    # Filters that training itself left dead say nothing of the photos.
    alive = trained > _DEAD * trained.median()
    quiet = _distribution(parts)[1] < _QUIET * trained
    return float(quiet[alive].double().mean())


def _input_shift(preprocess: Preprocess, pixels: npt.NDArray[np.uint8]) -> float:
    """The same of the input's channels, against the normalisation's mean and deviation."""
    means = preprocess.normalize(pixels).mean(axis=(0, 2, 3))
    return float(np.median(np.abs(means)))


def _mean_cosine(embedding: Array) -> float:
    """Over all pairs of different rows."""
    unit = embedding / np.maximum(np.linalg.norm(embedding, axis=1, keepdims=True), 1e-12)
    n = len(unit)
    return float((np.square(unit.sum(axis=0)).sum() - n) / max(1, n * (n - 1)))


def _largest_class(logits: Array) -> float:
    return float(np.bincount(logits.argmax(axis=1)).max() / len(logits))
