"""`pretrain`, and the way from photos to a teacher to a student that it opens."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file

from edgeseed.core.errors import ConfigError, UsageError
from edgeseed.core.student import read_spec
from edgeseed.distill import distill, pretrain
from edgeseed.distill.teachers import load_teacher
from edgeseed.distill.training.finetuning import finetune
from edgeseed.distill.training.pretraining import pretraining_methods

MakePhotos = Callable[..., Path]
SMALL = ["recipe.optimizer=adamw", "recipe.lr=0.001", "recipe.lr_batch_size=8"]


@pytest.mark.parametrize("method", ["simclr", "moco"])
def test_pretrained_network_is_a_student_file_with_its_head_beside_it(
    method: str, make_photos: MakePhotos, tmp_path: Path
) -> None:
    result = pretrain(
        method=method, model="test_resnet", data=make_photos(24), out=tmp_path / "run",
        epochs=2, batch_size=8, settings=SMALL,
    )  # fmt: skip
    assert result.student == tmp_path / "run" / "student.safetensors"
    assert (result.method, result.epochs, result.steps) == (method, 2, 6)
    spec = read_spec(result.student)
    assert spec.provenance["method"] == method
    assert "teacher" not in spec.provenance
    assert spec.classes is None
    heads = load_file(tmp_path / "run" / "heads.safetensors")
    assert {name.partition(".")[0] for name in heads} == {"head"}
    records = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert "found" in json.loads(records[-1])


def test_interrupted_pretraining_goes_on_to_the_same_weights(
    make_photos: MakePhotos, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgeseed.distill.training.trainer import Trainer

    photos = make_photos(24)

    def run(out: str, *, resume: bool = False) -> Path:
        return pretrain(
            method="moco", model="test_resnet", data=photos, out=tmp_path / out, epochs=2,
            batch_size=8, settings=["momentum=0.9"], resume=resume,
        ).student  # fmt: skip

    whole = load_file(run("whole"))
    ends = Trainer._end_epoch

    def die(self: Trainer) -> None:
        ends(self)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_end_epoch", die)
        with pytest.raises(KeyboardInterrupt):
            run("parts")
    parts = load_file(run("parts", resume=True))
    assert all(bool((parts[name] == value).all()) for name, value in whole.items())


def test_three_steps_of_simclrv2_end_in_a_small_classifier(
    make_photos: MakePhotos, tmp_path: Path
) -> None:
    photos = make_photos(40, classes=2)
    teacher = pretrain(
        model="test_resnet", data=photos, out=tmp_path / "pretrained", epochs=1, batch_size=8,
        settings=SMALL,
    )  # fmt: skip
    tuned = finetune(
        teacher.student, data=photos, out=tmp_path / "tuned", labels="5pc", projection=True,
        epochs=1, batch_size=8,
    )  # fmt: skip
    assert load_teacher(str(tuned.student)).classes == ("class0", "class1")
    for method, settings in {"simclrv2": ["alpha=0.5"], "kd": []}.items():
        student = distill(
            method=method, teacher=str(tuned.student), student="test_efficientnet", data=photos,
            out=tmp_path / method, epochs=1, batch_size=8, labels="5pc",
            settings=[*SMALL, *settings],
        ).student  # fmt: skip
        assert read_spec(student).classes == ("class0", "class1")


def test_own_teacher_is_distilled_by_its_trunk(make_photos: MakePhotos, tmp_path: Path) -> None:
    photos = make_photos(24)
    teacher = pretrain(
        model="test_resnet", data=photos, out=tmp_path / "teacher", epochs=1, batch_size=8,
        settings=SMALL,
    )  # fmt: skip
    result = distill(
        method="queue-kl", teacher=str(teacher.student), student="test_efficientnet", data=photos,
        out=tmp_path / "student", epochs=1, batch_size=8,
    )  # fmt: skip
    assert result.floor == 0.0
    assert result.loss > 0


def test_methods_that_pretrain_are_those_without_teacher_and_peer() -> None:
    assert {"simclr", "moco"} <= set(pretraining_methods())
    assert not {"seed", "regress", "dogo"} & set(pretraining_methods())


def test_method_that_needs_a_teacher_names_those_that_do_not(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"seed does not pre-train.*edgeseed distill.*simclr"):
        pretrain(method="seed", model="test_resnet", data="digits", out=tmp_path / "run")


def test_method_of_photos_alone_is_sent_to_pretrain(tmp_path: Path) -> None:
    # `distill --method simclr` without a teacher pretrained, in silence.
    for teacher in (None, "resnet50"):
        with pytest.raises(
            UsageError, match=r"simclr does not distil.*edgeseed pretrain --method s"
        ):
            distill(
                method="simclr", teacher=teacher, student="test_resnet", data="digits",
                out=tmp_path / "run",
            )  # fmt: skip


def test_bad_setting_is_found_before_anything_is_written(
    make_photos: MakePhotos, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="temperature"):
        pretrain(
            model="test_resnet", data=make_photos(24), out=tmp_path / "run",
            settings=["temprature=1"],
        )  # fmt: skip
    assert not (tmp_path / "run").exists()
