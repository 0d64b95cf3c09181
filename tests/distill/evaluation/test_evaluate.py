"""Evaluation: literal oracles, honest selection, and classifiers that predict what was measured."""

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from edgeseed.core.errors import ConfigError, DataError, UnknownNameError, UsageError
from edgeseed.core.network import load_student, save_student
from edgeseed.core.photos import PhotoSet, open_photos, photos_from_arrays
from edgeseed.core.preprocess import Preprocess
from edgeseed.core.student import StudentSpec
from edgeseed.distill.evaluation.evaluate import LabelledFeatures, evaluate, measure_knn
from edgeseed.distill.evaluation.knn import KnnSettings, knn_accuracy, knn_scores, top_accuracy
from edgeseed.distill.evaluation.linear import LinearSettings, probe_linearly, train_linear_probes
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


def _clusters(num_photos: int, *, seed: int, num_classes: int = 3) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(num_photos) % num_classes
    centers = torch.randn(num_classes, 6, generator=torch.Generator().manual_seed(99))
    noise = torch.randn(num_photos, 6, generator=generator)
    return centers[labels] + 0.9 * noise, labels


# --------------------------------------------------------------------------- nearest neighbours


def _literal_knn(
    bank: Tensor, labels: Tensor, query: Tensor, *, k: int, temperature: float, num_classes: int
) -> list[float]:
    similarities = []
    for row, label in zip(bank, labels, strict=True):
        cosine = float(row @ query) / (float(row.norm()) * float(query.norm()))
        similarities.append((cosine, int(label)))
    similarities.sort(reverse=True)
    votes = [0.0] * num_classes
    for cosine, label in similarities[:k]:
        votes[label] += math.exp(cosine / temperature)
    return votes


@pytest.mark.parametrize("k", [1, 4, 20])
def test_knn_votes_are_those_of_the_literal_loops(k: int) -> None:
    bank, bank_labels = _clusters(20, seed=0)
    queries, _ = _clusters(9, seed=1)
    scores = knn_scores(bank, bank_labels, queries, num_classes=3, k=(k,), temperature=0.07)[0]
    for query, votes in zip(queries, scores, strict=True):
        literal = torch.tensor(
            _literal_knn(bank, bank_labels, query, k=k, temperature=0.07, num_classes=3)
        )
        # Ours are divided by the largest vote, so that no temperature overflows.
        torch.testing.assert_close(
            votes / votes.sum(), literal / literal.sum(), atol=1e-5, rtol=1e-4
        )


def test_knn_accuracy_is_the_share_of_right_first_guesses() -> None:
    bank, bank_labels = _clusters(30, seed=0)
    queries, labels = _clusters(40, seed=1)
    right = 0
    for query, label in zip(queries, labels, strict=True):
        votes = _literal_knn(bank, bank_labels, query, k=5, temperature=0.07, num_classes=3)
        right += votes.index(max(votes)) == int(label)
    assert knn_accuracy(bank, bank_labels, queries, labels, k=5) == right / 40
    assert 0.4 < right / 40 < 1


def test_knn_does_not_see_lengths_or_the_order_of_the_bank() -> None:
    bank, bank_labels = _clusters(30, seed=0)
    queries, _ = _clusters(12, seed=1)
    order = torch.randperm(30, generator=torch.Generator().manual_seed(0))
    lengths = torch.rand(30, 1, generator=torch.Generator().manual_seed(1)) + 0.1
    scores = [
        knn_scores(given, labels, queries, num_classes=3, k=(7,), temperature=0.07)
        for given, labels in ((bank, bank_labels), ((bank * lengths)[order], bank_labels[order]))
    ]
    torch.testing.assert_close(scores[0], scores[1], atol=1e-5, rtol=1e-4)


def test_knn_in_chunks_is_knn_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    bank, bank_labels = _clusters(30, seed=0)
    queries, _ = _clusters(11, seed=1)
    at_once = knn_scores(bank, bank_labels, queries, num_classes=3, k=(3, 9), temperature=0.07)
    monkeypatch.setattr("edgeseed.distill.evaluation.knn._QUERIES_AT_ONCE", 4)
    chunked = knn_scores(bank, bank_labels, queries, num_classes=3, k=(3, 9), temperature=0.07)
    torch.testing.assert_close(at_once, chunked)


