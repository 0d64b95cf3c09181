"""The queue: first in, first out, the same after a resume."""

import pytest
import torch
from torch.nn import functional as F

from edgeseed.core.errors import ConfigError
from edgeseed.distill.queues import EmbeddingQueue, fit_queue_size


def make(size: int = 12, batch_size: int = 4) -> EmbeddingQueue:
    generator = torch.Generator().manual_seed(0)
    return EmbeddingQueue(size=size, dim=3, batch_size=batch_size, generator=generator)


def batch(seed: int) -> torch.Tensor:
    return torch.randn(4, 3, generator=torch.Generator().manual_seed(seed))


def test_queue_starts_with_random_directions_of_length_one() -> None:
    queue = make()
    torch.testing.assert_close(queue.entries.norm(dim=1), torch.ones(12))
    assert torch.equal(queue.entries, make().entries)
    # A queue of zeros or of one direction would make the first targets flat.
    assert float((queue.entries @ queue.entries.T).std()) > 0.3


def test_oldest_entries_give_way_and_the_pointer_comes_round() -> None:
    queue = make()
    for seed in range(4):
        queue.enqueue(batch(seed))
    newest, second, third = (F.normalize(batch(seed), dim=1) for seed in (3, 1, 2))
    torch.testing.assert_close(queue.entries, torch.cat([newest, second, third]))
    assert int(queue.pointer) == 4


def test_pointer_is_restored_with_the_entries() -> None:
    # CompRess saves its queue without the pointer: after a resume it overwrites the newest entries.
    queue = make()
    queue.enqueue(batch(0))
    restored = make()
    restored.load_state_dict(queue.state_dict(), strict=True)
    for one in (queue, restored):
        one.enqueue(batch(1))
    assert torch.equal(restored.entries, queue.entries)
    assert int(restored.pointer) == int(queue.pointer) == 8


@pytest.mark.parametrize("size", [10, 2])
def test_size_that_is_no_multiple_of_the_batch_is_an_error(size: int) -> None:
    with pytest.raises(ConfigError, match=f"queue_size={size} is not a multiple of the batch of 4"):
        make(size)


def test_usual_size_is_kept_where_the_photos_fill_it() -> None:
    assert fit_queue_size(None, usual=64, batch_size=8, num_samples=1000) == 64


def test_usual_size_is_cut_to_whole_batches() -> None:
    assert fit_queue_size(None, usual=65_536, batch_size=100, num_samples=10**6) == 65_500


def test_wanted_size_beyond_the_set_is_an_error_that_names_the_largest() -> None:
    with pytest.raises(ConfigError, match="use at most 24"):
        fit_queue_size(32, usual=64, batch_size=8, num_samples=29)
