"""Networks of other programs as students: every key is used, named as not used, or an error."""

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from edgeseed.core.checkpoints import read_weights, unwrap
from edgeseed.core.errors import ArtifactError, UnknownNameError, UsageError, WorkError
from edgeseed.core.network import load_student
from edgeseed.core.pretrained import (
    class_names,
    is_pretrained_name,
    is_student_file,
    load_model,
    student_file,
)

NAME = "test_efficientnet"


def network(name: str = NAME, *, classes: int = 7, **kwargs: Any) -> Any:
    torch.manual_seed(0)
    return timm.create_model(name, num_classes=classes, **kwargs).eval()


def save(path: Path, content: Any) -> str:
    torch.save(content, path)
    return f"{NAME}={path}"


@torch.no_grad()
def outputs(model: nn.Module, side: int = 160) -> Tensor:
    photo = torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(1))
    found = model(photo)
    return found if isinstance(found, Tensor) else found.logits


@pytest.mark.parametrize(
    ("prefix", "container"),
    [
        ("", None),
        ("module.", "state_dict"),
        ("_orig_mod.module.", "model_ema"),
        ("model.", "model_state_dict"),
        ("teacher.backbone.", "model"),
        ("teacher_backbone.", None),
        ("module.student.net.", "state_dict"),
    ],
)
def test_weights_are_found_below_any_prefix_and_container(
    tmp_path: Path, prefix: str, container: str | None
) -> None:
    model = network()
    state: Any = {prefix + name: value for name, value in model.state_dict().items()}
    content = state if container is None else {container: state, "epoch": 3}
    student, spec = load_model(save(tmp_path / "a.pth", content))
    assert torch.equal(outputs(student), outputs(model))
    assert spec.classes == tuple("0123456")
    assert spec.provenance["imported"]["checkpoint"] == "a.pth"


@pytest.mark.parametrize("head", ["fc", "head", "last_linear", "head.fc"])
def test_heads_of_other_names_are_found(tmp_path: Path, head: str) -> None:
    model = network()
    state = {
        name.replace("classifier.", f"{head}."): value for name, value in model.state_dict().items()
    }
    student, _ = load_model(save(tmp_path / "a.pth", state))
    assert torch.equal(outputs(student), outputs(model))


def test_a_head_may_lie_beside_the_backbone(tmp_path: Path) -> None:
    model = network()
    state = {
        name.replace("classifier", "fc") if "classifier" in name else f"backbone.{name}": value
        for name, value in model.state_dict().items()
    }
    student, _ = load_model(save(tmp_path / "a.pth", state))
    assert torch.equal(outputs(student), outputs(model))


def test_without_a_head_it_is_a_student_without_classes(tmp_path: Path) -> None:
    student, spec = load_model(save(tmp_path / "a.pth", network(classes=0).state_dict()))
    assert spec.classes is None
    assert student.head is None


def test_of_teacher_and_student_the_teacher_is_taken_and_the_rest_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    teacher, student = network(), timm.create_model(NAME, num_classes=7)
    state = {f"student.{name}": value for name, value in student.state_dict().items()}
    state |= {f"teacher.{name}": value for name, value in teacher.state_dict().items()}
    found, _ = load_model(save(tmp_path / "a.pth", {"model": state, "optimizer": {}}))
    assert torch.equal(outputs(found), outputs(teacher))
    told = capsys.readouterr().err
    assert "the weights below teacher. are used" in told
    assert f"{len(state) // 2 + 1} entries are not used" in told


def test_missing_weights_are_an_error_that_names_them(tmp_path: Path) -> None:
    state = dict(network().state_dict())
    del state["conv_stem.weight"]
    with pytest.raises(ArtifactError, match=r"1 missing: conv_stem.weight"):
        load_model(save(tmp_path / "a.pth", state))


def test_another_architecture_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="does not fit test_efficientnet"):
        load_model(save(tmp_path / "a.pth", network("test_resnet").state_dict()))


def test_unexpected_weights_are_an_error_that_names_them(tmp_path: Path) -> None:
    state = dict(network().state_dict()) | {"extra.weight": torch.zeros(2)}
    with pytest.raises(ArtifactError, match=r"1 unexpected: extra.weight"):
        load_model(save(tmp_path / "a.pth", state))


def official_dinov3(model: Any, *, bias: float = 0.0) -> dict[str, Tensor]:
    """The weights under the names of Meta's files, with the entries that only those have."""
    renames = {"gamma_1": "ls1.gamma", "gamma_2": "ls2.gamma", "reg_token": "storage_tokens"}
    state = {}
    for name, value in model.state_dict().items():
        for ours, theirs in renames.items():
            name = name.replace(ours, theirs)
        state[name] = value
    dim = model.num_features
    state |= {"mask_token": torch.zeros(1, dim), "rope_embed.periods": torch.zeros(16)}
    for block in range(len(model.blocks)):
        state[f"blocks.{block}.attn.qkv.bias"] = torch.full((3 * dim,), bias)
        state[f"blocks.{block}.attn.qkv.bias_mask"] = torch.ones(3 * dim)
    return state


