"""Finds what keeps an ONNX file from being plain QDQ, which is all that QNN computes in integers.

A compiler for an NPU gives each stored tensor one scale and one zero point, and takes an operator
as integers where `DequantizeLinear` stands in front of every tensor that it reads and
`QuantizeLinear` behind. An operator that computes on bytes themselves, or bytes that are read
otherwise than they were written, keep ONNX Runtime from giving the NPU the whole graph.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping

import onnx
from onnx import NodeProto, TensorProto, numpy_helper

from edgeseed.core.records import QuantizationRecord
from edgeseed.export.target import Finding

_QUANTIZING = ("QuantizeLinear", "DequantizeLinear")
# What an operator of a scheme is in ONNX, one node each.
_NODES: Mapping[str, tuple[str, ...]] = {
    "conv": ("Conv",), "linear": ("Gemm", "MatMul"), "add": ("Add",), "mul": ("Mul",),
    "hardswish": ("HardSwish",), "hardsigmoid": ("HardSigmoid",), "sigmoid": ("Sigmoid",),
    "pool": ("GlobalAveragePool",), "max_pool": ("MaxPool",), "concat": ("Concat",),
}  # fmt: skip


def lint_plain_qdq(graph: onnx.GraphProto, record: QuantizationRecord) -> Iterator[Finding]:
    """One finding for each operator or tensor in another form.

    Args:
        graph: Of a file that is to be plain QDQ.
        record: The manifest's record of the quantization: which operators are integer.
    """
    constants = {item.name: item for item in graph.initializer}
    makers = {name: node for node in graph.node for name in node.output}
    readers: dict[str, list[NodeProto]] = defaultdict(list)
    for node in graph.node:
        for name in node.input:
            readers[name].append(node)
    yield from _two_readings(graph, makers, constants)
    for node in graph.node:
        if node.op_type not in _QUANTIZING and (name := _read_as_integers(node, makers)):
            yield Finding(node.output[0], f"{node.op_type} reads the integers {name} themselves")
    found = Counter(
        node.op_type
        for node in graph.node
        if _is_between(node, makers=makers, readers=readers, constants=constants)
    )
    wanted = Counter(record.integer_operators.values())
    for operator, kinds in _NODES.items():
        between = sum(found[kind] for kind in kinds)
        if between < wanted[operator]:
            yield Finding(
                operator,
                f"{wanted[operator]} were meant to stand between DequantizeLinear and "
                f"QuantizeLinear, {between} do",
            )


def _two_readings(
    graph: onnx.GraphProto,
    makers: Mapping[str, NodeProto],
    constants: Mapping[str, TensorProto],
) -> Iterator[Finding]:
    """Tensors that are read with another scale or zero point than they are stored with."""
    for node in graph.node:
        maker = makers.get(node.input[0]) if node.op_type == "DequantizeLinear" else None
        if maker is None:
            continue
        if maker.op_type != "QuantizeLinear":
            yield Finding(node.output[0], f"it reads what {maker.op_type} made of integers")
        elif _grid(maker, constants) != _grid(node, constants):
            yield Finding(node.output[0], "it reads integers otherwise than they are stored")


def _grid(node: NodeProto, constants: Mapping[str, TensorProto]) -> list[object]:
    return [numpy_helper.to_array(constants[name]).tolist() for name in node.input[1:]]


def _read_as_integers(node: NodeProto, makers: Mapping[str, NodeProto]) -> str:
    """The name of a stored tensor that an operator reads as it is, or nothing."""
    for name in node.input:
        if name in makers and makers[name].op_type == "QuantizeLinear":
            return str(name)
    return ""


def _is_between(
    node: NodeProto,
    *,
    makers: Mapping[str, NodeProto],
    readers: Mapping[str, list[NodeProto]],
    constants: Mapping[str, TensorProto],
) -> bool:
    """Whether all that a node reads is dequantized, and all that reads it quantizes."""
    values = [name for name in node.input if name and not _is_setting(name, constants)]
    reads = all(name in makers and makers[name].op_type == "DequantizeLinear" for name in values)
    users = readers[node.output[0]]
    return reads and bool(users) and all(user.op_type == "QuantizeLinear" for user in users)


def _is_setting(name: str, constants: Mapping[str, TensorProto]) -> bool:
    """Whether an input is a constant of whole numbers, such as a shape."""
    return name in constants and constants[name].data_type == TensorProto.INT64
