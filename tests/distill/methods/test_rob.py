"""RoB as a method: which views are paired, the teacher's heads, regions on the student's grid."""

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from support.distill import (
    PROJECTION_DIM,
    tiny_batch,
    tiny_inputs,
    tiny_progress,
    tiny_teacher,
)
from torch import Tensor
from torch.nn import functional as F

from edgeseed.core.errors import ConfigError
from edgeseed.core.network import StudentNetwork, load_student
from edgeseed.distill import DistillResult, distill, pretrain
from edgeseed.distill.batch import ReplayedViews
from edgeseed.distill.methods import METHODS
from edgeseed.distill.methods._dino import DinoConfig, DinoHead, view_cross_entropies
from edgeseed.distill.methods.rob import Rob, RobConfig, view_pairs
from edgeseed.distill.networks.frozen import FrozenTeacher
from edgeseed.distill.networks.teacher_cache import TeacherCache
from edgeseed.distill.training.trainer import Trainer

SIZE = 32
# The authors' heads have 4 million weights, thirty times those of these networks.
FEW = {"num_local": 2, "hidden_dim": 24, "bottleneck_dim": 12}


def teacher_with(*heads: str) -> FrozenTeacher:
    return FrozenTeacher(tiny_teacher(heads=heads))


def make(*, teacher: FrozenTeacher | None = None, **config: Any) -> Rob:
    torch.manual_seed(0)
    inputs: dict[str, Any] = {} if teacher is None else {"teacher": teacher}
    return Rob(RobConfig(**{**FEW, **config}), tiny_inputs(Rob, **inputs))


def batch_of(method: Rob, *, size: int = SIZE, **changes: Any) -> Any:
    return tiny_batch(Rob.views(method.config, size), **changes)


def waves(*shape: int, shift: float) -> Tensor:
    """Numbers without a generator, so that golden values hold for ever."""
    steps = torch.arange(math.prod(shape), dtype=torch.float64)
    return torch.sin(1.7 * steps + shift).reshape(shape)


# --------------------------------------------------------------------------- the loss


@pytest.mark.parametrize(
    ("kind", "value"), [("own", 2.562244853434218), ("swapped", 2.6416136075401204)]
)
def test_view_loss_has_the_value_of_the_authors_code(kind: Any, value: float) -> None:
    # facebookresearch/vissl, vissl/losses/dino_distillation_loss.py (swapped_assignment false and
    # true), run in float64 on these numbers: 3 photos, 5 prototypes, 2 large and 2 small crops.
    target = (waves(2, 3, 5, shift=1) / 0.07).softmax(-1)
    losses = view_cross_entropies(waves(4, 3, 5, shift=0), target, tau=0.1)
    assert losses[view_pairs(2, 4, kind=kind)].mean().item() == pytest.approx(value)


def test_large_crops_are_compared_with_themselves_and_small_ones_with_both() -> None:
    own = view_pairs(2, 10, kind="own")
    assert int(own.sum()) == 18
    assert own[:, :2].tolist() == [[True, False], [False, True]]
    assert bool(own[:, 2:].all())
    assert torch.equal(view_pairs(2, 10, kind="swapped"), ~torch.eye(2, 10, dtype=torch.bool))


@pytest.mark.parametrize("kind", ["own", "swapped"])
def test_loss_of_a_step_is_the_literal_one(kind: str) -> None:
    # In eval mode, where BatchNorm does not mind that crops of one size come together.
    method = make(pairs=kind, region_weight=0.0).eval()
    batch = batch_of(method)
    result = method(batch, tiny_progress())
    teacher = [
        method.teacher.project(method.teacher.answer(view).embedding, "dino")
        for view in batch.views[:2]
    ]
    student = [method.dino(method.student(view).embedding) for view in batch.views]
    losses = []
    for q, t in enumerate(teacher):
        for v, s in enumerate(student):
            if (kind == "own" and v < 2 and v != q) or (kind == "swapped" and v == q):
                continue
            losses.append(-((t / 0.07).softmax(1) * (s / 0.1).log_softmax(1)).sum(1).mean())
    torch.testing.assert_close(result.loss, torch.stack(losses).mean())
    assert result.loss.item() > float(result.floor or 0) > 0


