"""`distill` from call to folder: what it writes, that it resumes exactly, and how it fails."""

import contextlib
import errno
import functools
import json
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file
from support.distill import tiny_student

from edgeseed.core.config import read_toml
from edgeseed.core.errors import (
    ArtifactError,
    ConfigError,
    DataError,
    UnknownNameError,
    UsageError,
    WorkError,
)
from edgeseed.core.network import load_student, save_student
from edgeseed.core.preprocess import Preprocess
from edgeseed.core.student import StudentSpec, read_spec
from edgeseed.distill import DistillResult, distill
from edgeseed.distill.method import Method
from edgeseed.distill.methods.seed import Seed
from edgeseed.distill.training.trainer import Trainer

MakePhotos = Callable[..., Path]
Call = Callable[..., DistillResult]


@pytest.fixture
def call(make_photos: MakePhotos, teacher_file: str, tmp_path: Path) -> Call:
    """`distill` on 24 photos of two classes, two epochs of three steps, unless said otherwise."""
    return functools.partial(
        run, teacher=teacher_file, data=make_photos(24, classes=2), out=tmp_path / "run"
    )


def run(**changes: Any) -> DistillResult:
    arguments: dict[str, Any] = {
        "method": "seed", "student": "test_efficientnet", "epochs": 2, "batch_size": 8,
        "image_size": 32, "devices": "cpu",
    }  # fmt: skip
    return distill(**{**arguments, **changes})


@pytest.fixture(scope="module")
def finished(
    kept_photos: MakePhotos, teacher_file: str, tmp_path_factory: pytest.TempPathFactory
) -> DistillResult:
    """What `call()` gives, for tests that only read it."""
    out = tmp_path_factory.mktemp("finished") / "run"
    return run(teacher=teacher_file, data=kept_photos(24, classes=2), out=out)


def records(out: Path, kind: str = "epoch") -> list[dict[str, Any]]:
    lines = (out / "metrics.jsonl").read_text().splitlines()
    return [record for record in map(json.loads, lines) if record["kind"] == kind]


# --------------------------------------------------------------------------- what it writes


@pytest.mark.parametrize("method", ["seed", "regress"])
def test_run_folder_is_whole(call: Call, method: str) -> None:
    result = call(method=method)
    names = {path.name for path in result.out.iterdir()}
    assert names == {
        "best.safetensors", "config.toml", "curves.svg", "heads.safetensors", "inputs.json",
        "metrics.jsonl", "state.pt", "student.safetensors", "tensorboard",
    }  # fmt: skip
    assert list((result.out / "tensorboard").glob("events.out.tfevents.*"))
    assert result.student == result.out / "student.safetensors"
    assert (result.epochs, result.steps, result.num_photos) == (2, 6, 24)
    assert json.loads(json.dumps(result.to_dict()))["method"] == method


def test_student_file_holds_the_trunk_and_no_head(finished: DistillResult) -> None:
    # methods.md G: heads are thrown away; the file must load into the bare architecture.
    result = finished
    network, spec = load_student(result.student)
    assert network.head is None
    assert all(key.startswith("backbone.") for key in load_file(result.student))
    assert spec.embedding_dim == network(torch.zeros(1, 3, 32, 32)).embedding.shape[1]
    assert spec.preprocess.image_size == 32
    heads = load_file(result.out / "heads.safetensors")
    assert {key.split(".")[0] for key in heads} == {"head"}


def test_student_file_says_where_it_comes_from(call: Call, teacher_file: str) -> None:
    provenance = read_spec(call(settings=["tau_student=0.1"]).student).provenance
    assert provenance["method"] == "seed"
    assert provenance["config"]["method"]["tau_student"] == 0.1
    assert provenance["config"]["run"]["seed"] == 0
    assert provenance["teacher"]["name"] == teacher_file
    assert len(provenance["teacher"]["weights_sha256"]) == 64
    assert len(provenance["data"]["fingerprint"]) >= 32
    assert provenance["data"]["num_photos"] == 24
    assert "torch" in provenance["environment"]["libraries"]


def test_teacher_is_not_in_the_saved_state(finished: DistillResult) -> None:
    # SEED's code saves the frozen teacher into every epoch's checkpoint.
    state = torch.load(finished.out / "state.pt", weights_only=True)
    assert {key.split(".")[0] for key in state["method"]} == {"student", "head", "queue"}