def test_more_neighbours_than_photos_are_clamped_and_said(
    capsys: pytest.CaptureFixture[str],
) -> None:
    bank, bank_labels = _clusters(12, seed=0)
    queries, labels = _clusters(6, seed=1)
    features = LabelledFeatures(
        train=bank, train_labels=bank_labels, test=queries, test_labels=labels, num_classes=3
    )
    metrics = measure_knn(features, settings=KnnSettings())
    assert [metric.name for metric in metrics] == ["knn-20", "knn-200"]
    assert metrics[1].settings["k"] == 12
    assert metrics[1].settings["asked_k"] == 200
    assert "k=200 is more than the 12 training photos" in capsys.readouterr().err


def test_a_tiny_temperature_lets_the_nearest_decide_without_overflow() -> None:
    bank, bank_labels = _clusters(30, seed=0)
    queries, labels = _clusters(20, seed=1)
    nearest = knn_accuracy(bank, bank_labels, queries, labels, k=1)
    assert knn_accuracy(bank, bank_labels, queries, labels, k=30, temperature=1e-4) == nearest


def test_knn_settings_check_themselves() -> None:
    with pytest.raises(ValueError, match="k="):
        KnnSettings(k=(0,))
    with pytest.raises(ValueError, match="temperature="):
        KnnSettings(temperature=0.0)


# --------------------------------------------------------------------------- linear probe


def _literal_probe(
    features: Tensor, labels: Tensor, *, lr: float, settings: LinearSettings, seed: int
) -> nn.Linear:
    """One rate, by autograd and torch.optim, on features standardised by hand."""
    mean, variance = features.mean(0), features.var(0, correction=0)
    deviation = (variance + 0.01 * variance.mean()).sqrt()
    inputs = (features - mean) / deviation
    layer = nn.Linear(features.shape[1], 3)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    optimizer = torch.optim.SGD(layer.parameters(), lr=lr, momentum=settings.momentum)
    generator = torch.Generator().manual_seed(seed)
    epochs = settings.num_epochs(len(features))
    num_steps, step = epochs * math.ceil(len(features) / settings.batch_size), 0
    for _ in range(epochs):
        order = torch.randperm(len(features), generator=generator)
        for batch in order.split(settings.batch_size):
            optimizer.param_groups[0]["lr"] = lr * 0.5 * (1 + math.cos(math.pi * step / num_steps))
            optimizer.zero_grad()
            F.cross_entropy(layer(inputs[batch]), labels[batch]).backward()
            optimizer.step()
            step += 1
    with torch.no_grad():
        layer.weight.div_(deviation)
        layer.bias.sub_(layer.weight @ mean)
    return layer


