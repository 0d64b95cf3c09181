import numpy as np
import pytest

from edgeseed.export.targets.coreml.palettes import palettize


def error(weight: np.ndarray, bits: int) -> float:
    palette, numbers = palettize(weight, bits=bits)
    return float(np.mean((palette[numbers].reshape(weight.shape) - weight) ** 2))


def test_as_few_values_as_there_are_cost_nothing() -> None:
    weight = np.random.default_rng(0).choice([-1.0, 0.25, 0.5, 3.0], (8, 9)).astype(np.float32)
    palette, numbers = palettize(weight, bits=2)
    np.testing.assert_array_equal(palette, [-1.0, 0.25, 0.5, 3.0])
    np.testing.assert_array_equal(palette[numbers].reshape(8, 9), weight)


def test_every_weight_gets_the_nearest_value() -> None:
    weight = np.random.default_rng(0).normal(size=500).astype(np.float16)
    palette, numbers = palettize(weight, bits=4)
    assert palette.dtype == np.float16
    assert palette.shape == (16,)
    distances = np.abs(weight[:, None].astype(np.float64) - palette.astype(np.float64))
    np.testing.assert_allclose(
        distances[np.arange(500), numbers], distances.min(axis=1), rtol=0, atol=1e-12
    )


@pytest.mark.parametrize("bits", [4, 6])
def test_it_is_as_good_as_general_k_means(bits: int) -> None:
    from sklearn.cluster import KMeans

    weight = np.random.default_rng(0).standard_t(4, size=2000)
    best = KMeans(2**bits, n_init=3, random_state=0).fit(weight[:, None]).inertia_ / weight.size
    assert error(weight, bits) <= 1.1 * best


def test_large_tensors_are_clustered_by_a_sample() -> None:
    weight = np.random.default_rng(0).normal(size=300_000)
    # Panter and Dite's limit for normal numbers: (sqrt(3) pi / 2) / 4^bits.
    assert error(weight, 8) <= 1.1 * 2.72 / 4**8
