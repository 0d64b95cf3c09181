"""What is said of a layer whose values are broken beyond what float32 can square."""

import numpy as np

from edgeseed.export.proof.diagnosis import _describe


def test_values_whose_squares_float32_does_not_hold_are_described_without_a_warning() -> None:
    truth = np.random.default_rng(0).normal(size=(2, 3, 4, 4)).astype(np.float32)
    assert "off by a constant" in _describe(truth + np.float32(1e30), truth)