def test_many_rates_at_once_are_each_the_plain_loop() -> None:
    features, labels = _clusters(50, seed=0)
    features = 3 + 10 * features  # shifted and scaled, so that the standardisation matters
    settings = LinearSettings(lrs=(0.01, 0.1, 1.0), epochs=5, min_steps=1, batch_size=16)
    probes = train_linear_probes(features, labels, num_classes=3, settings=settings, seed=3)
    for index, lr in enumerate(settings.lrs):
        literal = _literal_probe(features, labels, lr=lr, settings=settings, seed=3)
        torch.testing.assert_close(probes.weight[index], literal.weight.data, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(probes.bias[index], literal.bias.data, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(
            probes.logits(features)[index], literal(features).detach(), atol=1e-4, rtol=1e-4
        )


def test_a_long_probe_finds_what_scikit_learn_finds() -> None:
    from sklearn.linear_model import LogisticRegression

    features, labels = _clusters(300, seed=0)
    test, test_labels = _clusters(300, seed=1)
    settings = LinearSettings(
        lrs=(0.3,), epochs=400, min_steps=1, batch_size=300, weight_decay=0.01
    )
    probes = train_linear_probes(features, labels, num_classes=3, settings=settings, seed=0)
    mean, variance = features.mean(0), features.var(0, correction=0)
    deviation = (variance + 0.01 * variance.mean()).sqrt()
    # The same objective: C sums over photos where our weight decay is beside their mean.
    reference = LogisticRegression(C=1 / (0.01 * 300), max_iter=1000, tol=1e-8)
    reference.fit(((features - mean) / deviation).numpy(), labels.numpy())
    standardised = ((test - mean) / deviation).numpy()
    ours = probes.logits(test)[0].softmax(1)
    theirs = torch.from_numpy(reference.predict_proba(standardised)).float()
    torch.testing.assert_close(ours, theirs, atol=2e-3, rtol=0)
    expected = float(reference.score(standardised, test_labels.numpy()))
    assert top_accuracy(ours, test_labels, top=1) == pytest.approx(expected, abs=0.005)


def test_probes_are_blind_to_each_features_shift_and_to_the_scale_of_all() -> None:
    features, labels = _clusters(60, seed=0)
    scale, shift = 1000.0, torch.linspace(-5, 5, 6)
    settings = dataclasses.replace(QUICK, lrs=(0.1,))
    plain, moved = (
        train_linear_probes(given, labels, num_classes=3, settings=settings, seed=0).logits(given)
        for given in (features, features * scale + shift)
    )
    torch.testing.assert_close(plain, moved, atol=2e-3, rtol=2e-3)


def test_a_feature_that_hardly_varies_is_not_blown_up() -> None:
    # Its weight was 1 / deviation: in int8, whose steps are the same for all features, the probe
    # then decided otherwise on three photos of ten.
    features, labels = _clusters(60, seed=0)
    faint = 1e-3 * torch.randn(60, 1, generator=torch.Generator().manual_seed(1))
    features = torch.cat([features, faint], dim=1)
    probes = train_linear_probes(features, labels, num_classes=3, settings=QUICK, seed=0)
    assert probes.weight[:, :, 6].abs().amax() < 20 * probes.weight[:, :, :6].abs().amax()


def test_a_feature_that_never_changes_gets_no_weight() -> None:
    features, labels = _clusters(60, seed=0)
    features = torch.cat([features, torch.full((60, 1), 0.1)], dim=1)
    probes = train_linear_probes(features, labels, num_classes=3, settings=QUICK, seed=0)
    assert torch.equal(probes.weight[:, :, 6], torch.zeros(2, 3))
    assert torch.isfinite(probes.bias).all()


def test_the_rate_is_chosen_without_the_test_photos() -> None:
    train, train_labels = _clusters(90, seed=0)
    test, test_labels = _clusters(60, seed=1)
    validation = torch.arange(90) % 5 == 0
    settings = LinearSettings(lrs=(1e-5, 0.01, 0.1, 30.0), epochs=4, min_steps=40)
    results = [
        probe_linearly(
            train,
            train_labels,
            test,
            labels,
            validation=validation,
            num_classes=3,
            settings=settings,
            seed=0,
        )
        for labels in (test_labels, (test_labels + 1) % 3)
    ]
    # Lying about the test labels changes the report and not the choice.
    assert results[0].chosen == results[1].chosen
    best = max(rate.validation_top1 for rate in results[0].rates)
    assert results[0].rates[results[0].chosen].validation_top1 == best
    assert results[0].rates != results[1].rates


def test_linear_settings_check_themselves() -> None:
    for wrong in ({"lrs": ()}, {"lrs": (0.0,)}, {"epochs": 0}, {"validation_share": 1.0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            LinearSettings(**wrong)


def test_small_sets_get_more_epochs() -> None:
    settings = LinearSettings(epochs=30, min_steps=1000, batch_size=256)
    assert settings.num_epochs(100) == 1000
    assert settings.num_epochs(1_000_000) == 30


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
    split_labelled = module.split_labelled

    def split_and_break(*arguments: object, **options: object) -> object:
        split = split_labelled(*arguments, **options)  # type: ignore[arg-type]
        (tmp_path / "photos" / "class0" / "00.png").write_bytes(b"gone")
        return split

    monkeypatch.setattr(module, "split_labelled", split_and_break)
    result = evaluate(student_file, data=tmp_path / "photos", protocol="knn")
    assert result.num_broken == 1
    metric = result.metric("knn-20")
    assert metric.num_train + metric.n == 39
