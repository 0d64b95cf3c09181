"""The agent as it runs on a device: one file, a process of its own, nothing of edgeseed there."""

import dataclasses
import hashlib
import json
import os
import subprocess
import sys
import types
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import fake_engine

from edgeseed.core.bundle import Bundle
from edgeseed.runtime.agent import job_file
from edgeseed.runtime.agent.__main__ import _feed, _saturating_cpu
from edgeseed.runtime.agent._pack import pack_agent
from edgeseed.runtime.agent.job_file import Job
from edgeseed.runtime.engine import EngineTensor

# Runs the agent as `python3 agent.pyz WORK` would, where nothing but numpy and the engine can be
# imported, and where each module called edgeseed must come out of the archive.
CLEAN = """
import runpy, sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"torch", "timm", "PIL", "onnx", "click", "rich", "sklearn"}:
            raise ImportError(name + " is not on the device")

agent, work = sys.argv[1:]
sys.meta_path.insert(0, Absent())
sys.argv = [agent, work]
try:
    runpy.run_path(agent, run_name="__main__")
except SystemExit as end:
    ours = [module for name, module in sys.modules.items() if name.startswith("edgeseed")]
    assert len(ours) > 5
    assert all(module.__file__.startswith(agent) for module in ours), ours
    sys.exit(end.code)
"""


def fake_work(folder: Path, **changes: Any) -> Path:
    """A work folder whose model the fake engine reads; needs no library but numpy."""
    golden = folder / job_file.BUNDLE / "golden"
    golden.mkdir(parents=True)
    model = {"weights": [[1.0, 2.0, 3.0]], "delay_ms": 1, **changes.pop("model", {})}
    (folder / job_file.BUNDLE / "model.json").write_text(json.dumps(model))
    images = np.random.default_rng(0).integers(0, 256, (4, 3, 8, 8)).astype(np.uint8)
    np.save(golden / "inputs.npy", images)
    means = images.astype(np.float32).mean(axis=(2, 3))
    expected = changes.pop("expected", means @ np.array([[1.0], [2.0], [3.0]], np.float32))
    np.savez(golden / "model.npz", embedding=expected)
    files = {
        str(path.relative_to(folder / job_file.BUNDLE)): hashlib.sha256(
            path.read_bytes()
        ).hexdigest()
        for path in sorted((folder / job_file.BUNDLE).rglob("*"))
        if path.is_file()
    }
    job = Job(
        engine="fake",
        model="model.json",
        unit="cpu",
        threads=1,
        protocol="instant",
        min_runs=8,
        min_seconds=0.02,
        max_seconds=5,
        golden_tolerance=1e-3,
        files=files,
    )
    dataclasses.replace(job, **changes).write(folder / job_file.JOB)
    pack_agent(folder / job_file.AGENT, engine="onnxruntime")
    with zipfile.ZipFile(folder / job_file.AGENT, "a") as archive:
        archive.write(fake_engine.__file__, "edgeseed/runtime/engines/fake.py")
    return folder


def run(work: Path, python: str = sys.executable) -> tuple[int, list[dict[str, Any]], str]:
    """Exit code, events, stderr of the agent."""
    command = [python, "-I", "-c", CLEAN, str(work / job_file.AGENT), str(work)]
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=60, check=False, env=environment
    )
    return done.returncode, [json.loads(line) for line in done.stdout.splitlines()], done.stderr


def measurement(work: Path) -> dict[str, Any]:
    text = (work / job_file.RESULT / job_file.MEASUREMENT).read_text()
    values: dict[str, Any] = json.loads(text)
    return values


def error(work: Path) -> dict[str, Any]:
    code, events, _ = run(work)
    assert code == 1
    assert not (work / job_file.RESULT / job_file.MEASUREMENT).exists()
    return events[-1]


def test_a_result_that_waits_to_be_fetched_is_not_one_left_behind(tmp_path: Path) -> None:
    # A second run's clean-up took the folder of a first one whose agent had just ended.
    work = fake_work(tmp_path)
    assert run(work)[0] == 0
    assert not (work / "owner").exists()


