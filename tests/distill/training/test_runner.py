"""The one runner: what a resumed run must find again, roles of networks, and lost work."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from support.distill import tiny_student

from edgeseed.core.errors import ConfigError, DataError, UsageError, WorkError
from edgeseed.core.network import save_student
from edgeseed.core.preprocess import Preprocess
from edgeseed.core.student import StudentSpec, read_spec
from edgeseed.distill import DistillResult, distill, finetune, pretrain
from edgeseed.distill.data.labels import split_labelled
from edgeseed.distill.data.views import ViewPlan, weak_crop
from edgeseed.distill.method import Batch, Method, MethodInputs, Progress, Requirements, StepResult
from edgeseed.distill.methods.seed import SeedConfig
from edgeseed.distill.training import distilling
from edgeseed.distill.training.recipe import Recipe
from edgeseed.distill.training.trainer import Trainer

MakePhotos = Callable[..., Path]
Call = Callable[..., DistillResult]


def write_teacher(path: Path, *, seed: int) -> str:
    student = tiny_student("test_resnet", seed=seed)
    spec = StudentSpec(
        architecture=student.architecture,
        preprocess=Preprocess(image_size=32, resize=32),
        embedding_dim=student.embedding_dim,
    )
    save_student(path, student.network, spec)
    return str(path)


@pytest.fixture
def call(make_photos: MakePhotos, tmp_path: Path) -> Call:
    """`distill` on 24 photos of two classes, two epochs of three steps, unless said otherwise."""
    make_photos(24, classes=2)
    write_teacher(tmp_path / "teacher.safetensors", seed=1)

    def run(**changes: Any) -> DistillResult:
        arguments: dict[str, Any] = {
            "method": "regress", "teacher": str(tmp_path / "teacher.safetensors"),
            "student": "test_efficientnet", "data": tmp_path / "photos", "out": tmp_path / "run",
            "epochs": 2, "batch_size": 8, "image_size": 32, "devices": "cpu",
        }  # fmt: skip
        return distill(**{**arguments, **changes})

    return run


def repaint(path: Path) -> None:
    """Other pixels under the same name, in a file of the same length."""
    length = path.stat().st_size
    Image.fromarray(np.zeros((32, 36, 3), np.uint8)).save(path)
    path.write_bytes(path.read_bytes().ljust(length, b"\0")[:length])


# --------------------------------------------------------------------------- resume


def test_resume_with_another_photo_is_refused(call: Call, tmp_path: Path) -> None:
    call()
    photo = tmp_path / "photos" / "class0" / "000.png"
    photo.rename(photo.with_name("another.png"))
    with pytest.raises(ConfigError, match=r"its photos had fingerprint \w+…, now .*another --out"):
        call(resume=True)


def test_resume_with_fewer_photos_says_how_many(call: Call, tmp_path: Path) -> None:
    call()
    (tmp_path / "photos" / "class0" / "000.png").unlink()
    with pytest.raises(ConfigError, match=r"its photos had .*24.*now 23|fingerprint"):
        call(resume=True)


def test_resume_with_other_pixels_under_the_same_names_is_refused(
    call: Call, tmp_path: Path
) -> None:
    # The fingerprint of a folder knows names and sizes alone.
    call()
    repaint(tmp_path / "photos" / "class0" / "000.png")
    with pytest.raises(ConfigError, match="its photos had sample"):
        call(resume=True)


def test_resume_with_another_teacher_is_refused(call: Call, tmp_path: Path) -> None:
    # The same path, other weights: settings are equal, and it went on in silence.
    call()
    write_teacher(tmp_path / "teacher.safetensors", seed=2)
    with pytest.raises(ConfigError, match="its teacher had weights"):
        call(resume=True)


def test_resume_from_another_student_file_is_refused(call: Call, tmp_path: Path) -> None:
    start = write_teacher(tmp_path / "start.safetensors", seed=3)
    call(student=start)
    write_teacher(tmp_path / "start.safetensors", seed=4)
    with pytest.raises(ConfigError, match="its student had weights"):
        call(student=start, resume=True)


def test_resume_with_other_labels_is_refused(call: Call, tmp_path: Path) -> None:
    labels = tmp_path / "labels.txt"
    names = [f"class{index % 2}/{index:03}.png" for index in range(24)]
    labels.write_text("\n".join(names[:12]))
    arguments: dict[str, Any] = {"method": "crd", "labels": str(labels)}
    call(**arguments)
    labels.write_text("\n".join(names[2:14]))
    with pytest.raises(ConfigError, match="its labels had fingerprint"):
        call(**arguments, resume=True)


def test_the_same_photos_elsewhere_are_the_same(call: Call, tmp_path: Path) -> None:
    first = call(settings={"training.workers": 0})
    (tmp_path / "teacher.safetensors").rename(tmp_path / "moved.safetensors")
    (tmp_path / "moved.safetensors").rename(tmp_path / "teacher.safetensors")
    assert call(resume=True, settings={"training.workers": 0}).loss == first.loss


def test_pretraining_and_fine_tuning_refuse_other_photos_too(
    call: Call, make_photos: MakePhotos, tmp_path: Path
) -> None:
    photos = make_photos(24, classes=2, name="own")
    small: dict[str, Any] = {"epochs": 1, "batch_size": 8, "devices": "cpu"}
    moco = {**small, "method": "moco", "model": "test_resnet", "out": tmp_path / "moco"}
    tune = {**small, "labels": "5pc", "image_size": 32, "out": tmp_path / "tune"}
    pretrain(data=photos, **moco)
    finetune("test_resnet", data=photos, **tune)
    for folder in photos.iterdir():
        (photo,) = sorted(folder.iterdir())[:1]
        photo.rename(photo.with_name("renamed.png"))
    with pytest.raises(ConfigError, match="its photos had fingerprint"):
        pretrain(data=photos, **moco, resume=True)
    with pytest.raises(ConfigError, match=r"its (labels|photos) had"):
        finetune("test_resnet", data=photos, **tune, resume=True)


def test_a_run_of_an_older_edgeseed_goes_on_with_a_word(
    call: Call, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    call()
    (tmp_path / "run" / "inputs.json").unlink()
    config = tmp_path / "run" / "config.toml"
    config.write_text(config.read_text().replace("knn_every_epochs", "during"))
    call(resume=True)
    assert "whether they are the same is not checked" in capsys.readouterr().err


# --------------------------------------------------------------------------- longer runs


@pytest.mark.slow
def test_a_finished_run_goes_on_for_more_epochs_and_says_its_schedule(
    call: Call, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    call()
    longer = call(epochs=4, resume=True)
    said = " ".join(capsys.readouterr().err.split())
    assert "4 epochs instead of 2: what is left follows the schedule of 4" in said
    assert (longer.epochs, longer.steps) == (4, 12)
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [3, 6, 9, 12]
    assert read_spec(longer.student).provenance["config"]["recipe"]["epochs"] == 4
    # What it is now is what the next call must say.
    assert call(epochs=4, resume=True).loss == longer.loss
    with pytest.raises(ConfigError, match=r"recipe\.epochs=4, now it is 2"):
        call(epochs=2, resume=True)


@pytest.mark.slow
def test_a_longer_run_keeps_its_warm_up(call: Call, tmp_path: Path) -> None:
    # A tenth of the epochs is the default: of four epochs it is another than of two.
    call(epochs=2)
    before = read_spec(tmp_path / "run" / "student.safetensors").provenance["config"]["recipe"]
    after = read_spec(call(epochs=4, resume=True).student).provenance["config"]["recipe"]
    assert after["warmup_epochs"] == before["warmup_epochs"]


def test_fine_tuning_cannot_be_made_longer(call: Call, tmp_path: Path) -> None:
    arguments: dict[str, Any] = {
        "data": tmp_path / "photos", "out": tmp_path / "tune", "image_size": 32, "batch_size": 8,
    }  # fmt: skip
    finetune("test_resnet", epochs=2, **arguments)
    with pytest.raises(ConfigError, match="only runs of distill and pretrain can be made longer"):
        finetune("test_resnet", epochs=4, resume=True, **arguments)


# --------------------------------------------------------------------------- lost work


def diverge_from(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    forward = Method.forward

    def diverging(self: Method[Any], batch: Batch, progress: Progress) -> StepResult:
        result = forward(self, batch, progress)
        if progress.step >= step:
            result.loss.data.fill_(float("nan"))
        return result

    monkeypatch.setattr(Method, "forward", diverging)


def test_a_checkpoint_in_passing_never_holds_weights_that_are_no_numbers(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # It saved every ten minutes, whatever had become of the weights, and offered that state.
    diverge_from(monkeypatch, 1)
    with pytest.raises(WorkError, match=r"training diverged.*the state after step 1$"):
        call(settings={"training.checkpoint_minutes": 1e-9}, precision="fp32")
    state = torch.load(tmp_path / "run" / "state.pt", weights_only=True)
    assert state["step"] == 1
    assert all(bool(torch.isfinite(value).all()) for value in state["method"].values())


def test_a_call_that_failed_before_its_first_state_may_be_corrected(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The half-begun folder refused the lower learning rate, and --resume refused it as well.
    with monkeypatch.context() as patch:
        diverge_from(patch, 1)
        with pytest.raises(WorkError, match="no state yet"):
            call()
    assert (tmp_path / "run" / "config.toml").is_file()
    assert call(lr=1e-4).steps == 6
    records = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in records] == [3, 6]


def test_a_folder_with_anything_else_in_it_is_not_begun_anew(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        diverge_from(patch, 1)
        with pytest.raises(WorkError):
            call()
    (tmp_path / "run" / "notes.txt").write_text("precious")
    with pytest.raises(UsageError, match="exists and is not empty"):
        call(lr=1e-4)


def test_an_interrupt_of_a_diverged_run_keeps_the_last_good_state(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    diverge_from(monkeypatch, 4)
    after_step = Trainer._after_step

    def interrupted(self: Trainer, bar: Any) -> None:
        after_step(self, bar)
        if self.step == 5:
            self._stop()

    monkeypatch.setattr(Trainer, "_after_step", interrupted)
    with pytest.raises(WorkError, match=r"no longer numbers.*the state after step 3"):
        call()
    assert torch.load(tmp_path / "run" / "state.pt", weights_only=True)["step"] == 3


def break_photo(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:60])


def test_fine_tuning_goes_on_without_a_broken_photo_on_either_side(
    make_photos: MakePhotos, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    # It died of one, after all its training. Broken ones are found when a folder is opened, so
    # they break here in between.
    photos = make_photos(40, classes=2)
    split = distilling_split(photos, monkeypatch)
    result = finetune(
        "test_resnet", data=photos, out=tmp_path / "out", image_size=32, epochs=2, batch_size=8,
    )  # fmt: skip
    assert result.num_labels == split["train"] - 1
    assert result.metric.n == split["test"] - 1
    assert "1 photo left out" in capsys.readouterr().err


def distilling_split(photos: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """Breaks a photo of each side once they are split; says how many there are."""
    from edgeseed.distill.training import finetuning

    found: dict[str, int] = {}

    def split_and_break(*arguments: Any, **options: Any) -> Any:
        split = split_labelled(*arguments, **options)
        for name in ("train", "test"):
            side = getattr(split, name)
            found[name] = len(side)
            source: Any = side.source
            break_photo(photos / source.name(int(side.indices[3])))
        return split

    monkeypatch.setattr(finetuning, "split_labelled", split_and_break)
    return found


def test_many_broken_test_photos_cost_no_training(
    make_photos: MakePhotos, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    photos = make_photos(40, classes=2)
    fit = Trainer.fit

    def break_after(self: Trainer) -> Any:
        outcome = fit(self)
        for path in sorted(photos.rglob("*.png"))[:30]:
            break_photo(path)
        return outcome

    monkeypatch.setattr(Trainer, "fit", break_after)
    result = finetune(
        "test_resnet", data=photos, out=tmp_path / "out", image_size=32, epochs=1, batch_size=8,
    )  # fmt: skip
    assert result.metric.n < 8
    assert "test photos cannot be read" in capsys.readouterr().err
    assert result.student.is_file()


# --------------------------------------------------------------------------- roles


class TwoTeachers(Method[SeedConfig]):
    """Learns the mean of two teachers, one of them in a role of its own."""

    Config = SeedConfig
    RECIPE = Recipe(optimizer="sgd", lr=0.01, epochs=1)
    REQUIREMENTS: ClassVar[Requirements] = Requirements(
        frozen=("teacher", "expert"), trained=("assistant",)
    )

    def __init__(self, config: SeedConfig, inputs: MethodInputs) -> None:
        super().__init__(config, inputs)
        self.teachers = tuple(inputs.frozen.values())
        self.assistant = inputs.trained["assistant"]
        self.head = torch.nn.LazyLinear(inputs.teacher.embedding_dim)
        self.head(torch.zeros(1, inputs.student.embedding_dim))

    @classmethod
    def views(cls, config: SeedConfig, image_size: int) -> ViewPlan:
        return ViewPlan(crops=(weak_crop(image_size),))

    def step(self, batch: Batch, progress: Progress) -> StepResult:
        targets = torch.stack([teacher(batch).embedding for teacher in self.teachers]).mean(0)
        embedding = self.student(batch.views[0]).embedding
        other = self.assistant(batch.views[0]).embedding.mean()
        return StepResult(loss=(self.head(embedding) - targets).square().mean() + other.square())

    def networks(self) -> dict[str, Any]:
        return {"student": self.student, "assistant": self.assistant}


def test_a_method_with_roles_of_its_own_needs_no_other_edit(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(distilling, "load_method", lambda _: TwoTeachers)
    expert = write_teacher(tmp_path / "expert.safetensors", seed=9)
    networks = {"expert": expert, "assistant": "test_efficientnet"}
    with pytest.raises(UsageError, match="needs a expert: give --network expert=NAME"):
        call(method="two", networks={"assistant": "test_efficientnet"})
    with pytest.raises(UsageError, match="has no peer: leave out --peer resnet18"):
        call(method="two", peer="resnet18", networks=networks)
    result = call(method="two", networks=networks, epochs=1)
    assert set(result.networks) == {"student", "assistant"}
    provenance = read_spec(result.student).provenance
    assert provenance["expert"]["weights_sha256"] != provenance["teacher"]["weights_sha256"]
    assert load_file(result.networks["assistant"])
    strings = [f"{role}={name}" for role, name in networks.items()]
    assert call(method="two", networks=strings, epochs=1, resume=True).loss == result.loss


# --------------------------------------------------------------------------- one clear line


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"settings": {"views.min_scale": 2}}, r"min_scale=2\.0 must be above 0 and up to 1"),
        ({"settings": {"views.flip": -1}}, r"flip=-1\.0 is a probability"),
        ({"settings": {"views.jitter_strength": 1e300}}, "jitter_strength=1e"),
        ({"settings": {"views.canvas": 10**9}}, "canvas=1000000000 must be from 8 to 4096"),
        ({"settings": {"views.teacher_size": 2}}, "teacher_size=2 must be from 8 to 4096"),
        ({"method": "esvit", "teacher": None}, "does not distil"),
        ({"seed": 10**20}, "seed=100000000000000000000 must be from 0 to"),
        ({"image_size": 10**6}, "at most 4096"),
        ({"networks": ["expert"]}, "is not of the form field=value"),
        ({"networks": {"teacher": "resnet18"}}, "give each role one network"),
        ({"settings": {"temprature": 1}}, "unknown setting of method regress 'temprature'"),
        ({"settings": {"recipe": {"momentun": 1}}}, "did you mean 'momentum'"),
    ],
    ids=str,
)
def test_a_wrong_call_is_one_line_and_writes_nothing(
    call: Call, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        call(**changes)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_a_crop_that_a_methods_setting_makes_impossible_is_one_line(
    call: Call, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="the views: scale="):
        pretrain(
            method="esvit", model="test_resnet", data=tmp_path / "photos", out=tmp_path / "run",
            settings={"global_scale": (2.0, 3.0)},
        )  # fmt: skip


def test_a_teacher_that_cannot_see_small_photos_is_one_line(
    call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    # It was a traceback of torch's, in the first step.
    from edgeseed.distill.teachers import Teacher

    def refuse(self: Teacher, images: torch.Tensor) -> Any:
        raise RuntimeError("Output size is too small")

    monkeypatch.setattr(Teacher, "forward", refuse)
    with pytest.raises(ConfigError, match=r"cannot see photos of 32 px.*views\.teacher_size=N"):
        call()


def test_settings_are_mappings_strings_or_sections(call: Call, tmp_path: Path) -> None:
    as_strings = call(
        out=tmp_path / "a", settings=["smooth_l1_weight=0.2", "recipe.clip_norm=1"], epochs=1
    )
    flat = call(
        out=tmp_path / "b", settings={"smooth_l1_weight": 0.2, "recipe.clip_norm": 1}, epochs=1
    )
    nested = call(
        out=tmp_path / "c", settings={"smooth_l1_weight": 0.2, "recipe": {"clip_norm": 1}},
        epochs=1,
    )  # fmt: skip
    assert as_strings.loss == flat.loss == nested.loss


def test_an_epoch_is_one_line_where_nobody_sees_the_bar(
    call: Call, capsys: pytest.CaptureFixture[str]
) -> None:
    call(knn_every_epochs=2)
    said = capsys.readouterr().err
    assert "epoch 1/2: loss " in said
    assert "epoch 2/2: loss " in said
    assert "kNN" in said.partition("epoch 2/2")[2]


def test_too_few_photos_to_evaluate_are_still_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError):
        finetune("test_resnet", data=tmp_path / "nothing", out=tmp_path / "out")
