import dataclasses
import inspect
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from support.export import CLASSES, save_tiny_student, tiny_student

from edgeseed.cli._main import main
from edgeseed.core.bundle import read_bundle
from edgeseed.core.errors import (
    ConfigError,
    DataError,
    GateError,
    UnknownNameError,
    UsageError,
    WorkError,
)
from edgeseed.core.files import readable_size
from edgeseed.core.network import StudentNetwork, load_student, save_student
from edgeseed.core.photos import open_photos
from edgeseed.core.records import ModelSpeed
from edgeseed.export import export, verify
from edgeseed.export.bundling import builder
from edgeseed.export.planning import search_target
from edgeseed.export.quantize import quantize as quantize_run
from edgeseed.export.quantize.graph.rewriting import TensorScales
from edgeseed.export.quantize.search.recovery import recover
from edgeseed.export.targets.onnx.target import scheme_of_this_machine


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
    assert values["top1_agreement"] >= 0.95  # one of 32 photos is 3 points
    assert values["embedding_cosine"] > 0.98
    result = verify(made_int8)
    assert result.passed
    assert json.dumps(result.to_dict())


def test_calibration_and_proof_photos_are_disjoint(made_int8: Path) -> None:
    manifest = read_bundle(made_int8).manifest
    photos = manifest.provenance.photos
    assert photos.disjoint
    assert photos.calibration is not None
    assert photos.available == 64
    assert photos.proof + photos.calibration <= 64


def count_calls(monkeypatch: pytest.MonkeyPatch, *names: str) -> list[str]:
    """The names of the builder's functions in the order in which they are called from now on."""
    counted: list[str] = []

    def count(name: str) -> None:
        real = getattr(builder, name)

        def watched(*arguments: Any, **options: Any) -> Any:
            counted.append(name)
            return real(*arguments, **options)

        monkeypatch.setattr(builder, name, watched)

    for name in names:
        count(name)
    return counted


# The command below makes several; this one counts what is made, and compares with one made alone.
@pytest.mark.slow
def test_several_precisions_share_what_they_have_in_common(
    made_int8: Path, student: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The last writes a float model only to be timed, which there is one for already.
    counted = count_calls(
        monkeypatch, "build_program", "reference_outputs", "write_photos", "describe_bundle"
    )
    results = export(
        student, precision=["int8", "fp32"], out=tmp_path / "both", calibration=photos,
        min_agreement=0.95, quantization={"max_float_layers": 0},  # as `made_int8`
    )  # fmt: skip
    assert sorted(counted) == ["build_program", "reference_outputs", "write_photos"]
    assert [Path(result.bundle).name for result in results] == ["int8", "fp32"]
    assert all(result.seconds > 0 for result in results)
    both = {name: read_bundle(tmp_path / "both" / name) for name in ("int8", "fp32")}
    assert all(verify(bundle.path).passed for bundle in both.values())
    together, alone = both["int8"].manifest, read_bundle(made_int8).manifest
    assert together.files["model.onnx"] == alone.files["model.onnx"]
    assert [gate.value for gate in together.gates] == [gate.value for gate in alone.gates]
    assert together.speed is not None
    assert together.speed.compared.keys() == {"fp32", "int8"}
    assert together.provenance.export.requested == "int8,fp32"
    proofs = {bundle.manifest.files["reference/photos.npz"].sha256 for bundle in both.values()}
    assert proofs == {alone.files["reference/photos.npz"].sha256}


@pytest.mark.parametrize("precisions", ["fp32, w8", "w8,"])
def test_the_command_makes_each_precision_between_commas(
    student: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], precisions: str
) -> None:
    names = [name.strip() for name in precisions.split(",") if name.strip()]
    out, command = tmp_path / "both", ["export", str(student), "--calibration", str(photos)]
    with pytest.raises(SystemExit) as caught:
        main([*command, "--precision", precisions, "--out", str(out), "--json"])
    assert caught.value.code == 0
    found = json.loads(capsys.readouterr().out)["bundles"]
    assert [(item["precision"], item["bundle"]) for item in found] == [
        (name, str(out / name)) for name in names
    ]
    assert sorted(path.name for path in out.iterdir()) == sorted(names)


