"""LiteRT files that are broken: each is one clear line, and none ends this process."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeseed.core.errors import ArtifactError

pytest.importorskip("ai_edge_litert", reason="needs ai-edge-litert: pip install edgeseed[litert]")

from edgeseed.export.targets.litert.flatbuffer import ModelBuilder, Scales, pack, unpack
from edgeseed.export.targets.litert.model import LiteRTModel
from edgeseed.export.targets.litert.trial import try_model

RELU = 1


@pytest.fixture(scope="module")
def content() -> bytes:
    """A byte photo, as floats, and two sums of it."""
    builder = ModelBuilder()
    image = builder.tensor("image", (1, 8, 8, 3), "uint8", scales=Scales.of(1.0, 0))
    real = builder.tensor("real", (1, 8, 8, 3), "float32")
    builder.operator("DEQUANTIZE", [image], [real], version=2)
    coarse = builder.tensor("coarse", (1, 8, 8, 3), "int8", scales=Scales.of(2.0, -128))
    builder.operator("QUANTIZE", [real], [coarse], options="QuantizeOptions")
    more = builder.tensor("more", (1, 8, 8, 3), "int8", scales=Scales.of(4.0, -128))
    builder.operator(
        "ADD", [coarse, coarse], [more], options="AddOptions", fusedActivationFunction=RELU,
        version=2,
    )  # fmt: skip
    result = builder.tensor("result", (1, 8, 8, 3), "float32")
    builder.operator("DEQUANTIZE", [more], [result], version=2)
    shift = builder.constant("shift", np.ones((1, 1, 1, 3), np.float32))
    embedding = builder.tensor("embedding", (1, 8, 8, 3), "float32")
    builder.operator("ADD", [result, shift], [embedding], options="AddOptions")
    return builder.finish(
        name="sums", inputs={"image": image}, outputs={"embedding": embedding},
        metadata={"edgeseed.precision": "int8"},
    )  # fmt: skip


def tensor(model: Any, name: str) -> Any:
    return next(each for each in model.subgraphs[0].tensors if each.name.decode() == name)


def changed(content: bytes, change: Callable[[Any], None]) -> bytes:
    model = unpack(content)
    change(model)
    with warnings.catch_warnings():
        # What the schema's own classes say of numbers that do not fit.
        warnings.simplefilter("ignore")
        return pack(model)


def opened(content: bytes, folder: Path) -> LiteRTModel:
    path = folder / "model.tflite"
    path.write_bytes(content)
    return LiteRTModel(path, precision="fp32", quantization=None)


def test_a_whole_file_is_taken(content: bytes, tmp_path: Path) -> None:
    opened(content, tmp_path)


def almost_zero(model: Any) -> None:
    """XNNPACK aborts the process: the ratio of the scales is out of its range."""
    tensor(model, "more").quantization.scale = np.array([1.4e-39], np.float32)


def too_large(model: Any) -> None:
    """It would take 24 TiB."""
    for each in model.subgraphs[0].tensors:
        if each.buffer == 0:
            each.shape = np.array([1, 1 << 20, 1 << 20, 3], np.int32)


@pytest.mark.parametrize("fault", [almost_zero, too_large])
def test_what_would_end_the_process_is_one_line(
    content: bytes, tmp_path: Path, fault: Callable[[Any], None]
) -> None:
    with pytest.raises(ArtifactError, match="is not a model that LiteRT can load and run") as error:
        opened(changed(content, fault), tmp_path)
    assert "\n" not in str(error.value)


def test_a_process_that_is_ended_by_a_signal_says_which(content: bytes, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="is ended by SIGABRT"):
        opened(changed(content, almost_zero), tmp_path)


def test_a_file_that_does_not_come_to_an_end_is_given_up(content: bytes, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"m\.tflite .*does not end within 0 s"):
        try_model(content, source=tmp_path / "m.tflite", seconds=0.001)


def nameless_tensor(model: Any) -> None:
    model.subgraphs[0].tensors[1].name = None


def no_text(model: Any) -> None:
    model.metadata[0].buffer = 0


def bytes_for_text(model: Any) -> None:
    model.metadata[0].name = b"\xff\xfe"


def missing_operator(model: Any) -> None:
    del model.subgraphs[0].operators[1]


def missing_input(model: Any) -> None:
    model.subgraphs[0].inputs = np.zeros(0, np.int32)


def missing_graph(model: Any) -> None:
    model.subgraphs.clear()


def other_signature(model: Any) -> None:
    model.signatureDefs[0].outputs[0].tensorIndex = 12345


def unknown_operator(model: Any) -> None:
    model.subgraphs[0].operators[0].opcodeIndex = 99


def unknown_buffer(model: Any) -> None:
    tensor(model, "shift").buffer = 99


def too_few_bytes(model: Any) -> None:
    tensor(model, "shift").shape = np.array([1, 1, 1, 4], np.int32)


def strange_index(model: Any) -> None:
    model.subgraphs[0].outputs = np.array([-7], np.int32)


@pytest.mark.parametrize(
    ("fault", "problem"),
    [
        (nameless_tensor, "tensor 1 has no name"),
        (no_text, "metadata entry 'edgeseed.precision' has no text"),
        (bytes_for_text, "a metadata entry has no name"),
        (missing_operator, r"operator \d reads tensor \d+, which nothing gives"),
        (missing_input, "a graph has no inputs"),
        (missing_graph, "it has no graph"),
        (other_signature, "a signature names other outputs than its graph has"),
        (unknown_operator, "operator 0 is of an unknown kind"),
        (unknown_buffer, r"is stored in buffer 99 of \d+"),
        (too_few_bytes, "stores 12 bytes, and its shape .* wants 16"),
        (strange_index, "a graph refers to tensor -7"),
    ],
)
def test_a_file_that_refers_to_what_it_lacks_is_refused_by_what(
    content: bytes, tmp_path: Path, fault: Callable[[Any], None], problem: str
) -> None:
    # Each of these was a traceback, some of them only once the file was looked into.
    with pytest.raises(ArtifactError, match=f"is not a LiteRT model: it is broken: .*{problem}"):
        opened(changed(content, fault), tmp_path)
