"""An engine is built where it will run: here, behind ssh, or nowhere with a reason.

TensorRT is the stand-in of `tests/support/fake_tensorrt.py`, and the GPU is a small C library.
That the real TensorRT has what is called here is checked in `engines/test_tensorrt_api.py`.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from edgeseed.core.bundle import Bundle, read_bundle
from edgeseed.core.errors import ArtifactError, UsageError, WorkError
from edgeseed.runtime import build, profile
from edgeseed.runtime.device import Ended
from edgeseed.runtime.devices.host import HostDevice

NAME = "orin-sm8.7-trt10.3.0"


def papers(bundle: Bundle, name: str = NAME) -> dict[str, Any]:
    values: dict[str, Any] = json.loads(
        (bundle.path / "engines" / name / "engine.json").read_text()
    )
    return values


def test_an_engine_is_built_here_and_profiled(
    tensorrt_bundle: Any, nvidia: Any, instant: str, tmp_path: Path, monkeypatch: Any
) -> None:
    nvidia.enter(monkeypatch)
    bundle = tensorrt_bundle()

    result = build(bundle.path)

    assert Path(result.engine) == bundle.path / "engines" / NAME / "model.engine"
    assert Path(result.engine).is_file()
    found = papers(bundle)
    assert found == json.loads(json.dumps(result.to_dict()["record"]))
    assert (found["gpu"], found["compute_capability"], found["tensorrt"]) == (
        "Orin",
        "8.7",
        "10.3.0",
    )
    assert found["cuda"] == "12.6"
    assert found["strongly_typed"] == "flag"
    assert found["seconds"] > 0
    read_bundle(bundle.path)  # still whole: engines are beside what is sealed

    measured = profile(
        bundle.path, device_profile="jetson-orin-nano", protocol=instant, out=tmp_path / "r.json"
    )

    assert measured.engine.name == "tensorrt"
    assert measured.engine.version == "10.3.0"
    assert measured.engine.settings["engine_sha256"] == found["engine_sha256"]
    assert measured.placement.actual == "gpu"
    assert measured.accuracy is not None


def test_profiling_before_building_says_what_to_do(
    tensorrt_bundle: Any, nvidia: Any, tmp_path: Path, monkeypatch: Any
) -> None:
    nvidia.enter(monkeypatch)

    with pytest.raises(
        WorkError, match=r"no engine for Orin with TensorRT 10\.3\.0 .*edgeseed build"
    ):
        profile(
            tensorrt_bundle().path, device_profile="jetson-orin-nano", protocol="rapid",
            out=tmp_path / "r.json",
        )  # fmt: skip


@pytest.mark.slow
def test_engines_of_two_devices_lie_side_by_side(
    tensorrt_bundle: Any, nvidia: Any, monkeypatch: Any
) -> None:
    bundle = tensorrt_bundle()
    nvidia.enter(monkeypatch)
    build(bundle.path)
    nvidia.enter(monkeypatch, version="11.4.0.106")
    monkeypatch.setenv("FAKE_GPU", "NVIDIA L4")

    result = build(bundle.path)

    assert result.record.name == "nvidia-l4-sm8.7-trt11.4.0.106"
    assert result.record.strongly_typed == "always"
    assert {path.name for path in (bundle.path / "engines").iterdir()} == {NAME, result.record.name}
    read_bundle(bundle.path)


@pytest.mark.slow
def test_a_second_build_reuses_the_timings_and_replaces_the_engine(
    tensorrt_bundle: Any, nvidia: Any, monkeypatch: Any
) -> None:
    bundle = tensorrt_bundle()
    nvidia.enter(monkeypatch)

    first, second = build(bundle.path), build(bundle.path)

    assert not first.record.timing_cache_reused
    assert second.record.timing_cache_reused
    assert (bundle.path / "engines" / NAME / "timing.cache").read_bytes() == b"tt"
    assert [path.name for path in (bundle.path / "engines").iterdir()] == [NAME]


@pytest.mark.slow
def test_what_is_in_build_json_reaches_the_builder(
    tensorrt_bundle: Any, nvidia: Any, monkeypatch: Any
) -> None:
    def plan(version: str, **changes: Any) -> dict[str, Any]:
        bundle = tensorrt_bundle(f"b{len(changes)}-{version}", **changes)
        nvidia.enter(monkeypatch, version=version)
        content = Path(build(bundle.path).engine).read_bytes()
        values: dict[str, Any] = json.loads(content.split(b"\n")[1])
        return values

    typed, tf32 = 1 << 1, 3
    found = plan("10.3.0")
    assert found["flags"] == typed
    assert found["config"] == []  # TF32, on by default, was taken out; no FP16, no INT8
    assert found["workspace"] == {"0": 64 << 20}
    assert found["profiles"][0]["image"][2] == [8, 3, 16, 16]
    found = plan("11.4.0.106", tf32=True, workspace_mib=1)
    assert (found["flags"], found["config"]) == (0, [tf32])


def test_a_bundle_for_another_target_has_nothing_to_build(bundle: Bundle) -> None:
    with pytest.raises(UsageError, match="bundle for onnx, which has nothing to build"):
        build(bundle.path)


def test_without_tensorrt_the_error_says_where_to_build(
    tensorrt_bundle: Any, monkeypatch: Any
) -> None:
    with pytest.raises(WorkError, match=r"TensorRT is not installed .*--device ssh:USER@HOST"):
        build(tensorrt_bundle().path)


def test_without_a_gpu_the_error_says_where_to_build(
    tensorrt_bundle: Any, nvidia: Any, monkeypatch: Any
) -> None:
    nvidia.enter(monkeypatch)
    bundle = tensorrt_bundle()
    monkeypatch.setenv("FAKE_GPUS", "0")
    with pytest.raises(WorkError, match="CUDA shows no GPU here; build and run on the device"):
        build(bundle.path)

    monkeypatch.setenv("LD_LIBRARY_PATH", "/nowhere")
    with pytest.raises(WorkError, match="there is no NVIDIA driver here"):
        build(bundle.path)
    assert not (bundle.path / "engines").exists()


@pytest.mark.parametrize(
    ("version", "reason"),
    [
        (
            "8.6.2",
            r"TensorRT 8\.6\.2 has no strongly typed networks; 10\.3 or newer .*JetPack 6\.1",
        ),
        ("10.1.0", r"TensorRT 10\.1\.0 is older than 10\.3, which the bundle was made for"),
        ("12.0.1", r"TensorRT 12\.0\.1 is newer than what the bundle was made for \(10\.3, 11\)"),
    ],
)
def test_a_version_that_cannot_build_it_is_refused_in_one_line(
    tensorrt_bundle: Any, nvidia: Any, monkeypatch: Any, version: str, reason: str
) -> None:
    nvidia.enter(monkeypatch, version=version)
    with pytest.raises(WorkError, match=reason) as caught:
        build(tensorrt_bundle().path)
    assert "\n" not in str(caught.value)


def test_what_the_builder_complains_of_is_told(
    tensorrt_bundle: Any, nvidia: Any, monkeypatch: Any
) -> None:
    nvidia.enter(monkeypatch)
    with pytest.raises(WorkError, match="could not build the engine: Network has dynamic inputs"):
        build(tensorrt_bundle(profiles=[]).path)


def test_a_dla_that_is_not_there_is_an_error(
    tensorrt_bundle: Any, nvidia: Any, monkeypatch: Any
) -> None:
    nvidia.enter(monkeypatch)
    with pytest.raises(WorkError, match=r"dla_core 0 was asked for, but TensorRT .* shows 0 DLA"):
        build(tensorrt_bundle(dla_core=0).path)


def test_a_build_json_for_another_onnx_is_refused(
    tensorrt_bundle: Any, nvidia: Any, monkeypatch: Any
) -> None:
    nvidia.enter(monkeypatch)
    with pytest.raises(WorkError, match=r"model\.onnx is missing or not the file that build\.json"):
        build(tensorrt_bundle(model_sha256="0" * 64).path)


def test_an_edited_build_json_is_caught_by_the_seal(tensorrt_bundle: Any) -> None:
    bundle = tensorrt_bundle()
    path = bundle.path / "build.json"
    path.write_text(path.read_text().replace('"workspace_mib": 64', '"workspace_mib": 65'))
    with pytest.raises(ArtifactError, match=r"build\.json was changed after the export"):
        build(bundle.path)


def test_a_newer_build_json_names_the_way_out(
    tensorrt_bundle: Any, nvidia: Any, monkeypatch: Any
) -> None:
    nvidia.enter(monkeypatch)
    with pytest.raises(WorkError, match=r"build\.json has schema 9, this edgeseed reads 1; use a"):
        build(tensorrt_bundle(schema_version=9).path)


class Broken(HostDevice):
    """A device whose disk or cable damages what it sends back."""

    def __init__(self, *, damage: Any) -> None:
        self._damage = damage

    def run_agent(self, work: Path, *, on_line: Any) -> Ended:
        ended = super().run_agent(work, on_line=on_line)
        self._damage(work / "result" / "engine")
        return ended


def truncate(folder: Path) -> None:
    path = folder / "model.engine"
    path.write_bytes(path.read_bytes()[:-100])


@pytest.mark.parametrize(
    ("damage", "error", "reason"),
    [
        (truncate, ArtifactError, r"model\.engine came back damaged"),
        (shutil.rmtree, WorkError, "the device built no engine"),
    ],
)
def test_an_engine_that_arrives_damaged_is_not_kept(
    tensorrt_bundle: Any, nvidia: Any, monkeypatch: Any,
    damage: Any, error: type[Exception], reason: str,
) -> None:  # fmt: skip
    nvidia.enter(monkeypatch)
    bundle = tensorrt_bundle()
    with pytest.raises(error, match=reason):
        build(bundle.path, device=Broken(damage=damage))
    assert not (bundle.path / "engines").exists()
