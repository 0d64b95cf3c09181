"""The untrained network beside a trained one: same architecture, photos and protocols."""

import json
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from torch.nn import functional

from edgeseed.cli._main import cli
from edgeseed.core.errors import UnknownNameError, UsageError
from edgeseed.core.network import load_student, save_student
from edgeseed.core.preprocess import Preprocess
from edgeseed.core.student import StudentSpec
from edgeseed.distill.evaluation.baseline import Pixels
from edgeseed.distill.evaluation.evaluate import evaluate
from edgeseed.distill.evaluation.linear import LinearSettings
from edgeseed.distill.networks.students import create_student
from edgeseed.distill.training.pretraining import pretrain

SIZE = 16
PREPROCESS = Preprocess(image_size=SIZE, resize=SIZE)
QUICK = LinearSettings(lrs=(0.01, 0.1), min_steps=60, epochs=1)


def write_fresh(path: Path, *, seed: int, **changes: Any) -> Path:
    network, architecture = create_student("test_resnet", seed=seed, image_size=SIZE, **changes)
    spec = StudentSpec(
        architecture=architecture, preprocess=PREPROCESS, embedding_dim=network.embedding_dim
    )
    save_student(path, network, spec)
    return path


def test_an_untrained_network_is_exactly_its_own_baseline(tmp_path: Path) -> None:
    path = write_fresh(tmp_path / "fresh.safetensors", seed=5)
    result = evaluate(path, data="digits", linear=QUICK, seed=5, baseline="untrained",
                      baseline_seeds=1)  # fmt: skip
    assert result.baseline is not None
    assert result.baseline.seeds == (5,)
    for metric in result.metrics:
        beside = result.baseline.metric(metric.name)
        assert beside is not None
        assert beside.values_percent == (metric.top1_percent,)
        assert beside.gain_points == 0
        assert beside.sd_percent is None


# Embeds the digits with eight networks. Above, a network is its own baseline and no other is; the
# command below has two seeds.
@pytest.mark.slow
def test_the_baseline_has_the_form_of_the_student_and_its_seeds_differ(tmp_path: Path) -> None:
    wide = write_fresh(tmp_path / "wide.safetensors", seed=0, reduce_stride=2)
    usual = write_fresh(tmp_path / "usual.safetensors", seed=0)
    found = [
        evaluate(path, data="digits", protocol="knn", baseline="untrained").baseline
        for path in (wide, usual)
    ]
    assert all(one is not None and one.seeds == (0, 1, 2) for one in found)
    metrics = [one.metric("knn-20") for one in found if one is not None]
    assert all(m is not None and len(set(m.values_percent)) == 3 for m in metrics)
    assert metrics[0] != metrics[1]  # stride is part of the architecture
    for metric in metrics:
        assert metric is not None
        assert metric.mean_percent == pytest.approx(statistics.mean(metric.values_percent))
        assert metric.sd_percent == pytest.approx(statistics.stdev(metric.values_percent))


# Fits linear classifiers three times. A baseline is measured apart, by its own network.
@pytest.mark.slow
def test_a_baseline_changes_nothing_of_what_was_measured(tmp_path: Path) -> None:
    path = write_fresh(tmp_path / "s.safetensors", seed=0)
    alone = evaluate(path, data="digits", linear=QUICK)
    beside = evaluate(path, data="digits", linear=QUICK, baseline="untrained", baseline_seeds=1)
    assert alone.metrics == beside.metrics
    assert alone.baseline is None


@pytest.mark.slow
def test_a_run_of_the_same_seed_starts_from_the_baselines_weights(
    make_photos: Callable[..., Path], tmp_path: Path
) -> None:
    from edgeseed.distill.evaluation.baseline import build_untrained

    run = pretrain(
        method="simclr", model="test_resnet", data=make_photos(16), out=tmp_path / "run",
        image_size=32, epochs=1, batch_size=8, lr=1e-12, seed=7, devices="cpu",
        settings=("recipe.optimizer=adamw", "recipe.weight_decay=0"),
    )  # fmt: skip
    network, spec = load_student(run.student)
    start = build_untrained(spec.architecture, seed=7)
    for (name, trained), fresh in zip(
        network.backbone.named_parameters(), start.backbone.parameters(), strict=True
    ):
        torch.testing.assert_close(trained, fresh, atol=1e-6, rtol=0, msg=name)


