"""The TensorRT engine on its stand-in: numbers, shapes, and what it refuses because of whose."""

import json
import shutil
from typing import Any

import numpy as np
import onnxruntime
import pytest

from edgeseed.core.bundle import Bundle
from edgeseed.runtime import tensorrt_engines
from edgeseed.runtime.agent._build import build_engine
from edgeseed.runtime.engine import EngineError
from edgeseed.runtime.engines.tensorrt import TensorRTEngine


@pytest.fixture
def built(tensorrt_bundle: Any, nvidia: Any, monkeypatch: pytest.MonkeyPatch) -> Bundle:
    nvidia.enter(monkeypatch)
    bundle: Bundle = tensorrt_bundle()
    build_engine(bundle.path, bundle.path / "engines" / "here")
    return bundle


def open_(bundle: Bundle, *, unit: str = "gpu", threads: int = 1) -> TensorRTEngine:
    return TensorRTEngine.open(bundle.path / "model.onnx", unit=unit, threads=threads)


def photos(n: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.random.default_rng(n).integers(0, 256, (n, 3, 16, 16)).astype(np.float32)


def change_papers(bundle: Bundle, **changes: Any) -> None:
    path = bundle.path / "engines" / "here" / "engine.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_it_gives_what_the_onnx_gives_for_every_batch_in_turn(built: Bundle) -> None:
    engine = open_(built)
    session = onnxruntime.InferenceSession(
        built.path / "model.onnx", providers=["CPUExecutionProvider"]
    )
    for n in (1, 8, 3, 1):
        found = engine.infer({"image": photos(n)})
        expected = session.run(["embedding", "logits"], {"image": photos(n)})
        np.testing.assert_array_equal(found["embedding"], expected[0])
        np.testing.assert_array_equal(found["logits"], expected[1])
    engine.close()


def test_results_of_one_run_survive_the_next(built: Bundle) -> None:
    engine = open_(built)
    first = engine.infer({"image": photos(1)})["embedding"]
    kept = first.copy()
    engine.infer({"image": photos(2)})
    np.testing.assert_array_equal(first, kept)
    engine.close()


def test_it_says_what_goes_in_and_out_and_where_it_runs(built: Bundle) -> None:
    engine = open_(built)
    assert [(s.name, s.shape, s.dtype) for s in engine.inputs] == [
        ("image", (None, 3, 16, 16), "float32")
    ]
    assert [(s.name, s.shape) for s in engine.outputs] == [
        ("embedding", (None, 8)),
        ("logits", (None, 3)),
    ]
    assert (engine.placement.requested, engine.placement.actual) == ("gpu", "gpu")
    assert engine.placement.share == 1.0
    assert engine.settings["strongly_typed"] == "flag"
    assert TensorRTEngine.version() == "10.3.0"
    engine.close()


def test_a_batch_beyond_the_profile_says_which_knob_helps(built: Bundle) -> None:
    engine = open_(built)
    with pytest.raises(EngineError, match=r"at most \(8, 3, 16, 16\); .*--set max_batch"):
        engine.infer({"image": photos(9)})
    engine.close()


@pytest.mark.parametrize(
    ("unit", "threads", "reason"),
    [
        ("npu", 1, "tensorrt has no unit 'npu'; it has: gpu, dla"),
        ("gpu", 4, "threads=4 means nothing to tensorrt"),
        ("dla", 1, "unit dla was asked for, the engine was built for gpu"),
    ],
)
def test_what_it_cannot_do_is_never_done_otherwise(
    built: Bundle, unit: str, threads: int, reason: str
) -> None:
    with pytest.raises(EngineError, match=reason):
        open_(built, unit=unit, threads=threads)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"gpu": "Xavier"}, "it was built for GPU Xavier, here is Orin"),
        ({"compute_capability": "7.2"}, r"it was built for compute capability 7\.2, here is 8\.7"),
        ({"tensorrt": "10.16.2.10"}, r"it was built for TensorRT 10\.16\.2\.10, here is 10\.3\.0"),
        ({"model_sha256": "0" * 64}, "it was built from another model"),
        ({"recipe_sha256": "0" * 64}, "build.json has changed since it was built"),
        ({"engine_sha256": "0" * 64}, "model.engine was changed after it was built"),
    ],
)
def test_an_engine_that_belongs_elsewhere_is_refused_with_the_reason(
    built: Bundle, changes: dict[str, Any], reason: str
) -> None:
    change_papers(built, **changes)
    with pytest.raises(EngineError, match=rf"no engine for Orin .*here: {reason}.*build one"):
        open_(built)


def test_a_truncated_engine_is_refused(built: Bundle) -> None:
    path = built.path / "engines" / "here" / "model.engine"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(EngineError, match=r"model\.engine is missing or truncated"):
        open_(built)


def test_papers_that_are_no_papers_are_refused(built: Bundle) -> None:
    path = built.path / "engines" / "here" / "engine.json"
    path.write_text(path.read_text()[:-20])
    with pytest.raises(EngineError, match=r"engine\.json is missing or damaged .*build the engine"):
        open_(built)


def test_the_right_engine_is_found_among_others(built: Bundle) -> None:
    shutil.copytree(built.path / "engines" / "here", built.path / "engines" / "a-copy")
    change_papers(built, gpu="Xavier")
    engine = open_(built)
    assert engine.settings["gpu"] == "Orin"
    engine.close()


def test_an_engine_that_tensorrt_cannot_open_gives_its_reason(built: Bundle) -> None:
    path = built.path / "engines" / "here" / "model.engine"
    path.write_bytes(b"x" * path.stat().st_size)
    change_papers(built, engine_sha256=tensorrt_engines.sha256(path))
    with pytest.raises(EngineError, match=r"cannot open the engine: .*magicTag"):
        open_(built)


def test_too_little_memory_on_the_gpu_is_said_in_words(
    built: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_GPU_BYTES", "100")
    with pytest.raises(EngineError, match="the GPU is out of memory"):
        open_(built)
