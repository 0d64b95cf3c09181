import numpy as np
import numpy.typing as npt
import pytest

from edgeseed.core.network import StudentNetwork
from edgeseed.export.testing import tiny_preprocess
from edgeseed.export.verification.gates import float16_limit, relative_error
from edgeseed.export.verification.reference import reference_outputs, rounded_outputs

Pixels = npt.NDArray[np.uint8]


def test_weights_in_float16_cost_a_little_and_leave_the_student_as_it_was(
    network: StudentNetwork, pixels: Pixels
) -> None:
    before = {name: value.clone() for name, value in network.state_dict().items()}
    wanted = reference_outputs(network, tiny_preprocess(), pixels[:20])
    found = rounded_outputs(network, tiny_preprocess(), pixels[:20])
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        assert found[name].shape == value.shape
        assert 0 < relative_error(found[name], value) < 2e-2
    assert all(before[name].equal(value) for name, value in network.state_dict().items())


@pytest.mark.parametrize(
    ("cost", "limit"), [(1e-5, 2e-3), (1.2e-3, 2.4e-3), (3.14e-3, 6.3e-3), (0.3, 5e-2)]
)
def test_the_limit_of_float16_is_twice_its_cost_within_bounds(cost: float, limit: float) -> None:
    truth = np.ones((1, 4), np.float32)
    rounded = {"embedding": (truth + cost).astype(np.float32)}
    assert float16_limit(rounded, {"embedding": truth}, least=2e-3) == pytest.approx(limit)
