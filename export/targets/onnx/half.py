"""A float32 ONNX model as a float16 one that says the type of every tensor itself.

Inputs and outputs stay float32 and are cast at the border; all between is float16, except what the
operator's definition wants in float32 (the scales of `Resize`) and what the caller keeps there.
Precision is then a property of the file, which is the only kind that TensorRT 11 knows and that
TensorRT 8.6 to 10 take as a strongly typed network.

Two well-kept converters were read first, `onnxruntime.transformers.float16` and the one of
onnxconverter-common that it descends from. They clip a constant that float16 cannot hold without a
word, push tiny values away from zero, append their casts at the end of the node list (which
`onnx.checker` refuses), and treat the scales of `QuantizeLinear` like any constant, down to a
scale of zero. So this is our own, driven by ONNX's operator schemas in place of lists of operators.

Quantized (QDQ) graphs:

* From opset 19 on, `QuantizeLinear` and `DequantizeLinear` take float16 scales, and what they read
  and give is float16; a scale that float16 rounds to zero is an error. Before opset 19 they are
  defined for float32 alone and get casts around them, which TensorRT cannot fuse: convert at 19.
* A bias in int32 has a scale of (input scale x weight scale), about 1e-6: float16 has few or no
  digits left there. So `DequantizeLinear` of a constant int32 is computed here, in float64, and the
  bias becomes a float16 constant; TensorRT has no int32 bias anyway. ONNX Runtime then has no bias
  to build an integer convolution from: a graph meant for its integer kernels is not for this file.
"""

import copy
import dataclasses
from collections.abc import Collection, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper
from torch import fx
from torch.export import ExportedProgram

from edgeseed.core.errors import WorkError
from edgeseed.core.registry import unknown_name
from edgeseed.export.call import Batch
from edgeseed.export.exact_normalisation import centre_on_whole_numbers
from edgeseed.export.program import example_input, trace
from edgeseed.export.rebuilding import rebuild

LARGEST = 65504.0
FIRST_OPSET_WITH_HALF_SCALES = 19
_FLOAT, _HALF = TensorProto.FLOAT, TensorProto.FLOAT16
_FLOAT32_LARGEST = float(np.finfo(np.float32).max)
_SCALED = ("QuantizeLinear", "DequantizeLinear")
_DEFAULT_DOMAIN = ("", "ai.onnx")


def half_program(
    program: ExportedProgram, *, shape: tuple[int, int, int], batch: Batch
) -> ExportedProgram:
    """The program with a normalisation that float16 computes exactly.

    A program that does not start with `(image - mean) * factor` comes back as it is.

    Args:
        program: A float program.
        shape: (C, H, W) of its photos.
        batch: As the program was built for.
    """
    graph = program.module(check_guards=False)
    assert isinstance(graph, fx.GraphModule)
    graph = copy.deepcopy(graph)  # the program's own tensors are the student's
    if not centre_on_whole_numbers(graph):
        return program
    return rebuild(graph, program) or trace(graph, example_input(shape, batch=batch), batch=batch)


def to_half(model: ModelProto, *, keep_float32: Collection[str] = ()) -> ModelProto:
    """A float16 copy of a float32 model.

    Args:
        model: Without subgraphs or functions; quantized or not. It is not changed.
        keep_float32: Operator types (`"Softmax"`) and names of nodes that compute in float32, with
            casts around them.

    Returns:
        The model, in which every tensor has one type, whatever runs it.

    Raises:
        UnknownNameError: If `keep_float32` names nothing in the model.
        WorkError: If a constant is out of float16's range, or the model has flow control; the
            message names the tensor or node.
    """
    _check_names(model, keep_float32)
    copied = ModelProto()
    copied.CopyFrom(model)
    _fold_integer_biases(copied)
    return _Converter(copied, keep_float32).convert()


def _check_names(model: ModelProto, keep_float32: Collection[str]) -> None:
    known = {node.op_type for node in model.graph.node} | {node.name for node in model.graph.node}
    for name in keep_float32:
        if name not in known:
            raise unknown_name("operator or node to keep in float32", name, known - {""})


