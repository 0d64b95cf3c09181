"""Fine-tuning: what trains, what stays, and a file that predicts what was measured."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from edgeseed.core.config import read_toml
from edgeseed.core.errors import ArtifactError, ConfigError, DataError, UsageError
from edgeseed.core.network import ProjectedTrunk, load_student, save_student
from edgeseed.core.photos import open_photos
from edgeseed.core.preprocess import Preprocess
from edgeseed.core.student import StudentSpec
from edgeseed.distill.evaluation.knn import top_accuracy
from edgeseed.distill.heads import mlp
from edgeseed.distill.networks.inference import predict
from edgeseed.distill.networks.students import create_student
from edgeseed.distill.supervised import Supervised
from edgeseed.distill.training.finetuning import FinetuneResult, _plan_rounds, finetune

SIZE = 16
QUICK = ("recipe.epochs=2", "recipe.batch_size=16")


@pytest.fixture
def student_file(tmp_path: Path) -> Path:
    network, architecture = create_student("test_resnet", seed=0, image_size=SIZE)
    spec = StudentSpec(
        architecture=architecture,
        preprocess=Preprocess(image_size=SIZE, resize=SIZE, mean=(0.5,) * 3, std=(0.5,) * 3),
        embedding_dim=network.embedding_dim,
        provenance={"method": "regress"},
    )
    path = tmp_path / "run" / "student.safetensors"
    save_student(path, network, spec)
    return path


def _finetune(student: Path | str, tmp_path: Path, **kwargs: Any) -> FinetuneResult:
    given: dict[str, Any] = {"data": "digits", "labels": "5pc", "settings": QUICK, **kwargs}
    return finetune(student, out=tmp_path / "out", devices="cpu", **given)


def test_the_result_says_how_labels_were_chosen_and_what_came_of_them(
    student_file: Path, tmp_path: Path
) -> None:
    result = _finetune(student_file, tmp_path)
    assert (result.num_labels, result.labels) == (50, "5 of each class, seed 0")
    assert result.metric.protocol == "finetune-all-2"
    assert (result.metric.n, result.metric.num_train) == (450, 50)
    assert result.metric.settings["recipe"]["optimizer"] == "adamw"
    assert "digits:test" in result.split
    lines = (result.out / "labels.txt").read_text().splitlines()
    assert lines[0] == "# digits: 5 of each class, seed 0"
    assert len(lines) == 51
    assert (result.out / "config.toml").is_file()
    assert result.to_dict()["metric"]["name"] == "finetune"


def test_the_file_alone_predicts_what_was_measured(student_file: Path, tmp_path: Path) -> None:
    result = _finetune(student_file, tmp_path)
    network, spec = load_student(result.student)
    test = open_photos("digits:test")
    assert test.labels is not None
    logits = predict(network, test, preprocess=spec.preprocess).values
    accuracy = top_accuracy(logits, torch.from_numpy(test.labels), top=1)
    assert 100 * accuracy == pytest.approx(result.metric.top1_percent, abs=0.25)
    assert spec.classes == tuple("0123456789")
    assert spec.provenance["method"] == "finetune"
    assert spec.provenance["start"]["before"] == {"method": "regress"}
    # Five of each class: a part of the set, which is known by it.
    assert open_photos("digits").fingerprint in spec.trained_on
    assert spec.metrics[0]["top1_percent"] == result.metric.top1_percent


def test_a_frozen_trunk_keeps_every_weight_and_statistic(
    student_file: Path, tmp_path: Path
) -> None:
    before = load_student(student_file)[0].backbone.state_dict()
    result = _finetune(student_file, tmp_path, settings=(*QUICK, "train=head"))
    after = load_student(result.student)[0].backbone.state_dict()
    assert all(torch.equal(value, before[name]) for name, value in after.items())
    assert result.metric.protocol == "finetune-head-2"


def test_full_fine_tuning_moves_the_trunk(student_file: Path, tmp_path: Path) -> None:
    before = load_student(student_file)[0].backbone.state_dict()
    result = _finetune(student_file, tmp_path)
    after = load_student(result.student)[0].backbone.state_dict()
    assert not torch.equal(after["conv1.0.weight"], before["conv1.0.weight"])


def test_the_same_call_gives_the_same_classifier(student_file: Path, tmp_path: Path) -> None:
    first = _finetune(student_file, tmp_path / "a")
    second = _finetune(student_file, tmp_path / "b")
    one, two = (load_student(result.student)[0].state_dict() for result in (first, second))
    assert all(torch.equal(value, two[name]) for name, value in one.items())


def test_a_timm_name_is_the_baseline_from_labels_alone(tmp_path: Path) -> None:
    result = _finetune("test_resnet", tmp_path, image_size=SIZE)
    network, spec = load_student(result.student)
    assert spec.preprocess.image_size == SIZE
    assert network.head is not None
    assert "before" not in spec.provenance["start"]


def test_others_weights_are_where_it_starts(tmp_path: Path) -> None:
    network, _ = create_student("test_resnet", seed=7, image_size=SIZE)
    weights = tmp_path / "theirs.safetensors"
    save_file(network.backbone.state_dict(), weights)
    result = _finetune(
        f"test_resnet={weights}", tmp_path, image_size=SIZE, settings=(*QUICK, "train=head")
    )
    tuned, spec = load_student(result.student)
    for name, value in network.backbone.state_dict().items():
        assert tuned.backbone.state_dict()[name].equal(value), name
    assert spec.preprocess.image_size == spec.preprocess.resize == SIZE
    assert "licence" in spec.provenance["start"]


def test_others_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    network, _ = create_student("test_resnet", seed=7, image_size=SIZE)
    weights = tmp_path / "theirs.safetensors"
    save_file(network.backbone.state_dict(), weights)
    with pytest.raises(ArtifactError, match="does not fit test_efficientnet"):
        _finetune(f"test_efficientnet={weights}", tmp_path, image_size=SIZE)
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_label_list_from_one_run_serves_another(student_file: Path, tmp_path: Path) -> None:
    first = _finetune(student_file, tmp_path / "a", seed=3)
    labels = str(first.out / "labels.txt")
    second = _finetune(student_file, tmp_path / "b", labels=labels, seed=4)
    assert second.num_labels == first.num_labels
    one, two = ((run.out / "labels.txt").read_text().splitlines()[1:] for run in (first, second))
    assert one == two


# Three runs. The plan of passes is tested below, without a run.
@pytest.mark.slow
def test_a_few_labels_get_enough_updates_unless_epochs_are_given(
    student_file: Path, tmp_path: Path
) -> None:
    few = _finetune(
        student_file, tmp_path / "a", labels="1pc", settings=("min_steps=40", "train=head")
    )
    # A batch of 8 of the 10 photos: 40 updates are 32 passes, in two epochs of the loop.
    assert few.epochs == 32
    assert few.metric.settings["steps"] == 40
    given = _finetune(student_file, tmp_path / "b", labels="1pc", settings=(), epochs=3)
    assert given.epochs == 3
    # 30 is also the default: it was taken for "not given", by --set and from a file.
    usual = _finetune(student_file, tmp_path / "c", labels="1pc", settings=("recipe.epochs=30",))
    assert (usual.epochs, usual.metric.settings["steps"]) == (30, 36)


def _sees(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """Counts the photos that are trained on."""
    seen = {"photos": 0}
    step = Supervised.step

    def counted(self: Supervised, batch: Any, progress: Any) -> Any:
        seen["photos"] += len(batch.indices)
        return step(self, batch, progress)

    monkeypatch.setattr(Supervised, "step", counted)
    return seen


@pytest.mark.slow
def test_passes_are_as_many_as_were_asked_for(
    student_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # 17 passes were two epochs of 16 passes: 32.
    seen = _sees(monkeypatch)
    quick = ("train=head", "recipe.batch_size=16")
    result = _finetune(student_file, tmp_path, labels="2pc", settings=quick, epochs=37)
    assert result.epochs == 37
    assert abs(seen["photos"] - 37 * 20) <= 16
    last = json.loads((result.out / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["epoch"] == pytest.approx(37, abs=16 / 20)


@pytest.mark.slow
def test_config_is_what_was_asked_for_and_gives_the_same_run_again(
    student_file: Path, tmp_path: Path
) -> None:
    # Epochs of the loop were written in place of passes: 9 of 25, taken back as 9.
    call: dict[str, Any] = {"labels": "2pc", "settings": ("train=head",)}
    recipe = {"epochs": 37, "batch_size": 16, "lr": 3e-3}
    first = _finetune(student_file, tmp_path / "a", seed=5, **recipe, **call)
    recipe = read_toml(first.out / "config.toml")["recipe"]
    assert (recipe["epochs"], recipe["batch_size"]) == (37, 16)
    assert recipe["warmup_epochs"] == 3
    call["config"] = first.out / "config.toml"
    again = _finetune(student_file, tmp_path / "b", **call)
    assert again.metric.settings == first.metric.settings
    expected, got = (load_student(run.student)[0].state_dict() for run in (first, again))
    assert all(torch.equal(got[name], value) for name, value in expected.items())
    resumed = _finetune(student_file, tmp_path / "b", resume=True, **call)
    assert resumed.epochs == 37


def test_a_timm_names_size_is_taken_back_and_a_student_file_keeps_its_own(
    student_file: Path, tmp_path: Path
) -> None:
    quick = (*QUICK, "train=head")
    first = _finetune("test_resnet", tmp_path / "a", image_size=24, settings=quick)
    config = first.out / "config.toml"
    again = _finetune("test_resnet", tmp_path / "b", config=config, settings=quick)
    assert load_student(again.student)[1].preprocess.image_size == 24
    other = _finetune(student_file, tmp_path / "c", config=config, settings=quick)
    assert load_student(other.student)[1].preprocess.image_size == SIZE


# Two runs more: above, passes that were asked for are taken back.
@pytest.mark.slow
def test_the_default_number_of_passes_is_taken_back_too(student_file: Path, tmp_path: Path) -> None:
    call: dict[str, Any] = {"labels": "3pc", "settings": ("train=head", "min_steps=61")}
    first = _finetune(student_file, tmp_path / "a", **call)
    assert first.metric.settings["steps"] >= 61
    again = _finetune(student_file, tmp_path / "b", config=first.out / "config.toml", **call)
    assert again.metric.settings == first.metric.settings


@pytest.mark.parametrize("num_labels", [2, 10, 37, 100, 1000])
@pytest.mark.parametrize("passes", [1, 2, 3, 17, 30, 97])
def test_rounds_make_the_passes_to_within_a_batch_an_epoch(passes: int, num_labels: int) -> None:
    size = min(16, num_labels)
    rounds = _plan_rounds(passes, batch_size=size, num_labels=num_labels)
    missing = passes * num_labels - rounds.num_steps * size
    assert -size / 2 <= missing <= rounds.num_epochs * size
    # All epochs of the loop are begun, and no more.
    steps_an_epoch = rounds.num_repeats * num_labels // size
    assert math.ceil(rounds.num_steps / steps_an_epoch) == rounds.num_epochs


# --------------------------------------------------------------------------- SimCLRv2's projection


def _save_head(path: Path, head: nn.Module, name: str = "projection") -> None:
    save_file({f"{name}.{key}": value for key, value in head.state_dict().items()}, path)


def test_the_first_projection_layer_becomes_part_of_the_network(
    student_file: Path, tmp_path: Path
) -> None:
    head = mlp(96, 24, 24, 8, norm="batch", output_norm=True)
    _save_head(student_file.with_name("heads.safetensors"), head)
    result = _finetune(student_file, tmp_path, projection=True)
    network, spec = load_student(result.student)
    assert spec.architecture.variant == {"projection": 24}
    assert spec.embedding_dim == network.embedding_dim == 24
    assert isinstance(network.backbone, ProjectedTrunk)
    assert isinstance(network.backbone.projection, nn.Linear)
    test = open_photos("digits:test")
    assert test.labels is not None
    logits = predict(network, test, preprocess=spec.preprocess).values
    accuracy = top_accuracy(logits, torch.from_numpy(test.labels), top=1)
    assert 100 * accuracy == pytest.approx(result.metric.top1_percent, abs=0.25)
    assert result.metric.settings["projection"] is True


def test_a_missing_or_unfit_projection_is_named(student_file: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"heads\.safetensors does not exist"):
        _finetune(student_file, tmp_path, projection=True)
    path = student_file.with_name("heads.safetensors")
    _save_head(path, mlp(5, 4, 3))
    with pytest.raises(
        ArtifactError, match="one MLP on embeddings of 96 was expected, found: none"
    ):
        _finetune(student_file, tmp_path, projection=True)
    path.write_bytes(b"junk")
    with pytest.raises(ArtifactError, match="not a whole safetensors file"):
        _finetune(student_file, tmp_path, projection=True)
    with pytest.raises(UsageError, match="no projection head to keep"):
        _finetune("test_resnet", tmp_path, projection=True)


# --------------------------------------------------------------------------- what must not pass


def test_wrong_calls_leave_nothing_behind(student_file: Path, tmp_path: Path) -> None:
    wrong: list[tuple[type[Exception], dict[str, Any]]] = [
        (UsageError, {"labels": "some"}),
        (DataError, {"labels": "500pc"}),
        (ConfigError, {"image_size": 32}),
        (ConfigError, {"settings": ("views.mixup=true",)}),
        (ConfigError, {"settings": ("trane=all",)}),
        (UsageError, {"data": str(tmp_path / "nothing")}),
    ]
    for kind, changes in wrong:
        with pytest.raises(kind):
            _finetune(student_file, tmp_path, **changes)
        assert not (tmp_path / "out").exists()


def test_test_photos_that_were_learnt_from_are_told(
    student_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # Of the photos whose labels are used: the others of that folder may be tested on.
    with pytest.raises(DataError, match="are those that are learnt from"):
        _finetune(student_file, tmp_path, test_data="digits", labels="100%")
    assert not (tmp_path / "out").exists()
    _finetune(student_file, tmp_path, test_data="digits", settings=(*QUICK, "train=head"))
    assert "50 of 1347 test photos that were compared are copies" in capsys.readouterr().err


def test_an_occupied_folder_is_not_overwritten(student_file: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "precious.txt").write_text("mine")
    with pytest.raises(UsageError, match="not empty"):
        _finetune(student_file, tmp_path)
    assert (tmp_path / "out" / "precious.txt").read_text() == "mine"


def test_a_timm_names_form_is_built_and_a_student_files_is_kept(
    tmp_path: Path, student_file: Path
) -> None:
    # Settings of the student were read and then forgotten.
    quick = (*QUICK, "student.activation=relu6", "student.drop_se=true")
    result = _finetune("test_efficientnet", tmp_path, image_size=SIZE, settings=quick)
    variant = load_student(result.student)[1].architecture.variant
    assert variant == {"activation": "relu6", "drop_se": True}
    with pytest.raises(ConfigError, match="is trained and keeps its form"):
        _finetune(student_file, tmp_path / "other", settings=quick)
