"""The seam to a target: what all have, and how weights are rounded by default."""

import numpy as np
import pytest

from edgeseed.export.target import PRECISIONS, Finding, NotRun, Target, round_per_channel
from edgeseed.export.targets import TARGETS


def test_each_output_channel_is_rounded_to_127_steps_of_its_own() -> None:
    weight = np.array([[0.4, -1.27, 0.004], [100.0, 50.2, -127.0], [0.0, 0.0, 0.0]], np.float32)
    found = round_per_channel(weight)
    np.testing.assert_allclose(
        found, np.array([[0.4, -1.27, 0.0], [100.0, 50.0, -127.0], [0, 0, 0]]), rtol=1e-6, atol=1e-7
    )
    assert found.dtype == np.float32
    # What is rounded already stays.
    np.testing.assert_allclose(round_per_channel(found), found, rtol=1e-6)


def test_a_convolutions_channels_are_its_first_axis() -> None:
    weight = np.random.default_rng(0).normal(size=(3, 2, 3, 3)).astype(np.float32)
    weight[1] *= 1000
    found = round_per_channel(weight)
    for channel in range(3):
        steps = found[channel] / (np.abs(weight[channel]).max() / 127)
        np.testing.assert_allclose(steps, np.rint(steps), atol=1e-3)


@pytest.mark.parametrize("name", TARGETS.names())
def test_a_target_names_its_precisions_and_where_they_are_judged(name: str) -> None:
    target: Target = TARGETS.load(name)
    assert target.name == name
    assert set(target.precisions) <= set(PRECISIONS)
    assert set(target.schemes) <= set(target.precisions)
    assert set(target.parity_limit) <= set(target.precisions)
    # What is not judged by parity is judged by its decisions.
    assert not set(target.parity_limit) & set(target.schemes)


def test_findings_are_one_line() -> None:
    assert str(Finding("conv_1", "it is float")) == "conv_1: it is float"
    assert str(NotRun("compile", "no compiler here")) == "compile: not run: no compiler here"
