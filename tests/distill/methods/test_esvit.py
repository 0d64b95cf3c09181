"""EsViT as a method: the average and its schedule, pairs of views, what is frozen and kept."""

import dataclasses
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.distill import tiny_batch, tiny_inputs, tiny_progress, tiny_student
from torch import Tensor, nn
from torch.nn import functional as F

from edgeseed.core.errors import ConfigError
from edgeseed.core.network import build_student, load_student
from edgeseed.core.preprocess import Preprocess
from edgeseed.core.student import Architecture
from edgeseed.distill import DistillResult, pretrain
from edgeseed.distill.method import Progress
from edgeseed.distill.methods import _dino
from edgeseed.distill.methods.esvit import Esvit, EsvitConfig, other_views, teacher_temperature
from edgeseed.distill.networks.features import extract
from edgeseed.distill.networks.frozen import Student
from edgeseed.distill.networks.students import create_student
from edgeseed.distill.teachers import load_teacher
from edgeseed.distill.training.optimizers import build_optimizer
from edgeseed.distill.training.trainer import Trainer

SIZE = 32
# The authors' heads have 4 million weights, thirty times those of these networks.
FEW = {"num_local": 2, "num_prototypes": 16, "hidden_dim": 24, "bottleneck_dim": 12}


def make(*, parts: dict[str, Any] | None = None, **config: Any) -> Esvit:
    torch.manual_seed(0)
    return Esvit(EsvitConfig(**{**FEW, **config}), tiny_inputs(Esvit, **(parts or {})))


def batch_of(method: Esvit, *, seed: int = 0, batch_size: int = 8) -> Any:
    size = method.student.preprocess.image_size
    return tiny_batch(Esvit.views(method.config, size), seed=seed, batch_size=batch_size)


def student_of(name: str, size: int = SIZE, **kwargs: Any) -> Student:
    """Built as a run builds it, for crops of any size; `kwargs` make it smaller."""
    torch.manual_seed(0)
    if kwargs:
        architecture = Architecture(name=name, kwargs={"img_size": size, **kwargs})
        network = build_student(architecture)
    else:
        network, architecture = create_student(name, seed=0, image_size=size, any_size=True)
    preprocess = Preprocess(image_size=size, resize=size)
    return Student(network, architecture=architecture, preprocess=preprocess)


# --------------------------------------------------------------------------- the loss of a step


def literal_loss(method: Esvit, views: tuple[Tensor, ...], *, tau: float, w: float) -> Tensor:
    """methods.md A.4 pair by pair, region by region, on the method's own networks."""

    def look(network: Student, head: nn.Module, region: nn.Module | None, view: Tensor) -> Any:
        embedding, maps = network.embed_with_map(view)
        features = maps.flatten(2).transpose(1, 2)
        return (
            head(embedding),
            features,
            region and region(features.flatten(0, 1)).unflatten(0, features.shape[:2]),
        )

    student = [look(method.student, method.dino, getattr(method, "region", None), v) for v in views]
    teacher = [
        look(method.average, method.average_dino, getattr(method, "average_region", None), v)
        for v in views[:2]
    ]
    losses = []
    for q, (t_view, t_features, t_region) in enumerate(teacher):
        for v, (s_view, s_features, s_region) in enumerate(student):
            if v == q:
                continue
            p = ((t_view - method.center.value) / tau).softmax(1).detach()
            loss = (1 - w) * -(p * (s_view / 0.1).log_softmax(1)).sum(1).mean()
            if w:
                alike = F.normalize(s_features, dim=2) @ F.normalize(t_features, dim=2).mT
                p = ((t_region - method.region_center.value) / tau).softmax(2).detach()
                p = torch.stack([p[b][alike[b].argmax(1)] for b in range(len(p))])
                loss = loss + w * -(p * (s_region / 0.1).log_softmax(2)).sum(2).mean()
            losses.append(loss)
    assert len(losses) == 2 * len(views) - 2
    return torch.stack(losses).mean()


@pytest.mark.parametrize("region_weight", [0.5, 0.25, 0.0])
def test_loss_of_a_step_is_the_literal_one(region_weight: float) -> None:
    # In eval mode, where BatchNorm does not mind that crops of one size come together.
    method = make(
        region_weight=region_weight, parts={"student": student_of("test_resnet", 64)}
    ).eval()
    method.center.value.copy_(torch.linspace(-0.1, 0.1, 16))
    if region_weight:
        method.region_center.value.copy_(torch.linspace(0.1, -0.1, 16))
    batch = batch_of(method, batch_size=3)
    result = method(batch, tiny_progress())
    expected = literal_loss(method, batch.views, tau=0.07, w=region_weight)
    torch.testing.assert_close(result.loss, expected)
    assert result.loss.item() > float(result.floor or 0) > 0


