"""Photos, wherever they come from: folders of any nesting, tar shards, and named sets."""

from edgeseed.core.photos.accounting import (
    MAX_BROKEN_SHARE,
    SIDECARS,
    Skipped,
    judge_skipped,
)
from edgeseed.core.photos.decoding import Draft, decode, decode_draft
from edgeseed.core.photos.open import open_photos
from edgeseed.core.photos.overlap import Mark, Shared, count_shared_by_hash, shared_photos
from edgeseed.core.photos.photo_set import (
    PhotoSet,
    PhotoSource,
    fingerprint_of,
    photos_from_arrays,
)

__all__ = [
    "MAX_BROKEN_SHARE",
    "SIDECARS",
    "Draft",
    "Mark",
    "PhotoSet",
    "PhotoSource",
    "Shared",
    "Skipped",
    "count_shared_by_hash",
    "decode",
    "decode_draft",
    "fingerprint_of",
    "judge_skipped",
    "open_photos",
    "photos_from_arrays",
    "shared_photos",
]
