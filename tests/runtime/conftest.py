import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgeseed.core.bundle import Bundle, Manifest, TensorSpec, read_bundle, seal_bundle
from edgeseed.core.preprocess import Preprocess
from edgeseed.runtime import protocol, validity
from edgeseed.runtime.accuracy import Accuracy, Share
from edgeseed.runtime.devices._fake import FakeDevice, fake_measurement
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
        shape = ["batch", len(classes)]
        outputs.append(helper.make_tensor_value_info("logits", TensorProto.FLOAT, shape))
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 3, SIZE, SIZE])
    graph = helper.make_graph(nodes, "tiny", [image], outputs, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    model.ir_version = 8
    return model


def tiny_photos(n: int = 12, *, seed: int = 1) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.random.default_rng(seed).integers(0, 256, (n, 3, SIZE, SIZE), dtype=np.uint8)


def write_bundle(
    folder: Path, *, seed: int = 0, classes: tuple[str, ...] | None = CLASSES, **changes: Any
) -> Bundle:
    """A bundle as the export writes it, but for the float student."""
    model = tiny_model(seed=seed, classes=classes)
    (folder / "golden").mkdir(parents=True)
    (folder / "reference").mkdir()
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    names = [output.name for output in session.get_outputs()]
    images = tiny_photos(4).astype(np.float32)
    outputs = dict(zip(names, session.run(names, {"image": images}), strict=True))
    np.save(folder / "golden" / "inputs.npy", images)
    np.savez(folder / "golden" / "model.npz", **outputs)
    photos = tiny_photos()
    labels = session.run(["embedding"], {"image": photos.astype(np.float32)})[0].argmax(axis=1) % 3
    np.savez(folder / "reference" / "photos.npz", pixels=photos, labels=labels)
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
        provenance={},
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
    from edgeseed.runtime import latency

    short = latency.Protocol("instant", min_runs=8, min_seconds=0.05, max_seconds=5)
    monkeypatch.setitem(latency.PROTOCOLS, "instant", short)
    return "instant"


MakeResult = Callable[..., protocol.Result]


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
        machine: dict[str, Any] | None = None,
        reasons: tuple[validity.Reason, ...] | None = None,
        **measured: Any,
    ) -> protocol.Result:
        rng = np.random.default_rng(seed)
        drawn = rng.lognormal(np.log(median_ms * 1e6), spread, n).astype(int).tolist()
        measurement = fake_measurement(samples_ns or drawn, **measured)
        measurement["machine"] |= machine or {}
        measurement["elapsed_ns"] = max(measurement["elapsed_ns"], 10_000_000_000)
        result = profile(
            bundle.path, device=FakeDevice(measurement), out=tmp_path / f"{folder}-{seed}.json"
        )
        facts = dataclasses.replace(
            result.bundle,
            folder=folder,
            precision=precision,
            size_bytes=size_bytes,
            digest=folder.ljust(64, "0"),
        )
        accuracy = None if top1 is None else _accuracy(top1)
        return dataclasses.replace(
            result,
            bundle=facts,
            accuracy=accuracy,
            reasons=result.reasons if reasons is None else reasons,
        )

    return make


def _accuracy(top1: float) -> Accuracy:
    share = Share.of(np.arange(200) < round(top1 * 200))
    return Accuracy(
        n=200,
        source="photos",
        fingerprint="f" * 64,
        top1=share,
        float_top1=share,
        agreement=share,
        agreement_of="top1",
        cosine=0.999,
        note="",
    )
