"""What methods with a classifying teacher share; `kd` and `simclrv2` test the step they take."""

import dataclasses

import pytest
import torch
from support.distill import CLASSES, tiny_inputs, tiny_teacher

from edgeseed.core.errors import ConfigError
from edgeseed.distill.methods._soft_labels import classifying_teacher, warn_of_ignorance
from edgeseed.distill.methods.kd import Kd
from edgeseed.distill.networks.frozen import FrozenTeacher


def frozen(*heads: str) -> FrozenTeacher:
    return FrozenTeacher(tiny_teacher(heads=heads))


def test_a_teacher_with_the_students_classes_is_taken() -> None:
    inputs = tiny_inputs(Kd)
    assert classifying_teacher(inputs, method="kd") is inputs.teacher


def test_a_teacher_without_a_classifier_says_how_to_give_it_one() -> None:
    inputs = tiny_inputs(Kd, teacher=frozen("projection"))
    with pytest.raises(ConfigError, match=r"kd learns soft labels, .*`edgeseed finetune "):
        classifying_teacher(inputs, method="kd")


@pytest.mark.parametrize(
    ("num_classes", "message"),
    [(7, "tells 3 classes apart, and the student 7; "), (3, "and the student 3 others; ")],
)
def test_a_teacher_of_other_classes_is_refused(num_classes: int, message: str) -> None:
    teacher = frozen("classifier")
    teacher.network.classes = tuple(name.upper() for name in CLASSES)
    inputs = dataclasses.replace(tiny_inputs(Kd, teacher=teacher), num_classes=num_classes)
    with pytest.raises(ConfigError, match=message):
        classifying_teacher(inputs, method="kd")


def logits(right: int, *, n: int = 40, firm: float = 9.0) -> tuple[torch.Tensor, torch.Tensor]:
    """(n, 10) answers of which the first `right` are right, and the labels."""
    labels = torch.arange(n) % 10
    guesses = torch.where(torch.arange(n) < right, labels, (labels + 1) % 10)
    return firm * torch.nn.functional.one_hot(guesses, 10).float(), labels


@pytest.mark.parametrize(("right", "said"), [(40, False), (10, False), (6, True), (0, True)])
def test_a_teacher_that_is_right_as_often_as_a_guess_is_told(
    right: int, said: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    # A guess is right about 10 %; less than a tenth of the rest on top of it is hardly better.
    answers, labels = logits(right)
    warn_of_ignorance(frozen("classifier"), answers, labels)
    message = capsys.readouterr().err
    assert ("labelled photos, and a guess about 10%" in message) is said
    assert ("are these its classes, in its order?" in message) is said


def test_few_labels_or_none_tell_nothing_of_how_often_it_is_right(
    capsys: pytest.CaptureFixture[str],
) -> None:
    answers, labels = logits(0)
    warn_of_ignorance(frozen("classifier"), answers, torch.where(labels < 7, -1, labels))
    warn_of_ignorance(frozen("classifier"), answers, None)
    assert capsys.readouterr().err == ""


def test_answers_without_a_preference_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    answers, _ = logits(40, firm=0.1)
    warn_of_ignorance(frozen("classifier"), answers, None)
    assert "hardly tells these photos apart: its answers have 100.0%" in capsys.readouterr().err


def test_one_class_has_nothing_to_be_known(capsys: pytest.CaptureFixture[str]) -> None:
    warn_of_ignorance(frozen("classifier"), torch.zeros(40, 1), None)
    assert capsys.readouterr().err == ""
