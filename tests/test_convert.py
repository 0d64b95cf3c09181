"""timm -> edgeseed -> timm and hub: the same numbers, bit by bit."""

import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.data.config import resolve_model_data_config
from torch import Tensor

from edgeseed.convert import convert
from edgeseed.core.errors import ConfigError, UnknownNameError, UsageError, WorkError
from edgeseed.core.network import build_student, load_student, save_student
from edgeseed.core.preprocess import Preprocess
from edgeseed.core.student import Architecture, StudentSpec

MODELS = ("test_efficientnet", "test_vit")


def make(folder: Path, name: str, classes: int) -> tuple[str, Any]:
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=classes).eval()
    torch.save(model.state_dict(), folder / "weights.pth")
    return f"{name}={folder / 'weights.pth'}", model


@torch.no_grad()
def run(model: Any, side: int = 160) -> Tensor:
    photos = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(1))
    found: Tensor = model.eval()(photos)
    return found


@pytest.mark.parametrize("classes", [0, 7])
@pytest.mark.parametrize("name", MODELS)
def test_a_round_trip_to_timm_gives_the_same_numbers(
    tmp_path: Path, name: str, classes: int
) -> None:
    source, model = make(tmp_path, name, classes)
    result = convert(source, to="timm", out=tmp_path / "out.safetensors")
    loaded = eval(result.code, {"timm": timm})  # the line that the user is told
    assert torch.equal(run(loaded), run(model))


@pytest.mark.parametrize("classes", [0, 7])
@pytest.mark.parametrize("name", MODELS)
def test_a_round_trip_to_the_hub_gives_the_same_numbers(
    tmp_path: Path, name: str, classes: int
) -> None:
    source, model = make(tmp_path, name, classes)
    result = convert(source, to="hub", out=tmp_path / "out")
    loaded = eval(result.code, {"timm": timm})
    assert torch.equal(run(loaded), run(model))
    config = json.loads((tmp_path / "out/config.json").read_text(encoding="utf-8"))
    assert config["architecture"] == name
    assert config["num_classes"] == classes
    assert "timm" in (tmp_path / "out/README.md").read_text(encoding="utf-8")


def test_the_hub_folder_states_the_students_input(tmp_path: Path) -> None:
    network = build_student(Architecture(name="test_efficientnet"), num_classes=2)
    spec = StudentSpec(
        architecture=Architecture(name="test_efficientnet"),
        preprocess=Preprocess(
            image_size=64,
            resize=80,
            interpolation="bilinear",
            mean=(0.5, 0.4, 0.3),
            std=(0.2, 0.2, 0.1),
        ),
        embedding_dim=network.embedding_dim,
        classes=("cat", "dog"),
        provenance={"method": "regress"},
    )
    save_student(tmp_path / "student.safetensors", network, spec)
    convert(tmp_path / "student.safetensors", to="hub", out=tmp_path / "out")
    model = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True)
    config = resolve_model_data_config(model)
    assert config["input_size"] == (3, 64, 64)
    assert list(config["mean"]) == [0.5, 0.4, 0.3]
    assert round(64 / config["crop_pct"]) == 80
    stated = json.loads((tmp_path / "out/config.json").read_text(encoding="utf-8"))
    assert stated["label_names"] == ["cat", "dog"]


def test_a_student_file_is_made_of_a_checkpoint(tmp_path: Path) -> None:
    source, model = make(tmp_path, "test_vit", 7)
    convert(source, to="student", out=tmp_path / "student.safetensors")
    student, _ = load_student(tmp_path / "student.safetensors")
    with torch.no_grad():
        photos = torch.randn(2, 3, 160, 160, generator=torch.Generator().manual_seed(1))
        assert torch.equal(student(photos).logits, run(model))


def test_what_timm_cannot_build_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    architecture = Architecture(name="test_efficientnet", variant={"activation": "relu6"})
    network = build_student(architecture)
    spec = StudentSpec(
        architecture=architecture,
        preprocess=Preprocess(image_size=64, resize=64),
        embedding_dim=network.embedding_dim,
    )
    save_student(tmp_path / "student.safetensors", network, spec)
    with pytest.raises(ConfigError, match="changed after timm built it"):
        convert(tmp_path / "student.safetensors", to="hub", out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_weights_that_came_out_wrong_are_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The planted fault: one weight of the file is off.
    def save_wrong(state: dict[str, Tensor], path: Path, **options: Any) -> None:
        state = dict(state)
        name = next(iter(state))
        state[name] = state[name] + 0.01
        save_file(state, path, **options)

    monkeypatch.setattr("edgeseed.convert.save_file", save_wrong)
    source, _ = make(tmp_path, "test_resnet", 7)
    with pytest.raises(WorkError, match="computes something else"):
        convert(source, to="timm", out=tmp_path / "out.safetensors")
    assert not (tmp_path / "out.safetensors").exists()


def test_wrong_calls_are_one_line(tmp_path: Path) -> None:
    source, _ = make(tmp_path, "test_vit", 0)
    with pytest.raises(UnknownNameError, match="unknown form 'keras'"):
        convert(source, to="keras", out=tmp_path / "x")
    with pytest.raises(UsageError, match=r"give --out NAME.safetensors"):
        convert(source, to="timm", out=tmp_path / "x.pth")
    with pytest.raises(UsageError, match="exists already"):
        convert(source, to="hub", out=tmp_path)
