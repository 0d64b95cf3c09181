import json
from pathlib import Path

import numpy as np
import pytest

from edgeseed.core.bundle import read_bundle
from edgeseed.core.errors import DataError, GateError, UnknownNameError, UsageError
from edgeseed.core.network import StudentNetwork
from edgeseed.export import export, verify
from edgeseed.export.testing import CLASSES, save_tiny_student, tiny_student


def gate_values(bundle: Path) -> dict[str, float]:
    return {gate.name: gate.value for gate in read_bundle(bundle).manifest.gates}


def test_a_float_bundle_holds_all_it_needs_and_passes(made_fp32: Path) -> None:
    bundle = read_bundle(made_fp32)
    roles = {name: entry.role for name, entry in bundle.manifest.files.items()}
    assert roles["model.onnx"] == roles["labels.txt"] == roles["golden/003.png"] == "ship"
    assert roles["reference/student.safetensors"] == roles["reference/photos.npz"] == "proof"
    assert (made_fp32 / "labels.txt").read_text().split() == list(CLASSES)
    assert gate_values(made_fp32)["parity"] < 1e-4
    assert verify(made_fp32).passed


def test_an_int8_bundle_decides_as_the_student_and_passes(made_int8: Path) -> None:
    values = gate_values(made_int8)
    assert values["top1_agreement"] >= 0.98
    assert values["embedding_cosine"] > 0.98
    result = verify(made_int8)
    assert result.passed
    assert json.dumps(result.to_dict())


def test_calibration_and_proof_photos_are_disjoint(made_int8: Path) -> None:
    manifest = read_bundle(made_int8).manifest
    photos = manifest.provenance["photos"]
    assert photos["disjoint"]
    assert photos["proof"] + photos["calibration"] <= photos["available"] == 64


def test_int8_is_a_quarter_of_the_size(made_fp32: Path, made_int8: Path) -> None:
    sizes = [read_bundle(path).model_size_bytes for path in (made_fp32, made_int8)]
    assert (
        sizes[1] < 0.45 * sizes[0]
    )  # of a tiny network, whose graph weighs as much as its weights


def test_a_float_export_needs_no_photos(student: Path, tmp_path: Path) -> None:
    export(student, out=tmp_path / "bundle", batch=1)
    manifest = read_bundle(tmp_path / "bundle").manifest
    assert manifest.provenance["photos"]["source"] == "synthetic colour fields"
    assert manifest.inputs[0].shape == (1, 3, 32, 32)
    assert verify(tmp_path / "bundle").passed


def test_the_same_call_gives_the_same_model(student: Path, photos: Path, tmp_path: Path) -> None:
    digests = set()
    for name in ("one", "two"):
        export(student, out=tmp_path / name, calibration=photos)
        digests.add(read_bundle(tmp_path / name).digest)
    assert len(digests) == 1


def test_a_student_without_a_head_is_judged_by_retrieval(
    photos: Path, tmp_path: Path, network: StudentNetwork
) -> None:
    headless = tiny_student(head=False)
    headless.backbone.load_state_dict(network.backbone.state_dict())
    path = save_tiny_student(tmp_path / "student.safetensors", headless)
    export(path, precision="int8", calibration=photos, out=tmp_path / "bundle", min_agreement=0.9)
    assert gate_values(tmp_path / "bundle")["self_retrieval"] >= 0.9


def test_verify_on_other_photos_adds_gates(made_int8: Path, photos: Path) -> None:
    names = [gate.name for gate in verify(made_int8, data=photos).gates]
    assert f"top1_agreement on {photos}" in names
    assert f"accuracy_drop on {photos}" in names


def test_a_gate_that_fails_leaves_nothing_behind(
    student: Path, photos: Path, tmp_path: Path
) -> None:
    with pytest.raises(GateError, match=r"top1_agreement.*limit 1.01.*--min-agreement"):
        export(
            student, precision="int8", calibration=photos, out=tmp_path / "bundle",
            min_agreement=1.01, quantization={"max_float_layers": 0, "calibrator": "minmax"},
        )  # fmt: skip
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"target": "onxx"}, UnknownNameError, "did you mean 'onnx'"),
        ({"precision": "int9"}, UnknownNameError, "did you mean 'int8'"),
        ({"precision": "int8"}, UsageError, "add --calibration FOLDER"),
        ({"precision": "int8", "scheme": "x68"}, UnknownNameError, "did you mean 'x86'"),
        ({"options": {"opsett": 18}}, UnknownNameError, "did you mean 'opset'"),
        ({"batch": -1}, UsageError, "batch is -1"),
    ],
)
def test_a_wrong_call_says_what_is_right(
    student: Path,
    photos: Path,
    tmp_path: Path,
    arguments: dict[str, object],
    error: type[Exception],
    message: str,
) -> None:
    if "scheme" in arguments:
        arguments = {**arguments, "calibration": photos}
    with pytest.raises(error, match=message):
        export(student, out=tmp_path / "bundle", **arguments)  # type: ignore[arg-type]  # wrong on purpose
    assert not list(tmp_path.iterdir())


def test_too_few_photos_are_refused(student: Path, tmp_path: Path) -> None:
    from edgeseed.export.testing import tinted_photo

    for seed in range(5):
        (tmp_path / "few").mkdir(exist_ok=True)
        tinted_photo("red", seed).save(tmp_path / "few" / f"{seed}.png")
    with pytest.raises(DataError, match="holds 5 photos, at least 16"):
        export(student, precision="int8", calibration=tmp_path / "few", out=tmp_path / "bundle")


def test_golden_inputs_are_bytes_that_the_model_takes_as_they_are(made_fp32: Path) -> None:
    inputs = np.load(made_fp32 / "golden/inputs.npy")
    assert inputs.dtype == np.uint8
    assert inputs.shape == (4, 3, 32, 32)
