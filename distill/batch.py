"""One step's photos as the trainer hands them to a method."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class ReplayedViews:
    """Says which views of a bank a batch holds, so that a teacher's answers can be looked up.

    Attributes:
        number: Which set of views this is, below `views.replay`: the same number and photo have
            the same pixels in every pass, run and process.
        photos: (B,) which photos these are, on the host: a look-up must not wait for the device.
    """

    number: int
    photos: npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """One step's photos on this rank.

    Attributes:
        views: One tensor a view of the plan, (B, 3, H, W), pixels in 0..1, not normalised:
            each network normalises for itself, so the same tensor goes to teacher and student.
        indices: Which photos these are, (B,) int64, below `MethodInputs.num_samples`.
        labels: Class of each photo, (B,) int64, -1 where it has none; None if the method asks for
            none.
        generator: For random draws of this step (negatives, masks). On the CPU, seeded by the run's
            seed, the step and the rank, so that a resumed run draws the same.
        replayed: Which views of a bank these are; None where views are always fresh.
    """

    views: tuple[Tensor, ...]
    indices: Tensor
    labels: Tensor | None
    generator: torch.Generator
    replayed: ReplayedViews | None = None
