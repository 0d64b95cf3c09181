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


def test_a_photo_that_is_there_twice_may_be_taken_for_its_twin() -> None:
    reference = _logits([1, 0], [1, 0], [0, 1])
    assert gates.self_retrieval(reference, reference) == 1.0
    assert gates.self_retrieval(_logits([0, 1], [1, 0], [0, 1]), reference) == pytest.approx(2 / 3)


def test_photos_are_found_again_among_as_many_however_many_there_are() -> None:
    """512 directions all round, every second first, each moved by most of the way to the next."""
    step = 2 * np.pi / 512
    angles = step * np.concatenate([np.arange(0, 512, 2), np.arange(1, 512, 2)])
    reference, moved = (
        np.stack([np.cos(a), np.sin(a)], axis=1).astype(np.float32)
        for a in (angles, angles + 0.7 * step)
    )
    assert gates.self_retrieval(moved[:256], reference[:256]) == 1.0
    assert gates.self_retrieval(moved, reference) == 1.0


def test_the_distance_is_the_divergence_of_the_distributions() -> None:
    truth, found = _logits([2.0, 0.0]), _logits([0.0, 0.0])
    share = np.exp(2) / (1 + np.exp(2))
    expected = share * np.log(share / 0.5) + (1 - share) * np.log((1 - share) / 0.5)
    outputs, reference = ({"embedding": rows, "logits": rows} for rows in (found, truth))
    assert gates.distance(outputs, reference) == pytest.approx(expected, rel=1e-6)


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
