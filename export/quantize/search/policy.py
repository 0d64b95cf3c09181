"""The constants of the search, with what they were chosen by."""

import dataclasses

from edgeseed.export.quantize.ranges.observers import Method
from edgeseed.export.samples import Photos

_PHOTO = 224 * 224


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class PhotoCount:
    """How many photos serve a purpose: as many pixels at any size, within limits."""

    pixels: int
    least: int
    most: int

    def of(self, photos: Photos) -> int:
        """The count for photos of this size; there may be fewer."""
        height, width = photos.pixels.shape[2:]
        return max(self.least, min(self.most, self.pixels // int(height * width)))


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class SearchPolicy:
    """What the search tries, on how many photos, and when it stops."""

    # ---------------------------------------------------------------- photos by their use
    held_out: PhotoCount = PhotoCount(pixels=64 * _PHOTO, least=64, most=256)
    """Photos that are not calibrated with, at the end of those given."""
    first_look: PhotoCount = PhotoCount(pixels=32 * _PHOTO, least=32, most=256)
    """Those of them that say which candidates are worth a closer look."""
    ranking: PhotoCount = PhotoCount(pixels=96 * _PHOTO, least=96, most=1024)
    """Photos that rank candidates and layers by distance. A network that agrees on 97 of 100 photos
    may well agree on all of the few that are held out; so calibration photos rank, too: they have
    set a few numbers of each tensor, and no class."""
    acceptance: PhotoCount = PhotoCount(pixels=256 * _PHOTO, least=256, most=2048)
    """Photos of the reserve that rank nothing by distance, to measure agreement by. Those that rank
    have chosen what does well on them."""
    acceptance_error: float = 0.25
    """The standard error of agreement at the gate's limit, over the share that the gate lets go:
    more photos than that are not taken."""
    equalization: PhotoCount = PhotoCount(pixels=16 * _PHOTO, least=16, most=128)
    """Photos that show which channels are wide and which are narrow."""
    bias_correction: PhotoCount = PhotoCount(pixels=32 * _PHOTO, least=32, most=512)
    """Photos whose means correct the biases."""
    rounding: PhotoCount = PhotoCount(pixels=128 * _PHOTO, least=128, most=256)
    """Photos that show how the inputs of a layer go together, by some positions of each."""
    least_for_rounding: int = 100
    """From fewer calibration photos that is not seen, and those that rank would be the same."""
    recovery: int = 10_000
    """Photos of the reserve that `recover` learns on: as many as its updates see."""

    # ---------------------------------------------------------------- candidates
    first: Method = "fisher"
    """The calibrator that is tried first, and alone if it is good enough."""
    rounded: int = 2
    """Calibrators whose weights are rounded together, the nearest with corrected biases."""
    ranked: int = 3
    """Candidates that are ranked by all photos that rank."""
    rank_all_below: int = 32 * _PHOTO
    """All are ranked where that costs no more pixels: few photos of a small size rank badly."""

    # ---------------------------------------------------------------- layers in float
    tried_alone: int = 2
    """Layers with the greatest gain alone that are tried in each step, beside neighbours."""
    costly_tensors: int = 3
    """Tensors whose rounding moves the outputs most, around which layers are tried together."""
    most_around: int = 3
    """Layers in such a group."""
    idle: float = 0.9
    """A step helps little if it leaves more than this share of the distance."""
    needless: float = 1.02
    """A layer is an integer one again where the distance grows by no more than this."""

    # ---------------------------------------------------------------- weights of float layers
    byte_weights: float = 1.02
    """Weights of float layers are bytes where the distance grows by no more than this factor ..."""
    unnoticed: float = 1e-4
    """... or by no more than this: about what two ways of rounding to float16 differ by."""


POLICY = SearchPolicy()
