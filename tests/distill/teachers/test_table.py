"""The table of teachers says what timm and the networks say."""

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from support.teachers import random_network, save_checkpoint

from edgeseed.core.pretrained import pooling_arguments, pooling_of
from edgeseed.distill.teachers import list_teachers, load_teacher
from edgeseed.distill.teachers._table import pooling_of_architecture


def test_the_tables_timm_rows_are_what_timm_says() -> None:
    means: dict[tuple[float, ...], str] = {
        (0.485, 0.456, 0.406): "ImageNet",
        (0.5, 0.5, 0.5): "0.5",
        (0.430, 0.411, 0.296): "satellite (SAT-493M)",
        (0.48145466, 0.4578275, 0.40821073): "CLIP",
    }
    for row in list_teachers():
        if row.source != "timm":
            continue
        config = timm.get_pretrained_cfg(row.name)
        assert config is not None, row.name
        assert row.name in timm.list_pretrained(f"{config.architecture}.*")
        assert means[tuple(config.mean)] == row.normalization, row.name
        assert config.input_size[-1] == row.native_size, row.name


@pytest.mark.parametrize(
    "name",
    [
        "vit_small_patch14_dinov2.lvd142m",
        "convnext_tiny.dinov3_lvd1689m",
        "vit_base_patch16_siglip_224.v2_webli",
        "regnety_320.seer",
    ],
)
def test_the_tables_embedding_dims_are_those_of_the_networks(name: str) -> None:
    with torch.device("meta"):
        network: Any = timm.create_model(name, num_classes=0)
    row = next(row for row in list_teachers() if row.name == name)
    assert network.num_features == row.embedding_dim


def test_what_the_table_says_to_write_is_one_row() -> None:
    written = [(row.spec, row.family) for row in list_teachers()]
    assert len(set(written)) == len(written)
    # What two families share is a file's name: the file says which it is.
    specs = [spec for spec, _ in written]
    assert all("=" in spec for spec in specs if specs.count(spec) > 1)
    assert all(row.to_dict()["spec"] == row.spec for row in list_teachers())


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        # timm averages DINOv3's tokens, its authors take the class token: with a tag in the name
        # the same file was pooled otherwise than without.
        ("vit_base_patch16_dinov3", "cls"),
        ("vit_base_patch16_dinov3.lvd1689m", "cls"),
        ("vit_small_patch14_dinov2", "cls"),
        ("vit_huge_patch14_gap_224", "avg"),
        ("vit_base_patch16_siglip_224", "map"),
        ("resnet50", "avg"),
        ("test_vit", None),
    ],
)
def test_pooling_follows_from_the_architecture(name: str, expected: str | None) -> None:
    assert pooling_of_architecture(name) == expected


def test_no_architecture_of_the_table_is_pooled_in_two_ways() -> None:
    names = {row.name for row in list_teachers() if row.source != "hub"}
    assert all(pooling_of_architecture(name) is not None for name in names)


# All networks of the table, up to the large ones; the rule itself is tested above.
@pytest.mark.slow
def test_networks_are_built_with_the_pooling_that_the_table_says() -> None:
    # The rule by which they are built is the core's, which has no table.
    pooling = {
        row.name.partition(".")[0]: row.pooling
        for row in list_teachers()
        if row.source == "timm" and row.name.startswith("vit_")
    }
    small = [name for name in pooling if not any(size in name for size in ("7b", "huge", "giant"))]
    assert len(small) > 12
    with torch.device("meta"):
        built = {name: timm.create_model(name, **pooling_arguments(name)) for name in small}
    assert {name: pooling_of(network) for name, network in built.items()} == {
        name: pooling[name] for name in small
    }


def test_a_checkpoint_is_pooled_alike_with_a_tag_and_without(tmp_path: Path) -> None:
    architecture = "vit_tiny_patch16_dinov3_qkvb"
    torch.manual_seed(0)
    weights = timm.create_model(architecture, num_classes=0, img_size=32).state_dict()
    path = save_checkpoint(tmp_path / "weights.pth", weights)
    bare = load_teacher(f"{architecture}={path}", image_size=32)
    tagged = load_teacher(f"{architecture}.eupe_lvd1689m={path}", image_size=32)
    images = torch.randn(2, 3, 32, 32)
    assert bare.pooling == tagged.pooling == "cls"
    assert torch.equal(bare(images).embedding, tagged(images).embedding)


def test_a_guessed_pooling_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = save_checkpoint(tmp_path / "weights.pth", random_network("test_vit").state_dict())
    load_teacher(f"test_vit={path}", image_size=160)
    said = " ".join(capsys.readouterr().err.split())
    assert "its embedding is its class token" in said or "the average of its patches" in said
    assert "that is a guess" in said
    path = save_checkpoint(tmp_path / "resnet.pth", random_network("test_resnet").state_dict())
    load_teacher(f"test_resnet={path}", image_size=64)
    assert "that is a guess" not in capsys.readouterr().err
