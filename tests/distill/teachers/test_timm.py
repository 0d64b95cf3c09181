"""Teachers of timm: sizes, and names whose weights cannot be fetched."""

from pathlib import Path

import pytest
from support.teachers import random_network, save_checkpoint

from edgeseed.core.errors import (
    ConfigError,
    WorkError,
)
from edgeseed.distill.teachers import load_teacher


def test_an_image_size_that_patches_do_not_fill_names_the_nearest(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path / "vit.pth", random_network("test_vit").state_dict())
    with pytest.raises(ConfigError, match="patch of 16 px; use 48 or 64"):
        load_teacher(f"test_vit={path}", image_size=50)


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing is in the cache, and the hub cannot be reached."""
    for variable in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("HF_ENDPOINT", "https://hub.invalid")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))


@pytest.mark.usefixtures("no_network")
def test_without_a_network_the_error_says_how_to_give_a_file() -> None:
    # It advised --teacher, which finetune has not.
    with pytest.raises(WorkError, match=r"name: vit_small_patch16_224\.dino=PATH") as found:
        load_teacher("vit_small_patch16_224.dino")
    assert "--teacher" not in str(found.value)


@pytest.mark.usefixtures("no_network")
def test_a_name_that_files_share_says_whose_weights_it_stands_for(
    capsys: pytest.CaptureFixture[str],
) -> None:
    # Listed for SwAV and MoCo, it was given timm's supervised weights without a word.
    with pytest.raises(WorkError):
        load_teacher("resnet50")
    message = capsys.readouterr().err
    assert "resnet50 is timm's resnet50.a1_in1k" in message
    assert "SwAV, MoCo-v2, MoCo-v3 are files, written resnet50=CHECKPOINT" in message