def test_a_network_of_timm_has_a_baseline_too(tmp_path: Path) -> None:
    network, _ = create_student("test_resnet", seed=0, image_size=SIZE)
    torch.save(network.backbone.state_dict(), tmp_path / "trunk.pth")
    result = evaluate(
        f"test_resnet={tmp_path / 'trunk.pth'}", data="digits", image_size=SIZE, protocol="knn",
        baseline="untrained", baseline_seeds=1,
    )  # fmt: skip
    assert result.baseline is not None
    assert result.baseline.network == "test_resnet"


def test_pixels_are_a_baseline_that_needs_no_network(tmp_path: Path) -> None:
    path = write_fresh(tmp_path / "s.safetensors", seed=0)
    arguments = ["evaluate", str(path), "--data", "digits", "--protocol", "knn",
                 "--baseline", "pixels"]  # fmt: skip
    text = CliRunner().invoke(cli, arguments).output
    assert "pixels: 16 x 16 pixels, no network\n" in text + "\n"
    assert "seeds" not in text
    found = evaluate(path, data="digits", protocol="knn", baseline="pixels")
    assert found.baseline is not None
    assert found.baseline.seeds == ()
    # Scans of 8 x 8 pixels: of their neighbours most show the same digit.
    level = found.baseline.metric("knn-20")
    assert level is not None
    assert level.mean_percent > 90
    assert level.gain_points == found.metrics[0].top1_percent - level.mean_percent


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_pixels_take_any_number_of_channels_and_photos_smaller_than_themselves(
    channels: int,
) -> None:
    images = torch.rand(2, channels, 8, 8)
    embedding = Pixels()(images).embedding
    assert embedding.shape == (2, channels * 16 * 16)
    same = functional.interpolate(images, (16, 16), mode="nearest")
    torch.testing.assert_close(embedding, same.flatten(1))


def test_pixels_are_the_means_of_squares() -> None:
    images = torch.zeros(2, 3, 32, 32)
    images[1, 2, 2:4, :2] = 1.0  # the first square of the second row
    embedding = Pixels()(images).embedding
    assert embedding.shape == (2, 3 * 16 * 16)
    assert embedding.nonzero().tolist() == [[1, 2 * 256 + 16]]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"baseline": "random"}, "random"),
        ({"baseline": "untrained", "baseline_seeds": 0}, "at least 1"),
        ({"baseline": "pixels", "baseline_seeds": 3}, "goes with --baseline untrained: add that"),
        ({"baseline_seeds": 3}, "goes with --baseline untrained"),
        ({"baseline": "untrained", "protocol": "finetune"}, "--protocol has neither"),
        ({"baseline": "pixels", "protocol": "finetune"}, "baseline pixels is measured by knn"),
    ],
)
def test_wrong_calls_say_what_is_right(
    tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    path = write_fresh(tmp_path / "s.safetensors", seed=0)
    with pytest.raises((UsageError, UnknownNameError), match=message):
        evaluate(path, data="digits", **options)


@pytest.mark.slow
def test_the_command_shows_the_level_beside_each_accuracy(tmp_path: Path) -> None:
    path = write_fresh(tmp_path / "s.safetensors", seed=0)
    arguments = ["evaluate", str(path), "--data", "digits", "--protocol", "knn",
                 "--baseline", "untrained", "--baseline-seeds", "2"]  # fmt: skip
    text = CliRunner().invoke(cli, arguments).output
    assert "untrained" in text
    assert "above it" in text
    assert "seeds 0, 1" in text
    found = json.loads(CliRunner().invoke(cli, [*arguments, "--json"]).stdout)
    assert found["baseline"]["seeds"] == [0, 1]
    assert [m["name"] for m in found["baseline"]["metrics"]] == ["knn-20", "knn-200"]