def test_metrics_have_the_loss_beside_its_floor_and_the_speed(finished: DistillResult) -> None:
    result = finished
    for record in records(result.out):
        assert record["loss"] >= record["floor"]
        assert record["gap"] == pytest.approx(record["loss"] - record["floor"], abs=1e-4)
        assert record["images_per_second"] > 0
        assert 0 <= record["data_wait_percent"] <= 100
    assert result.loss == records(result.out)[-1]["loss"]


def test_records_within_an_epoch_come_every_few_steps(call: Call) -> None:
    result = call(settings=["training.log_steps=2"])
    assert [record["step"] for record in records(result.out, "steps")] == [2, 4]


def test_config_is_whole_and_makes_the_same_run_again(call: Call, tmp_path: Path) -> None:
    settings = ["tau_student=0.1", "recipe.clip_norm=2.0", "views.flip=0"]
    first = call(settings=settings, image_size=40, seed=3)
    config = read_toml(first.out / "config.toml")
    assert set(config) == {"run", "method", "recipe", "views", "training", "student"}
    assert config["method"]["tau_student"] == 0.1
    assert (config["recipe"]["clip_norm"], config["recipe"]["batch_size"]) == (2.0, 8)
    # Image size and seed were not taken back: another run came of it.
    bare = {"epochs": None, "batch_size": None, "image_size": None}
    again = call(out=tmp_path / "again", config=first.out / "config.toml", **bare)
    assert again.loss == first.loss


def test_knn_accuracy_is_measured_while_it_runs_and_picks_the_best(call: Call) -> None:
    result = call(knn_every_epochs=1, epochs=3)
    scores = [record["knn"] for record in records(result.out)]
    assert len(scores) == 3
    assert result.knn == scores[-1]
    best = read_spec(result.best).metrics[0]
    assert best["knn"] == max(scores)
    assert best["knn_test_photos"] == 4


def test_same_seed_gives_the_same_student_and_another_another(
    call: Call, finished: DistillResult, tmp_path: Path
) -> None:
    first = load_file(finished.student)
    same = load_file(call(out=tmp_path / "same").student)
    other = load_file(call(out=tmp_path / "other", seed=1).student)
    assert all(torch.equal(first[key], same[key]) for key in first)
    assert not all(torch.equal(first[key], other[key]) for key in first)


def test_calling_it_leaves_torchs_generator_as_it_was(call: Call) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    call(epochs=1)
    assert torch.equal(torch.rand(3), expected)


def test_student_may_go_on_from_a_student_file(
    call: Call, finished: DistillResult, tmp_path: Path
) -> None:
    first = finished
    second = call(student=str(first.student), out=tmp_path / "second", epochs=1, lr=1e-12)
    before, after = load_file(first.student), load_file(second.student)
    weights = [key for key in before if key.endswith("conv.weight")]
    assert all(torch.allclose(before[key], after[key], atol=1e-6) for key in weights)


@pytest.mark.parametrize("name", ["test_efficientnet", "test_vit"])
def test_student_may_start_from_a_checkpoint_of_another_program(
    call: Call, tmp_path: Path, name: str
) -> None:
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=3)
    state = {f"model.{key}": value for key, value in model.state_dict().items()}
    torch.save({"state_dict": state}, tmp_path / "a.pth")
    result = call(student=f"{name}={tmp_path / 'a.pth'}", epochs=1, lr=1e-12)
    network, spec = load_student(result.student)
    assert spec.architecture.name == name
    theirs = dict(model.named_parameters())
    ours = dict(network.backbone.named_parameters())
    # timm resamples the positions to the size of the photos.
    kept = [key for key in ours if key != "pos_embed"]
    assert all(torch.allclose(ours[key], theirs[key], atol=1e-6) for key in kept)


@pytest.fixture
def make_classifier(tmp_path: Path) -> Callable[..., str]:
    """Writes a classifier with random weights: a teacher for kd."""

    def make(*classes: str) -> str:
        student = tiny_student("test_resnet", seed=1)
        student.network.head = torch.nn.Linear(student.embedding_dim, len(classes))
        path = tmp_path / f"{'-'.join(classes)}.safetensors"
        spec = StudentSpec(
            architecture=student.architecture,
            preprocess=Preprocess(image_size=32, resize=32),
            embedding_dim=student.embedding_dim,
            classes=classes,
        )
        save_student(path, student.network, spec)
        return str(path)

    return make


