"""Files of LiteRT: what is written is read, and what is broken is told."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

pytest.importorskip("ai_edge_litert", reason="pip install 'edgeseed[litert]'")

from edgeseed.export.targets.litert.flatbuffer import (
    File,
    ModelBuilder,
    Scales,
    pack,
    unpack,
)

WEIGHTS = np.arange(12, dtype=np.int8).reshape(3, 4)
PER_CHANNEL = Scales(
    scale=np.array([0.5, 1, 2], np.float32), zero_point=np.zeros(3, np.int64), axis=0
)


def built(*, unread: bool = False) -> bytes:
    """x -> fully connected -> relu -> y."""
    builder = ModelBuilder()
    x = builder.tensor("x", (1, 4), "float32")
    if unread:
        builder.operator("RELU", [x], [builder.tensor("nobody reads it", (1, 4), "float32")])
        builder.constant("nor this", np.ones(5, np.float32))
    weights = builder.constant("w", WEIGHTS, scales=PER_CHANNEL)
    h, y = (builder.tensor(name, (1, 3), "float32") for name in "hy")
    builder.operator(
        "FULLY_CONNECTED", [x, weights, -1], [h], options="FullyConnectedOptions", version=9,
        asymmetricQuantizeInputs=True,
    )  # fmt: skip
    builder.operator("RELU", [h], [y])
    return builder.finish(
        name="g", inputs={"photo": x}, outputs={"embedding": y}, metadata={"note": "a text"}
    )


def test_tensors_operators_and_texts_come_back() -> None:
    file = File(built())
    assert [each.kind for each in file.operators] == ["FULLY_CONNECTED", "RELU"]
    first = file.operators[0]
    assert first.options.asymmetricQuantizeInputs
    assert first.inputs[2] == -1
    assert [file.name(at) for at in first.inputs[:2]] == ["x", "w"]
    assert file.is_constant(first.inputs[1])
    assert not file.is_constant(first.inputs[0])
    np.testing.assert_array_equal(file.constant(first.inputs[1]), WEIGHTS)
    assert file.metadata() == {"note": "a text"}
    assert file.makers()[file.operators[1].inputs[0]] == first


def test_integers_are_read_with_the_scale_of_their_channel() -> None:
    file = File(built())
    at = file.operators[0].inputs[1]
    np.testing.assert_array_equal(
        file.real(at, file.constant(at)), WEIGHTS * np.array([[0.5], [1], [2]])
    )
    assert file.scales(file.operators[0].inputs[0]) is None


def test_the_same_content_gives_the_same_bytes_and_what_nobody_reads_is_left_out() -> None:
    assert built() == built()
    assert File(built(unread=True)).tensors[0].name == b"x"
    assert [t.name for t in File(built(unread=True)).tensors] == [
        t.name for t in File(built()).tensors
    ]
    assert len(File(built(unread=True)).model.buffers) == len(File(built()).model.buffers)


def test_constants_begin_where_kernels_want_them() -> None:
    content = built()
    assert content.index(WEIGHTS.tobytes()) % 16 == 0
    # Changed and packed again they still do.
    again = pack(unpack(content))
    assert again.index(WEIGHTS.tobytes()) % 16 == 0


def test_a_constant_that_is_there_already_is_stored_once() -> None:
    builder = ModelBuilder()
    assert builder.constant("a", WEIGHTS) == builder.constant("b", WEIGHTS.copy())
    assert builder.constant("c", WEIGHTS.astype(np.float32)) != builder.constant("a", WEIGHTS)
    # Another shape is another tensor of the same bytes.
    number = len(builder.buffers)
    builder.constant("d", WEIGHTS.reshape(4, 3))
    assert len(builder.buffers) == number


@pytest.mark.parametrize("content", [b"", b"x" * 40, b"\0\0\0\0TFL3", built()[:200]])
def test_bytes_that_are_no_file_are_told(content: bytes) -> None:
    with pytest.raises(ValueError, match=r"does not begin as a LiteRT file|cut off|broken"):
        File(content)


def of_graph(change: Callable[[Any], None]) -> Callable[[Any], None]:
    return lambda model: change(model.subgraphs[0])


BROKEN: dict[str, Callable[[Any], None]] = {
    "it has no graph": lambda model: model.subgraphs.clear(),
    "is of an unknown kind": of_graph(lambda g: setattr(g.operators[0], "opcodeIndex", 9)),
    "which nothing gives": of_graph(lambda g: g.operators.pop(0)),
    "which nothing computes": of_graph(lambda g: g.operators.pop()),
    "is stored in buffer 99": of_graph(lambda g: setattr(g.tensors[0], "buffer", 99)),
    "has the shape": of_graph(
        lambda g: setattr(g.tensors[0], "shape", np.array([-1, 4], np.int32))
    ),
    "and its shape": of_graph(lambda g: setattr(g.tensors[1], "shape", np.array([3, 5], np.int32))),
    "scales along axis": of_graph(
        lambda g: setattr(g.tensors[1].quantization, "quantizedDimension", 1)
    ),
    "3 scales and 1 zero points": of_graph(
        lambda g: setattr(g.tensors[1].quantization, "zeroPoint", np.zeros(1, np.int64))
    ),
    "a signature names other inputs": lambda model: setattr(
        model.signatureDefs[0].inputs[0], "tensorIndex", 2
    ),
    "has no text": lambda model: setattr(model.metadata[0], "buffer", 77),
}


@pytest.mark.parametrize("message", BROKEN)
def test_what_refers_to_something_that_is_not_there_is_told(message: str) -> None:
    model = unpack(built())
    BROKEN[message](model)
    with pytest.raises(ValueError, match=message):
        File(pack(model))