@pytest.mark.slow
def test_official_dinov3_files_are_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = "vit_small_patch16_dinov3"
    model = network(name, classes=0, global_pool="token")
    torch.save(official_dinov3(model), tmp_path / "a.pth")
    student, spec = load_model(f"{name}={tmp_path / 'a.pth'}")
    side = spec.preprocess.image_size
    photo = torch.randn(1, 3, side, side)
    with torch.no_grad():
        assert torch.equal(student(photo).embedding, model(photo))
    assert capsys.readouterr().out == ""  # timm prints there


@pytest.mark.slow
@pytest.mark.parametrize(
    ("architecture", "tag"),
    [
        ("vit_tiny_patch16_dinov3_qkvb", "eupe_lvd1689m"),
        # The same rule for the name that most know.
        pytest.param("vit_small_patch16_dinov3", "lvd1689m", marks=pytest.mark.slow),
    ],
)
def test_a_checkpoint_is_embedded_by_its_class_token_with_a_tag_and_without(
    tmp_path: Path, architecture: str, tag: str, capsys: pytest.CaptureFixture[str]
) -> None:
    # As a student, DINOv3 was averaged as timm does it, and as a teacher it was not.
    model = network(architecture, classes=0, global_pool="token")
    torch.save(model.state_dict(), tmp_path / "a.pth")
    photo = torch.randn(1, 3, 256, 256)
    for name in (architecture, f"{architecture}.{tag}"):
        student, spec = load_model(f"{name}={tmp_path / 'a.pth'}")
        assert spec.architecture.kwargs["global_pool"] == "token"
        with torch.no_grad():
            assert torch.equal(student(photo).embedding, model(photo))
    assert "that is a guess" not in capsys.readouterr().err


def test_pooling_that_nothing_tells_is_said_to_be_a_guess(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("test_vit", "test_resnet"):
        torch.save(network(name).state_dict(), tmp_path / "a.pth")
        load_model(f"{name}={tmp_path / 'a.pth'}")
        said = " ".join(capsys.readouterr().err.split())
        assert ("that is a guess" in said) == (name == "test_vit")


def test_dinov3_biases_that_the_architecture_lacks_are_not_dropped(tmp_path: Path) -> None:
    name = "vit_small_patch16_dinov3"
    torch.save(official_dinov3(network(name, classes=0), bias=0.5), tmp_path / "a.pth")
    with pytest.raises(ArtifactError, match=r"use the architecture that has them, .*_qkvb"):
        load_model(f"{name}={tmp_path / 'a.pth'}")


def test_a_student_file_is_made_for_the_while(tmp_path: Path) -> None:
    source = save(tmp_path / "a.pth", network().state_dict())
    with student_file(source) as path:
        student, spec = load_student(path)
        assert spec.architecture.name == NAME
        assert torch.equal(outputs(student), outputs(network()))
    assert not path.exists()
    with student_file(tmp_path / "x.safetensors") as same:
        assert same == tmp_path / "x.safetensors"


def test_an_unknown_tag_lists_the_known_ones() -> None:
    with pytest.raises(UsageError, match=r"no weights tagged 'imagenet'; timm has: r160_in1k"):
        load_model(f"{NAME}.imagenet")


def test_an_unknown_architecture_gets_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'mobilenetv3_small_100'"):
        load_model("mobilenetv3_small_1OO")


def test_a_checkpoint_without_architecture_says_how_to_give_it(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"NAME=.*nowhere.pth"):
        load_model(str(tmp_path / "nowhere.pth"))


def test_weights_out_of_reach_say_where_to_put_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: Any) -> Any:
        raise OSError("Name or service not known")

    for variable in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr("socket.getaddrinfo", unreachable)
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_: None)
    with pytest.raises(WorkError, match=r"test_efficientnet.r160_in1k=PATH/model.safetensors"):
        load_model(f"{NAME}.r160_in1k")


@pytest.mark.parametrize(
    ("source", "file", "pretrained"),
    [
        ("a/student.safetensors", True, False),
        ("resnet18", False, False),
        ("resnet18.a1_in1k", False, True),
        ("resnet18=x.safetensors", False, True),
        # It was looked for as a student file of that name.
        ("resnet18=weights/x.safetensors", False, True),
        ("runs/lr=0.1/student.safetensors", True, False),
        ("resnet18.a1_in1k=x.pth", False, True),
        ("nothing.such", False, False),
    ],
)
def test_names_say_what_they_are(source: str, *, file: bool, pretrained: bool) -> None:
    assert is_student_file(source) is file
    assert is_pretrained_name(source) is pretrained


def test_imagenet_classes_have_names_and_no_two_are_equal() -> None:
    names = class_names(1000, is_timms=True)
    assert len(set(names)) == 1000
    assert "crane (n02012849)" in names
    assert class_names(1000, is_timms=False)[:2] == ("0", "1")


class _Evil:
    def __reduce__(self) -> Any:
        return print, ("code ran",)


def test_a_file_that_wants_to_run_code_is_not_opened(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save({"state_dict": _Evil()}, tmp_path / "a.pth")
    with pytest.raises(ArtifactError, match="can run code on this machine, so it was not opened"):
        read_weights(tmp_path / "a.pth")
    assert "code ran" not in capsys.readouterr().out


def test_a_file_without_weights_says_what_it_holds(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="holds the entries epoch, lr, but no state dict"):
        unwrap({"epoch": 1, "lr": 0.1}, path=tmp_path)