def test_it_measures_where_neither_edgeseed_nor_torch_can_be_imported(tmp_path: Path) -> None:
    work = fake_work(tmp_path)

    code, events, stderr = run(work)

    assert (code, stderr) == (0, "")
    stages = [event["name"] for event in events if event["event"] == "stage"]
    assert stages == ["check", "load", "golden", "warm-up", "measure", "timed", "layers"]
    assert events[-1] == {"event": "done"}
    found = measurement(work)
    assert len(found["samples_ns"]) >= 8
    assert min(found["samples_ns"]) >= 1_000_000
    assert found["load_ns"] > 0
    assert found["first_run_ns"] >= 1_000_000
    assert found["golden"]["relative_error"]["embedding"] < 1e-6
    assert found["memory_model"]["peak_mib"] > 1


def onnx_work(work: Path, bundle: Bundle) -> Path:
    """A work folder with a real bundle."""
    work.mkdir()
    (work / job_file.BUNDLE).symlink_to(bundle.path)
    ship = {n: e.sha256 for n, e in bundle.manifest.files.items() if e.role == "ship"}
    fields = ("onnxruntime", "model.onnx", "cpu", 1, "instant", 8, 0.02, 5.0, 1e-3, ship)
    Job(*fields).write(work / job_file.JOB)
    pack_agent(work / job_file.AGENT, engine="onnxruntime")
    return work


@pytest.mark.parametrize(("layers", "limitations"), [
    ({"conv": 5000}, []),
    (None, []),
    # What was measured is kept, whatever happens to the layers afterwards.
    ("broken", ["layers were not timed: the profiler is gone"]),
])  # fmt: skip
def test_layers_are_timed_after_the_measurement(
    tmp_path: Path, layers: Any, limitations: list[str]
) -> None:
    work = fake_work(tmp_path, model={"layers": layers})

    code, events, _ = run(work)

    assert code == 0
    stages = [event["name"] for event in events if event["event"] == "stage"]
    assert stages[-3:] == ["measure", "timed", "layers"]
    found = measurement(work)
    assert found["limitations"] == limitations
    if isinstance(layers, dict):
        expected = {"name": "conv", "kind": "Conv", "unit": "cpu", "mean_ns": 5000}
        assert found["layers"]["layers"] == [expected]
        assert 3 <= found["layers"]["runs"] <= 40
    else:
        assert found["layers"] is None


def test_it_measures_a_real_bundle_with_onnxruntime(bundle: Bundle, tmp_path: Path) -> None:
    work = onnx_work(tmp_path / "work", bundle)

    code, _, stderr = run(work)

    assert (code, stderr) == (0, "")
    assert measurement(work)["placement"]["actual"] == "cpu"


def test_photos_are_run_and_their_outputs_kept(tmp_path: Path) -> None:
    work = fake_work(tmp_path)
    pixels = np.random.default_rng(1).integers(0, 256, (70, 3, 8, 8), dtype=np.uint8)
    np.savez(work / job_file.PHOTOS, pixels=pixels)

    code, events, _ = run(work)

    assert code == 0
    assert [e["runs"] for e in events if e.get("stage") == "photos"] == [32, 64]
    embedding = np.load(work / job_file.RESULT / job_file.OUTPUTS)["embedding"]
    means = pixels.astype(np.float64).mean(axis=(2, 3))
    np.testing.assert_allclose(embedding[:, 0], means @ [1, 2, 3], rtol=1e-4)


def test_a_wrong_model_is_never_timed(tmp_path: Path) -> None:
    # The weights with red and blue swapped: it runs, and answers something else.
    found = error(fake_work(tmp_path, model={"weights": [[3.0, 2.0, 1.0]]}))

    assert found["kind"] == "golden"
    assert "does not give its golden outputs" in found["message"]
    assert "embedding is off by" in found["message"]