@pytest.mark.parametrize("width", [64, 128])
def test_regions_learn_from_the_same_place_of_the_same_crop(width: int) -> None:
    # The map of a crop that is not square was taken for a square one.
    method = make(region_weight=0.25).eval()
    plan = Rob.views(method.config, 64)
    shaped = [crop.in_shape_of(64, width) for crop in plan.crops]
    batch = tiny_batch(dataclasses.replace(plan, crops=tuple(shaped)), batch_size=2)
    result = method(batch, tiny_progress())
    losses = []
    for view in batch.views[:2]:
        _, maps = method.student.embed_with_map(view)
        features = method.teacher.answer(view).features
        assert features is not None
        features = F.interpolate(features, maps.shape[2:], mode="bilinear", antialias=True)
        for b in range(2):
            for row in range(maps.shape[2]):
                for column in range(maps.shape[3]):
                    place = method.teacher.project(features[b, :, row, column][None], "region")
                    scores = method.region(maps[b, :, row, column][None])
                    target = (place / 0.07).softmax(1)
                    losses.append(-(target * (scores / 0.1).log_softmax(1)).sum())
    region_loss = torch.stack(losses).mean()
    torch.testing.assert_close(result.logs["region_loss"], region_loss.detach())
    expected = 0.75 * result.logs["view_loss"] + 0.25 * region_loss
    torch.testing.assert_close(result.loss, expected)


def test_one_optimiser_step_is_the_gradient_of_the_formula() -> None:
    method = make(region_weight=0.0, num_local=0)
    weight = method.dino.get_parameter("mlp.0.weight")
    before = weight.detach().clone()
    batch = batch_of(method)
    method(batch, tiny_progress()).loss.backward()
    torch.optim.SGD(method.parameters(), lr=0.1).step()
    twin = make(region_weight=0.0, num_local=0)
    pixels = torch.cat(batch.views)
    teacher = twin.teacher.project(twin.teacher.answer(pixels).embedding, "dino")
    scores = twin.dino(twin.student(pixels).embedding)
    loss = -((teacher / 0.07).softmax(1) * (scores / 0.1).log_softmax(1)).sum(1).mean()
    (gradient,) = torch.autograd.grad(loss, [twin.dino.get_parameter("mlp.0.weight")])
    torch.testing.assert_close(weight.detach(), before - 0.1 * gradient)
    assert not torch.equal(weight.detach(), before)


@pytest.mark.slow
def test_gap_to_the_floor_falls_on_a_batch_that_is_shown_again_and_again() -> None:
    method = make()
    optimizer = torch.optim.AdamW(method.parameters(), lr=2e-3)
    gaps = []
    for step in range(12):
        result = method(batch_of(method), tiny_progress(step))
        optimizer.zero_grad()
        result.loss.backward()
        optimizer.step()
        method.after_step(tiny_progress(step))
        gaps.append(result.loss.item() - float(result.floor or 0))
    assert min(gaps[-3:]) < 0.5 * gaps[0]


# --------------------------------------------------------------------------- the teacher


def test_regions_come_along_where_the_teacher_has_a_head_for_them() -> None:
    assert make().region_weight == 0.5
    assert make(teacher=teacher_with("dino")).region_weight == 0.0
    assert make(pairs="swapped").region_weight == 0.0
    assert set(make().heads()) == {"dino", "region"}
    assert set(make(teacher=teacher_with("dino")).heads()) == {"dino"}


def test_student_has_as_many_prototypes_as_the_teacher() -> None:
    method = make()
    scores = method.dino(torch.zeros(1, method.student.embedding_dim))
    assert scores.shape == (1, PROJECTION_DIM)


def test_teacher_without_a_head_names_methods_that_need_none() -> None:
    # DINOv2's and DINOv3's public weights have no head: this is the usual mistake.
    with pytest.raises(ConfigError) as error:
        make(teacher=teacher_with("projection", "classifier"))
    message = str(error.value)
    assert "tiny test_resnet brought: projection, classifier" in message
    assert "\n" not in message
    for name in ("regress", "queue-kl"):
        assert name in message
        assert name in METHODS.names()
    with pytest.raises(ConfigError, match="brought: none; use the full checkpoint of DINO"):
        make(teacher=teacher_with())


def test_regions_without_a_region_head_are_an_error() -> None:
    with pytest.raises(
        ConfigError, match="with its region head, and tiny test_resnet brought: dino"
    ):
        make(teacher=teacher_with("dino"), region_weight=0.5)


