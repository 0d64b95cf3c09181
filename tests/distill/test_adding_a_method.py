"""The trial of docs/adding-a-method.md: its method and its test, as they are printed there."""

import importlib.util
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch
from support.distill import tiny_batch, tiny_inputs, tiny_progress

from edgeseed.distill import distill
from edgeseed.distill.methods import METHODS
from edgeseed.distill.training import distilling

MakePhotos = Callable[..., Path]
PAGE = Path(__file__).parents[2] / "docs" / "adding-a-method.md"


@pytest.fixture
def blocks() -> list[str]:
    return re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)


@pytest.fixture
def module(blocks: list[str], tmp_path: Path) -> ModuleType:
    path = tmp_path / "cosine.py"
    path.write_text(blocks[0])
    spec = importlib.util.spec_from_file_location("cosine_of_the_docs", path)
    assert spec is not None
    assert spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = found
    spec.loader.exec_module(found)
    return found


def test_the_printed_method_trains(
    module: ModuleType, make_photos: MakePhotos, teacher_file: str, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(distilling, "load_method", lambda _: module.METHOD)
    result = distill(
        method="cosine", teacher=teacher_file, student="test_efficientnet",
        data=make_photos(16), out=tmp_path / "run", epochs=2, batch_size=8, image_size=32,
        devices="cpu", settings={"min_scale": 0.3}, teacher_cache=tmp_path / "cache",
    )  # fmt: skip
    assert 0 <= result.loss < 2
    assert (tmp_path / "run" / "heads.safetensors").is_file()


def test_the_printed_test_holds(module: ModuleType, blocks: list[str]) -> None:
    names = {
        "Cosine": module.Cosine, "CosineConfig": module.CosineConfig, "pytest": pytest,
        "torch": torch, "tiny_inputs": tiny_inputs, "tiny_batch": tiny_batch,
        "tiny_progress": tiny_progress,
    }  # fmt: skip
    torch.manual_seed(0)
    exec(blocks[1], names)
    test = names["test_the_loss_is_one_minus_the_mean_cosine"]
    assert callable(test)
    test()


def test_a_file_in_the_folder_is_all_that_the_listing_needs(
    blocks: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cosine.py").write_text(blocks[0])
    folders = METHODS._paths()
    monkeypatch.setattr(METHODS, "_paths", lambda: [*folders, str(tmp_path)])
    from edgeseed.distill.method_listing import list_methods

    info = next(info for info in list_methods() if info.name == "cosine")
    assert (info.command, info.takes) == ("distill", "a teacher; no labels")
