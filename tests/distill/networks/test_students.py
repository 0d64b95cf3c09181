"""Students are built as asked, recorded, and rebuilt from what was recorded."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from edgeseed.core.errors import ArtifactError, ConfigError, UnknownNameError
from edgeseed.core.network import ProjectedTrunk, build_student, load_student, save_student
from edgeseed.core.preprocess import Preprocess
from edgeseed.core.student import Architecture, StudentSpec
from edgeseed.distill.networks.features import extract
from edgeseed.distill.networks.students import (
    FIRST_CLASS,
    create_student,
    describe_student,
    list_students,
)

SIZE = 64


def _kinds(network: nn.Module) -> set[str]:
    return {type(part).__name__ for part in network.modules()}


def _images(size: int = SIZE) -> torch.Tensor:
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1))


def test_the_seed_decides_the_weights_and_nothing_else() -> None:
    before = torch.random.get_rng_state()
    first, second, other = (create_student("test_resnet", seed=seed)[0] for seed in (0, 0, 1))
    assert torch.equal(torch.random.get_rng_state(), before)
    same = [torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True)]
    assert all(same)
    changed = zip(first.parameters(), other.parameters(), strict=True)
    assert any(not torch.equal(a, b) for a, b in changed)


def test_a_new_student_is_in_train_mode_with_untouched_statistics() -> None:
    network, _ = create_student("test_efficientnet", seed=0, image_size=SIZE)
    assert all(part.training for part in network.modules())
    counts = [b for name, b in network.named_buffers() if name.endswith("num_batches_tracked")]
    assert all(int(count) == 0 for count in counts)


@pytest.mark.parametrize(
    ("changes", "gone", "there"),
    [
        ({"activation": "relu6"}, {"SiLU"}, {"ReLU6", "SqueezeExcite"}),
        ({"drop_se": True}, {"SqueezeExcite", "Sigmoid"}, {"SiLU"}),
        ({"activation": "relu6", "drop_se": True}, {"SiLU", "SqueezeExcite"}, {"ReLU6"}),
    ],
)
def test_the_quantization_friendly_variants_replace_every_module(
    changes: dict[str, Any], gone: set[str], there: set[str]
) -> None:
    network, architecture = create_student("test_efficientnet", seed=0, image_size=SIZE, **changes)
    assert not gone & _kinds(network)
    assert there <= _kinds(network)
    assert architecture.variant == changes


@pytest.mark.parametrize("name", FIRST_CLASS)
def test_first_class_students_lose_all_that_quantizes_badly(name: str) -> None:
    network, _ = create_student(name, seed=0, image_size=SIZE, activation="relu6", drop_se=True)
    bad = {"SiLU", "Hardswish", "Hardsigmoid", "Sigmoid", "SqueezeExcite"}
    assert not bad & _kinds(network)


@pytest.mark.parametrize("factor", [2, 4])
def test_reduce_stride_enlarges_the_map_by_just_that(factor: Any) -> None:
    plain, _ = create_student("mobilenetv3_large_100", seed=0, image_size=SIZE)
    network, _ = create_student(
        "mobilenetv3_large_100", seed=0, image_size=SIZE, reduce_stride=factor
    )
    before = extract(plain.eval().backbone, _images()).map
    after = extract(network.eval().backbone, _images()).map
    assert before is not None
    assert after is not None
    assert after.shape[2:] == (before.shape[2] * factor, before.shape[3] * factor)
    # The weights have the same shapes: only how far the filters step is another.
    shapes = {name: value.shape for name, value in plain.state_dict().items()}
    assert {name: value.shape for name, value in network.state_dict().items()} == shapes


@pytest.mark.parametrize(
    "changes",
    [{}, {"activation": "relu6", "drop_se": True}, {"reduce_stride": 4}, {"reduce_stride": 2}],
)
def test_a_saved_student_is_rebuilt_exactly(tmp_path: Path, changes: dict[str, Any]) -> None:
    network, architecture = create_student("test_efficientnet", seed=0, image_size=SIZE, **changes)
    spec = StudentSpec(
        architecture=architecture,
        preprocess=Preprocess(image_size=SIZE, resize=SIZE),
        embedding_dim=network.embedding_dim,
    )
    path = tmp_path / "student.safetensors"
    save_student(path, network, spec)
    loaded, loaded_spec = load_student(path)
    assert loaded_spec.architecture == architecture
    expected = network.eval()(_images()).embedding
    assert torch.equal(loaded(_images()).embedding, expected)


def test_a_transformer_remembers_its_image_size(tmp_path: Path) -> None:
    network, architecture = create_student("test_vit", seed=0, image_size=SIZE)
    assert architecture.kwargs == {"img_size": SIZE}
    assert extract(network.backbone, _images()).embedding.shape == (2, 64)


@pytest.mark.parametrize(
    "name",
    [
        "test_vit",
        pytest.param("swin_tiny_patch4_window7_224", marks=pytest.mark.slow),
        "test_resnet",
        pytest.param("xcit_nano_12_p16_224", marks=pytest.mark.slow),
        "pvt_v2_b0",
    ],
)
def test_any_size_takes_the_small_crops_of_multi_crop_methods(name: str) -> None:
    network, _ = create_student(name, seed=0, image_size=SIZE, any_size=True)
    network.eval()
    for size in (32, 96):
        assert network(_images(size)).embedding.shape == (2, network.embedding_dim)


def test_a_projected_trunk_is_a_trunk() -> None:
    architecture = Architecture(name="test_resnet", variant={"projection": 12})
    network = build_student(architecture, num_classes=3).eval()
    assert isinstance(network.backbone, ProjectedTrunk)
    assert network.embedding_dim == 12
    output = network(_images())
    features = extract(network.backbone, _images())
    assert features.map is not None
    pooled = features.map.mean(dim=(2, 3))
    expected = torch.relu(network.backbone.projection(pooled))
    torch.testing.assert_close(output.embedding, expected)
    torch.testing.assert_close(features.embedding, expected)


def test_wrong_calls_say_what_is_right() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'efficientnet_b0'"):
        create_student("efficientnet_b00", seed=0)
    with pytest.raises(ConfigError, match="starts from fresh weights; write resnet18"):
        create_student("resnet18.a1_in1k", seed=0)
    with pytest.raises(ConfigError, match="no SiLU or hard-swish to replace"):
        create_student("test_resnet", seed=0, activation="relu6")
    with pytest.raises(ConfigError, match="no squeeze-and-excitation"):
        create_student("test_resnet", seed=0, drop_se=True)
    with pytest.raises(ConfigError, match="patch of 16 px; use 48 or 64"):
        create_student("test_vit", seed=0, image_size=50)
    with pytest.raises(ConfigError, match="cannot see photos of 32 px"):
        create_student("test_byobnet", seed=0, image_size=32, reduce_stride=4)


def test_an_unknown_variant_in_a_file_is_refused() -> None:
    with pytest.raises(ConfigError, match="variant sparkle=1 is unknown; known: activation"):
        build_student(Architecture(name="test_resnet", variant={"sparkle": 1}))


def test_a_student_file_of_another_variant_does_not_load(tmp_path: Path) -> None:
    network, architecture = create_student("test_efficientnet", seed=0, drop_se=True)
    wrong = Architecture(name=architecture.name)
    spec = StudentSpec(
        architecture=wrong,
        preprocess=Preprocess(image_size=SIZE, resize=SIZE),
        embedding_dim=network.embedding_dim,
    )
    path = tmp_path / "student.safetensors"
    save_student(path, network, spec)
    with pytest.raises(ArtifactError, match="do not fit its architecture"):
        load_student(path)


def test_a_map_of_one_pixel_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    create_student("test_efficientnet", seed=0, image_size=32)
    assert "map of one pixel" in capsys.readouterr().err


def test_the_list_counts_what_it_says() -> None:
    students = {student.name: student for student in list_students()}
    assert [name for name, row in students.items() if row.first_class] == list(FIRST_CLASS)
    row = students["efficientnet_b0"]
    # timm's results table: 5.29 M with the classifier of 1000, which is 1.281 M.
    assert row.num_parameters == pytest.approx(5.29e6 - 1.281e6, rel=2e-3)
    assert row.size_mb == pytest.approx(4 * row.num_parameters / 1e6, abs=0.01)
    assert (row.embedding_dim, row.activations, row.squeeze_excite) == (1280, ("SiLU",), True)
    assert row.to_dict()["name"] == "efficientnet_b0"


def test_any_timm_model_can_be_described() -> None:
    row = describe_student("test_resnet")
    network, _ = create_student("test_resnet", seed=0)
    count = sum(parameter.numel() for parameter in network.backbone.parameters())
    assert row.num_parameters == count