def test_of_several_precisions_all_are_written_or_none(
    student: Path, photos: Path, tmp_path: Path
) -> None:
    with pytest.raises(GateError, match=r"^w8: gate top1_agreement failed"):
        export(
            student, precision=["fp32", "w8"], out=tmp_path / "both", calibration=photos,
            min_agreement=1.1, speed=False,
        )  # fmt: skip
    assert list(tmp_path.iterdir()) == []


def test_a_precision_that_cannot_be_made_is_named(
    student: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def make(builder: builder.BundleBuilder, variant: builder.Variant, folder: Path) -> Any:
        if variant.precision == "fp16":
            raise WorkError("ONNX cannot express this network")
        return real(builder, variant, folder)

    real = builder.BundleBuilder.make
    monkeypatch.setattr(builder.BundleBuilder, "make", make)
    with pytest.raises(WorkError, match=r"^fp16: ONNX cannot express this network"):
        export(student, precision=["fp32", "fp16"], out=tmp_path / "both")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("precisions", "message"),
    [
        ([], "names none"),
        (["int8", "fp32", "int8"], "int8 is given twice"),
        (["fp32", "auto"], "auto makes all and keeps one"),
        (["fp32", "int9"], "did you mean 'int8'"),
    ],
)
def test_several_precisions_are_different_and_made_by_name(
    student: Path, tmp_path: Path, precisions: list[str], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        export(student, precision=precisions, out=tmp_path / "both")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_several_targets_share_what_they_have_in_common(
    student: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ai_edge_litert", reason="needs ai-edge-litert")
    counted = count_calls(monkeypatch, "reference_outputs", "write_photos")
    results = export(
        student, target=["litert", "onnx"], precision=["w8", "fp32"], out=tmp_path / "all",
        calibration=photos, min_agreement=0.9, options={"opset": 20, "input": "float32"},
        speed=False,
    )  # fmt: skip
    assert sorted(counted) == ["reference_outputs", "write_photos"]
    names = ["litert-w8", "litert-fp32", "onnx-w8", "onnx-fp32"]
    assert [result.bundle for result in results] == [str(tmp_path / "all" / name) for name in names]
    assert all(verify(result.bundle).passed for result in results)
    manifests = {name: read_bundle(tmp_path / "all" / name).manifest for name in names}
    for name, manifest in manifests.items():
        assert name == f"{manifest.target}-{manifest.precision}"
    # Each target gets its own options.
    assert manifests["onnx-w8"].provenance.model["opset"] == 20
    assert manifests["litert-w8"].provenance.export.options == {"input": "float32"}
    assert manifests["litert-w8"].inputs[0].dtype == "float32"
    assert len({each.files["reference/photos.npz"].sha256 for each in manifests.values()}) == 1


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"target": []}, UsageError, "--target names none"),
        ({"target": ["onnx", "tensorrt", "onnx"]}, UsageError, "onnx is given twice"),
        ({"target": ["onnx", "tensorr"]}, UnknownNameError, "did you mean 'tensorrt'"),
        (
            {"options": {"opsett": 18}},
            UnknownNameError,
            "option of targets onnx, tensorrt 'opsett'",
        ),
        ({"scheme": "litert"}, UnknownNameError, "scheme of targets onnx, tensorrt 'litert'"),
        ({"profile": "pixel-9", "precision": "auto"}, ConfigError, "runs no tensorrt bundle"),
        ({"add_outputs": ["top2"]}, UsageError, "target tensorrt adds no outputs"),
    ],
)
def test_several_targets_that_make_no_sense_are_refused_in_one_line(
    student: Path, tmp_path: Path, arguments: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        export(student, **{"target": ["onnx", "tensorrt"], "out": tmp_path / "all", **arguments})
    assert list(tmp_path.iterdir()) == []


def test_of_several_targets_all_are_written_or_none(
    student: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def make(builder: builder.BundleBuilder, variant: builder.Variant, folder: Path) -> Any:
        if builder.target.name == "tensorrt":
            raise WorkError("TensorRT cannot express this network")
        return real(builder, variant, folder)

    real = builder.BundleBuilder.make
    monkeypatch.setattr(builder.BundleBuilder, "make", make)
    with pytest.raises(WorkError, match=r"^tensorrt: TensorRT cannot express this network"):
        export(student, target=["onnx", "tensorrt"], precision="fp32", out=tmp_path / "all")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_the_command_keeps_the_best_of_several_targets(
    student: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("ai_edge_litert", reason="needs ai-edge-litert")
    out, command = tmp_path / "best", ["export", str(student), "--target", "onnx,litert"]
    with pytest.raises(SystemExit) as caught:
        main([*command, "--precision", "auto", "--out", str(out), "--json"])
    assert caught.value.code == 0
    found = json.loads(capsys.readouterr().out)
    assert found["bundle"] == str(out)
    manifest = read_bundle(out).manifest
    selection = manifest.selection
    assert selection is not None
    assert selection.chosen == f"{manifest.target} {manifest.precision}"
    rows = {row.name: row for row in selection.candidates}
    # w8 and int8 are judged by photos, and there are none.
    timed = {f"{target} {name}" for target in ("onnx", "litert") for name in ("fp32", "fp16")}
    assert {name for name, row in rows.items() if row.median_ms is not None} == timed
    assert {name for name, row in rows.items() if row.verdict == "not made"} == {
        f"{target} {name}" for target in ("onnx", "litert") for name in ("w8", "int8")
    }  # fmt: skip
    assert all(row.reason for row in selection.candidates if row.verdict != "chosen")
    assert rows["onnx fp32"].speedup == 1
    assert manifest.speed is not None
    assert manifest.speed.baseline == "onnx fp32"
    assert manifest.speed.compared.keys() == timed
    assert verify(out).passed
    card = (out / "MODEL_CARD.md").read_text()
    kept_out = next(row for row in selection.candidates if row.verdict == "passed")
    assert f"| {kept_out.name} | passed | {kept_out.median_ms:.2f} ms | {kept_out.reason} |" in card


def test_a_comma_at_the_end_asks_for_no_name_more(
    student: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # `--add-outputs probabilities,` was refused, for an output without a name.
    out = tmp_path / "bundles"
    command = ["export", str(student), "--target", "onnx,", "--precision", "fp32", "--json"]
    with pytest.raises(SystemExit) as caught:
        main([*command, "--add-outputs", "probabilities,", "--out", str(out)])
    assert caught.value.code == 0
    (found,) = json.loads(capsys.readouterr().out)["bundles"]
    assert found["bundle"] == str(out / "onnx")
    assert "probabilities" in [each.name for each in read_bundle(out / "onnx").manifest.outputs]


@pytest.mark.parametrize("option", ["target", "precision"])
def test_a_list_of_nothing_is_refused(
    option: str, student: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["export", str(student), f"--{option}", ",", "--out", str(tmp_path / "out")])
    assert caught.value.code == 2
    assert "','" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_for_a_device_the_order_of_its_engines_decides(tmp_path: Path) -> None:
    from edgeseed.export.exporting import _by_preference

    assert _by_preference(["litert", "onnx"], "pixel-9") == ["onnx", "litert"]
    assert _by_preference(["litert", "onnx"], None) == ["litert", "onnx"]


def test_int8_is_a_quarter_of_the_size(made_fp32: Path, made_int8: Path) -> None:
    sizes = [read_bundle(path).model_size_bytes for path in (made_fp32, made_int8)]
    assert (
        sizes[1] < 0.45 * sizes[0]
    )  # of a tiny network, whose graph weighs as much as its weights


def test_a_float_export_needs_no_photos(
    student: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    export(student, out=tmp_path / "bundle", batch=1)
    manifest = read_bundle(tmp_path / "bundle").manifest
    assert manifest.provenance.photos.source == "synthetic colour fields"
    # The card spoke of photos, and the terminal said nothing.
    assert "32 synthetic colour fields stand in for them" in capsys.readouterr().err
    card = (tmp_path / "bundle/MODEL_CARD.md").read_text()
    assert "On 32 synthetic colour fields, not on photos: none were given." in card
    assert "`golden/` holds synthetic colour fields," in card
    assert "held out" not in card
    assert manifest.inputs[0].shape == (1, 3, 32, 32)
    assert verify(tmp_path / "bundle").passed


def _student_of(folder: Path, network: StudentNetwork, **provenance: Any) -> Path:
    """A student whose file says what it was made from."""
    path = save_tiny_student(folder / "known.safetensors", network)
    _, spec = load_student(path)
    save_student(path, network, dataclasses.replace(spec, provenance=provenance))
    return path


def test_photos_that_the_student_was_trained_on_are_called_so(
    photos: Path, tmp_path: Path, network: StudentNetwork, capsys: pytest.CaptureFixture[str]
) -> None:
    # Of 2,000 new photos 97.05 % were kept where 99.2 % of the photos that had taught were.
    # As a classifier made of it names them: of its start, and a part of the folder. Files of
    # earlier versions have no sketch.
    learnt = open_photos(photos).subset(np.arange(20)).description
    del learnt["sketch"]
    start = {"data": learnt}
    known = _student_of(tmp_path, network, data={"fingerprint": "others"}, start=start)
    export(known, out=tmp_path / "bundle", calibration=photos)
    said = capsys.readouterr().err
    assert "the student was trained on photos, and is surer of these photos" in said
    assert read_bundle(tmp_path / "bundle").manifest.provenance.photos.trained_on
    card = (tmp_path / "bundle/MODEL_CARD.md").read_text()
    assert "(source: photos, which the student was trained on)" in card


def test_copies_of_training_photos_are_known_and_counted(
    photos: Path, tmp_path: Path, network: StudentNetwork, capsys: pytest.CaptureFixture[str]
) -> None:
    files = sorted(photos.rglob("*.*"))
    learnt = tmp_path / "learnt"
    learnt.mkdir()
    for number, path in enumerate(files[: len(files) // 4]):
        shutil.copy(path, learnt / f"{number}{path.suffix}")
    # And a head from two of the others, by a part of the folder: what either knows is known.
    opened = open_photos(photos)
    head = opened.subset([len(opened) - 1, len(opened) - 2]).description
    data = open_photos(learnt).description
    known = _student_of(tmp_path, network, data=data, classifier=head)
    export(known, out=tmp_path / "bundle", calibration=photos)
    said = " ".join(capsys.readouterr().err.split())
    count = f"{len(files) // 4 + 2} of {len(files)}"
    assert f"the student was trained on {count} photos of photos that can be compared" in said
    recorded = read_bundle(tmp_path / "bundle").manifest.provenance.to_dict()
    assert recorded["photos"]["taught"] == {"photos": len(files) // 4 + 2, "of": len(files)}
    # An app's manifest need not say by which digests photos are known (the reference student does).
    assert recorded["student"]["data"]["num_photos"] == len(files) // 4
    assert "sketch" not in json.dumps(recorded)
    card = (tmp_path / "bundle/MODEL_CARD.md").read_text()
    assert f"(source: photos, {count} of which, as far as they can be compared, the stu" in card


def test_what_is_no_sketch_knows_no_photo(
    photos: Path, tmp_path: Path, network: StudentNetwork, capsys: pytest.CaptureFixture[str]
) -> None:
    data = {"fingerprint": ["a"], "part_of": "b", "sketch": ["c", 4]}
    export(_student_of(tmp_path, network, data=data), out=tmp_path / "bundle", calibration=photos)
    assert "surer of these" not in capsys.readouterr().err


def test_one_photo_among_many_is_no_word_worth(
    photos: Path, tmp_path: Path, network: StudentNetwork, capsys: pytest.CaptureFixture[str]
) -> None:
    data = open_photos(photos).subset([3]).description
    export(_student_of(tmp_path, network, data=data), out=tmp_path / "bundle", calibration=photos)
    assert "surer of these" not in capsys.readouterr().err


def test_photos_that_are_new_to_the_student_need_no_word(
    student: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    export(student, out=tmp_path / "bundle", calibration=photos)
    assert "surer of these" not in capsys.readouterr().err
    assert read_bundle(tmp_path / "bundle").manifest.provenance.photos.trained_on is None


def test_a_limit_without_labels_is_said_to_have_no_effect(
    student: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    export(student, out=tmp_path / "bundle", max_drop=0.5)
    assert "--max-drop has no effect here: it needs --calibration in cl" in capsys.readouterr().err


def test_sizes_read_alike_on_both_streams(
    student: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # 114.63 kB on stdout was 0.11 MB on stderr.
    result = export(student, out=tmp_path / "bundle")
    assert f"onnx fp32, {readable_size(result.size_bytes)}, " in capsys.readouterr().err


# tests/export/test_target_contract.py asks it of every target, of the file alone.
@pytest.mark.slow
@pytest.mark.usefixtures("convert_anew")
def test_the_same_call_gives_the_same_model(student: Path, photos: Path, tmp_path: Path) -> None:
    digests = set()
    for name in ("one", "two"):
        export(student, out=tmp_path / name, calibration=photos)
        digests.add(read_bundle(tmp_path / name).digest)
    assert len(digests) == 1


@pytest.mark.slow
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


@pytest.mark.parametrize(
    ("precision", "quantization"),
    [
        ("w8", {}),
        pytest.param(
            "int8", {"max_float_layers": 0, "calibrator": "minmax"}, marks=pytest.mark.slow
        ),
    ],
)
def test_a_gate_that_fails_leaves_nothing_behind(
    student: Path, photos: Path, tmp_path: Path, precision: str, quantization: dict[str, Any]
) -> None:
    with pytest.raises(GateError, match=r"top1_agreement.*limit 1.01.*--min-agreement"):
        export(
            student, precision=precision, calibration=photos, out=tmp_path / "bundle",
            min_agreement=1.01, quantization=quantization,
        )  # fmt: skip
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("asked", "sought"), [(0.5, 0.99), (0.98, 0.99), (0.99, 0.995), (1.0, 1.0), (1.01, 1.0)]
)
def test_the_search_seeks_more_than_the_gate_asks(asked: float, sought: float) -> None:
    assert search_target(asked) == pytest.approx(sought)


def test_the_search_of_an_int8_bundle_looked_further_than_its_gate(made_int8: Path) -> None:
    made = read_bundle(made_int8).manifest.provenance.export
    assert made.min_agreement == 0.95
    assert made.quantization["min_agreement"] == pytest.approx(0.99)
    assert made.quantization["required_agreement"] == 0.95


# Exports of their own; the bundle above has it for the gate that it was made with.
@pytest.mark.slow
@pytest.mark.parametrize(("quantization", "sought"), [({}, 0.998), ({"min_agreement": 0.25}, 0.25)])
def test_a_stricter_gate_makes_the_search_look_further(
    student: Path, photos: Path, tmp_path: Path, quantization: dict[str, Any], sought: float
) -> None:
    settings = {"calibrator": "minmax", "max_float_layers": 0, **quantization}
    export(
        student, precision="int8", calibration=photos, out=tmp_path / "bundle", verify=False,
        min_agreement=0.996, quantization=settings, speed=False,
    )  # fmt: skip
    made = read_bundle(tmp_path / "bundle").manifest.provenance.export
    assert made.min_agreement == 0.996
    assert made.quantization["min_agreement"] == pytest.approx(sought)
    assert made.quantization["required_agreement"] == 0.996


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"target": "onxx"}, UnknownNameError, "did you mean 'onnx'"),
        ({"precision": "int9"}, UnknownNameError, "did you mean 'int8'"),
        ({"precision": "int8"}, UsageError, "add --calibration FOLDER"),
        ({"precision": "int8", "scheme": "x68"}, UnknownNameError, "did you mean 'x86'"),
        ({"options": {"opsett": 18}}, UnknownNameError, "did you mean 'opset'"),
        ({"batch": -1}, UsageError, "batch is -1"),
        ({"target": "coreml", "precision": "int4"}, UnknownNameError, "auto, fp16, fp32, int8, w8"),
        ({"profile": "pixel-80"}, UnknownNameError, "did you mean 'pixel-8'"),
        ({"profile": "pixel-8", "target": "coreml"}, ConfigError, "runs no coreml bundle"),
        ({"profile": "pixel-8", "precision": "fp16"}, UsageError, "as int8 or w8 or fp32; choose"),
        ({"scheme": "arm"}, UsageError, "--scheme is about the integers of int8"),
        ({"keep_float": ["conv2d"]}, UsageError, "--keep-float is about int8"),
        ({"precision": "int8", "keep_float": ["conv9d"]}, UsageError, "fits no layer"),
        (
            {"precision": "int8", "scheme": "qnn", "keep_float": ["conv2d"]},
            UsageError,
            "--keep-float is about layers in float, and scheme qnn has none",
        ),
        (
            {"precision": "int8", "scheme": "qnn", "quantization": {"max_float_layers": 2}},
            UsageError,
            "--set max_float_layers is about layers in float, and scheme qnn has none",
        ),
        ({"prefer": "sped"}, UnknownNameError, "did you mean 'speed'"),
        ({"prefer": "size"}, UsageError, "--prefer size is about --precision auto: with"),
        ({"min_agreement": 1.0}, UsageError, "is about w8 and int8; fp32 and fp16 are judged by p"),
        ({"calibration_count": 3}, UsageError, "--calibration-count is about int8: with"),
        ({"quantization": {"calibrator": "mse"}}, UsageError, "--set calibrator is about int8"),
    ],
)
def test_a_wrong_call_says_what_is_right(
    student: Path,
    photos: Path,
    tmp_path: Path,
    arguments: dict[str, Any],
    error: type[Exception],
    message: str,
) -> None:
    if "scheme" in arguments or "keep_float" in arguments:
        arguments = {**arguments, "calibration": photos}
    with pytest.raises(error, match=message):
        export(student, out=tmp_path / "bundle", **arguments)
    assert not list(tmp_path.iterdir())


def test_too_few_photos_are_refused(student: Path, tmp_path: Path) -> None:
    from support.export import tinted_photo

    for seed in range(5):
        (tmp_path / "few").mkdir(exist_ok=True)
        tinted_photo("red", seed).save(tmp_path / "few" / f"{seed}.png")
    with pytest.raises(DataError, match="holds 5 photos, at least 16"):
        export(student, precision="int8", calibration=tmp_path / "few", out=tmp_path / "bundle")


def test_golden_inputs_are_bytes_that_the_model_takes_as_they_are(made_fp32: Path) -> None:
    inputs = np.load(made_fp32 / "golden/inputs.npy")
    assert inputs.dtype == np.uint8
    assert inputs.shape == (4, 3, 32, 32)


@pytest.mark.slow
def test_auto_keeps_one_proven_bundle_and_says_what_it_tried(
    student: Path, photos: Path, tmp_path: Path
) -> None:
    result = export(student, precision="auto", calibration=photos, out=tmp_path / "bundle")
    manifest = read_bundle(tmp_path / "bundle").manifest
    assert result.selection == manifest.selection
    assert manifest.selection is not None
    rows = {row.precision: row for row in manifest.selection.candidates}
    assert set(rows) == {"fp32", "fp16", "w8", "int8"}
    assert rows[manifest.precision].verdict == "chosen"
    assert manifest.selection.chosen == manifest.precision == result.precision
    assert all((row.median_ms or 0) > 0 and (row.size_bytes or 0) > 0 for row in rows.values())
    assert rows["fp32"].speedup == 1
    assert rows["fp32"].accuracy_drop == 0
    assert manifest.selection.why in (tmp_path / "bundle/MODEL_CARD.md").read_text()
    assert verify(tmp_path / "bundle").passed
    assert list(tmp_path.iterdir()) == [tmp_path / "bundle"]


@pytest.mark.slow
def test_auto_without_photos_leaves_out_what_photos_must_judge(
    student: Path, tmp_path: Path
) -> None:
    result = export(student, precision="auto", out=tmp_path / "bundle", prefer="size")
    assert result.selection is not None
    verdicts = {row.precision: row.verdict for row in result.selection.candidates}
    assert verdicts == {"fp32": "passed", "fp16": "chosen", "w8": "not made", "int8": "not made"}


@pytest.mark.slow
def test_auto_for_a_device_tries_what_the_device_runs_and_does_not_time_it_here(
    student: Path, photos: Path, tmp_path: Path
) -> None:
    result = export(
        student, precision="auto", profile="raspberry-pi-5", calibration=photos,
        out=tmp_path / "bundle", min_agreement=0.95,
    )  # fmt: skip
    assert result.selection is not None
    assert [row.precision for row in result.selection.candidates] == ["int8", "w8", "fp32"]
    assert result.precision == "int8"
    assert result.quantization is not None
    assert result.quantization.scheme == "arm"
    assert result.speed is None
    assert all(row.median_ms is None for row in result.selection.candidates)


@pytest.mark.slow
def test_int8_is_compared_with_float_and_warned_of_if_slower(
    made_int8: Path, student: Path, photos: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    speed = read_bundle(made_int8).manifest.speed
    assert speed is not None
    assert speed.timed
    assert speed.baseline == "fp32"
    assert set(speed.compared) == {"fp32", "int8"}

    def slow(runs: dict[str, object], *, baseline: str) -> dict[str, ModelSpeed]:
        return {
            name: ModelSpeed(
                median_ms=1, p10_ms=1, p90_ms=1, n=10, speedup=1 if name == baseline else 0.5
            )
            for name in runs
        }

    monkeypatch.setattr(builder, "compare_speed", slow)
    export(
        student, precision="int8", calibration=photos, out=tmp_path / "bundle",
        min_agreement=0.95,  # as `made_int8`: plain ranges and no layer in float keep no more
        quantization={"max_float_layers": 0, "calibrator": "minmax"},
    )  # fmt: skip
    assert "warning: int8 is not faster than fp32 here: 0.50 times" in capsys.readouterr().err


@pytest.mark.slow
def test_another_processors_integers_are_not_timed(
    student: Path, many_photos: Path, tmp_path: Path
) -> None:
    other = "arm" if scheme_of_this_machine() == "x86" else "x86"
    result = export(
        student, precision="int8", scheme=other, calibration=many_photos, out=tmp_path / "bundle",
        quantization={"max_float_layers": 0, "calibrator": "minmax"}, keep_float=["linear"],
        min_agreement=0.95,
    )  # fmt: skip
    assert result.speed is not None
    assert not result.speed.timed
    # It read "onnxruntime CPU on this machine, which has other integers than arm is no measure".
    assert result.speed.reason == (
        f"scheme {other} is computed otherwise here than on its device (by onnxruntime CPU)"
    )
    assert result.quantization is not None
    assert result.quantization.float_operators["linear"] == "asked for by --keep-float linear"


@pytest.mark.slow
def test_int8_can_learn_from_the_float_student(
    student: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Photos beyond those that calibrate are what it learns on, and none of the proof's."""
    learnt_on: list[int] = []

    def watched(*arguments: Any, **options: Any) -> TensorScales:
        learnt_on.append(len(arguments[4]))
        return recover(*arguments, **options)

    monkeypatch.setattr(quantize_run, "recover", watched)
    result = export(
        student, precision="int8", calibration=photos, calibration_count=12, recover=True,
        out=tmp_path / "bundle", speed=False, verify=False,
        quantization={"max_float_layers": 0, "calibrator": "minmax", "recovery_steps": 2},
    )  # fmt: skip
    assert result.quantization is not None
    assert result.quantization.tried.keys() == {
        "minmax", "minmax + bias correction", "recovery"
    }  # fmt: skip
    assert learnt_on == [20]


@pytest.mark.parametrize(
    ("calibration_count", "recover", "counting"),
    [
        # tests/export/quantize/search/test_photo_split.py deals out photos without an export, and
        # the test of learning above sees that an export hands the count on.
        pytest.param(12, False, 20, marks=pytest.mark.slow),  # all that 64 leave beside a proof
        pytest.param(20, False, 20, marks=pytest.mark.slow),  # fewer left than judge already
        pytest.param(10, True, 11, marks=pytest.mark.slow),  # half: the others are learnt on
        pytest.param(12, True, 12, marks=pytest.mark.slow),
    ],
)
def test_decisions_are_counted_by_photos_that_chose_nothing(
    student: Path,
    photos: Path,
    tmp_path: Path,
    calibration_count: int,
    *,
    recover: bool,
    counting: int,
) -> None:
    result = export(
        student, precision="int8", calibration=photos, calibration_count=calibration_count,
        recover=recover, out=tmp_path / "bundle", speed=False, verify=False,
        quantization={"max_float_layers": 0, "calibrator": "minmax", "recovery_steps": 2},
    )  # fmt: skip
    record = result.quantization
    assert record is not None
    assert (record.photos.ranking, record.photos.acceptance) == (
        calibration_count, counting
    )  # fmt: skip
    assert record.agreement is not None
    # A share of so many photos.
    assert record.agreement * counting == pytest.approx(round(record.agreement * counting))


def test_recovery_is_about_integers(student: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--recover is about int8: with --precision fp16"):
        export(student, precision="fp16", recover=True, out=tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()


# At 160 px. `NAME=FILE` is read as for `evaluate`, tests/distill/evaluation/test_evaluate.py.
@pytest.mark.slow
def test_a_timm_network_with_its_checkpoint_is_exported_as_a_student_is(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = timm.create_model("test_efficientnet", num_classes=5).eval()
    torch.save({"state_dict": model.state_dict()}, tmp_path / "weights.pth")
    result = export(f"test_efficientnet={tmp_path / 'weights.pth'}", out=tmp_path / "bundle")
    bundle = read_bundle(result.bundle)
    assert bundle.manifest.preprocess.image_size == 160
    assert verify(result.bundle).passed


def test_the_docstring_of_export_has_every_argument() -> None:
    # They were lost when the mark that they replaced was renamed.
    text = export.__doc__ or ""
    for name in inspect.signature(export).parameters:
        assert f"    {name}: " in text
