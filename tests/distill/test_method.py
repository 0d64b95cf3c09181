"""The base class of all methods: what it keeps, what decays, and where a run is."""

import pytest
import torch
from support.distill import tiny_batch, tiny_inputs, tiny_progress
from torch import nn

from edgeseed.distill.data.views import ViewPlan, weak_crop
from edgeseed.distill.method import Batch, Method, MethodInputs, Progress, Requirements, StepResult
from edgeseed.distill.methods.seed import SeedConfig
from edgeseed.distill.training.recipe import Recipe

PLAN = ViewPlan(crops=(weak_crop(16),))


class Plain(Method[SeedConfig]):
    """As little as a method can have: a trained head, a frozen one and a buffer."""

    Config = SeedConfig
    RECIPE = Recipe(optimizer="sgd", lr=0.1)
    REQUIREMENTS = Requirements(frozen=("teacher",), trained=("peer",))

    def __init__(self, config: SeedConfig, inputs: MethodInputs) -> None:
        super().__init__(config, inputs)
        self.peer = inputs.peer
        self.head = nn.Linear(3, 2)
        self.frozen_head = nn.Linear(3, 2).requires_grad_(False)
        self.norm = nn.BatchNorm1d(2)

    @classmethod
    def views(cls, config: SeedConfig, image_size: int) -> ViewPlan:
        return PLAN

    def step(self, batch: Batch, progress: Progress) -> StepResult:
        return StepResult(loss=batch.views[0].mean() * progress.step)


@pytest.fixture(scope="module")
def inputs() -> MethodInputs:
    return tiny_inputs(Plain)


def test_inputs_are_found_by_their_role(inputs: MethodInputs) -> None:
    assert inputs.teacher is inputs.frozen["teacher"]
    assert inputs.peer is inputs.trained["peer"]
    assert Plain.REQUIREMENTS.roles == ("teacher", "peer")


def test_only_trained_heads_are_kept_and_no_network_among_them(inputs: MethodInputs) -> None:
    method = Plain(SeedConfig(), inputs)
    assert set(method.heads()) == {"head", "norm"}
    assert method.networks() == {"student": inputs.student}


def test_the_teacher_is_in_no_checkpoint(inputs: MethodInputs) -> None:
    method = Plain(SeedConfig(), inputs)
    names = set(method.state_dict())
    assert {name.partition(".")[0] for name in names} == {
        "student", "peer", "head", "frozen_head", "norm",
    }  # fmt: skip


def test_norms_and_biases_do_not_decay(inputs: MethodInputs) -> None:
    method = Plain(SeedConfig(), inputs)
    decays = {name: method.decays(name, value) for name, value in method.named_parameters()}
    assert decays["head.weight"]
    assert not decays["head.bias"]
    assert not decays["norm.weight"]


def test_a_call_is_a_step(inputs: MethodInputs) -> None:
    batch = tiny_batch(PLAN)
    result = Plain(SeedConfig(), inputs)(batch, tiny_progress(step=3))
    torch.testing.assert_close(result.loss, 3 * batch.views[0].mean())
    assert result.floor is None
    assert result.logs == {}


@pytest.mark.parametrize(
    ("step", "epoch", "fraction"), [(0, 0.0, 0.0), (6, 1.5, 6 / 19), (19, 4.75, 1.0)]
)
def test_a_schedule_starts_at_none_and_ends_at_all(
    step: int, epoch: float, fraction: float
) -> None:
    progress = Progress(step=step, total_steps=20, steps_per_epoch=4)
    assert progress.epoch == epoch
    assert progress.fraction == pytest.approx(fraction)


def test_a_run_of_one_step_has_no_fraction_of_nothing() -> None:
    assert Progress(step=0, total_steps=1, steps_per_epoch=1).fraction == 0


def test_a_method_has_to_say_its_views_and_its_step() -> None:
    assert {"views", "step"} <= {
        name for name in vars(Method) if getattr(vars(Method)[name], "__isabstractmethod__", False)
    }