def test_a_head_goes_on_where_the_classes_are_the_same(
    call: Call, make_classifier: Callable[..., str], tmp_path: Path
) -> None:
    teacher = make_classifier("class0", "class1")
    first = call(method="kd", teacher=teacher, epochs=1)
    kept = call(
        method="kd", teacher=teacher, student=str(first.student), out=tmp_path / "kept",
        epochs=1, lr=1e-12, seed=1,
    )  # fmt: skip
    others = call(
        method="kd", teacher=make_classifier("class1", "class0"), student=str(first.student),
        out=tmp_path / "others", epochs=1, lr=1e-12, seed=1,
    )  # fmt: skip
    none = call(student=str(first.student), out=tmp_path / "none", epochs=1)
    before, after, new = (load_file(run.student)["head.weight"] for run in (first, kept, others))
    assert torch.allclose(before, after, atol=1e-6)
    assert not torch.allclose(before, new, atol=1e-2)
    assert read_spec(none.student).classes is None
    assert "head.weight" not in load_file(none.student)


def test_a_student_files_image_size_is_kept_whatever_the_photos_are(
    call: Call, tmp_path: Path
) -> None:
    first = call(image_size=48, epochs=1)
    second = call(student=str(first.student), image_size=None, out=tmp_path / "second", epochs=1)
    assert read_spec(second.student).preprocess == read_spec(first.student).preprocess
    assert read_spec(second.student).preprocess.image_size == 48


def test_student_variants_reach_the_file(call: Call) -> None:
    result = call(activation="relu6", drop_se=True, epochs=1)
    assert read_spec(result.student).architecture.variant == {
        "activation": "relu6", "drop_se": True,
    }  # fmt: skip


