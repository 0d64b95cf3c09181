"""Evaluation: literal oracles, honest selection, and classifiers that predict what was measured."""

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from support.distill import clusters

from edgeseed.core.errors import ConfigError, DataError, UnknownNameError, UsageError
from edgeseed.core.network import load_student, save_student
from edgeseed.core.photos import PhotoSet, open_photos, photos_from_arrays
from edgeseed.core.preprocess import Preprocess
from edgeseed.core.pretrained import load_model
from edgeseed.core.student import StudentSpec
from edgeseed.distill.data.labels import split_labelled
from edgeseed.distill.evaluation.evaluate import LabelledFeatures, evaluate, measure_knn
from edgeseed.distill.evaluation.knn import KnnSettings, top_accuracy
from edgeseed.distill.evaluation.linear import LinearSettings
from edgeseed.distill.networks.inference import embed, predict
from edgeseed.distill.networks.students import create_student

SIZE = 16
PREPROCESS = Preprocess(image_size=SIZE, resize=SIZE, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4))
QUICK = LinearSettings(lrs=(0.01, 0.1), min_steps=60, epochs=1)


@pytest.fixture(scope="module")
def student_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    network, architecture = create_student("test_resnet", seed=0, image_size=SIZE)
    spec = StudentSpec(
        architecture=architecture, preprocess=PREPROCESS, embedding_dim=network.embedding_dim
    )
    path = tmp_path_factory.mktemp("student") / "student.safetensors"
    save_student(path, network, spec)
    return path


def test_more_neighbours_than_photos_are_clamped_and_said(
    capsys: pytest.CaptureFixture[str],
) -> None:
    bank, bank_labels = clusters(12, seed=0)
    queries, labels = clusters(6, seed=1)
    features = LabelledFeatures(
        train=bank, train_labels=bank_labels, test=queries, test_labels=labels, num_classes=3
    )
    metrics = measure_knn(features, settings=KnnSettings())
    assert [metric.name for metric in metrics] == ["knn-20", "knn-200"]
    assert metrics[1].settings["k"] == 12
    assert metrics[1].settings["asked_k"] == 200
    assert "k=200 is more than the 12 training photos" in capsys.readouterr().err


# --------------------------------------------------------------------------- features


def _digits(count: int) -> PhotoSet:
    return open_photos("digits").subset(np.arange(count))


def test_features_do_not_depend_on_the_batch(student_file: Path) -> None:
    network, spec = load_student(student_file)
    photos = _digits(30)
    one_by_one = embed(network, photos, preprocess=spec.preprocess, batch_size=1).values
    for batch_size in (7, 30, 64):
        batched = embed(network, photos, preprocess=spec.preprocess, batch_size=batch_size).values
        torch.testing.assert_close(batched, one_by_one, atol=1e-5, rtol=1e-4)


def test_features_are_those_of_the_core_preprocess(student_file: Path) -> None:
    network, spec = load_student(student_file)
    photos = _digits(5)
    pixels = np.stack([spec.preprocess.pixels(photos.image(index)) for index in range(5)])
    images = torch.from_numpy(spec.preprocess.normalize(pixels))
    embedded = embed(network, photos, preprocess=spec.preprocess).values
    torch.testing.assert_close(embedded, network(images).embedding.detach(), atol=1e-5, rtol=1e-4)


def test_batch_norm_in_train_mode_changes_neither_features_nor_statistics(
    student_file: Path,
) -> None:
    # lightly 1444: BatchNorm was left in train mode, and evaluation changed the network.
    network, spec = load_student(student_file)
    expected = embed(network, _digits(20), preprocess=spec.preprocess).values
    before = {name: value.clone() for name, value in network.state_dict().items()}
    network.train()
    embedded = embed(network, _digits(20), preprocess=spec.preprocess).values
    assert torch.equal(embedded, expected)
    assert network.training
    after = network.state_dict()
    assert all(torch.equal(value, before[name]) for name, value in after.items())


def test_no_photos_are_an_error(student_file: Path) -> None:
    network, spec = load_student(student_file)
    with pytest.raises(DataError, match="no photo"):
        embed(network, _digits(0), preprocess=spec.preprocess)


# --------------------------------------------------------------------------- evaluate


