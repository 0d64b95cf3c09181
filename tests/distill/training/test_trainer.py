"""The loop: what it calls and when, what it sets, and that it knows no method by name."""

import ast
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.distill import tiny_inputs
from torch import Tensor, nn

from edgeseed.core.photos import open_photos
from edgeseed.distill.data.canvases import MemoryCanvases, PhotoOrder
from edgeseed.distill.data.views import Augmenter, ViewPlan, weak_crop
from edgeseed.distill.method import Batch, Method, MethodInputs, Progress, StepResult
from edgeseed.distill.methods import METHODS
from edgeseed.distill.methods.seed import SeedConfig
from edgeseed.distill.training import trainer as trainer_module
from edgeseed.distill.training.recipe import Recipe
from edgeseed.distill.training.trainer import Trainer, TrainingConfig, TrainingPlan

CPU = torch.device("cpu")
VIEWS = ViewPlan(crops=(weak_crop(16),))


class Recorder(Method[SeedConfig]):
    """Learns one number, and writes down what it is asked for."""

    Config = SeedConfig
    RECIPE = Recipe(optimizer="sgd", lr=0.1, momentum=0.0, schedule="constant", epochs=2)

    def __init__(self, config: SeedConfig, inputs: MethodInputs) -> None:
        super().__init__(config, inputs)
        self.student.requires_grad_(False)
        self.weight = torch.nn.Parameter(torch.tensor([4.0]))
        self.calls: list[tuple[str, int]] = []
        self.batches: list[Batch] = []
        self.slope = 1.0

    @classmethod
    def views(cls, config: SeedConfig, image_size: int) -> ViewPlan:
        return VIEWS

    def step(self, batch: Batch, progress: Progress) -> StepResult:
        self.calls.append(("step", progress.step))
        self.batches.append(batch)
        return StepResult(loss=(self.slope * self.weight).sum(), floor=torch.tensor(1.0))

    def after_backward(self, progress: Progress) -> None:
        assert self.weight.grad is not None
        self.calls.append(("after_backward", progress.step))

    def after_step(self, progress: Progress) -> None:
        self.calls.append(("after_step", progress.step))


def make(
    *, labels: Tensor | None = None, score: Any = None, **recipe: Any
) -> tuple[Recorder, Trainer, list[int]]:
    method = Recorder(SeedConfig(), tiny_inputs(Recorder))
    photos = open_photos("digits").subset(np.arange(10))
    options = {"optimizer": "sgd", "lr": 0.1, "momentum": 0.0, "schedule": "constant"}
    plan = TrainingPlan(
        recipe=Recipe(**{**options, "lr_scaling": "none", "batch_size": 4, "epochs": 2, **recipe}),
        training=TrainingConfig(),
        source=MemoryCanvases.decode(photos, side=16, device=CPU),
        order=PhotoOrder(10, batch_size=4, seed=0),
        augmenter=Augmenter(VIEWS, seed=0),
        labels=labels,
        seed=0,
        device=CPU,
        evaluate_every=None if score is None else 1,
    )
    best: list[int] = []
    trainer = Trainer(
        method, plan, folder=None, save_best=lambda *_: best.append(trainer.step), evaluator=score
    )
    return method, trainer, best


def test_hooks_are_called_in_order_once_a_step() -> None:
    method, trainer, _ = make()
    trainer.fit()
    expected = [
        (name, step) for step in range(4) for name in ("step", "after_backward", "after_step")
    ]
    assert method.calls == expected


def test_gradient_descent_is_what_it_does() -> None:
    method, trainer, _ = make()
    trainer.fit()
    # Four steps of slope 1 at a rate of 0.1.
    assert method.weight.item() == pytest.approx(4.0 - 4 * 0.1)


def test_gradient_is_clipped_to_the_norm_that_was_asked_for() -> None:
    method, trainer, _ = make(clip_norm=0.5)
    method.slope = 10.0
    trainer.fit()
    assert method.weight.item() == pytest.approx(4.0 - 4 * 0.1 * 0.5)


def test_batches_are_whole_and_carry_indices_labels_and_pixels() -> None:
    labels = torch.arange(10) * 7
    method, trainer, _ = make(labels=labels)
    trainer.fit()
    assert len(method.batches) == 4
    for batch in method.batches:
        assert batch.views[0].shape == (4, 3, 16, 16)
        assert batch.labels is not None
        assert torch.equal(batch.labels, batch.indices * 7)
    # Two whole batches a pass; the two photos that are left over are not shown.
    first_pass = torch.cat([batch.indices for batch in method.batches[:2]])
    assert len(first_pass.unique()) == 8


def test_generator_of_a_step_depends_on_the_step_alone() -> None:
    draws = []
    for _ in range(2):
        method, trainer, _ = make()
        trainer.fit()
        draws.append([torch.rand(1, generator=batch.generator) for batch in method.batches])
    assert draws[0] == draws[1]
    assert len({value.item() for value in draws[0]}) == 4


def test_best_is_the_smallest_gap_to_the_floor() -> None:
    _, trainer, best = make(epochs=3)
    heights = iter([3.0, 1.0, 2.0])
    end_epoch = trainer._end_epoch

    def moved() -> None:
        trainer._meter.reset()
        height = next(heights)
        trainer._meter.add({"loss": 5 + height, "floor": 5.0, "gap": height})
        end_epoch()

    trainer._end_epoch = moved  # type: ignore[method-assign]
    trainer.fit()
    assert best == [2, 4]


def test_best_is_the_highest_knn_accuracy_where_it_is_measured() -> None:
    scores = iter([0.5, 0.9, 0.7])
    _, trainer, best = make(epochs=3, score=lambda _: {"knn": next(scores)})
    trainer.fit()
    assert best == [2, 4]


def test_method_is_scored_in_eval_mode_and_trained_in_train_mode() -> None:
    modes = []

    def score(one: nn.Module) -> dict[str, float]:
        modes.append(one.training)
        return {"knn": 0.0}

    method, trainer, _ = make(score=score)
    trainer.fit()
    assert modes == [False, False]
    assert method.training


def test_weight_decay_follows_its_schedule() -> None:
    method, trainer, _ = make(weight_decay=0.2, final_weight_decay=0.4)
    seen = []
    method.after_step = lambda progress: seen.append(  # type: ignore[method-assign]
        trainer.optimizer.param_groups[0]["weight_decay"]
    )
    trainer.fit()
    assert seen == sorted(seen)
    assert seen[0] == pytest.approx(0.2)
    assert seen[2] == pytest.approx(0.3)


def test_loop_knows_no_method_by_name() -> None:
    source = Path(trainer_module.__file__).read_text(encoding="utf-8")
    words = {
        node.id if isinstance(node, ast.Name) else node.value
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Name)
        or (isinstance(node, ast.Constant) and isinstance(node.value, str))
    }
    # "seed" is also where random numbers start.
    assert not {str(word).lower() for word in words} & ({*METHODS.names()} - {"seed"})
    imported = {
        node.module for node in ast.walk(ast.parse(source)) if isinstance(node, ast.ImportFrom)
    }
    named = {m for m in imported if m and m.startswith("edgeseed.distill.method")}
    assert named == {"edgeseed.distill.method"}


@pytest.mark.parametrize("changes", [{"workers": -1}, {"log_steps": 0}, {"checkpoint_minutes": 0}])
def test_training_settings_refuse_what_cannot_be_meant(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must"):
        TrainingConfig(**changes)
