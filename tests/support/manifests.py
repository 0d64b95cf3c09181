"""A manifest without a bundle, for what only reads it."""

import dataclasses
from typing import Any

from edgeseed.core.bundle import GateResult, Manifest, TensorSpec
from edgeseed.core.records import PhotosRecord, Provenance
from support.export import CLASSES, tiny_preprocess

GATE = GateResult(name="parity", value=2e-5, limit=1e-4, passed=True, unit="relative", n=8)


def some_manifest(**changes: Any) -> Manifest:
    """Of a float ONNX bundle of the tests' tiny student."""
    manifest = Manifest(
        name="test_efficientnet", target="onnx", precision="fp32", model="model.onnx",
        inputs=(
            TensorSpec(
                name="image", shape=("batch", 3, 32, 32), dtype="float32",
                semantics="RGB pixels 0..255",
            ),
        ),
        outputs=(
            TensorSpec(
                name="embedding", shape=("batch", 24), dtype="float32", semantics="embedding"
            ),
            TensorSpec(name="logits", shape=("batch", 4), dtype="float32", semantics="logits"),
        ),
        preprocess=tiny_preprocess(), embedding_dim=24, classes=CLASSES, quantization=None,
        gates=(GATE,), student_sha256="ab" * 32, minimum_runtime={"onnxruntime": "1.15"},
        provenance=Provenance(
            photos=PhotosRecord(source="photos/", proof=32),
            environment={"edgeseed": "0.1.0"},
            model={"opset": 18, "ir_version": 8},
        ),
    )  # fmt: skip
    return dataclasses.replace(manifest, **changes)