def test_without_regions_it_is_dino_and_has_nothing_of_theirs() -> None:
    method = make(region_weight=0.0)
    result = method(batch_of(method), tiny_progress())
    assert set(result.logs) == {"view_loss", "prototypes_used"}
    torch.testing.assert_close(result.loss.detach(), result.logs["view_loss"])
    assert not [name for name in method.state_dict() if "region" in name]
    assert set(method.heads()) == {"dino"}


def test_a_view_does_not_learn_from_itself() -> None:
    pairs = other_views(2, 10)
    assert int(pairs.sum()) == 18
    assert not bool(pairs[0, 0])
    assert not bool(pairs[1, 1])


def test_average_gets_no_gradient_and_the_student_all_of_it() -> None:
    method = make()
    method(batch_of(method), tiny_progress()).loss.backward()
    for name in ("average", "average_dino", "average_region"):
        assert all(p.grad is None for p in getattr(method, name).parameters())
    for name in ("student", "dino", "region"):
        assert all(p.grad is not None for p in getattr(method, name).parameters())


def test_one_optimiser_step_is_the_gradient_of_the_formula() -> None:
    # In eval mode, see above; the heads have no norm.
    method = make(parts={"student": student_of("test_resnet", 64)}).eval()
    weights = [
        method.dino.get_parameter("mlp.0.weight"),
        method.region.get_parameter("mlp.0.weight"),
    ]
    before = [weight.detach().clone() for weight in weights]
    batch = batch_of(method, batch_size=3)
    loss = literal_loss(method, batch.views, tau=0.07, w=0.5)
    gradients = torch.autograd.grad(loss, weights)
    method(batch, tiny_progress()).loss.backward()
    torch.optim.SGD(method.parameters(), lr=0.1).step()
    for weight, then, gradient in zip(weights, before, gradients, strict=True):
        torch.testing.assert_close(weight.detach(), then - 0.1 * gradient)
        assert not torch.equal(weight.detach(), then)


@pytest.mark.slow
def test_gap_to_the_floor_falls_on_a_batch_that_is_shown_again_and_again() -> None:
    method = make(freeze_epochs=0.0)
    optimizer = torch.optim.AdamW(method.parameters(), lr=2e-3)
    gaps = []
    for step in range(16):
        result = method(batch_of(method), tiny_progress(step))
        optimizer.zero_grad()
        result.loss.backward()
        optimizer.step()
        method.after_step(tiny_progress(step))
        gaps.append(result.loss.item() - float(result.floor or 0))
    assert min(gaps[-3:]) < 0.5 * gaps[0]


# --------------------------------------------------------------------------- networks


