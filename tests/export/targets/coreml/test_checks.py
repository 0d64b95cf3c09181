"""Which systems a package is for, said by its option, its file and its manifest alike."""

import dataclasses
import importlib.util
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgeseed.core.bundle import read_bundle, seal_bundle
from edgeseed.core.errors import GateError, UsageError
from edgeseed.export import export, verify
from edgeseed.export.planning import make_plan
from edgeseed.export.targets.coreml.interpreter.reading import parse_package

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("coremltools") is None, reason="coremltools is not installed"
)
SYSTEMS = {
    "iOS15": (6, {"iOS": "15", "macOS": "12"}),
    "iOS16": (7, {"iOS": "16", "macOS": "13"}),
    "iOS17": (8, {"iOS": "17", "macOS": "14"}),
}


@pytest.fixture(scope="module")
def made(workplace: Path, student: Path, photos: Path) -> Callable[[str, str], Path]:
    def make(system: str, precision: str) -> Path:
        out = workplace / f"coreml-{system}-{precision}"
        if not out.exists():
            export(
                student, target="coreml", precision=precision, calibration=photos, out=out,
                options={"deployment_target": system},
                min_agreement=0.9 if precision == "w8" else None,
            )  # fmt: skip
        return out

    return make


@pytest.mark.slow
@pytest.mark.parametrize(
    ("system", "precision"),
    [
        # A system is set alike for all; each of these is converted once more.
        pytest.param("iOS15", "fp16", marks=pytest.mark.slow),
        pytest.param("iOS15", "fp32", marks=pytest.mark.slow),
        pytest.param("iOS16", "fp16", marks=pytest.mark.slow),
        ("iOS16", "w8"),
    ],
)
def test_a_package_for_older_systems_is_proven_and_says_so(
    made: Callable[[str, str], Path], system: str, precision: str
) -> None:
    bundle = made(system, precision)
    assert verify(bundle).passed
    manifest = read_bundle(bundle).manifest
    version, first = SYSTEMS[system]
    specification = parse_package(bundle / manifest.model)
    assert specification.specificationVersion == version
    assert specification.mlProgram.functions["main"].opset == f"CoreML{version - 1}"
    assert manifest.minimum_runtime == first
    assert f"iOS >= {first['iOS']}, macOS >= {first['macOS']}" in (
        bundle / "MODEL_CARD.md"
    ).read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("system", "precision", "message"),
    [
        ("iOS15", "w8", r"--precision w8: it needs iOS16, and deployment_target is iOS15; set "
                        r"deployment_target=iOS16, or make fp16 or fp32"),
        ("iOS16", "int8", r"--precision int8: it needs iOS17, .* or make fp16 or fp32 or w8"),
        ("iOS12", "fp16", r"deployment_target is 'iOS12'; known: iOS15, iOS16, iOS17"),
    ],
)  # fmt: skip
def test_what_needs_a_newer_system_is_refused_before_a_photo_is_read(
    student: Path, tmp_path: Path, system: str, precision: str, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        export(
            student, target="coreml", precision=precision, out=tmp_path / "out",
            calibration=tmp_path / "none", options={"deployment_target": system},
        )  # fmt: skip


def test_auto_names_the_precisions_that_a_system_does_not_read(tmp_path: Path) -> None:
    from edgeseed.export.call import ExportCall

    call = ExportCall(
        "student.safetensors", target="coreml", precision="auto", out=tmp_path / "out",
        calibration=tmp_path, options={"deployment_target": "iOS15"},
    )  # fmt: skip
    plan = make_plan(call, ["auto"])
    assert [variant.precision for variant in plan.variants] == ["fp16", "fp32"]
    assert {trial.name: trial.problem.partition(",")[0] for trial in plan.skipped} == {
        "w8": "it needs iOS16", "int8": "it needs iOS17",
    }  # fmt: skip


def edit(bundle: Path, change: Callable[[Any], None]) -> None:
    """Changes the specification in a package."""
    file = bundle / "model.mlpackage/Data/com.apple.CoreML/model.mlmodel"
    specification = parse_package(bundle / "model.mlpackage")
    change(specification)
    file.write_bytes(specification.SerializeToString(deterministic=True))


def older_version(specification: Any) -> None:
    specification.specificationVersion = 6


def newer_operations(specification: Any) -> None:
    """The file says iOS 16, and its operations are those of iOS 17."""
    function = specification.mlProgram.functions["main"]
    function.block_specializations["CoreML7"].CopyFrom(function.block_specializations["CoreML6"])
    del function.block_specializations["CoreML6"]
    function.opset = "CoreML7"


def an_older_system_than_weights_need(specification: Any) -> None:
    """Stored weights that iOS 15 cannot unpack, in a file that says iOS 15."""
    function = specification.mlProgram.functions["main"]
    function.block_specializations["CoreML5"].CopyFrom(function.block_specializations["CoreML6"])
    del function.block_specializations["CoreML6"]
    function.opset = "CoreML5"
    specification.specificationVersion = 6


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param(
            older_version,
            "specification: is of version 6, the manifest says 7",
            marks=pytest.mark.slow,
        ),
        (newer_operations, "main: has the operations of CoreML7, version 7 those of CoreML6"),
        (an_older_system_than_weights_need, "is of version 7, the specification 6"),
    ],
)
def test_a_file_for_other_systems_than_the_manifests_is_caught(
    made: Callable[[str, str], Path], tmp_path: Path, change: Callable[[Any], None], message: str
) -> None:
    bundle = Path(shutil.copytree(made("iOS16", "w8"), tmp_path / "bundle"))
    edit(bundle, change)
    seal_bundle(bundle, read_bundle(bundle, check=False).manifest)
    with pytest.raises(GateError) as caught:
        verify(bundle)
    (contents,) = [gate for gate in caught.value.result.gates if gate.name == "contents"]
    assert message in contents.detail


@pytest.mark.parametrize(
    ("system", "message"),
    [("iOS15", "is of version 7, and deployment_target is iOS15"), ("iOS9", "is 'iOS9'; known")],
)
def test_another_system_in_the_options_is_caught(
    made: Callable[[str, str], Path], tmp_path: Path, system: str, message: str
) -> None:
    bundle = Path(shutil.copytree(made("iOS16", "w8"), tmp_path / "bundle"))
    manifest = read_bundle(bundle).manifest
    export = manifest.provenance.export
    options = {**export.options, "deployment_target": system}
    export = dataclasses.replace(export, options=options)
    provenance = dataclasses.replace(manifest.provenance, export=export)
    seal_bundle(bundle, dataclasses.replace(manifest, provenance=provenance))
    with pytest.raises(GateError, match=message):
        verify(bundle)


def test_another_system_in_the_manifest_is_caught(
    made: Callable[[str, str], Path], tmp_path: Path
) -> None:
    bundle = Path(shutil.copytree(made("iOS16", "w8"), tmp_path / "bundle"))
    manifest = read_bundle(bundle).manifest
    first = {"iOS": "15", "macOS": "12"}
    seal_bundle(bundle, dataclasses.replace(manifest, minimum_runtime=first))
    with pytest.raises(GateError, match=r"minimum runtime: is .*16.*, the manifest says .*15"):
        verify(bundle)
