import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.chromium import CHROMIUM, WITHOUT_GPU, Chromium, start_chromium

from edgeseed.core.bundle import Bundle, read_bundle, seal_bundle
from edgeseed.core.errors import MissingDependencyError, WorkError
from edgeseed.runtime.agent.job_file import Job
from edgeseed.runtime.runners.browser.package import FILES, OrtWeb, find_ort_web
from edgeseed.runtime.runners.browser.work import Work, make_work


@pytest.fixture(scope="session")
def ort_web() -> OrtWeb:
    """onnxruntime-web, from the cache or by npm."""
    try:
        return find_ort_web(None, unit="wasm")
    except (MissingDependencyError, WorkError) as error:
        pytest.skip(f"no onnxruntime-web: {error}")


@pytest.fixture
def chromium() -> Iterator[Chromium]:
    if CHROMIUM is None:
        pytest.skip("there is no Chromium here")
    with start_chromium(*WITHOUT_GPU) as browser:
        yield browser


def make_job(bundle: Bundle, **changes: Any) -> Job:
    files = {n: e.sha256 for n, e in bundle.manifest.files.items() if e.role == "ship"}
    job = Job(
        engine="onnxruntime_web",
        model=bundle.manifest.model,
        unit="wasm",
        threads=2,
        protocol="instant",
        min_runs=8,
        min_seconds=0.05,
        max_seconds=5,
        golden_tolerance=1e-3,
        files=files,
    )
    return dataclasses.replace(job, **changes)


@pytest.fixture
def job(bundle: Bundle) -> Job:
    return make_job(bundle)


@pytest.fixture
def no_engine(tmp_path: Path) -> OrtWeb:
    """Files with the names of onnxruntime-web's, for tests in which no browser runs them."""
    for name in (*FILES["wasm"], *FILES["webgpu"]):
        (tmp_path / name).write_bytes(os.urandom(8))
    return OrtWeb(folder=tmp_path, version="0")


@pytest.fixture
def work(bundle: Bundle, job: Job, no_engine: OrtWeb) -> Work:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 3, 16, 16), dtype=np.uint8)
    return make_work(bundle, job, pixels=pixels, ort_web=no_engine, title="tiny, fp32")


@pytest.fixture
def int8_bundle(bundle: Bundle) -> Bundle:
    """The tiny bundle, quantized by ONNX Runtime's own tool."""
    import onnxruntime
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static

    class Photos(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime has no types
        def __init__(self) -> None:
            images = np.load(bundle.path / "golden" / "inputs.npy")
            self._feeds = iter([{"image": image[None]} for image in images])

        def get_next(self) -> Any:
            return next(self._feeds, None)

    model, golden = bundle.path / "model.onnx", bundle.path / "golden"
    quantize_static(
        model, model, Photos(), quant_format=QuantFormat.QDQ, per_channel=True,
        # Else a processor without VNNI cuts off sums here, and the browser does not.
        reduce_range=True,
    )  # fmt: skip
    session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    found = session.run(names, {"image": np.load(golden / "inputs.npy")})
    np.savez(golden / "model.npz", **dict(zip(names, found, strict=True)))
    manifest = dataclasses.replace(bundle.manifest, precision="int8")
    seal_bundle(bundle.path, manifest)
    return read_bundle(bundle.path)


@pytest.fixture
def slow_bundle(bundle: Bundle) -> Bundle:
    """The tiny bundle with matrix products of some milliseconds that change no output."""
    import onnx
    from onnx import helper, numpy_helper

    model = onnx.load(bundle.path / "model.onnx")
    graph = model.graph
    rng = np.random.default_rng(0)
    widths = {"there": (768, 2048), "back": (2048, 768)}
    for name, shape in widths.items():
        values = rng.normal(size=shape, scale=0.01).astype(np.float32)
        graph.initializer.append(numpy_helper.from_array(values, name))
    graph.initializer.append(numpy_helper.from_array(np.array(0, np.float32), "zero"))
    last, nodes = "flat", [helper.make_node("Flatten", ["image"], ["flat"])]
    for number in range(8):
        for name in widths:
            result = f"{name}_{number}"
            nodes.append(helper.make_node("MatMul", [last, name], [result]))
            last = result
    nodes.append(helper.make_node("ReduceMean", [last], ["mean"], keepdims=0))
    nodes.append(helper.make_node("Mul", ["mean", "zero"], ["nothing"]))
    flatten = next(node for node in graph.node if node.output[0] == "embedding")
    flatten.output[0] = "embedding_before"
    nodes.append(helper.make_node("Add", ["embedding_before", "nothing"], ["embedding"]))
    place = list(graph.node).index(flatten) + 1
    for node in reversed(nodes):
        graph.node.insert(place, node)
    onnx.save(model, bundle.path / "model.onnx")
    seal_bundle(bundle.path, bundle.manifest)
    return read_bundle(bundle.path)


def measurement(**changes: Any) -> dict[str, Any]:
    """What a page posts that ran the tiny bundle on a calm machine."""
    load = {"seconds": 1.0, "other_cores": None, "stolen_cores": None, "load_average": None}
    memory = {"resident_mib": None, "peak_mib": None}
    machine: dict[str, Any] = {
        "model": None, "cpu": "not told by the browser", "architecture": "arm-64",
        "system": "Android 16", "python": None, "logical_cores": 8, "usable_cores": 8,
        "cpu_quota": None, "memory_mib": None, "governors": [], "frequency_mhz": {},
        "container": None, "virtual_machine": None,
    }  # fmt: skip
    values = {
        "runner": "browser",
        "machine": machine,
        "numpy": None,
        "engine_version": "1.30.0",
        "load_ns": 40_000_000,
        "first_run_ns": 9_000_000,
        "settings": {"provider": "wasm"},
        "limitations": [],
        "placement": {"requested": "wasm", "actual": "wasm", "nodes": {"wasm": 6}, "share": 1},
        "golden": {
            "n": 4,
            "relative_error": {"embedding": 1e-7, "logits": 1e-7},
            "tolerance": 1e-3,
        },
        "samples_ns": [1_000_000] * 20,
        "elapsed_ns": 20_100_000,
        "cpu_ns": None,
        "warm_up": {"runs": 10, "seconds": 1.0, "steady": True},
        "load_before": load,
        "load_during": load,
        "memory_before": memory,
        "memory_library": memory,
        "memory_model": memory,
        "thermals": [None, None],
        "power": None,
        "power_unavailable": "a browser does not tell power",
    }
    return {**values, **changes}
