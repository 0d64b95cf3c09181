"""Networks as methods see them: each normalises for itself; the teacher only answers."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from support.distill import tiny_student, tiny_teacher

from edgeseed.core.preprocess import Preprocess
from edgeseed.distill.batch import ReplayedViews
from edgeseed.distill.method import Batch
from edgeseed.distill.networks.frozen import FrozenTeacher, PixelInput
from edgeseed.distill.networks.teacher_cache import TeacherCache


def batch(*, period: int = -1, seed: int = 0, indices: tuple[int, ...] = (0, 1, 2, 3)) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    views = (torch.rand(len(indices), 3, 32, 32, generator=generator),)
    return Batch(
        views=views,
        indices=torch.tensor(indices),
        labels=None,
        generator=generator,
        replayed=None if period < 0 else ReplayedViews(period, np.array(indices)),
    )


def test_teacher_and_student_get_the_same_pixels_each_in_its_own_normalisation() -> None:
    pixels = torch.rand(2, 3, 32, 32)
    student, teacher = tiny_student(), tiny_teacher()
    expected = (pixels - torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)) / torch.tensor(
        [0.229, 0.224, 0.225]
    ).view(3, 1, 1)
    student.eval()
    torch.testing.assert_close(student(pixels).embedding, student.network(expected).embedding)
    frozen = FrozenTeacher(teacher)
    torch.testing.assert_close(
        frozen.answer(pixels).embedding, teacher((pixels - 0.5) / 0.5).embedding
    )


def test_input_brings_pixels_to_the_size_that_a_network_insists_on() -> None:
    preprocess = Preprocess(image_size=48, resize=48)
    assert PixelInput(preprocess, size=(48, 48))(torch.rand(1, 3, 32, 32)).shape[-1] == 48
    assert PixelInput(preprocess)(torch.rand(1, 3, 32, 32)).shape[-1] == 32


def test_normalisation_is_not_part_of_the_students_weights() -> None:
    assert {key.split(".")[0] for key in tiny_student().state_dict()} == {"network"}


def test_embedding_with_map_is_the_embedding() -> None:
    student = tiny_student().eval()
    pixels = torch.rand(2, 3, 64, 64)
    embedding, features = student.embed_with_map(pixels)
    torch.testing.assert_close(embedding, student(pixels).embedding)
    assert features.shape == (2, student.map_dim, 2, 2)


def test_teacher_is_put_to_eval_mode_and_frozen_whatever_it_was() -> None:
    teacher = tiny_teacher()
    for module in teacher.modules():
        module.training = True
    frozen = FrozenTeacher(teacher.requires_grad_(True))
    pixels = batch()
    alone = frozen.answer(pixels.views[0][:1]).embedding
    # In train mode BatchNorm would make a photo's embedding depend on its neighbours.
    torch.testing.assert_close(alone, frozen(pixels).embedding[:1], atol=1e-5, rtol=1e-5)
    assert not any(p.requires_grad for p in teacher.parameters())
    assert not frozen(pixels).embedding.requires_grad


def test_teacher_in_half_precision_answers_in_float32_and_nearly_the_same() -> None:
    full, half = FrozenTeacher(tiny_teacher()), FrozenTeacher(tiny_teacher(), dtype=torch.bfloat16)
    exact, rounded = (teacher(batch()).embedding for teacher in (full, half))
    assert rounded.dtype == torch.float32
    cosine = torch.nn.functional.cosine_similarity(exact, rounded, dim=1)
    assert float(cosine.min()) > 0.99
    assert not torch.equal(exact, rounded)


def count_calls(teacher: FrozenTeacher, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    calls: list[int] = []
    answer = FrozenTeacher._answer

    def counted(self: FrozenTeacher, pixels: torch.Tensor) -> object:
        calls.append(len(pixels))
        return answer(self, pixels)

    monkeypatch.setattr(FrozenTeacher, "_answer", counted)
    return calls


def test_replayed_views_are_answered_once_and_exactly(monkeypatch: pytest.MonkeyPatch) -> None:
    teacher = FrozenTeacher(tiny_teacher(), cache=TeacherCache(num_photos=4, num_views=2))
    calls = count_calls(teacher, monkeypatch)
    first = teacher(batch(period=0)).embedding
    again = teacher(batch(period=0)).embedding
    assert torch.equal(first, again)
    assert calls == [4]
    other = teacher(batch(period=1, seed=1)).embedding
    assert calls == [4, 4]
    assert not torch.equal(other, first)


def test_fresh_views_are_never_answered_from_the_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    # A mirrored photo's embedding has a cosine of only .87 with the cached one (methods.md E.3).
    teacher = FrozenTeacher(tiny_teacher(), cache=TeacherCache(num_photos=4, num_views=2))
    calls = count_calls(teacher, monkeypatch)
    one, other = teacher(batch()).embedding, teacher(batch(seed=1)).embedding
    assert calls == [4, 4]
    assert not torch.equal(one, other)


def test_batch_that_is_known_in_part_is_answered_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    teacher = FrozenTeacher(tiny_teacher(), cache=TeacherCache(num_photos=6, num_views=1))
    calls = count_calls(teacher, monkeypatch)
    teacher(batch(period=0))
    teacher(batch(period=0, indices=(2, 3, 4, 5)))
    assert calls == [4, 4]


def test_head_is_applied_in_float32_and_has_its_width() -> None:
    teacher = FrozenTeacher(tiny_teacher(heads=("projection", "classifier")))
    embedding = teacher(batch()).embedding
    with torch.autocast("cpu", dtype=torch.bfloat16):
        projected = teacher.project(embedding, "projection")
    assert projected.dtype == torch.float32
    torch.testing.assert_close(projected, teacher.heads["projection"](embedding))
    assert (teacher.head_dim("projection"), teacher.head_dim("classifier")) == (16, 3)


def test_every_view_has_its_own_answers() -> None:
    teacher = FrozenTeacher(tiny_teacher(), cache=TeacherCache(num_photos=4, num_views=1))
    two = replace(batch(period=0), views=(*batch().views, *batch(seed=1).views))
    assert not torch.equal(teacher(two, 0).embedding, teacher(two, 1).embedding)