@pytest.mark.parametrize(
    ("cpuinfo", "is_named"),
    [
        ("processor : 0\nflags : fpu avx2 avx512bw\n", True),
        ("processor : 0\nflags : fpu avx2 avx512_vnni\n", False),
        ("processor : 0\nflags : fpu avx2 avx_vnni\n", False),
        ("processor : 0\nFeatures : fp asimd asimddp\n", False),  # Arm
        (None, False),
    ],
)
def test_a_cpu_whose_sums_of_bytes_saturate_is_named(
    cpuinfo: str | None, is_named: bool, tmp_path: Path
) -> None:
    path = tmp_path / "cpuinfo"
    if cpuinfo is not None:
        path.write_text(cpuinfo)
    assert ("no VNNI" in _saturating_cpu(path)) == is_named


def test_outputs_that_are_no_numbers_are_never_timed(tmp_path: Path) -> None:
    found = error(fake_work(tmp_path, model={"weights": [[float("nan"), 0, 0]]}))

    assert found["kind"] == "golden"


def test_a_file_that_changed_on_the_way_is_named(tmp_path: Path) -> None:
    work = fake_work(tmp_path)
    path = work / job_file.BUNDLE / "model.json"
    path.write_text(path.read_text().replace("2.0", "2.1"))

    found = error(work)

    assert found["kind"] == "artifact"
    assert found["message"].startswith("model.json differs on the device")


def test_a_file_that_did_not_arrive_is_named(tmp_path: Path) -> None:
    work = fake_work(tmp_path)
    (work / job_file.BUNDLE / "golden" / "model.npz").unlink()

    assert error(work)["message"].startswith("golden/model.npz did not arrive")


def test_a_unit_that_the_device_lacks_is_refused(tmp_path: Path) -> None:
    found = error(fake_work(tmp_path, unit="gpu"))

    assert found == {
        "event": "error",
        "kind": "engine",
        "message": "fake has no unit 'gpu'; it has: cpu, npu",
    }


def test_an_unexpected_error_comes_back_in_one_line_with_its_trace_on_stderr(
    tmp_path: Path,
) -> None:
    code, events, stderr = run(fake_work(tmp_path, engine="no_such_engine"))

    assert code == 1
    assert events[-1]["kind"] == "unexpected"
    assert "no_such_engine" in events[-1]["message"]
    assert "Traceback" in stderr


def test_a_job_of_another_version_is_refused(tmp_path: Path) -> None:
    found = error(fake_work(tmp_path, schema_version=99))

    assert "schema 99, this agent reads 1" in found["message"]


def test_a_python_without_numpy_is_told_so(tmp_path: Path) -> None:
    # Its check could never be reached: the agent had imported numpy before.
    work = fake_work(tmp_path)
    command = [sys.executable, "-I", "-S", str(work / job_file.AGENT), str(work)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    assert (done.returncode, done.stderr) == (1, "")
    told = json.loads(done.stdout)["message"]
    assert "numpy cannot be imported by" in told
    assert "?install=venv" in told


def test_a_python_that_is_too_old_is_told_so(tmp_path: Path) -> None:
    work = fake_work(tmp_path)
    old = "import runpy, sys; sys.version_info = (3, 6, 9); runpy.run_path(sys.argv[1])"
    command = [sys.executable, "-I", "-c", old, str(work / job_file.AGENT)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    assert (done.returncode, done.stderr) == (1, "")
    assert "needs Python 3.8 or newer, and" in json.loads(done.stdout)["message"]
    assert "3.6.9" in json.loads(done.stdout)["message"]


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [((None, 3, 4, 5), "float32"), ((1, 4, 5, 3), "uint8"), ((1, 3, 3, 3), "uint8")],
)
def test_photos_are_given_in_the_order_and_type_of_the_engines_input(
    shape: tuple[int | None, ...], dtype: str
) -> None:
    engine: Any = types.SimpleNamespace(inputs=(EngineTensor("image", shape, dtype),))
    sizes = (2, *(size or 0 for size in shape[1:]))
    photos = np.arange(np.prod(sizes), dtype=np.uint8).reshape(sizes)
    is_last = shape == (1, 4, 5, 3)
    given = photos.transpose(0, 3, 1, 2) if is_last else photos

    (fed,) = _feed(engine, given).values()

    assert fed.dtype == dtype
    assert fed.flags.c_contiguous
    np.testing.assert_array_equal(fed, photos)