def test_evaluate_states_what_it_measured_and_how(student_file: Path) -> None:
    result = evaluate(student_file, data="digits", linear=QUICK)
    assert [metric.name for metric in result.metrics] == ["knn-20", "knn-200", "linear"]
    linear = result.metric("linear")
    assert (linear.n, linear.num_train, linear.num_classes) == (450, 1347, 10)
    assert "digits:test" in result.split
    assert linear.settings["lr"] in QUICK.lrs
    assert [rate["lr"] for rate in linear.detail["rates"]] == list(QUICK.lrs)
    assert linear.detail["best_on_test_top1_percent"] >= linear.top1_percent
    share = linear.top1_percent / 100
    assert linear.standard_error_percent == pytest.approx(
        100 * math.sqrt(share * (1 - share) / 450)
    )
    knn = result.metric("knn-20")
    assert knn.settings == {
        "k": 20, "asked_k": 20, "temperature": 0.07, "weights": "exp(cosine / temperature)",
    }  # fmt: skip
    # Even an untrained network tells most digits apart; what is broken guesses one in ten.
    assert knn.top1_percent > 50
    assert knn.top5_percent is not None
    assert knn.top5_percent > knn.top1_percent
    assert json.loads(json.dumps(result.to_dict()))["metrics"][2]["name"] == "linear"


def test_evaluate_is_the_same_twice(student_file: Path) -> None:
    first, second = (evaluate(student_file, data="digits", linear=QUICK) for _ in range(2))
    assert first.metrics == second.metrics


def test_any_network_can_be_evaluated_as_a_teacher_is_written(
    student_file: Path, tmp_path: Path
) -> None:
    network, _ = load_student(student_file)
    path = tmp_path / "trunk.pth"
    torch.save(network.backbone.state_dict(), path)
    result = evaluate(f"test_resnet={path}", data="digits", image_size=SIZE, protocol="knn")
    assert [metric.name for metric in result.metrics] == ["knn-20", "knn-200"]
    assert result.preprocess.image_size == SIZE


def test_a_classifier_is_not_saved_over_its_student_or_as_a_folder(
    student_file: Path, tmp_path: Path
) -> None:
    # The student was lost; the folder was found out after all the work.
    before = student_file.read_bytes()
    for target, said in ((student_file, "is the student itself"), (tmp_path, "is a folder")):
        with pytest.raises(UsageError, match=said):
            evaluate(student_file, data="digits", protocol="linear", save_classifier=target)
    assert student_file.read_bytes() == before


@pytest.mark.parametrize("has_student", [False, True])
def test_a_folder_in_place_of_a_student_is_said_to_be_one(
    student_file: Path, tmp_path: Path, has_student: bool
) -> None:
    run = tmp_path / "run"
    run.mkdir()
    if has_student:
        shutil.copy(student_file, run / "student.safetensors")
    advice = "student.safetensors" if has_student else "give a student file in it"
    with pytest.raises(UsageError, match=f"run is a folder.*{advice}"):
        evaluate(run, data="digits", protocol="knn")
    with pytest.raises(UsageError, match=f"run is a folder.*{advice}"):
        load_model(str(run))


def test_a_saved_classifier_predicts_what_was_measured(student_file: Path, tmp_path: Path) -> None:
    path = tmp_path / "classifier.safetensors"
    result = evaluate(
        student_file, data="digits", protocol=("linear",), linear=QUICK, save_classifier=path
    )
    network, spec = load_student(path)
    assert spec.classes == tuple("0123456789")
    assert spec.provenance["classifier"]["data"] == "digits"
    assert spec.metrics[-1]["top1_percent"] == result.metric("linear").top1_percent
    test = open_photos("digits:test")
    assert test.labels is not None
    logits = predict(network, test, preprocess=spec.preprocess).values
    accuracy = top_accuracy(logits, torch.from_numpy(test.labels), top=1)
    # The standardisation is inside the head's weights: the file alone gives the number.
    assert 100 * accuracy == pytest.approx(result.metric("linear").top1_percent, abs=0.25)


@pytest.mark.slow
def test_metrics_are_saved_only_when_asked(student_file: Path, tmp_path: Path) -> None:
    path = tmp_path / "student.safetensors"
    path.write_bytes(student_file.read_bytes())
    evaluate(path, data="digits", protocol="knn")
    assert load_student(path)[1].metrics == ()
    result = evaluate(path, data="digits", protocol="knn", save_metrics=True)
    network, spec = load_student(path)
    assert [metric["name"] for metric in spec.metrics] == ["knn-20", "knn-200"]
    assert spec.metrics[0]["top1_percent"] == result.metrics[0].top1_percent
    original = load_student(student_file)[0].state_dict()
    assert all(torch.equal(value, original[name]) for name, value in network.state_dict().items())


