"""Teachers' answers on disk: exact, shared, resumable, and never those of another teacher."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from support.distill import tiny_student

from edgeseed.core.errors import ArtifactError, ConfigError, UsageError, WorkError
from edgeseed.core.network import save_student
from edgeseed.core.preprocess import Preprocess
from edgeseed.core.student import StudentSpec
from edgeseed.distill import DistillResult, distill
from edgeseed.distill.batch import ReplayedViews
from edgeseed.distill.networks.frozen import FrozenTeacher
from edgeseed.distill.networks.teacher_cache import (
    CacheKey,
    TeacherCache,
    ViewKey,
    open_cache_folder,
)

MakePhotos = Callable[..., Path]
KEY = CacheKey(
    teacher="a" * 64, preprocess={"image_size": 32}, precision="fp32", photos="b" * 64,
    num_photos=8, seed=0,
)  # fmt: skip
VIEW = ViewKey(number=0, crop={"size": 32, "scale": (0.2, 1.0)}, canvas=40)


def open_cache(folder: Path | None, *, num_views: int = 2, **changes: Any) -> TeacherCache:
    views = {0: ViewKey(**{"number": 0, "crop": VIEW.crop, "canvas": VIEW.canvas, **changes})}
    return TeacherCache(num_photos=8, num_views=num_views, folder=folder, views=views)


def some(*photos: int, number: int = 0) -> ReplayedViews:
    return ReplayedViews(number, np.array(photos))


# --------------------------------------------------------------------------- the arrays


@pytest.mark.parametrize("on_disk", [False, True])
def test_answers_come_back_bit_for_bit_and_only_what_is_known(
    tmp_path: Path, on_disk: bool
) -> None:
    cache = open_cache(tmp_path if on_disk else None)
    answers = torch.randn(3, 5)
    assert cache.get(some(1, 4, 6), 0) is None
    cache.put(some(1, 4, 6), 0, answers)
    known = cache.get(some(6, 1), 0)
    assert known is not None
    assert torch.equal(known, answers[[2, 0]])
    assert cache.get(some(1, 2), 0) is None
    assert cache.get(some(1, number=1), 0) is None
    assert (cache.num_known, cache.num_asked) == (2, 8)


def test_another_process_finds_the_answers(tmp_path: Path) -> None:
    answers = torch.randn(8, 5)
    open_cache(tmp_path).put(some(*range(8)), 0, answers)
    known = open_cache(tmp_path).get(some(*range(8)), 0)
    assert known is not None
    assert torch.equal(known, answers)


def test_an_answer_that_is_there_is_never_replaced(tmp_path: Path) -> None:
    cache = open_cache(tmp_path)
    first, second = torch.randn(1, 5), torch.randn(2, 5)
    cache.put(some(3), 0, first)
    cache.put(some(3, 4), 0, second)
    known = cache.get(some(3, 4), 0)
    assert known is not None
    assert torch.equal(known, torch.stack([first[0], second[1]]))


def test_a_row_that_was_half_written_is_unknown(tmp_path: Path) -> None:
    # A machine that loses power may have written one page of a row, and not the next.
    cache = open_cache(tmp_path)
    cache.put(some(2, 3), 0, torch.randn(2, 5))
    (path,) = tmp_path.glob("*.f32")
    rows = np.memmap(path, np.float32, mode="r+", shape=(2, 8, 6))
    rows[0, 2, :3] = 0
    again = open_cache(tmp_path)
    assert again.get(some(2), 0) is None
    assert again.get(some(3), 0) is not None


def test_zeros_are_an_answer_and_an_empty_array_holds_none(tmp_path: Path) -> None:
    cache = open_cache(tmp_path)
    cache.put(some(2), 0, torch.zeros(1, 5))
    assert cache.get(some(2), 0) is not None
    assert cache.get(some(3), 0) is None


def test_a_larger_bank_begins_with_the_smaller(tmp_path: Path) -> None:
    answers = torch.randn(8, 5)
    open_cache(tmp_path, num_views=1).put(some(*range(8)), 0, answers)
    larger = open_cache(tmp_path, num_views=4)
    known = larger.get(some(*range(8)), 0)
    assert known is not None
    assert torch.equal(known, answers)
    larger.put(some(0, number=3), 0, torch.ones(1, 5))
    smaller = open_cache(tmp_path, num_views=1).get(some(*range(8)), 0)
    assert smaller is not None
    assert torch.equal(smaller, answers)


@pytest.mark.parametrize(
    "change", [{"canvas": 41}, {"crop": {"size": 32, "scale": (0.3, 1.0)}}, {"blended": (4, 1)}]
)
def test_other_views_have_an_array_of_their_own(tmp_path: Path, change: dict[str, Any]) -> None:
    open_cache(tmp_path).put(some(0), 0, torch.ones(1, 5))
    assert open_cache(tmp_path, **change).get(some(0), 0) is None


def test_room_for_all_answers_is_taken_before_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A file with holes ends the process by a signal once the disk is full.
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.posix_fallocate", full)
    with pytest.raises(WorkError, match="disk full"):
        open_cache(tmp_path).put(some(0), 0, torch.ones(1, 5))


def test_a_file_system_that_cannot_reserve_is_filled_with_zeros(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr("os.posix_fallocate", refused)
    cache = open_cache(tmp_path)
    cache.put(some(7, number=1), 0, torch.ones(1, 5))
    assert cache.get(some(7, number=1), 0) is not None


# --------------------------------------------------------------------------- the folder


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"teacher": "c" * 64}, "the teacher's weights"),
        ({"preprocess": {"image_size": 64}}, "the teacher's input"),
        ({"precision": "bf16"}, r"the teacher's precision \(fp32 there, bf16 now\)"),
        ({"photos": "d" * 64}, "the photos"),
        ({"num_photos": 9}, r"the number of photos \(8 there, 9 now\)"),
        ({"seed": 1}, r"the seed \(0 there, 1 now\)"),
    ],
)
def test_answers_of_another_run_are_refused(
    tmp_path: Path, change: dict[str, Any], named: str
) -> None:
    open_cache_folder(tmp_path / "cache", KEY)
    open_cache_folder(tmp_path / "cache", KEY)
    other = CacheKey(**{**{name: getattr(KEY, name) for name in KEY.__slots__}, **change})
    with pytest.raises(ConfigError, match=f"{named}.*give a new folder, or remove this one"):
        open_cache_folder(tmp_path / "cache", other)


def test_a_folder_with_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("precious")
    with pytest.raises(UsageError, match="holds no teacher's answers"):
        open_cache_folder(tmp_path, KEY)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_a_cache_of_another_version_is_refused(tmp_path: Path) -> None:
    open_cache_folder(tmp_path / "cache", KEY)
    path = tmp_path / "cache" / "cache.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "schema_version": 2}))
    with pytest.raises(ArtifactError, match="give another --teacher-cache"):
        open_cache_folder(tmp_path / "cache", KEY)


# --------------------------------------------------------------------------- whole runs

Call = Callable[..., DistillResult]


@pytest.fixture
def call(make_photos: MakePhotos, teacher_file: str, tmp_path: Path) -> Call:
    """`distill` on 24 photos, three epochs of two views."""
    photos = make_photos(24)

    def run(out: str, **changes: Any) -> DistillResult:
        arguments: dict[str, Any] = {
            "method": "regress", "teacher": teacher_file, "student": "test_efficientnet",
            "data": photos, "out": tmp_path / out, "epochs": 3, "batch_size": 8, "image_size": 32,
            "devices": "cpu", "settings": {"views.replay": 2, "mixup": False},
        }  # fmt: skip
        return distill(**{**arguments, **changes})

    return run


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many photos the teacher looks at, a number a batch."""
    calls: list[int] = []
    answer = FrozenTeacher._answer

    def counted(self: FrozenTeacher, pixels: torch.Tensor, *, resize: bool = True) -> object:
        if len(pixels) > 1:  # One is the black photo of the check before.
            calls.append(len(pixels))
        return answer(self, pixels, resize=resize)

    monkeypatch.setattr(FrozenTeacher, "_answer", counted)
    return calls


