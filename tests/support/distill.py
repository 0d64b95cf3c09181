"""Tiny stand-ins for what a method is built from and fed with.

They are real: a timm trunk, a real teacher with real heads, views in 0..1. Only small.
"""

import copy
import functools
from collections.abc import Sequence
from typing import Any

import timm
import torch
from torch import Tensor, nn

from edgeseed.core.network import StudentNetwork
from edgeseed.core.preprocess import Preprocess
from edgeseed.core.student import Architecture
from edgeseed.distill.data.views import ViewPlan
from edgeseed.distill.method import Batch, Method, MethodInputs, Progress
from edgeseed.distill.networks.features import Features, extract
from edgeseed.distill.networks.frozen import FrozenTeacher, Student
from edgeseed.distill.teachers import Teacher

IMAGE_SIZE = 32
PROJECTION_DIM = 16
CLASSES = ("cat", "dog", "fox")


class _Trunk(nn.Module):
    """A timm network as a teacher's trunk."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: torch.Tensor) -> Features:
        return extract(self.network, images)


def tiny_student(
    name: str = "test_efficientnet", *, seed: int = 0, classes: tuple[str, ...] | None = None
) -> Student:
    """A student of some hundred thousand weights, with a head if there are classes."""
    return copy.deepcopy(_tiny_student(name, seed, classes))


@functools.cache  # four hundred tests ask for a few of them, and timm draws weights slowly
def _tiny_student(name: str, seed: int, classes: tuple[str, ...] | None) -> Student:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        backbone = timm.create_model(name, pretrained=False, num_classes=0)
        network = StudentNetwork(backbone, num_classes=None if classes is None else len(classes))
    preprocess = Preprocess(image_size=IMAGE_SIZE, resize=IMAGE_SIZE)
    return Student(
        network, architecture=Architecture(name=name), preprocess=preprocess, classes=classes
    )


def tiny_teacher(name: str = "test_resnet", *, seed: int = 1, heads: Sequence[str] = ()) -> Teacher:
    """A teacher of some hundred thousand weights.

    Args:
        name: A timm network.
        seed: Of its weights.
        heads: Which heads it brings, as `Teacher.heads` names them.
    """
    return copy.deepcopy(_tiny_teacher(name, seed, tuple(heads)))


@functools.cache
def _tiny_teacher(name: str, seed: int, heads: tuple[str, ...]) -> Teacher:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = timm.create_model(name, pretrained=False, num_classes=0)
        dim = StudentNetwork(network).embedding_dim
        widths = {"classifier": len(CLASSES)}
        made = {kind: nn.Linear(dim, widths.get(kind, PROJECTION_DIM)) for kind in heads}
    return Teacher(
        _Trunk(network),
        name=f"tiny {name}",
        embedding_dim=dim,
        preprocess=Preprocess(
            image_size=IMAGE_SIZE, resize=IMAGE_SIZE, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)
        ),
        pooling="avg",
        licence="none: random weights",
        commercial_ok=True,
        heads=made,
        classes=CLASSES if "classifier" in heads else None,
    )


def tiny_inputs(
    method: type[Method[Any]], *, batch_size: int = 8, num_samples: int = 32, **changes: Any
) -> MethodInputs:
    """All that a method says it needs.

    Args:
        method: The method; its `REQUIREMENTS` are filled.
        batch_size: The global batch.
        num_samples: Photos of the set.
        changes: Fields of `MethodInputs` to set otherwise; `teacher` and `peer` are roles.
    """
    needs = method.REQUIREMENTS
    classes = CLASSES if needs.classifier else None
    labels = torch.arange(num_samples) % len(CLASSES) if needs.labels != "unused" else None
    heads = ("projection", "classifier", "dino", "region")
    frozen = {role: FrozenTeacher(tiny_teacher(heads=heads)) for role in needs.frozen}
    trained = {role: tiny_student("test_resnet", seed=2, classes=classes) for role in needs.trained}
    for role, others in (("teacher", frozen), ("peer", trained)):
        if role in changes:
            others[role] = changes.pop(role)
    fields: dict[str, Any] = {
        "student": tiny_student(classes=classes),
        "frozen": frozen,
        "trained": trained,
        "num_samples": num_samples,
        "labels": labels,
        "num_classes": len(CLASSES) if labels is not None or classes is not None else 0,
        "batch_size": batch_size,
        "total_steps": 20,
        "steps_per_epoch": num_samples // batch_size,
        "generator": torch.Generator().manual_seed(0),
    }
    return MethodInputs(**{**fields, **changes})


def tiny_batch(
    plan: ViewPlan, *, batch_size: int = 8, labels: bool = False, seed: int = 0
) -> Batch:
    """A batch of noise with one view for each crop of the plan.

    Args:
        plan: The method's views.
        batch_size: Photos in it.
        labels: Whether it carries classes.
        seed: Of the noise.
    """
    generator = torch.Generator().manual_seed(seed)
    indices = torch.arange(batch_size)
    return Batch(
        views=tuple(
            torch.rand(batch_size, 3, *crop.shape, generator=generator) for crop in plan.crops
        ),
        indices=indices,
        labels=indices % len(CLASSES) if labels else None,
        generator=generator,
    )


def tiny_progress(step: int = 0) -> Progress:
    """A place in a run of twenty steps, four an epoch."""
    return Progress(step=step, total_steps=20, steps_per_epoch=4)


def clusters(num_photos: int, *, seed: int, num_classes: int = 3) -> tuple[Tensor, Tensor]:
    """(N, 6) features that lie around one centre for each class, and the (N,) classes."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(num_photos) % num_classes
    centers = torch.randn(num_classes, 6, generator=torch.Generator().manual_seed(99))
    noise = torch.randn(num_photos, 6, generator=generator)
    return centers[labels] + 0.9 * noise, labels