def _folder(root: Path, classes: dict[str, int]) -> Path:
    generator = np.random.default_rng(0)
    for shade, (name, count) in enumerate(classes.items()):
        (root / name).mkdir(parents=True)
        for index in range(count):
            pixels = generator.integers(60 * shade, 60 * shade + 90, (20, 20, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(root / name / f"{name}-{index}.png")
    return root


def test_without_test_photos_a_fifth_is_held_out_and_said(
    student_file: Path, tmp_path: Path
) -> None:
    data = _folder(tmp_path / "data", {"cat": 20, "dog": 10})
    result = evaluate(student_file, data=data, protocol="knn", seed=5)
    assert "a random fifth of" in result.split
    assert "seed 5" in result.split
    assert (result.metrics[0].n, result.metrics[0].num_train) == (6, 24)
    assert result.metrics[0].top5_percent is None


def test_test_folders_are_matched_by_class_name(student_file: Path, tmp_path: Path) -> None:
    data = _folder(tmp_path / "data", {"ant": 12, "bee": 12, "cat": 12})
    (tmp_path / "swapped").mkdir()
    # The same photos in a tree without the first class: there "cat" is class 1, here it is 2.
    test = tmp_path / "test"
    for name in ("bee", "cat"):
        (test / name).mkdir(parents=True)
        for photo in sorted((data / name).iterdir())[:6]:
            (test / name / photo.name).write_bytes(photo.read_bytes())
    knn = KnnSettings(k=(1,))
    result = evaluate(student_file, data=data, test_data=test, protocol="knn", knn=knn)
    assert result.metrics[0].top1_percent == 100
    assert str(test) in result.split


@pytest.mark.slow
def test_finetune_is_a_protocol_too(student_file: Path, tmp_path: Path) -> None:
    data = _folder(tmp_path / "data", {"ant": 10, "bee": 10})
    result = evaluate(
        student_file,
        data=data,
        protocol="finetune",
        labels="2pc,50%",
        save_lists=tmp_path / "lists",
        settings=("finetune.recipe.epochs=2",),
    )
    assert [metric.name for metric in result.metrics] == ["finetune-2pc", "finetune-50%"]
    assert [metric.num_train for metric in result.metrics] == [4, 8]
    saved = sorted(path.name for path in (tmp_path / "lists").iterdir())
    assert saved == ["labels-2pc.txt", "labels-50-percent.txt"]
    again = evaluate(
        student_file,
        data=data,
        protocol="finetune",
        labels=[str(tmp_path / "lists/labels-2pc.txt")],
        settings=("finetune.recipe.epochs=2",),
    )
    assert again.metrics[0].detail["list_sha256"] == result.metrics[0].detail["list_sha256"]
    assert again.metrics[0].top1_percent == result.metrics[0].top1_percent


def test_too_few_photos_for_a_share_are_told_before_anything_is_computed(
    student_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = _folder(tmp_path / "data", {"ant": 10, "bee": 10})
    monkeypatch.setattr(
        "edgeseed.distill.evaluation.evaluate.load_network", lambda *_, **__: pytest.fail("loaded")
    )
    with pytest.raises(DataError, match=r"labels 1% .* use a larger share, or 5pc"):
        evaluate(student_file, data=data, protocol="knn,linear,finetune")


def test_settings_of_a_protocol_are_used_and_stated(student_file: Path) -> None:
    result = evaluate(student_file, data="digits", protocol="knn", settings=("knn.k=3,5",))
    assert [metric.name for metric in result.metrics] == ["knn-3", "knn-5"]
    assert result.metric("knn-5").settings["k"] == 5


# --------------------------------------------------------------------------- what must not pass


def test_wrong_calls_say_what_is_right(student_file: Path, tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'linear'"):
        evaluate(student_file, data="digits", protocol="liner")
    with pytest.raises(UsageError, match="needs the protocol linear"):
        evaluate(student_file, data="digits", protocol="knn", save_classifier=tmp_path / "c")
    with pytest.raises(UsageError, match="no student file"):
        evaluate("test_vit", data="digits", save_metrics=True)
    with pytest.raises(UsageError, match="finetune needs one"):
        evaluate("test_vit", data="digits", protocol="finetune")
    with pytest.raises(ConfigError, match=r"starts with its name; write knn\.FIELD"):
        evaluate(student_file, data="digits", settings=("k=3",))
    with pytest.raises(ConfigError, match="unknown setting of protocol knn 'kk'"):
        evaluate(student_file, data="digits", settings=("knn.kk=3",))
    with pytest.raises(UsageError, match="add it to --protocol"):
        evaluate(student_file, data="digits", protocol="knn", save_lists=tmp_path / "lists")
    with pytest.raises(UsageError, match="does not exist"):
        evaluate(tmp_path / "no.safetensors", data="digits")


def test_classes_that_do_not_fit_are_named(student_file: Path, tmp_path: Path) -> None:
    data = _folder(tmp_path / "data", {"ant": 4, "bee": 4})
    other = _folder(tmp_path / "other", {"ant": 4, "bug": 4})
    with pytest.raises(DataError, match="has the classes bug, which"):
        evaluate(student_file, data=data, test_data=other)


def test_a_class_of_one_photo_needs_test_photos(student_file: Path, tmp_path: Path) -> None:
    data = _folder(tmp_path / "data", {"ant": 4, "bee": 1})
    with pytest.raises(DataError, match="class bee has one photo"):
        evaluate(student_file, data=data)
    test = _folder(tmp_path / "test", {"ant": 4, "bee": 4})
    assert evaluate(student_file, data=data, test_data=test, protocol="knn").metrics[0].n == 8


def test_photos_without_labels_are_an_error(student_file: Path, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (20, 20)).save(tmp_path / "photos" / "a.png")
    with pytest.raises(DataError, match="labels were asked for"):
        evaluate(student_file, data=tmp_path / "photos")


def test_test_photos_that_were_learnt_from_are_an_error_or_told(
    student_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # kNN gave 100 % without a word.
    data = _folder(tmp_path / "data", {"ant": 8, "bee": 8})
    copy = tmp_path / "copy"
    for number, photo in enumerate(sorted(data.rglob("*.png"))):
        (copy / photo.parent.name).mkdir(parents=True, exist_ok=True)
        (copy / photo.parent.name / f"{number}.png").write_bytes(photo.read_bytes())
    for test in (data, copy):
        with pytest.raises(DataError, match="are those that are learnt from"):
            evaluate(student_file, data=data, test_data=test, protocol="knn")
    with pytest.raises(DataError, match="are those that are learnt from"):
        evaluate(student_file, data="digits", test_data="digits", protocol="linear")
    for photo in sorted(copy.rglob("*.png"))[:12]:
        Image.new("RGB", (20, 20), (len(photo.name), int(photo.stem), 0)).save(photo)
    capsys.readouterr()
    evaluate(student_file, data=data, test_data=copy, protocol="knn")
    assert "4 of 16 test photos that were compared are copies" in capsys.readouterr().err
    evaluate(student_file, data="digits", test_data="digits:test", protocol="knn")
    assert "copies" not in capsys.readouterr().err


def test_one_photo_a_class_cannot_choose_a_learning_rate(
    student_file: Path, tmp_path: Path
) -> None:
    data = _folder(tmp_path / "data", {"ant": 1, "bee": 1})
    test = _folder(tmp_path / "test", {"ant": 2, "bee": 2})
    with pytest.raises(DataError, match="or use the protocol knn"):
        evaluate(student_file, data=data, test_data=test, protocol="linear", linear=QUICK)


def test_photos_in_memory_are_evaluated_like_others(student_file: Path) -> None:
    network, spec = load_student(student_file)
    pixels = np.zeros((3, 16, 16), np.uint8)
    photos = photos_from_arrays(pixels, np.array([0, 1, 0]), name="black")
    embedded = embed(network, photos, preprocess=spec.preprocess).values
    assert torch.equal(embedded[0], embedded[2])


def test_a_seed_of_twenty_digits_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"seed=100000000000000000000 must be from 0 to"):
        evaluate(tmp_path / "student.safetensors", data="digits", seed=10**20)


def test_a_broken_photo_is_left_out_and_counted(
    student_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # One photo that broke since the folder was looked through ended the whole evaluation.
    from edgeseed.distill.evaluation import evaluate as module

    rng = np.random.default_rng(0)
    for index in range(40):
        folder = tmp_path / "photos" / f"class{index % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 256, (16, 16, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{index:02}.png")

    def split_and_break(*arguments: object, **options: object) -> object:
        split = split_labelled(*arguments, **options)  # type: ignore[arg-type]
        (tmp_path / "photos" / "class0" / "00.png").write_bytes(b"gone")
        return split

    monkeypatch.setattr(module, "split_labelled", split_and_break)
    result = evaluate(student_file, data=tmp_path / "photos", protocol="knn")
    assert result.num_broken == 1
    metric = result.metric("knn-20")
    assert metric.num_train + metric.n == 39
