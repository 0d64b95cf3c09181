"""What methods share whose teacher is a classifier: whether it is one, and the step."""

import math

from torch import Tensor

from edgeseed.core.console import warn
from edgeseed.core.errors import ConfigError
from edgeseed.distill import distributed
from edgeseed.distill.losses import entropy, labelled_cross_entropy, soft_label_loss
from edgeseed.distill.method import Batch, MethodInputs, Progress, StepResult
from edgeseed.distill.networks.frozen import FrozenTeacher, Student

# A teacher is asked about the first batch: so many labels tell how often it is right.
_ENOUGH_LABELS = 32
_HARDLY_RIGHT = 0.1
"""Of what a guess leaves to be known."""
_NEAR_UNIFORM = 0.98
"""Of the entropy of a guess."""


def classifying_teacher(inputs: MethodInputs, *, method: str) -> FrozenTeacher:
    """The teacher, if it tells the student's classes apart.

    Args:
        inputs: What the method is built from; the student has a head.
        method: Name of the method, for messages.

    Raises:
        ConfigError: If the teacher has no classifier, or one for other classes.
    """
    teacher = inputs.teacher
    if "classifier" not in teacher.heads:
        raise ConfigError(
            f"{method} learns soft labels, and {teacher.name} has no classifier; make it one with "
            f"a few labels first: `edgeseed finetune {teacher.name} --labels 1% ...`, and give "
            "that run's student.safetensors as the teacher"
        )
    names, classes = teacher.network.classes, inputs.student.classes
    num_known = teacher.head_dim("classifier")
    if num_known != inputs.num_classes or (names is not None and names != classes):
        raise ConfigError(
            f"{method}: {teacher.name} tells {num_known} classes apart, and the student "
            f"{inputs.num_classes}{' others' if num_known == inputs.num_classes else ''}; the "
            "student takes the teacher's classes where its file names them"
        )
    return teacher


def imitate(
    student: Student,
    teacher: FrozenTeacher,
    batch: Batch,
    progress: Progress,
    *,
    temperature: float,
    soft_weight: float,
    label_weight: float,
) -> StepResult:
    """One step of `α T² CE(p_T, p_S) + γ CE(labels, p_S)` on the only view.

    Args:
        student: Has a head.
        teacher: Has a classifier over the same classes.
        batch: Has labels, unless γ is 0.
        progress: At the first step the teacher is looked at, and what it does not know is said.
        temperature: T, of both p; the labels' term has none.
        soft_weight: α.
        label_weight: γ.
    """
    logits = student(batch.views[0]).logits
    assert logits is not None
    target = teacher.project(teacher(batch).embedding, "classifier")
    if progress.step == 0 and distributed.is_main():
        # Sharpened, where the method sharpens: some classifiers speak low.
        warn_of_ignorance(teacher, target / min(1.0, temperature), batch.labels)
    soft, floor = soft_label_loss(logits, target, temperature=temperature)
    agreement = (logits.detach().argmax(1) == target.argmax(1)).float().mean()
    loss, logs = soft_weight * soft, {"agreement": agreement}
    if label_weight > 0:
        assert batch.labels is not None
        label_loss = labelled_cross_entropy(logits, batch.labels)
        loss = loss + label_weight * label_loss
        logs["label_loss"] = label_loss.detach()
    return StepResult(loss=loss, floor=soft_weight * floor, logs=logs)


def warn_of_ignorance(teacher: FrozenTeacher, logits: Tensor, labels: Tensor | None) -> None:
    """Says so if a teacher's answers are hardly better than guesses.

    It was made for another size or normalisation, or for classes in another order; a student learns
    that just as well, and the loss falls.

    Args:
        teacher: Whose answers they are.
        logits: (B, C) of its classifier.
        labels: (B,) class of each photo, -1 where it has none; or None.
    """
    num_classes = logits.shape[1]
    if num_classes < 2:
        return
    doubt = (
        f"is it made for photos like these, at {teacher.network.preprocess.image_size} px, and are "
        "these its classes, in its order?"
    )
    known = None if labels is None else labels >= 0
    if known is not None and labels is not None and int(known.sum()) >= _ENOUGH_LABELS:
        right = float((logits.argmax(1) == labels)[known].float().mean())
        guess = 1 / num_classes
        if right < guess + _HARDLY_RIGHT * (1 - guess):
            warn(
                f"{teacher.name} is right about {right:.0%} of {int(known.sum())} labelled photos, "
                f"and a guess about {guess:.0%}: {doubt}"
            )
            return
    share = float(entropy(logits.softmax(1))) / math.log(num_classes)
    if share > _NEAR_UNIFORM:
        warn(
            f"{teacher.name} hardly tells these photos apart: its answers have {share:.1%} of the "
            f"entropy of a guess; {doubt}"
        )
