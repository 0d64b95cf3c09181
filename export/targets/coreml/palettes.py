"""Palettes: a weight tensor as a few values, and for each weight the number of one of them."""

import numpy as np
from numpy.typing import NDArray

_ROUNDS = 100
# More weights than this are clustered by a sorted sample: a palette moves by less than it is wide.
_LARGEST_SAMPLE = 1 << 16


def palettize(
    weight: NDArray[np.floating], *, bits: int
) -> tuple[NDArray[np.floating], NDArray[np.uint8]]:
    """The 2^bits values nearest to all weights, by Lloyd's algorithm on the sorted weights.

    In one dimension the nearest value is found by bisection, so that a round costs a sort's share
    of time where general k-means compares every weight with every value. Nothing in it is
    random.

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
    """Values as dense as the cube root of the weights' density, the best for many values.

    Panter and Dite, "Quantization distortion in pulse-count modulation with nonuniform spacing of
    levels", 1951. Where weights have the density p, neighbours lie about 1/p apart, so that the sum
    of their distances to the power 2/3 grows as the cube root of p.
    """
    distinct = np.unique(sample)
    if distinct.size <= count:
        return np.concatenate([distinct, np.full(count - distinct.size, distinct[-1])])
    share = np.concatenate([[0.0], np.cumsum(np.diff(distinct) ** (2 / 3))])
    places = (np.arange(count) + 0.5) / count * share[-1]
    return np.interp(places, share, distinct)  # type: ignore[no-any-return]  # numpy