@pytest.mark.slow
def test_replayed_views_give_what_looking_again_gives(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = ["views.replay=1"]
    cached = call(method="regress", settings=settings, epochs=3)
    monkeypatch.setattr("edgeseed.distill.networks.teacher_cache.TeacherCache.get", lambda *_: None)
    looked = call(method="regress", settings=settings, epochs=3, out=tmp_path / "looked")
    assert cached.loss == looked.loss


@pytest.mark.parametrize("cache", ["memory", "off"])
def test_result_does_not_depend_on_where_photos_are_kept(
    call: Call, finished: DistillResult, tmp_path: Path, cache: str
) -> None:
    settings = [f"training.cache={cache}", "training.workers=0"]
    assert call(out=tmp_path / "other", settings=settings).loss == finished.loss


def test_half_precision_trains(call: Call) -> None:
    result = call(precision="bf16")
    assert result.loss > 0
    assert all(value.dtype != torch.bfloat16 for value in load_file(result.student).values())


def test_compiled_networks_are_saved_under_their_own_names(
    call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled: list[torch.nn.Module] = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self: compiled.append(self))
    result = call(settings=["training.compile=true"], epochs=1)
    assert len(compiled) == 1
    load_student(result.student)


# --------------------------------------------------------------------------- resume


class KilledError(Exception):
    """Stands for a machine that went away."""


def kill_at(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    after_step = Trainer._after_step

    def counted(self: Trainer, bar: Any) -> None:
        after_step(self, bar)
        if self.step == step:
            raise KilledError

    monkeypatch.setattr(Trainer, "_after_step", counted)


@pytest.mark.parametrize(
    ("step", "method"),
    [
        (3, "regress"),
        (5, "seed"),
        # Either method, and a stop inside and at the end of an epoch, are above.
        pytest.param(3, "seed", marks=pytest.mark.slow),
        pytest.param(5, "regress", marks=pytest.mark.slow),
    ],
)
def test_resumed_run_is_bit_identical(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, step: int
) -> None:
    # Step 3 ends an epoch; step 5 is in the middle of one, and only saved since every step is.
    settings = ["training.checkpoint_minutes=1e-9", "training.log_steps=2"]
    whole = call(method=method, out=tmp_path / "whole", settings=settings)
    with monkeypatch.context() as patch:
        kill_at(patch, step)
        with pytest.raises(KilledError):
            call(method=method, settings=settings)
    resumed = call(method=method, settings=settings, resume=True)
    for name in ("student", "heads", "best"):
        expected = load_file(whole.out / f"{name}.safetensors")
        got = load_file(resumed.out / f"{name}.safetensors")
        assert all(torch.equal(got[key], expected[key]) for key in expected), name
    timed = ("seconds", "images_per_second", "data_wait_percent")
    for got_record, expected_record in zip(records(resumed.out), records(whole.out), strict=True):
        for key in expected_record.keys() - set(timed):
            assert got_record[key] == expected_record[key]
    assert len(records(resumed.out, "steps")) == len(records(whole.out, "steps"))


def test_finished_run_resumes_to_nothing_left(call: Call) -> None:
    first = call()
    again = call(resume=True)
    assert again.loss == first.loss
    assert again.images_per_second == 0


def test_resume_may_change_how_photos_are_loaded_but_not_the_method(call: Call) -> None:
    call()
    call(resume=True, settings=["training.cache=off", "training.workers=0"])
    with pytest.raises(ConfigError, match=r"method\.tau_student=0\.2, now it is 0\.3"):
        call(resume=True, settings=["tau_student=0.3"])


def test_resume_without_a_run_is_an_error(call: Call) -> None:
    with pytest.raises(UsageError, match="holds no run to resume"):
        call(resume=True)


def test_run_does_not_overwrite_another(call: Call) -> None:
    call(epochs=1)
    with pytest.raises(UsageError, match="add --resume to go on"):
        call(epochs=1)


def test_broken_state_is_an_error_that_names_the_file(call: Call) -> None:
    result = call(epochs=1)
    (result.out / "state.pt").write_bytes(b"not a state")
    with pytest.raises(ArtifactError, match=r"state\.pt cannot be read"):
        call(epochs=1, resume=True)


def test_interrupt_saves_and_says_how_to_go_on(
    call: Call, finished: DistillResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    after_step = Seed.after_step

    def interrupted(self: Seed, progress: Any) -> None:
        after_step(self, progress)
        if progress.step == 3:
            signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(Seed, "after_step", interrupted)
        with pytest.raises(WorkError, match=r"interrupted after step 4 of 6.*--resume"):
            call()
    resumed = load_file(call(resume=True).student)
    whole = load_file(finished.student)
    assert all(torch.equal(resumed[key], whole[key]) for key in whole)


# --------------------------------------------------------------------------- errors


def assert_nothing_written(tmp_path: Path) -> None:
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"method": "sead"}, UnknownNameError, "unknown method 'sead'; did you mean 'seed'"),
        ({"student": "mobilnetv3_large_100"}, UnknownNameError, "mobilenetv3_large_100"),
        ({"teacher": "resnet5O"}, UnknownNameError, "unknown teacher"),
        ({"teacher": None}, UsageError, "method seed needs a teacher: give --teacher"),
        ({"peer": "resnet18"}, UsageError, "method seed has no peer"),
        ({"data": "nowhere/"}, DataError, "does not exist"),
        ({"batch_size": 64}, DataError, "needs at least 64 photos, and there are 24"),
        ({"settings": ["tau=1"]}, ConfigError, "unknown setting of method seed 'tau'"),
        ({"settings": ["tau_student=warm"]}, ConfigError, "is not a finite number"),
        ({"settings": ["tau_student=0"]}, ConfigError, "must be above 0"),
        ({"settings": ["recipe.momentun=1"]}, ConfigError, "did you mean 'momentum'"),
        ({"settings": ["recipies.lr=1"]}, ConfigError, "unknown group of settings"),
        ({"settings": ["queue_size=12"]}, ConfigError, "not a multiple of the batch of 8"),
        ({"devices": "tpu"}, UsageError, "give auto, cpu, cuda"),
        ({"devices": 4}, UsageError, "torchrun --nproc-per-node 4"),
        ({"precision": "fp8"}, UsageError, "auto, fp32 or bf16"),
        ({"image_size": 4}, ConfigError, "at least 8 pixels"),
        ({"knn_every_epochs": 0}, ConfigError, "at least 1 epoch"),
        ({"epochs": 0}, ConfigError, "epochs=0 must be above 0"),
    ],
    ids=lambda value: str(value)[:40] if isinstance(value, dict) else "",
)
def test_wrong_call_is_one_line_and_writes_nothing(
    call: Call, tmp_path: Path, changes: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message) as caught:
        call(**changes)
    assert "\n" not in str(caught.value)
    assert_nothing_written(tmp_path)


