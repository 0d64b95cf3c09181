import dataclasses
import functools
import hashlib
import io
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from support import fake_tensorrt
from support.fake_device import FakeDevice, fake_measurement
from support.warm_up import warm_up_shortly

from edgeseed.core.bundle import Bundle, Manifest, TensorSpec, read_bundle, seal_bundle
from edgeseed.core.preprocess import Preprocess
from edgeseed.core.records import Provenance
from edgeseed.runtime import latency, result, validity
from edgeseed.runtime.accuracy import Accuracy, Share
from edgeseed.runtime.profiling import profile

SIZE = 16
DIM = 8
CLASSES = ("cat", "dog", "owl")


def tiny_model(*, seed: int = 0, classes: tuple[str, ...] | None = CLASSES) -> onnx.ModelProto:
    """image (N, 3, 16, 16) -> conv, relu, pool -> embedding (N, 8), logits (N, 3)."""
    rng = np.random.default_rng(seed)

    def constant(name: str, *shape: int) -> TensorProto:
        return numpy_helper.from_array(rng.normal(size=shape).astype(np.float32), name)

    nodes = [
        helper.make_node("Mul", ["image", "scale"], ["scaled"]),
        helper.make_node("Conv", ["scaled", "kernel"], ["features"], strides=[2, 2]),
        helper.make_node("Relu", ["features"], ["active"]),
        helper.make_node("GlobalAveragePool", ["active"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["embedding"]),
    ]
    constants = [
        numpy_helper.from_array(np.array(1 / 255, np.float32), "scale"),
        constant("kernel", DIM, 3, 3, 3),
    ]
    outputs = [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["batch", DIM])]
    if classes is not None:
        nodes.append(helper.make_node("MatMul", ["embedding", "head"], ["logits"]))
        constants.append(constant("head", DIM, len(classes)))
        shape: list[str | int] = ["batch", len(classes)]
        outputs.append(helper.make_tensor_value_info("logits", TensorProto.FLOAT, shape))
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 3, SIZE, SIZE])
    graph = helper.make_graph(nodes, "tiny", [image], outputs, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    model.ir_version = 8
    return model


def tiny_photos(n: int = 12, *, seed: int = 1) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.random.default_rng(seed).integers(0, 256, (n, 3, SIZE, SIZE), dtype=np.uint8)


@functools.cache  # hundreds of tests take one, and each would open it in ONNX Runtime to ask it
def bundle_files(*, seed: int, classes: tuple[str, ...] | None) -> dict[str, bytes]:
    """What lies in a bundle beside its manifest: path -> content."""
    model = tiny_model(seed=seed, classes=classes).SerializeToString()
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    images = tiny_photos(4).astype(np.float32)
    outputs = dict(zip(names, session.run(names, {"image": images}), strict=True))
    photos = tiny_photos()
    labels = session.run(["embedding"], {"image": photos.astype(np.float32)})[0].argmax(axis=1) % 3
    written = {name: io.BytesIO() for name in ("inputs", "model", "photos")}
    np.save(written["inputs"], images)
    np.savez(written["model"], **outputs)
    np.savez(written["photos"], pixels=photos, labels=labels)
    return {
        "model.onnx": model,
        "golden/inputs.npy": written["inputs"].getvalue(),
        "golden/model.npz": written["model"].getvalue(),
        "reference/photos.npz": written["photos"].getvalue(),
    }


def write_bundle(
    folder: Path, *, seed: int = 0, classes: tuple[str, ...] | None = CLASSES, **changes: Any
) -> Bundle:
    """A bundle as the export writes it, but for the float student."""
    for name, content in bundle_files(seed=seed, classes=classes).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    shape: tuple[int | str, ...] = ("batch", 3, SIZE, SIZE)
    manifest = Manifest(
        name="tiny",
        target="onnx",
        precision="fp32",
        model="model.onnx",
        inputs=(TensorSpec(name="image", shape=shape, dtype="float32", semantics="RGB 0..255"),),
        outputs=(),
        preprocess=Preprocess(image_size=SIZE, resize=SIZE),
        embedding_dim=DIM,
        classes=classes,
        quantization=None,
        gates=(),
        student_sha256="0" * 64,
        minimum_runtime={"onnxruntime": "1.14"},
        provenance=Provenance(),
    )
    seal_bundle(folder, dataclasses.replace(manifest, **changes))
    return read_bundle(folder)


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return write_bundle(tmp_path / "tiny-fp32")


MakeBundle = Callable[..., Bundle]


@pytest.fixture
def make_bundle(tmp_path: Path) -> MakeBundle:
    return lambda name="bundle", **changes: write_bundle(tmp_path / name, **changes)


@pytest.fixture
def instant(monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a protocol that takes a fraction of a second."""
    warm_up_shortly(monkeypatch)
    return _short_protocol(monkeypatch)


@pytest.fixture
def after_a_whole_warm_up(monkeypatch: pytest.MonkeyPatch) -> str:
    """The same, but for a warm-up of a second, in which a device's tools can begin to speak."""
    return _short_protocol(monkeypatch)


def _short_protocol(monkeypatch: pytest.MonkeyPatch) -> str:
    short = latency.LatencyProtocol("instant", min_runs=8, min_seconds=0.05, max_seconds=5)
    monkeypatch.setitem(latency.PROTOCOLS, "instant", short)
    return "instant"


MakeResult = Callable[..., result.Result]


@pytest.fixture
def make_result(bundle: Bundle, tmp_path: Path) -> MakeResult:
    """A result with planted samples: `make_result(median_ms=5, precision="int8", ...)`."""

    def make(
        *,
        median_ms: float = 5.0,
        spread: float = 0.03,
        n: int = 400,
        seed: int = 0,
        samples_ns: list[int] | None = None,
        folder: str = "tiny-fp32",
        precision: str = "fp32",
        size_bytes: int = 1_000_000,
        top1: float | None = 0.9,
        photos: str = "photos",
        machine: dict[str, Any] | None = None,
        reasons: tuple[validity.Reason, ...] | None = None,
        **measured: Any,
    ) -> result.Result:
        rng = np.random.default_rng(seed)
        drawn = rng.lognormal(np.log(median_ms * 1e6), spread, n).astype(int).tolist()
        measurement = fake_measurement(samples_ns or drawn, **measured)
        seen = dataclasses.replace(measurement.machine, **(machine or {}))
        measurement = dataclasses.replace(measurement, machine=seen)
        out = tmp_path / f"{folder}-{seed}.json"
        out.unlink(missing_ok=True)
        result = profile(bundle.path, device=FakeDevice(measurement), out=out)
        facts = dataclasses.replace(
            result.bundle,
            folder=folder,
            precision=precision,
            size_bytes=size_bytes,
            digest=folder.ljust(64, "0"),
        )
        accuracy = None if top1 is None else _accuracy(top1, photos)
        return dataclasses.replace(
            result,
            bundle=facts,
            accuracy=accuracy,
            # A few hundred samples stand for a whole protocol.
            reasons=tuple(reason for reason in result.reasons if reason.code != "too-short")
            if reasons is None
            else reasons,
        )

    return make


def _accuracy(top1: float, photos: str) -> Accuracy:
    share = Share.of(np.arange(200) < round(top1 * 200))
    return Accuracy(
        n=200,
        source=photos,
        fingerprint=photos.ljust(64, "f"),
        top1=share,
        float_top1=share,
        agreement=share,
        agreement_of="top1",
        cosine=0.999,
        note="",
    )


# --------------------------------------------------------------------------- TensorRT's stand-ins

SHIM = """import os
import sys

from fake_tensorrt import install

sys.modules["tensorrt"] = install(os.environ.get("FAKE_TENSORRT", "10.3.0"))
"""


@dataclasses.dataclass(frozen=True)
class Nvidia:
    """A machine with a GPU, as far as Python can tell: a libcuda, and a `tensorrt` to import.

    `FAKE_GPU`, `FAKE_GPUS`, `FAKE_GPU_BYTES` and `FAKE_TENSORRT` in the environment say which.
    """

    library: Path
    modules: Path

    def enter(self, monkeypatch: pytest.MonkeyPatch, *, version: str = "10.3.0") -> None:
        """For this process and the ones that it starts."""
        from edgeseed.runtime import cuda

        monkeypatch.setenv("LD_LIBRARY_PATH", str(self.library.parent))
        monkeypatch.setenv("PYTHONPATH", str(self.modules))
        monkeypatch.setenv("FAKE_TENSORRT", version)
        monkeypatch.setattr(cuda, "LIBRARIES", (str(self.library),))
        monkeypatch.setitem(sys.modules, "tensorrt", fake_tensorrt.install(version))

    def python(self, path: Path) -> Path:
        """A Python for a shell that inherits nothing, such as one behind ssh."""
        lines = [
            "#!/bin/sh",
            f"export LD_LIBRARY_PATH={self.library.parent} PYTHONPATH={self.modules}",
            f'exec {sys.executable} "$@"',
        ]
        path.write_text("\n".join(lines) + "\n")
        path.chmod(0o755)
        return path


@pytest.fixture(scope="session")
def nvidia(tmp_path_factory: pytest.TempPathFactory) -> Nvidia:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler: the stand-in for libcuda cannot be made")
    folder = tmp_path_factory.mktemp("nvidia")
    source = Path(__file__).parent / "cuda_stand_in.c"
    library = folder / "lib" / "libcuda.so.1"
    library.parent.mkdir()
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, source], check=True)
    (folder / "modules").mkdir()
    (folder / "modules" / "tensorrt.py").write_text(SHIM)
    shutil.copy(fake_tensorrt.__file__, folder / "modules")
    return Nvidia(library, folder / "modules")


