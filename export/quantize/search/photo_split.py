"""Which photos do what while integers are chosen."""

import dataclasses
import math

from edgeseed.export.quantize.search.policy import POLICY
from edgeseed.export.samples import Photos, Reserve


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class PhotoSplit:
    """The photos of one quantization, by their use; none of them is in the export's proof.

    `calibration`, `held_out`, `acceptance` and `reserve` have no photo in common. `ranking` is
    `held_out` and, where that is too few to rank by, the last calibration photos before it. Many
    photos that each set a few ranges judge a small difference better than a few that set none.
    """

    calibration: Photos
    """Ranges, bias corrections and roundings come from these."""
    held_out: Photos
    """Not calibrated with. The first of them give a first look at many candidates."""
    ranking: Photos
    """Candidates and layers are ranked by their distance to the float model on these."""
    acceptance: Photos | None
    """Agreement is counted on these, which chose nothing; None where too few photos are left, and
    then those that rank count as well."""
    reserve: Reserve | None
    """The rest: what recovery learns on."""

    @classmethod
    def deal(
        cls, photos: Photos, reserve: Reserve | None, *, required: float, learning: bool
    ) -> "PhotoSplit":
        """Deals the photos out.

        Args:
            photos: Calibration photos as they were given; the last eighth to quarter of them is
                held out.
            reserve: Further photos.
            required: The agreement that the gate asks for.
            learning: Whether half of the reserve has to be left to be learnt on.
        """
        held_out = min(POLICY.held_out.of(photos), max(1, len(photos) // 4))
        calibration = Photos(pixels=photos.pixels[:-held_out])
        ranking = Photos(pixels=photos.pixels[-POLICY.ranking.of(photos) :])
        count = 0
        if reserve is not None:
            left = len(reserve)
            if learning:
                # Half are to be learnt on, and no fewer than calibrate.
                left = min(left // 2, left - len(calibration))
            count = _acceptance_count(left, ranking, required)
        return cls(
            calibration=calibration,
            held_out=Photos(pixels=photos.pixels[-held_out:]),
            ranking=ranking,
            acceptance=reserve.take(count) if reserve is not None and count else None,
            reserve=reserve,
        )


def _acceptance_count(left: int, ranking: Photos, required: float) -> int:
    """How many photos agreement is counted on: none where fewer are left than rank."""
    if left < len(ranking):
        return 0
    limit = min(max(required, 0.0), 1.0)
    # The error of a share p of n is sqrt(p (1 - p) / n).
    enough = math.ceil(limit / max(1.0 - limit, 1e-9) / POLICY.acceptance_error**2)
    return min(left, max(len(ranking), min(POLICY.acceptance.of(ranking), enough)))
