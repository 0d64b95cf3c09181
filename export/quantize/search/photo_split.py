"""The photos of one quantization, divided by their use."""

import dataclasses
import math

from edgeseed.export.quantize.search.policy import POLICY
from edgeseed.export.samples import Photos, Reserve


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class PhotoSplit:
    """Photos for each step of quantization; none of them is in the export's proof.

    `calibration`, `held_out`, `acceptance` and `reserve` have no photo in common. `ranking` is
    `held_out` and, where that is too few to rank by, the last calibration photos before it. A
    calibration photo sets a few ranges and no class, so many of them show a small difference better
    than few held-out photos do.
    """

    calibration: Photos
    """Set the ranges, the bias corrections and the rounding of weights."""
    held_out: Photos
    """Not calibrated with. The first of them give a first look at many candidates."""
    ranking: Photos
    """Rank candidates and layers, by distance to the float model."""
    acceptance: Photos | None
    """Measure top-1 agreement and rank nothing. None where too few photos are left: then `ranking`
    serves for both."""
    reserve: Reserve | None
    """What is left, for recovery to learn on."""

    @classmethod
    def divide(
        cls, photos: Photos, reserve: Reserve | None, *, gate_limit: float, learning: bool
    ) -> "PhotoSplit":
        """The split of the photos that a call gave.

        Args:
            photos: Calibration photos. The last of them, `POLICY.held_out` and at most a quarter,
                are held out.
            reserve: Further photos.
            gate_limit: The agreement that the gate asks for, 0 to 1.
            learning: Whether half of the reserve is kept for recovery.
        """
        held_out = min(POLICY.held_out.of(photos), max(1, len(photos) // 4))
        calibration = Photos(pixels=photos.pixels[:-held_out])
        ranking = Photos(pixels=photos.pixels[-POLICY.ranking.of(photos) :])
        count = 0
        if reserve is not None:
            left = len(reserve)
            if learning:
                # Half are for recovery, and no fewer than there are calibration photos.
                left = min(left // 2, left - len(calibration))
            count = _acceptance_count(left, ranking, gate_limit)
        return cls(
            calibration=calibration,
            held_out=Photos(pixels=photos.pixels[-held_out:]),
            ranking=ranking,
            acceptance=reserve.take(count) if reserve is not None and count else None,
            reserve=reserve,
        )


def _acceptance_count(left: int, ranking: Photos, gate_limit: float) -> int:
    """How many photos agreement is measured on: none where fewer are left than rank."""
    if left < len(ranking):
        return 0
    limit = min(max(gate_limit, 0.0), 1.0)
    # The error of a share p of n is sqrt(p (1 - p) / n).
    enough = math.ceil(limit / max(1.0 - limit, 1e-9) / POLICY.acceptance_error**2)
    return min(left, max(len(ranking), min(POLICY.acceptance.of(ranking), enough)))