def same(one: DistillResult, other: DistillResult) -> bool:
    first, second = load_file(one.student), load_file(other.student)
    return all(torch.equal(value, second[name]) for name, value in first.items())


# Without mixup a view is one photo's, and the cache is asked for the same.
@pytest.mark.parametrize("mixup", [pytest.param(False, marks=pytest.mark.slow), True])
def test_cached_teaching_is_live_teaching_bit_for_bit(
    call: Call, tmp_path: Path, asked: list[int], monkeypatch: pytest.MonkeyPatch, mixup: bool
) -> None:
    settings = {"views.replay": 2, "mixup": mixup}
    cache = tmp_path / "cache"
    cached = call("cached", settings=settings, teacher_cache=cache)
    # Two views of three batches; the third epoch and the next run ask for nothing.
    assert asked == [8] * 6
    again = call("again", settings=settings, teacher_cache=cache)
    assert asked == [8] * 6
    with monkeypatch.context() as patch:
        patch.setattr(TeacherCache, "get", lambda *_: None)
        live = call("live", settings=settings)
    assert len(asked) == 6 + 9
    assert same(cached, live)
    assert same(again, live)


@pytest.mark.slow
def test_students_and_methods_share_one_cache(call: Call, tmp_path: Path, asked: list[int]) -> None:
    cache = tmp_path / "cache"
    settings = {"views.replay": 2, "views.preset": "weak", "views.mixup": False}
    call("first", settings=settings, teacher_cache=cache)
    asked.clear()
    call("second", settings=settings, teacher_cache=cache, student="test_resnet")
    call("third", settings=settings, teacher_cache=cache, method="queue-kl")
    call("fourth", settings=settings, teacher_cache=cache, method="seed", batch_size=4)
    assert asked == []


