"""What methods share whose teacher is a classifier: whether it is one, and the step."""

from edgeseed.core.errors import ConfigError
from edgeseed.distill.losses import labelled_cross_entropy, soft_label_loss
from edgeseed.distill.methods._method import Batch, Parts, StepResult
from edgeseed.distill.networks import FrozenTeacher, Student


def classifying_teacher(parts: Parts, *, method: str) -> FrozenTeacher:
    """The teacher, if it tells the student's classes apart.

    Args:
        parts: What the method is built from; the student has a head.
        method: Name of the method, for messages.

    Raises:
        ConfigError: If the teacher has no classifier, or one for other classes.
    """
    teacher = parts.teacher
    assert teacher is not None
    if "classifier" not in teacher.heads:
        raise ConfigError(
            f"{method} learns soft labels, and {teacher.name} has no classifier; make it one with "
            f"a few labels first: `edgeseed finetune {teacher.name} --labels 1% ...`, and give "
            "that run's student.safetensors as the teacher"
        )
    names, classes = teacher.network.classes, parts.student.classes
    num_known = teacher.head_dim("classifier")
    if num_known != parts.num_classes or (names is not None and names != classes):
        raise ConfigError(
            f"{method}: {teacher.name} tells {num_known} classes apart, and the student "
            f"{parts.num_classes}{' others' if num_known == parts.num_classes else ''}; the "
            "student takes the teacher's classes where its file names them"
        )
    return teacher


def imitate(
    student: Student,
    teacher: FrozenTeacher,
    batch: Batch,
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
        temperature: T, of both p; the labels' term has none.
        soft_weight: α.
        label_weight: γ.
    """
    logits = student(batch.views[0]).logits
    assert logits is not None
    target = teacher.project(teacher(batch).embedding, "classifier")
    soft, floor = soft_label_loss(logits, target, temperature=temperature)
    agreement = (logits.detach().argmax(1) == target.argmax(1)).float().mean()
    loss, logs = soft_weight * soft, {"agreement": agreement}
    if label_weight > 0:
        assert batch.labels is not None
        label_loss = labelled_cross_entropy(logits, batch.labels)
        loss = loss + label_weight * label_loss
        logs["label_loss"] = label_loss.detach()
    return StepResult(loss=loss, floor=soft_weight * floor, logs=logs)