def _fold_integer_biases(model: ModelProto) -> None:
    """`DequantizeLinear` of a constant int32 -> the float32 constant that it gives."""
    constants = {item.name: item for item in model.graph.initializer}
    kept = []
    for node in model.graph.node:
        parts = [constants[name] for name in node.input if name in constants]
        # Such a bias was made for integer kernels; in float16 it is a constant like any other.
        is_bias = (
            node.op_type == "DequantizeLinear"
            and len(parts) == len(node.input)
            and parts[0].data_type == TensorProto.INT32
        )
        if not is_bias:
            kept.append(node)
            continue
        integers, scales, *zeros = (
            numpy_helper.to_array(part).astype(np.float64) for part in parts
        )
        values = (integers - (zeros[0] if zeros else 0.0)) * scales
        bias = numpy_helper.from_array(values.astype(np.float32), node.output[0])
        model.graph.initializer.append(bias)
    del model.graph.node[:]
    model.graph.node.extend(kept)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class _Signature:
    """The types that a node is to have at its inputs and outputs, where they are floats."""

    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


class _Converter:
    """One conversion.

    Args:
        model: Is changed.
        keep_float32: As for `to_half`.
    """

    def __init__(self, model: ModelProto, keep_float32: Collection[str]) -> None:
        self.model = model
        self.keep_float32 = frozenset(keep_float32)
        self.opsets = {item.domain: item.version for item in model.opset_import}
        self.constants = {item.name: item for item in model.graph.initializer}
        # Integers and booleans keep their types.
        self.floats = _float_values(model)
        self.outputs = {value.name for value in model.graph.output}
        self.types: dict[str, int] = dict.fromkeys(
            (value.name for value in model.graph.input), _FLOAT
        )
        """Of each float value in the new graph."""
        self.names: dict[str, str] = {}
        """Values that go by another name now: the graph's outputs, before their cast."""
        self.casts: dict[tuple[str, int], str] = {}
        self.nodes: list[NodeProto] = []
        self.made: dict[str, TensorProto] = {}

    def convert(self) -> ModelProto:
        graph = self.model.graph
        for node in list(graph.node):
            self._visit(node)
        for value in graph.output:
            # An output that no node gives: a constant or the input itself.
            if value.name in self.constants:
                self.made[value.name] = self.constants[value.name]
        del graph.node[:], graph.initializer[:], graph.value_info[:]
        graph.node.extend(self.nodes)
        graph.initializer.extend(self.made.values())
        onnx.checker.check_model(self.model, full_check=True)
        return self.model

    def _visit(self, node: NodeProto) -> None:
        if any(item.type in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS)
               for item in node.attribute):  # fmt: skip
            raise WorkError(
                f"{_label(node)} has a graph inside; only graphs without flow control become "
                "float16"
            )
        kept = node.op_type in self.keep_float32 or node.name in self.keep_float32
        signature = _signature(node, self.opsets, kept=kept)
        for index, name in enumerate(node.input):
            if name:
                node.input[index] = self._read(name, signature.inputs[index], node)
        if signature.outputs and signature.outputs[0] == _HALF:
            self._convert_attributes(node)
        self.nodes.append(node)
        for index, name in enumerate(node.output):
            if name in self.floats:
                self._give(node, index, signature.outputs[index])

    # ------------------------------------------------------------------ reading and giving

    def _read(self, name: str, wanted: int, reader: NodeProto) -> str:
        """The name under which `name` has the type that the reader wants."""
        if name in self.constants:
            return self._constant(name, wanted, reader)
        name = self.names.get(name, name)
        if name not in self.types or self.types[name] == wanted:
            return name
        if (name, wanted) not in self.casts:
            self.casts[name, wanted] = self._cast(name, f"{name}_{_suffix(wanted)}", wanted)
        return self.casts[name, wanted]

    def _constant(self, name: str, wanted: int, reader: NodeProto) -> str:
        tensor = self.constants[name]
        if tensor.data_type != _FLOAT or wanted == _FLOAT:
            self.made[name] = tensor
            return name
        new_name = f"{name}_half"
        if new_name not in self.made:
            is_scale = reader.op_type in _SCALED and name == reader.input[1]
            self.made[new_name] = _half_tensor(tensor, new_name, is_scale=is_scale)
        return new_name

    def _give(self, node: NodeProto, index: int, kind: int) -> None:
        name = node.output[index]
        if name in self.outputs and kind == _HALF:
            # The file's outputs stay float32 and keep their names, whatever computes them.
            node.output[index] = self.names[name] = f"{name}_half"
            self.types[f"{name}_half"] = _HALF
            self._cast(f"{name}_half", name, _FLOAT)
        else:
            self.types[name] = kind

    def _cast(self, source: str, name: str, kind: int) -> str:
        self.nodes.append(helper.make_node("Cast", [source], [name], name=f"{name}_cast", to=kind))
        return name

    def _convert_attributes(self, node: NodeProto) -> None:
        """What a node carries in itself: of `Cast`, `Constant`, `ConstantOfShape`, ..."""
        for item in node.attribute:
            if item.name in ("to", "dtype", "output_dtype") and item.i == _FLOAT:
                item.i = _HALF
            elif item.type == onnx.AttributeProto.TENSOR and item.t.data_type == _FLOAT:
                tensor = _half_tensor(item.t, item.t.name or _label(node), is_scale=False)
                item.t.CopyFrom(tensor)
            elif node.op_type == "Constant" and item.name in ("value_float", "value_floats"):
                values = item.f if item.name == "value_float" else list(item.floats)
                array = np.asarray(values, np.float32)
                tensor = _half_tensor(
                    numpy_helper.from_array(array, _label(node)), _label(node), is_scale=False
                )
                item.CopyFrom(helper.make_attribute("value", tensor))