@pytest.mark.slow
def test_a_partial_cache_goes_on(call: Call, tmp_path: Path, asked: list[int]) -> None:
    cache = tmp_path / "cache"
    call("short", epochs=1, teacher_cache=cache)
    assert len(asked) == 3
    whole = call("whole", teacher_cache=cache)
    assert len(asked) == 6
    assert same(whole, call("alone"))


def test_a_resumed_run_finds_its_cache_wherever_it_is_now(call: Call, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    first = call("run", teacher_cache=cache)
    cache.rename(tmp_path / "moved")
    assert call("run", teacher_cache=tmp_path / "moved", resume=True).loss == first.loss


def test_another_teacher_is_refused_and_nothing_is_written(call: Call, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    call("run", teacher_cache=cache)
    student = tiny_student("test_resnet", seed=5)
    spec = StudentSpec(
        architecture=student.architecture,
        preprocess=Preprocess(image_size=32, resize=32),
        embedding_dim=student.embedding_dim,
    )
    other = tmp_path / "other.safetensors"
    save_student(other, student.network, spec)
    with pytest.raises(ConfigError, match="the teacher's weights"):
        call("second", teacher_cache=cache, teacher=str(other))
    with pytest.raises(ConfigError, match="the seed"):
        call("second", teacher_cache=cache, seed=1)
    assert not (tmp_path / "second").exists()


def test_without_a_number_of_views_there_are_the_usual(
    call: Call, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    call("run", teacher_cache=tmp_path / "cache", settings={})
    assert "views repeat after 16 epochs" in capsys.readouterr().err
    assert "replay = 16" in (tmp_path / "run" / "config.toml").read_text()


def test_a_method_without_a_teacher_has_nothing_to_cache(call: Call, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="dogo has no teacher whose answers could be kept"):
        call(
            "run", method="dogo", teacher=None, peer="test_resnet", settings={},
            teacher_cache=tmp_path / "cache",
        )  # fmt: skip


def test_what_no_cache_holds_is_said(
    call: Call, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = {"views.replay": 2, "patch_weight": 0.5}
    call("run", teacher_cache=tmp_path / "cache", settings=settings)
    assert capsys.readouterr().err.count("asks for feature maps or small crops") == 1
