"""The base class of all methods: a method owns its config, heads and state, and makes the loss.

The trainer knows no method by name. It does this, and a method fills in what it needs:

```text
inputs = MethodInputs(student, frozen={"teacher": ...}, ...)      # what REQUIREMENTS asked for
method = Seed(config, inputs)
for each step:
    result = method(batch, progress)     # step(): views -> StepResult(loss, floor, logs)
    result.loss.backward(); clip
    method.after_backward(progress)      # hook: e.g. freeze a last layer for an epoch
    optimizer.step()
    method.after_step(progress)          # hook: e.g. enqueue, move an average
method.finish()                          # hook: e.g. fold what only training needed
save method.networks() (a student file each), method.heads() (one file),
     method.state_dict() (to resume)
```
"""

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, Literal, TypeVar

import torch
from torch import Tensor, nn

from edgeseed.distill.batch import Batch as Batch
from edgeseed.distill.data.views import ViewPlan
from edgeseed.distill.networks.frozen import FrozenTeacher, Student
from edgeseed.distill.training.recipe import Recipe

ConfigT = TypeVar("ConfigT")


@dataclass(frozen=True, kw_only=True, slots=True)
class Requirements:
    """What a method needs; the runner provides it, or says which option is missing.

    Networks are named by their role. The roles `teacher` and `peer` are the options of that name;
    any other is given as `--network ROLE=NAME`.

    Attributes:
        frozen: Roles of networks that are not trained: usually a teacher.
        trained: Roles of networks that are trained beside the student.
        labels: Whether `Batch.labels` is filled: never, where the photos have labels, or always.
        classifier: Whether the student carries a linear head over the classes, which ships with it:
            never, always, or where the photos have labels (over their classes).
        start_embeddings: Whether `MethodInputs.start_embeddings` is filled.
    """

    frozen: tuple[str, ...] = ("teacher",)
    trained: tuple[str, ...] = ()
    labels: Literal["unused", "optional", "required"] = "unused"
    classifier: bool | Literal["labels"] = False
    start_embeddings: bool = False

    @property
    def roles(self) -> tuple[str, ...]:
        """All roles beside the student's."""
        return (*self.frozen, *self.trained)


@dataclass(frozen=True, kw_only=True)
class MethodInputs:
    """What a method is built from.

    Attributes:
        student: The network that is trained, with its normalisation.
        frozen: Role -> network that is not trained.
        trained: Role -> further network that is trained.
        num_samples: Number of training photos; `Batch.indices` are below it.
        labels: Class of each photo, (num_samples,) int64, -1 where it has none; None if unused.
        num_classes: Classes of `labels` or of the student's head; 0 without.
        batch_size: Photos a step over all devices together (the global batch).
        total_steps: Steps of the whole run.
        steps_per_epoch: Steps of an epoch.
        generator: For initial values of queues and banks: the same on every rank.
        start_embeddings: (N, D) the student's embeddings of the training photos before training,
            where the method asked for them.
    """

    student: Student
    frozen: Mapping[str, FrozenTeacher] = field(default_factory=dict)
    trained: Mapping[str, Student] = field(default_factory=dict)
    num_samples: int
    labels: Tensor | None = None
    num_classes: int = 0
    batch_size: int
    total_steps: int
    steps_per_epoch: int
    generator: torch.Generator
    start_embeddings: Tensor | None = None

    @property
    def teacher(self) -> FrozenTeacher:
        """The frozen network of the role `teacher`."""
        return self.frozen["teacher"]

    @property
    def peer(self) -> Student:
        """The trained network of the role `peer`."""
        return self.trained["peer"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """The position in a run, for schedules.

    Attributes:
        step: Number of steps done before this one.
        total_steps: Steps of the whole run.
        steps_per_epoch: Steps of an epoch.
    """

    step: int
    total_steps: int
    steps_per_epoch: int

    @property
    def epoch(self) -> float:
        """Epochs done, with the fraction of the current one."""
        return self.step / self.steps_per_epoch

    @property
    def fraction(self) -> float:
        """The part of the run that is done, 0 at the first step and 1 at the last."""
        return self.step / max(self.total_steps - 1, 1)


@dataclass(frozen=True, kw_only=True, slots=True)
class StepResult:
    """The result of a step.

    Attributes:
        loss: The scalar to minimise: float32, with its graph.
        floor: The least value that `loss` can have on this batch, such as the teacher's entropy in
            a cross-entropy; 0.0 if zero can be reached, None if it is not known. It is logged
            beside the loss.
        logs: Further scalars, detached; their means over an epoch are logged.
    """

    loss: Tensor
    floor: Tensor | float | None = None
    logs: Mapping[str, Tensor] = field(default_factory=dict)


class Method(nn.Module, Generic[ConfigT]):
    """Base class of all methods; `docs/adding-a-method.md` has a whole one.

    A subclass sets `Config`, `RECIPE` and (unless the defaults fit) `REQUIREMENTS`, and writes
    `views` and `step`. Whatever a resumed run needs is a parameter or a buffer. The teacher is not
    a submodule, so that it is in no checkpoint and no DDP bucket, and `train()` cannot reach it.
    """

    Config: ClassVar[type[Any]]
    RECIPE: ClassVar[Recipe]
    REQUIREMENTS: ClassVar[Requirements] = Requirements()

    def __init__(self, config: ConfigT, inputs: MethodInputs) -> None:
        super().__init__()
        self.config = config
        self.student = inputs.student

    @classmethod
    @abstractmethod
    def views(cls, config: ConfigT, image_size: int) -> ViewPlan:
        """The views that one photo is turned into.

        Args:
            config: The method's settings.
            image_size: Side of the student's input; other crops are stated relative to it.
        """

    @abstractmethod
    def step(self, batch: Batch, progress: Progress) -> StepResult:
        """The loss of one batch of (B, 3, H, W) views, pixels 0 to 1.

        It runs under autocast if the run has a reduced precision: see `losses.in_full_precision`.
        """

    def forward(self, batch: Batch, progress: Progress) -> StepResult:
        """`step`; called through DDP, which hooks `forward`."""
        return self.step(batch, progress)

    def after_backward(self, progress: Progress) -> None:
        """Called when the gradients are there (clipped), before the optimiser uses them."""

    def after_step(self, progress: Progress) -> None:
        """Called after the optimiser's step: the place to enqueue and to move averages."""

    def finish(self) -> None:
        """Called once after the last step, before the networks are saved."""

    def networks(self) -> dict[str, Student]:
        """What is kept, each written as `<name>.safetensors`. The first is evaluated."""
        return {"student": self.student}

    def heads(self) -> dict[str, nn.Module]:
        """Modules that student files leave out, kept in `heads.safetensors` for a later stage."""
        kept = set(map(id, self.networks().values()))
        return {
            name: module
            for name, module in self.named_children()
            if id(module) not in kept
            and not isinstance(module, Student)
            and any(parameter.requires_grad for parameter in module.parameters())
        }

    def decays(self, name: str, parameter: nn.Parameter) -> bool:
        """Whether weight decay acts on a parameter when `decay_norm_and_bias` is off.

        Args:
            name: Its name within the method.
            parameter: Norms, biases and other scales have one dimension, weights have more.
        """
        del name
        return parameter.ndim > 1
