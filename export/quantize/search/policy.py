"""All constants of the quantization search, each with its reason."""

import dataclasses

from edgeseed.export.quantize.ranges.observers import Method
from edgeseed.export.samples import Photos

_PHOTO = 224 * 224


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class PhotoCount:
    """A number of photos that holds about the same number of pixels at any image size."""

    pixels: int
    least: int
    most: int

    def of(self, photos: Photos) -> int:
        """The count for photos of this size; there may be fewer."""
        height, width = photos.pixels.shape[2:]
        return self.of_size(height, width)

    def of_size(self, height: int, width: int) -> int:
        """The count for photos of this height and width."""
        return max(self.least, min(self.most, self.pixels // int(height * width)))


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class SearchPolicy:
    """What the search tries, on how many photos, and when it stops."""

    # ---------------------------------------------------------------- photos by their use
    held_out: PhotoCount = PhotoCount(pixels=64 * _PHOTO, least=64, most=256)
    """Photos that are not calibrated with, at the end of those given."""
    first_look: PhotoCount = PhotoCount(pixels=32 * _PHOTO, least=32, most=256)
    """Held-out photos for a first look at many candidates."""
    ranking: PhotoCount = PhotoCount(pixels=96 * _PHOTO, least=96, most=1024)
    """Photos that rank candidates and layers by distance. A network that agrees on 97 of 100 photos
    may well agree on all of the few that are held out. So calibration photos rank, too: they have
    set a few ranges of each tensor, and no class."""
    acceptance: PhotoCount = PhotoCount(pixels=256 * _PHOTO, least=256, most=2048)
    """Photos of the reserve for top-1 agreement. They rank nothing, because what was chosen by a
    photo does well on it."""
    acceptance_error: float = 0.25
    """Acceptance photos are enough where the standard error of agreement, at the gate's limit, is
    this share of what the gate lets go (with a limit of 0.98, a quarter of 0.02)."""
    equalization: PhotoCount = PhotoCount(pixels=16 * _PHOTO, least=16, most=128)
    """Photos that show which channels are wide and which are narrow."""
    bias_correction: PhotoCount = PhotoCount(pixels=32 * _PHOTO, least=32, most=512)
    """Photos whose means correct the biases."""
    rounding: PhotoCount = PhotoCount(pixels=128 * _PHOTO, least=128, most=256)
    """Photos for the second moments of each layer's inputs; some positions of each are taken."""
    least_for_rounding: int = 100
    """Fewer calibration photos say too little of those moments, and would rank as well."""
    recovery: int = 10_000
    """Photos of the reserve that `recover` learns on: as many as its updates see."""

    # ---------------------------------------------------------------- candidates
    first: Method = "fisher"
    """The calibrator that is tried first, and alone if it is good enough."""
    rounded: int = 2
    """Calibrators whose weights are rounded together, the nearest with corrected biases."""
    ranked: int = 3
    """Candidates that are ranked by all ranking photos; a first look leaves out the others."""
    rank_all_below: int = 32 * _PHOTO
    """With fewer pixels in all ranking photos, every candidate is ranked: a first look at few small
    photos ranks badly."""

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
