"""Palettes: a weight tensor as a few values, and for each weight the number of one of them."""

import numpy as np
from numpy.typing import NDArray

_ROUNDS = 30
# More weights than this are clustered by a sorted sample: a palette moves by less than it is wide.
_LARGEST_SAMPLE = 1 << 16


def palettize(
    weight: NDArray[np.floating], *, bits: int
) -> tuple[NDArray[np.floating], NDArray[np.uint8]]:
    """The 2^bits values nearest to all weights, by Lloyd's algorithm on the sorted weights.

    In one dimension the nearest value is found by bisection, so that a round costs a sort's share
    of time where general k-means compares every weight with every value. It starts from the
    quantiles, which makes it deterministic.

    Args:
        weight: Weights of any shape.
        bits: 1 to 8.

    Returns:
        The palette (2^bits,), rising, of the weights' type; and for each weight its number (size,).
    """
    flat = weight.astype(np.float64).ravel()
    sample = np.sort(flat)
    if sample.size > _LARGEST_SAMPLE:
        # Evenly spaced order statistics; the ends are kept, for the largest weights matter most.
        sample = sample[np.linspace(0, sample.size - 1, _LARGEST_SAMPLE).round().astype(np.int64)]
    sums = np.concatenate([[0.0], np.cumsum(sample)])
    palette = _starting_palette(sample, 2**bits)
    for _ in range(_ROUNDS):
        bounds = np.searchsorted(sample, (palette[1:] + palette[:-1]) / 2)
        edges = np.concatenate([[0], bounds, [sample.size]])
        counts = np.diff(edges)
        means = np.diff(sums[edges]) / np.maximum(counts, 1)
        moved = np.where(counts > 0, means, palette)  # a value that nobody is nearest to stays
        if np.array_equal(moved, palette):
            break
        palette = moved
    rounded = palette.astype(weight.dtype)
    middles = (rounded[1:].astype(np.float64) + rounded[:-1].astype(np.float64)) / 2
    return rounded, np.searchsorted(middles, flat).astype(np.uint8)


def _starting_palette(sample: NDArray[np.float64], count: int) -> NDArray[np.float64]:
    """Between the quantiles, where most weights are, and even spacing, so that the tails count."""
    quantiles = np.quantile(sample, (np.arange(count) + 0.5) / count)
    even = np.linspace(sample[0], sample[-1], count)
    return np.sort((quantiles + even) / 2)