def recipe(bundle: Path, **changes: Any) -> dict[str, Any]:
    """A `build.json` for the model of `write_bundle`."""
    shape = [3, SIZE, SIZE]
    return {
        "schema_version": 1,
        "model": "model.onnx",
        "model_sha256": hashlib.sha256((bundle / "model.onnx").read_bytes()).hexdigest(),
        "precision": "fp32",
        "minimum_tensorrt": "10.3",
        "made_for": ["10.3", "11"],
        "strongly_typed": {"10": "flag", "11": "always"},
        "profiles": [{"image": {"min": [1, *shape], "opt": [1, *shape], "max": [8, *shape]}}],
        "workspace_mib": 64,
        "tf32": False,
        "dla_core": None,
        "gpu_fallback": True,
        "timing_cache": "timing.cache",
        **changes,
    }


@pytest.fixture
def tensorrt_bundle(tmp_path: Path) -> MakeBundle:
    """A sealed bundle for TensorRT; changes go into its `build.json`."""

    def make(name: str = "tiny-tensorrt", **changes: Any) -> Bundle:
        bundle = write_bundle(
            tmp_path / name, target="tensorrt", minimum_runtime={"tensorrt": "10.3"}
        )
        path = bundle.path / "build.json"
        path.write_text(json.dumps(recipe(bundle.path, **changes), indent=1))
        seal_bundle(bundle.path, bundle.manifest)
        return read_bundle(bundle.path)

    return make
