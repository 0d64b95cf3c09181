import numpy as np
import pytest

from edgeseed.export.proof import gates


def _logits(*rows: list[float]) -> np.ndarray:
    return np.asarray(rows, np.float32)


def test_parity_is_that_of_the_worst_photo_and_output() -> None:
    reference = {"embedding": _logits([1, 2], [0, 4]), "logits": _logits([10, 0], [0, 10])}
    outputs = {"embedding": _logits([1, 2], [0, 3]), "logits": _logits([10, 0], [1, 10])}
    gate = gates.parity_gate(outputs, reference, limit=0.2)
    assert gate.value == pytest.approx(0.25)
    assert not gate.passed
    assert "embedding" in gate.detail


def test_one_photo_more_or_less_is_within_what_few_photos_can_tell() -> None:
    labels = np.zeros(20, np.int64)
    right = np.tile(_logits([1, 0]), (20, 1))
    one_lost, two_lost = right.copy(), right.copy()
    one_lost[:1], two_lost[:2] = [0, 1], [0, 1]
    assert gates.accuracy_gate(one_lost, right, labels, max_drop_points=1.0).passed
    assert not gates.accuracy_gate(two_lost, right, labels, max_drop_points=1.0).passed


@pytest.mark.parametrize(
    ("fixed", "detail"),
    [
        (None, "2 photos at a time against 1; worst: 2"),
        (4, "2 photos at a time against 1, copies filling the batch of 4; worst: 2"),
    ],
)
def test_the_batch_gate_says_how_photos_were_put_together(fixed: int | None, detail: str) -> None:
    alone = {"embedding": _logits([1, 2], [3, 4])}
    mixed = {2: {"embedding": _logits([1, 2], [3, 5])}}
    same = gates.batch_gate(alone, {2: alone}, rounded=False, fixed=fixed)
    assert same.passed
    assert same.detail == detail
    assert not gates.batch_gate(alone, mixed, rounded=False).passed
