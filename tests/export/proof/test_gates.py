import numpy as np
import pytest

from edgeseed.export.proof import gates
from edgeseed.export.proof.rounding import Simulated


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


def test_an_export_with_one_photo_that_int8_clips_is_held_to_a_student_from_outside() -> None:
    generator = np.random.default_rng(0)
    reference = {
        "embedding": generator.normal(size=(256, 32)).astype(np.float32),
        "logits": generator.normal(size=(256, 10)).astype(np.float32),
    }
    for each in reference.values():
        each[7] *= 60
    outputs = {name: np.clip(each, -6, 6) for name, each in reference.items()}
    assert [gate.name for gate in gates.fixed_gates(outputs, reference) if not gate.passed] == []
    faults = {
        "logits_rms": {"logits": outputs["logits"] + 3},
        "channels": {"embedding": outputs["embedding"] * (np.arange(32) != 3)},
        "low_cosine": {"embedding": np.abs(outputs["embedding"])},
        "scale": {"logits": outputs["logits"] * 0.85},
    }
    for gate, change in faults.items():
        found = gates.fixed_gates(outputs | change, reference)
        assert gate in {each.name for each in found if not each.passed}
    # A photo's logits may all move together: its classes stay as they are.
    moved = gates.fixed_gates(outputs | {"embedding": outputs["embedding"] * 1.2}, reference)
    assert {each.name for each in moved if not each.passed} == {"scale"}


def test_one_photo_may_tip_on_another_machine_and_two_may_not() -> None:
    reference = {"embedding": np.ones((50, 4), np.float32), "logits": np.eye(50, dtype=np.float32)}
    for lost, passed in ((1, (True, True)), (2, (False, True)), (3, (False, False))):
        logits = reference["logits"].copy()
        logits[:lost] = logits[lost]
        outputs = reference | {"logits": logits}
        for spare, expected in enumerate(passed):
            limits = gates.Limits(parity=None, min_agreement=0.98, spare_photos=spare)
            (gate, _) = gates.similarity_gates(outputs, reference, limits=limits)
            assert gate.value == pytest.approx(1 - lost / 50)
            assert gate.passed == expected


def test_a_network_that_makes_more_of_ties_has_more_room_and_no_more_than_rounding_anew() -> None:
    # A sound file of a MobileNetV3-L was at 0.47, and refused: the limit was 0.25 for all.
    generator = np.random.default_rng(0)

    def near(values: np.ndarray, share: float) -> dict[str, np.ndarray]:
        noise = generator.normal(size=values.shape)
        return {"embedding": (values + 0.1 * share * noise).astype(np.float32)}

    reference = {"embedding": generator.normal(size=(64, 32)).astype(np.float32)}
    outputs = near(reference["embedding"], 1.0)
    again = near(outputs["embedding"], 0.4)
    for share, passed in ((0.1, (True, True)), (0.47, (False, True)), (0.9, (False, False))):
        file = near(outputs["embedding"], share)
        for kept, expected in zip((None, again), passed, strict=True):
            rounding = Simulated(outputs=outputs, again=kept)
            gate, *_ = gates.rounding_gates(file, reference, rounding, slack=0.25)
            assert gate.name == "rounding"
            assert gate.passed == expected, gate
    far = Simulated(outputs=outputs, again=near(outputs["embedding"], 3.0))
    gate, *_ = gates.rounding_gates(outputs, reference, far, slack=0.25)
    assert gate.limit == 1.5


@pytest.mark.parametrize("size", [2.0, 30.0], ids=["unsure", "sure"])
def test_divergence_takes_other_errors_of_the_same_size_and_refuses_twice_as_large(
    size: float,
) -> None:
    random = np.random.default_rng(0)
    shape = (256, 10)
    truth, *errors = (random.normal(size=shape).astype(np.float32) * size for _ in range(4))
    honest, sound = truth + 0.02 * errors[0], truth + 0.02 * errors[1]
    doubled = truth + 0.04 * errors[2]
    most = max(gates._KL_FACTOR * gates._mean_kl(honest, truth), gates._kl_by_chance(honest, truth))
    found, wrong = (gates._mean_kl(each, truth) for each in (sound, doubled))
    assert found < most < wrong