def test_empty_folder_is_an_error(call: Call, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(DataError, match="no image"):
        call(data=empty)
    assert_nothing_written(tmp_path)


def test_during_needs_labels(call: Call, make_photos: MakePhotos, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="--knn-every-epochs measures kNN accuracy"):
        call(data=make_photos(10, name="flat"), knn_every_epochs=1)
    assert_nothing_written(tmp_path)


def test_config_file_with_an_unknown_section_is_an_error(call: Call, tmp_path: Path) -> None:
    config = tmp_path / "mine.toml"
    config.write_text("[recipie]\nlr = 1.0\n")
    with pytest.raises(ConfigError, match="unknown section 'recipie'; did you mean 'recipe'"):
        call(config=config)


@contextlib.contextmanager
def limit_on_file_sizes(num_bytes: int) -> Iterator[None]:
    """A disk that is full for whatever is larger: the operating system refuses to write it."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


# 600 kB hold the student and not the state; 100 kB hold the records and not the student.
@pytest.mark.parametrize(("limit", "missing"), [(600_000, "state.pt"), (100_000, "best")])
def test_full_disk_leaves_no_half_written_file_and_a_run_that_goes_on(
    call: Call, tmp_path: Path, limit: int, missing: str
) -> None:
    # torch's writer said "unexpected pos" in place of the disk's error: a traceback.
    with (
        limit_on_file_sizes(limit),
        pytest.raises(WorkError, match=r"disk full while writing .* free some space"),
    ):
        call()
    left = {path.name for path in (tmp_path / "run").iterdir()}
    assert not [name for name in left if name.endswith(".tmp") or name.startswith(missing)]
    assert call(resume=True).steps == 6


def test_records_that_find_no_room_are_one_line_too(
    call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    # TensorBoard's writer works in a thread, and hands its error over at the next record.
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("edgeseed.distill.training.run_folder.SummaryWriter.add_scalar", full)
    with pytest.raises(WorkError, match=r"disk full while writing .*tensorboard"):
        call()


def test_divergence_is_an_error_before_the_state_is_spoilt(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward = Method.forward

    def diverge(self: Method[Any], batch: Any, progress: Any) -> Any:
        result = forward(self, batch, progress)
        if progress.step == 4:
            result.loss.data.fill_(float("nan"))
        return result

    monkeypatch.setattr(Method, "forward", diverge)
    with pytest.raises(WorkError, match=r"training diverged: loss became nan.*lower --lr") as found:
        call()
    assert "raise tau_student or raise tau_teacher" in str(found.value)
    assert "fp32" not in str(found.value)  # It is what was used.
    assert str(found.value).endswith("The run folder has the state after step 3")
    state = torch.load(tmp_path / "run" / "state.pt", weights_only=True)
    assert state["step"] == 3
    assert all(bool(torch.isfinite(value).all()) for value in state["method"].values())


def test_divergence_before_a_state_was_saved_promises_none(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # It spoke of a good state, and told regress to raise temperatures, of which it has none.
    forward = Method.forward

    def diverge(self: Method[Any], batch: Any, progress: Any) -> Any:
        result = forward(self, batch, progress)
        result.loss.data.fill_(float("nan"))
        return result

    monkeypatch.setattr(Method, "forward", diverge)
    with pytest.raises(WorkError, match=r"lower --lr\. The run folder has no state yet"):
        call(method="regress")
    assert not (tmp_path / "run" / "state.pt").exists()


def test_student_file_keeps_the_form_it_was_trained_in(call: Call, tmp_path: Path) -> None:
    # It was ignored in silence: the file came out with squeeze-and-excitation.
    first = call(epochs=1)
    with pytest.raises(ConfigError, match="keeps its form: leave out activation, drop_se"):
        call(student=str(first.student), drop_se=True, out=tmp_path / "second")
    assert not (tmp_path / "second").exists()


def test_students_name_is_looked_at_before_the_teacher_is_loaded(
    call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "edgeseed.distill.training.distilling.load_teacher", lambda *_, **__: pytest.fail("loaded")
    )
    with pytest.raises(UnknownNameError, match="did you mean 'resnet18'"):
        call(student="resnet_18")
