"""Queues of past embeddings: the same on every rank, saved with the run."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgeseed.core.console import note
from edgeseed.core.errors import ConfigError
from edgeseed.distill import distributed


class EmbeddingQueue(nn.Module):
    """The last K embeddings of all ranks together, first in, first out.

    Starts as random directions (`randn`, each row normalised), as MoCo's and SEED's do.

    Args:
        size: K, a multiple of the global batch, so that a batch never wraps around.
        dim: D of an embedding.
        batch_size: The global batch.
        generator: For the first entries; the same on every rank.

    Raises:
        ConfigError: If K is not a multiple of the batch.
    """

    entries: Tensor
    pointer: Tensor

    def __init__(self, *, size: int, dim: int, batch_size: int, generator: torch.Generator) -> None:
        super().__init__()
        if size < batch_size or size % batch_size:
            raise ConfigError(
                f"queue_size={size} is not a multiple of the batch of {batch_size} photos; "
                f"use {max(size // batch_size, 1) * batch_size}, or change --batch-size"
            )
        entries = F.normalize(torch.randn(size, dim, generator=generator), dim=1)
        self.register_buffer("entries", entries)
        self.register_buffer("pointer", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def enqueue(self, embeddings: Tensor) -> None:
        """Replaces the oldest entries by all ranks' embeddings.

        Args:
            embeddings: (B, D) of this rank; normalised here.
        """
        gathered = F.normalize(distributed.gather(embeddings.float()), dim=1)
        # All on the device: reading the pointer here would make every step wait for the GPU.
        count, size = len(gathered), len(self.entries)
        slots = (self.pointer + torch.arange(count, device=gathered.device)) % size
        self.entries.index_copy_(0, slots, gathered)
        self.pointer.add_(count).remainder_(size)


def fit_queue_size(wanted: int | None, *, usual: int, batch_size: int, num_samples: int) -> int:
    """K for a set of photos: what was asked for, or the usual size shrunk to fit a small set.

    A queue that is longer than the set would hold every photo twice, the current one among them.

    Args:
        wanted: `queue_size` as the user set it; None lets this function choose.
        usual: The paper's K.
        batch_size: The global batch.
        num_samples: Photos of the set.

    Raises:
        ConfigError: If `wanted` is more than the set has photos.
    """
    largest = max(num_samples // batch_size, 1) * batch_size
    if wanted is not None:
        if wanted > largest:
            raise ConfigError(
                f"queue_size={wanted} is more than the {num_samples} photos can fill in batches of "
                f"{batch_size}; use at most {largest}, or leave it out"
            )
        return wanted
    size = min(usual // batch_size * batch_size or batch_size, largest)
    if size < usual:
        note(f"queue of {size} embeddings instead of {usual}: there are {num_samples} photos")
    return size
