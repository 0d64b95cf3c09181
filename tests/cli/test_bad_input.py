"""Bad input through the real command line: one line, an exit code, nothing half-written."""

import json
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.students import save_untrained_student

from edgeseed.cli._main import main
from edgeseed.core.bundle import Manifest, seal_bundle
from edgeseed.core.preprocess import Preprocess
from edgeseed.core.records import Provenance

SIZE = 32
DISTILL = ("distill", "--student", "test_efficientnet", "--out", "out", "--devices", "cpu",
           "--epochs", "1", "--image-size", str(SIZE))  # fmt: skip
TAUGHT = (*DISTILL, "--teacher", "teacher.safetensors")
FINETUNE = ("finetune", "teacher.safetensors", "--out", "out")


def photos(root: Path, count: int, *, classes: int = 0) -> None:
    rng = np.random.default_rng(0)
    for index in range(count):
        folder = root / f"class{index % classes}" if classes else root
        folder.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 255, (36, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{index:03}.png")


def strange_photos(root: Path) -> None:
    """CMYK, grey, 16 bits, alpha, turned, moving, and a few files that are not to be used."""
    photos(root, 30, classes=2)
    image = Image.open(root / "class0/000.png")
    turned = Image.Exif()
    turned[0x112] = 6
    image.convert("CMYK").save(root / "class0/cmyk.jpg")
    image.convert("L").save(root / "class0/grey.jpg")
    Image.fromarray(np.full((36, 40), 40000, np.uint16)).save(root / "class0/sixteen.png")
    image.convert("RGBA").save(root / "class1/alpha.png")
    image.save(root / "class1/turned.jpg", exif=turned)
    image.save(root / "class1/moving.gif", save_all=True, append_images=[image.rotate(90)])
    (root / "class1/cut.png").write_bytes((root / "class1/001.png").read_bytes()[:900])
    (root / "class1/words.bin").write_bytes(b"not an image at all")


def students(root: Path) -> None:
    for name, path in {"test_resnet": "teacher", "test_vit": "vit"}.items():
        save_untrained_student(root / f"{path}.safetensors", name, size=SIZE)
    whole = (root / "teacher.safetensors").read_bytes()
    (root / "cut.safetensors").write_bytes(whole[: len(whole) // 2])
    (root / "words.safetensors").write_bytes(b"these are words, not weights")
    length = struct.unpack("<Q", whole[:8])[0]
    header = json.loads(whole[8 : 8 + length])
    described = json.loads(header["__metadata__"]["edgeseed"])
    header["__metadata__"]["edgeseed"] = json.dumps({**described, "schema_version": 99})
    changed = json.dumps(header).encode()
    content = struct.pack("<Q", len(changed)) + changed + whole[8 + length :]
    (root / "newer.safetensors").write_bytes(content)


def changed_bundle(folder: Path) -> None:
    folder.mkdir()
    (folder / "model.onnx").write_bytes(b"model")
    manifest = Manifest(
        name="test", target="onnx", precision="fp32", model="model.onnx", inputs=(), outputs=(),
        preprocess=Preprocess(image_size=SIZE, resize=SIZE), embedding_dim=4, classes=None,
        quantization=None, gates=(), student_sha256="0", minimum_runtime={},
        provenance=Provenance(),
    )  # fmt: skip
    seal_bundle(folder, manifest)
    (folder / "model.onnx").write_bytes(b"modem")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Everything that can be wrong, in one folder."""
    root = tmp_path_factory.mktemp("world")
    photos(root / "photos", 24, classes=2)
    photos(root / "three", 3)
    photos(root / "one-class", 12, classes=1)
    photos(root / "lonely", 20, classes=2)
    (root / "lonely/class9").mkdir()
    (root / "lonely/class0/000.png").rename(root / "lonely/class9/000.png")
    strange_photos(root / "strange")
    photos(root / "broken", 20)
    for path in sorted((root / "broken").iterdir())[:4]:
        path.write_bytes(path.read_bytes()[:300])
    (root / "empty").mkdir()
    (root / "papers").mkdir()
    (root / "papers/a.pdf").write_bytes(b"%PDF-1.7 no photo")
    (root / "list.txt").write_text("class0/000.png\nclass1/001.png\nclass1/nowhere.png\n")
    students(root)
    changed_bundle(root / "bundle")
    return root


@pytest.fixture(autouse=True)
def untouched(world: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The test stands in that folder, and leaves nothing there."""
    monkeypatch.chdir(world)
    before = sorted(world.rglob("*"))
    yield
    assert sorted(world.rglob("*")) == before


WRONG: dict[str, tuple[tuple[str, ...], int, str]] = {
    # names
    "method": ((*TAUGHT, "--data", "photos", "--method", "sead"), 2, "did you mean 'seed'"),
    "student": (
        (*TAUGHT, "--data", "photos", "--student", "mobilnetv3_large_100"), 2,
        "did you mean 'mobilenetv3_large_100'",
    ),
    "teacher": ((*DISTILL, "--data", "photos", "--teacher", "resnet5O"), 2, "mean 'resnet50'"),
    "teacher's weights": (
        (*DISTILL, "--data", "photos", "--teacher", "resnet50.a1_inlk"), 2,
        "no weights tagged 'a1_inlk'; timm has: a1_in1k",
    ),
    "protocol": (
        ("evaluate", "teacher.safetensors", "--data", "digits", "--protocol", "liner"), 2,
        "did you mean 'linear'",
    ),
    # photos
    "no such folder": ((*TAUGHT, "--data", "fotos/"), 2, "fotos/ does not exist"),
    "no such set": ((*TAUGHT, "--data", "digit"), 2, "did you mean 'digits'"),
    "empty folder": ((*TAUGHT, "--data", "empty"), 2, "holds no image at all"),
    "no image": ((*TAUGHT, "--data", "papers"), 2, "only files that are not images"),
    "a file": ((*TAUGHT, "--data", "newer.safetensors"), 2, "is a file; give the folder"),
    "too many broken": (
        (*TAUGHT, "--data", "broken"), 2, "4 of 20 files cannot be used as photos, more than 10%",
    ),
    "fewer than a batch": (
        (*TAUGHT, "--data", "three", "--batch-size", "8"), 2, "and there are 3; use --batch-size 2",
    ),
    "fewer than the queue": (
        (*TAUGHT, "--data", "photos", "--method", "seed", "--batch-size", "8",
         "--set", "queue_size=64"), 2, "use at most 24",
    ),
    "no calibration photos": (
        ("export", "teacher.safetensors", "--target", "onnx", "--precision", "int8",
         "--calibration", "empty", "--out", "out"), 2, "holds no image at all",
    ),
    # labels
    "list with missing photos": (
        (*FINETUNE, "--data", "photos", "--labels", "list.txt"), 2,
        "names 1 photo that photos has not: class1/nowhere.png",
    ),
    "1 % of too few": (
        (*FINETUNE, "--data", "photos", "--labels", "1%"), 2, "use a larger share, or 5pc",
    ),
    "1 % of too few, in evaluate": (
        ("evaluate", "teacher.safetensors", "--data", "photos", "--protocol", "finetune"), 2,
        "use a larger share, or 5pc",
    ),
    "a class of one photo": (
        (*FINETUNE, "--data", "lonely"), 2, "class class9 has one photo, and two are needed",
    ),
    "a class of one photo, in evaluate": (
        ("evaluate", "teacher.safetensors", "--data", "lonely"), 2, "class class9 has one photo",
    ),
    "one class": ((*FINETUNE, "--data", "one-class"), 2, "one class folder, class0"),
    "no labels": (
        ("evaluate", "teacher.safetensors", "--data", "three"), 2, "lie in no class folder",
    ),
    "during without labels": (
        (*TAUGHT, "--data", "broken/../three", "--batch-size", "2", "--during", "1"), 2,
        "has no labels; leave it out",
    ),
    # student files
    "cut": (("evaluate", "cut.safetensors", "--data", "digits"), 1, "may be truncated"),
    "newer": (
        ("export", "newer.safetensors", "--out", "out"), 1, "schema version 99, this edgeseed",
    ),
    "none at all": ((*DISTILL, "--data", "photos", "--teacher", "words.safetensors"), 1, "whole"),
    "absent": (("evaluate", "no.safetensors", "--data", "digits"), 2, "does not exist"),
    # teachers and peers
    "unlike inputs": (
        (*DISTILL, "--data", "photos", "--teacher", "vit.safetensors",
         "--image-size", "48"), 2,
        "takes photos of 32 px only; leave its size; --set views.teacher_size=N",
    ),
    "no prototypes": (
        (*TAUGHT, "--data", "photos", "--method", "rob"), 2, "needs no head: regress, queue-kl",
    ),
    "no classifier": (
        (*TAUGHT, "--data", "photos", "--method", "simclrv2"), 2, "few labels first: `edgeseed fin",
    ),
    "no peer": ((*DISTILL, "--data", "photos", "--method", "dogo"), 2, "give --peer NAME"),
    "no teacher": ((*DISTILL, "--data", "photos"), 2, "give --teacher NAME"),
    # places and settings
    "out is a file": ((*TAUGHT, "--data", "photos", "--out", "list.txt/run"), 2, "no folder"),
    "out is in use": ((*TAUGHT, "--data", "photos", "--out", "photos"), 2, "add --resume"),
    "nothing to resume": ((*TAUGHT, "--data", "photos", "--resume"), 2, "holds no run to resume"),
    "setting": (
        (*TAUGHT, "--data", "photos", "--set", "mixupp=no"), 2, "did you mean 'mixup'",
    ),
    "learning rate": (
        (*TAUGHT, "--data", "photos", "--lr", "nan"), 2, "lr=nan is not a finite number",
    ),
    "learning rate, in finetune": (
        (*FINETUNE, "--data", "photos", "--lr", "inf"), 2, "lr=inf is not a finite number",
    ),
    "option": ((*TAUGHT, "--data", "photos", "--epoch", "3"), 2, "--epochs"),
    "missing option": (("distill", "--data", "photos"), 2, "Missing option '--student'"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_it_is_one_line_and_writes_nothing(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    arguments, code, message = WRONG[name]
    with pytest.raises(SystemExit) as caught:
        main(list(arguments))
    output = capsys.readouterr()
    assert caught.value.code == code
    assert output.out == ""
    last = output.err.splitlines()[-1]
    assert last.lower().startswith(("edgeseed: error: ", "error: "))
    assert message in last
    assert "Traceback" not in output.err


@pytest.mark.parametrize("name", ["method", "cut", "missing option"])
def test_under_json_the_error_is_the_one_value_on_stdout(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments, _, message = WRONG[name]
    with pytest.raises(SystemExit):
        main([*arguments, "--json"])
    assert message in json.loads(capsys.readouterr().out)["error"]["message"]


def test_strange_photos_are_learnt_from_and_broken_ones_listed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main([*TAUGHT, "--data", "strange", "--out", str(tmp_path / "run"), "--json"])
    assert caught.value.code == 0
    output = capsys.readouterr()
    # 30 of their own, six strange ones; the two that are broken are named, and no more than that.
    assert json.loads(output.out)["num_photos"] == 36
    assert "2 of 38 files skipped" in output.err
    assert "class1/cut.png" in output.err
    assert "class1/words.bin: not an image" in output.err


def test_advice_is_given_under_json_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # It was dropped with the progress: the licence of a teacher, the size of a batch.
    with pytest.raises(SystemExit) as caught:
        main([*TAUGHT, "--data", "photos", "--out", str(tmp_path / "run"), "--json"])
    assert caught.value.code == 0
    output = capsys.readouterr()
    assert json.loads(output.out)["epochs"] == 1
    notes = output.err.splitlines()
    assert all(line.startswith("note: ") for line in notes)
    assert any("teacher teacher.safetensors: licence not stated" in line for line in notes)
    assert any("end as a map of one pixel" in line for line in notes)
    assert any("batch of 16 photos instead of" in line for line in notes)


@pytest.mark.parametrize("command", [("verify",), ("profile", "--out", "r.json"), ("explain",)])
def test_one_changed_byte_of_a_bundle_is_found(
    command: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main([command[0], "bundle", *command[1:]])
    assert caught.value.code == 1
    assert "model.onnx was changed after the export" in capsys.readouterr().err