def _float_values(model: ModelProto) -> set[str]:
    """Names of all float32 tensors that nodes give."""
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
    return {
        value.name
        for value in [*inferred.value_info, *inferred.output]
        if value.type.tensor_type.elem_type == _FLOAT
    }


def _signature(node: NodeProto, opsets: dict[str, int], *, kept: bool) -> _Signature:
    """What a node's floats become: half where its schema allows, else float32."""
    domain = "" if node.domain in _DEFAULT_DOMAIN else node.domain
    schema = onnx.defs.get_schema(node.op_type, opsets[domain], domain)
    allowed = {item.type_param_str: set(item.allowed_type_strs) for item in schema.type_constraints}

    def kinds(formal: Any, count: int) -> Iterator[int]:
        for index in range(count):
            # The last formal parameter of a variadic operator stands for all that follow.
            types = formal[min(index, len(formal) - 1)].type_str
            has_half = "tensor(float16)" in allowed.get(types, {types})
            yield _HALF if has_half and not kept else _FLOAT

    return _Signature(
        inputs=tuple(kinds(schema.inputs, len(node.input))),
        outputs=tuple(kinds(schema.outputs, len(node.output))),
    )


def _half_tensor(tensor: TensorProto, name: str, *, is_scale: bool) -> TensorProto:
    values = numpy_helper.to_array(tensor)
    return numpy_helper.from_array(_half_values(values, tensor.name or name, is_scale), name)


def _half_values(values: npt.NDArray[Any], name: str, is_scale: bool) -> npt.NDArray[np.float16]:
    # The ends of float32 mean "no limit", in a Clip or a mask; so do those of float16.
    limitless = np.abs(values) == _FLOAT32_LARGEST
    values = np.where(limitless, np.copysign(LARGEST, values), values)
    finite = np.abs(values[np.isfinite(values)])
    with np.errstate(over="ignore"):
        half = values.astype(np.float16)
    if np.isinf(half[np.isfinite(values)]).any():
        raise WorkError(
            f"constant {name} holds {finite.max():.6g}, beyond float16's {LARGEST:.0f}; keep what "
            "reads it in float32 (option float32), or export fp32"
        )
    if is_scale and np.any(half <= 0):
        raise WorkError(
            f"scale {name} holds {float(values.min()):.3g}, which float16 rounds to zero; "
            "quantize with scales that float16 has, or keep what reads it in float32"
        )
    return half


def _suffix(kind: int) -> str:
    return "half" if kind == _HALF else "float"


def _label(node: NodeProto) -> str:
    return node.name or f"{node.op_type} -> {node.output[0]}"