def test_regions_of_swapped_crops_are_an_error() -> None:
    with pytest.raises(ValueError, match=r"region_weight=0\.5 compares places of the same crop"):
        RobConfig(region_weight=0.5, pairs="swapped")


def test_replayed_views_are_looked_at_once() -> None:
    cache = TeacherCache(num_photos=32, num_views=1)
    frozen = FrozenTeacher(tiny_teacher(heads=("dino",)), cache=cache)
    method = make(teacher=frozen).eval()
    batch = batch_of(method)
    object.__setattr__(batch, "replayed", ReplayedViews(0, batch.indices.numpy()))
    first = method(batch, tiny_progress()).loss
    frozen.network = None  # type: ignore[assignment]  # so that looking again would fail
    assert torch.equal(method(batch, tiny_progress()).loss, first)


def test_there_is_no_centre_unless_wished() -> None:
    for centering in (False, True):
        method = make(centering=centering)
        method(batch_of(method), tiny_progress())
        method.after_step(tiny_progress())
        assert bool(method.center.value.any()) is centering
        assert bool(method.region_center.value.any()) is centering


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("tau_teacher", 0, "tau_teacher=0 must be above 0"),
        ("region_weight", 2, "region_weight=2 must be between 0 and 1"),
        ("num_local", -1, "num_local=-1 must not be negative"),
    ],
)
def test_settings_out_of_range_say_what_is_allowed(field: str, value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RobConfig(**{field: value})


# --------------------------------------------------------------------------- end to end


# Two runs. test_all_methods.py restores the state of every method exactly.
@pytest.mark.slow
def test_what_esvit_made_teaches_another_network_and_the_run_resumes_exactly(
    make_photos: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos = make_photos(16)

    common: dict[str, Any] = {
        "data": photos, "batch_size": 8, "image_size": 32, "devices": "cpu",
        "settings": [f"{name}={value}" for name, value in FEW.items()],
    }  # fmt: skip
    teacher = str(
        pretrain(
            method="esvit", model="test_resnet", out=tmp_path / "teacher", epochs=1, **common
        ).student
    )

    def run(out: str, *, resume: bool = False) -> DistillResult:
        return distill(
            method="rob", teacher=teacher, student="test_vit", out=tmp_path / out, epochs=2,
            resume=resume, **common,
        )  # fmt: skip

    whole = run("whole")
    end_epoch = Trainer._end_epoch

    def end_and_die(self: Trainer) -> None:
        end_epoch(self)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_end_epoch", end_and_die)
        with pytest.raises(KeyboardInterrupt):
            run("cut")
    resumed = run("cut", resume=True)
    assert resumed.loss == whole.loss
    states = [load_student(one.student)[0].state_dict() for one in (whole, resumed)]
    assert all(torch.equal(states[1][key], value) for key, value in states[0].items())
    assert not [name for name in states[0] if "dino" in name or "last_layer" in name]


def test_full_checkpoint_of_dino_is_a_teacher_and_its_trunk_alone_is_not(
    make_photos: Callable[..., Path], tmp_path: Path
) -> None:
    trunk = timm.create_model("test_vit", num_classes=0)
    head = DinoHead(
        StudentNetwork(trunk).embedding_dim, 16, DinoConfig(hidden_dim=24, bottleneck_dim=12)
    )
    renamed = {  # weight_norm as DINO's torch saved it
        "last_layer.parametrizations.weight.original0": "last_layer.weight_g",
        "last_layer.parametrizations.weight.original1": "last_layer.weight_v",
    }
    weights = {f"module.backbone.{name}": value for name, value in trunk.state_dict().items()}
    torch.save({"teacher": weights}, tmp_path / "trunk.pth")
    weights |= {
        f"module.head.{renamed.get(name, name)}": value for name, value in head.state_dict().items()
    }
    torch.save({"teacher": weights}, tmp_path / "full.pth")

    def run(file: str) -> DistillResult:
        return distill(
            method="rob", teacher=f"test_vit={tmp_path / file}", student="test_resnet",
            data=make_photos(8), out=tmp_path / "run", epochs=1, batch_size=8, image_size=32,
            devices="cpu", settings=[f"{name}={value}" for name, value in FEW.items()],
        )  # fmt: skip

    with pytest.raises(ConfigError, match=r"trunk\.pth brought: none.*regress"):
        run("trunk.pth")
    result = run("full.pth")
    assert result.loss > (result.floor or 0) > 0