SWIN = {
    "embed_dim": 16,
    "depths": (1, 1, 1, 1),
    "num_heads": (1, 1, 2, 2),
    "strict_img_size": False,
}
NETWORKS = {
    "swin": ("swin_tiny_patch4_window7_224", SWIN),
    "vit": ("test_vit", {}),
    "resnet": ("test_resnet", {}),
    "convnext": ("test_convnext", {}),
    "head conv": ("test_efficientnet", {}),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", NETWORKS)
def test_transformers_in_stages_vits_and_convolutional_networks_learn(kind: str) -> None:
    name, kwargs = NETWORKS[kind]
    method = make(local_size=32, parts={"student": student_of(name, 64, **kwargs)})
    result = method(batch_of(method, batch_size=2), tiny_progress())
    result.loss.backward()
    assert float(result.logs["region_loss"]) > 0
    assert all(p.grad is not None for p in method.student.parameters())


def test_region_head_fits_the_map_where_that_is_narrower_than_the_embedding() -> None:
    # MobileNetV3 pools 960 channels and embeds in 1280.
    method = make(parts={"student": student_of("mobilenetv3_small_050")})
    assert method.dino.mlp[0].in_features == 1024
    assert method.region.mlp[0].in_features == 288
    method(batch_of(method, batch_size=2), tiny_progress()).loss.backward()


# --------------------------------------------------------------------------- schedules and hooks


def moved_average(method: Esvit, step: int) -> tuple[Tensor, Tensor, Tensor]:
    """One weight of the average before, of the student, and of the average after a step."""
    with torch.no_grad():
        for parameter in method.student.parameters():
            parameter.add_(1.0)
    before = next(method.average.parameters()).detach().clone()
    method(batch_of(method), tiny_progress(step))
    method.after_step(tiny_progress(step))
    return before, next(method.student.parameters()), next(method.average.parameters())


@pytest.mark.parametrize("step", [0, 10, 20])
def test_average_follows_with_a_cosine_from_its_momentum_to_one(step: int) -> None:
    # The authors' cosine_scheduler(0.996, 1, …): 1 - 0.004 (1 + cos(π i / n)) / 2 at step i of n.
    before, student, after = moved_average(make(), step)
    momentum = 1 - 0.004 * (1 + math.cos(math.pi * step / 20)) / 2
    torch.testing.assert_close(after, momentum * before + (1 - momentum) * student)


def test_average_starts_as_the_student_and_takes_its_heads_along() -> None:
    method = make()
    for name, other in (("student", "average"), ("dino", "average_dino")):
        states = getattr(method, name).state_dict(), getattr(method, other).state_dict()
        assert all(torch.equal(states[0][key], value) for key, value in states[1].items())
    with torch.no_grad():
        method.region.get_parameter("mlp.0.weight").add_(1.0)
    before = method.average_region.get_parameter("mlp.0.weight").clone()
    method(batch_of(method), tiny_progress())
    method.after_step(tiny_progress())
    torch.testing.assert_close(method.average_region.get_parameter("mlp.0.weight"), before + 0.004)


def test_averages_batch_norm_sees_the_large_crops_by_itself() -> None:
    # The authors average parameters alone; running statistics are each network's own.
    method = make(parts={"student": student_of("test_resnet")}).train()

    def statistics(network: nn.Module) -> Tensor:
        return next(value for name, value in network.named_buffers() if "running_mean" in name)

    method(batch_of(method), tiny_progress())
    seen = statistics(method.average).clone()
    assert bool(seen.any())
    assert not torch.equal(seen, statistics(method.student))
    method.after_step(tiny_progress())
    assert torch.equal(statistics(method.average), seen)


def test_centers_move_only_after_the_step() -> None:
    method = make()
    batch = batch_of(method)
    method(batch, tiny_progress())
    assert not bool(method.center.value.any())
    assert not bool(method.region_center.value.any())
    method.after_step(tiny_progress())
    twin = make()
    embedding, maps = twin.average.train().embed_with_map(torch.cat(batch.views[:2]))
    torch.testing.assert_close(
        method.center.value, 0.1 * twin.average_dino(embedding).detach().mean(0)
    )
    rows = maps.flatten(2).transpose(1, 2).flatten(0, 1)
    expected = 0.1 * twin.average_region(rows).detach().mean(0)
    torch.testing.assert_close(method.region_center.value, expected)


def test_last_layers_stay_for_an_epoch_and_then_move() -> None:
    method = make()
    for step, frozen in ((0, True), (3, True), (4, False)):
        method.zero_grad()
        method(batch_of(method), tiny_progress(step)).loss.backward()
        method.after_backward(tiny_progress(step))
        for head in (method.dino, method.region):
            assert all((p.grad is None) == frozen for p in head.last_layer.parameters())
            assert all(p.grad is not None for p in head.mlp.parameters())


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw", "lars"])
def test_every_optimiser_takes_layers_that_move_only_later(name: Any) -> None:
    # torch's fused SGD failed on them: "expected Tensor as element 18 in argument 2, but got None".
    method = make()
    optimizer = build_optimizer(method, dataclasses.replace(Esvit.RECIPE, optimizer=name, lr=0.1))
    prototypes = method.dino.get_parameter("last_layer.parametrizations.weight.original1")
    for step, moves in ((0, False), (4, True), (5, True)):
        before = prototypes.detach().clone()
        optimizer.zero_grad()
        method(batch_of(method), tiny_progress(step)).loss.backward()
        method.after_backward(tiny_progress(step))
        optimizer.step()
        assert torch.equal(prototypes.detach(), before) is not moves


def test_teachers_temperature_warms_up_as_the_authors_table_does() -> None:
    table = np.concatenate([np.linspace(0.04, 0.07, 30), np.full(270, 0.07)])
    for epoch in (0, 1, 15, 29, 30, 299):
        for step in (10 * epoch, 10 * epoch + 9):
            progress = Progress(step=step, total_steps=3000, steps_per_epoch=10)
            assert teacher_temperature(EsvitConfig(), progress) == pytest.approx(table[epoch])


def test_short_run_has_a_short_warm_up_of_the_temperature() -> None:
    def temperature(step: int, epochs: int) -> float:
        progress = Progress(step=step, total_steps=epochs * 10, steps_per_epoch=10)
        return teacher_temperature(EsvitConfig(), progress)

    assert temperature(0, 20) == pytest.approx(0.04)
    assert temperature(50, 20) == pytest.approx(0.07)
    assert temperature(0, 2) == pytest.approx(0.07)


# --------------------------------------------------------------------------- what is kept


def test_average_is_what_ships_and_its_heads_are_kept_beside_it() -> None:
    method = make()
    assert method.networks() == {"student": method.average}
    assert method.heads() == {"dino": method.average_dino, "region": method.average_region}


def test_usual_prototypes_shrink_to_a_small_set_and_what_was_asked_for_does_not(
    capsys: pytest.CaptureFixture[str],
) -> None:
    method = make(num_prototypes=None, parts={"num_samples": 50})
    assert len(method.center.value) == 32
    assert "32 prototypes instead of 65536: there are 50 photos" in capsys.readouterr().err
    assert len(make(num_prototypes=64).center.value) == 64


def test_student_without_a_map_is_told_to_leave_out_regions(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    features = extract
    monkeypatch.setattr(_dino, "extract", lambda *a: features(*a)._replace(map=None))
    with pytest.raises(ConfigError, match="region_weight=0"):
        make()


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("tau_teacher", 0, "tau_teacher=0 must be above 0"),
        ("region_weight", 2, "region_weight=2 must be between 0 and 1"),
        ("ema_momentum", 1.5, "ema_momentum=1.5 must be between 0 and 1"),
        ("num_prototypes", 1, "num_prototypes=1 must be at least 2"),
        ("freeze_epochs", -1, "freeze_epochs=-1 must not be negative"),
    ],
)
def test_settings_out_of_range_say_what_is_allowed(field: str, value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EsvitConfig(**{field: value})


# --------------------------------------------------------------------------- end to end


@pytest.fixture
def call(make_photos: Callable[..., Path], tmp_path: Path) -> Callable[..., DistillResult]:
    photos = make_photos(16)

    def run(out: str, **changes: Any) -> DistillResult:
        arguments: dict[str, Any] = {
            "method": "esvit", "model": "test_vit", "data": photos, "out": tmp_path / out,
            "epochs": 2, "batch_size": 8, "image_size": 32, "devices": "cpu",
            "settings": [f"{name}={value}" for name, value in FEW.items()],
        }  # fmt: skip
        return pretrain(**{**arguments, **changes})

    return run


@pytest.fixture
def dies_after_an_epoch(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    end_epoch = Trainer._end_epoch

    def end_and_die(self: Trainer) -> None:
        end_epoch(self)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_end_epoch", end_and_die)
        yield patch


# Three runs. test_all_methods.py restores the state of every method exactly.
@pytest.mark.slow
def test_run_resumes_exactly_and_its_student_teaches_with_its_heads(
    call: Callable[..., DistillResult], dies_after_an_epoch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(KeyboardInterrupt):
        call("cut")
    dies_after_an_epoch.undo()
    whole, resumed = call("whole"), call("cut", resume=True)
    assert resumed.loss == whole.loss
    states = [load_student(run.student)[0].state_dict() for run in (whole, resumed)]
    assert all(torch.equal(states[1][key], value) for key, value in states[0].items())

    teacher = load_teacher(str(whole.student), image_size=32)
    assert set(teacher.heads) == {"dino", "region"}
    output = teacher(torch.rand(2, 3, 32, 32))
    assert teacher.heads["dino"](output.embedding).shape == (2, 16)
    assert not load_teacher(str(whole.best), image_size=32).heads


def test_what_ships_has_moved_as_slowly_as_the_average() -> None:
    # With a momentum near one and two steps, a student that shipped by mistake would show.
    start = tiny_student().state_dict()
    method = make()
    optimizer = torch.optim.SGD(method.parameters(), lr=1.0)
    for step in range(2):
        method(batch_of(method), tiny_progress(step)).loss.backward()
        optimizer.step()
        method.after_step(tiny_progress(step))
    shipped = next(iter(method.networks().values())).state_dict()
    name = next(name for name, _ in method.student.named_parameters())
    distance = [
        (state[name] - start[name]).norm() for state in (shipped, method.student.state_dict())
    ]
    assert 0 < distance[0] < 0.05 * distance[1]
