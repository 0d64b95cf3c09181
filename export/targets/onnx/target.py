"""ONNX for ONNX Runtime on CPUs, Android and in browsers.

Opset 18 in IR version 8: what ONNX Runtime reads since 1.14 (February 2023), on desktops, in
`onnxruntime-android`, `onnxruntime-objc` and `onnxruntime-web` alike. Later opsets have nothing
that these networks need: per-channel `DequantizeLinear` is of opset 13, `Clip` on bytes of opset
12.

int8 is the QDQ form: `DequantizeLinear -> operator -> QuantizeLinear`. ONNX Runtime replaces each
such group by an integer kernel when it loads the file. It follows the scheme: `x86` (uint8
activations, the fast path of VNNI and AMX), `arm` (int8), or for Qualcomm's NPU `qnn` (uint8) and
`qnn-w8a16` (uint16, of which ONNX knows from opset 21 on).

`w8` is for size alone: weights are stored as bytes and unpacked once, when the file is loaded.
`fp16` halves the file; it is for engines with half-precision kernels (WebGPU, Arm). Where there are
none, as on x86, ONNX Runtime computes in float32 with casts in between, and is slower for it.
"""

import contextlib
import copy
import dataclasses
import io
import logging
import operator
import platform
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import onnx
import torch
from onnx import ModelProto, NodeProto

from edgeseed.core.bundle import GateResult, Manifest
from edgeseed.core.errors import UsageError, WorkError
from edgeseed.core.files import atomic_file, raise_shortage
from edgeseed.core.names import split_names
from edgeseed.export.added_outputs import PROBABILITIES, added_tensors
from edgeseed.export.file_metadata import file_metadata
from edgeseed.export.program import INPUT_NAME
from edgeseed.export.quantize.scales import ops
from edgeseed.export.quantize.scheme import Scheme
from edgeseed.export.quantize.schemes import SCHEMES
from edgeseed.export.rebuilding import value_of
from edgeseed.export.target import (
    Finding,
    Model,
    NotRun,
    Precision,
    Target,
    WriteRequest,
    WrittenModel,
)
from edgeseed.export.targets.onnx.byte_weights import SMALLEST_COMPRESSED, store_as_bytes
from edgeseed.export.targets.onnx.checks import check_file
from edgeseed.export.targets.onnx.half import half_program, to_half
from edgeseed.export.targets.onnx.model import OnnxModel, open_onnx
from edgeseed.export.targets.onnx.npu import npu_gate

MODEL_FILE = "model.onnx"
DEFAULT_OPSET = 18
_CONVERTING = "converting to ONNX"
_ATTENTION = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal", "scale", "enable_gqa")
_DIMENSIONS_OF_ATTENTION = 4  # photos, heads, places, channels: what the exporter knows
_IR_VERSION = 8
_FIRST_RUNTIME = {18: "1.14", 19: "1.15", 20: "1.17", 21: "1.20", 22: "1.21", 23: "1.23"}
# Tried with files of every precision (see tests/export/targets/onnx/runtime_versions.json): fp16
# gives wrong numbers on CPUs in 1.17 to 1.19, and crashes 1.17 and 1.18 for the web.
_FIRST_WITH_HALF = "1.20"
_FIRST_WITH_MINIMUM_OF_BYTES = "1.24"
_FIRST_OPSET_WITH_UINT16 = 21
_BYTES = (onnx.TensorProto.UINT8, onnx.TensorProto.INT8)
_QUANTIZE = ops.quantize_per_tensor.default
_IR_OF_OPSET = {18: 8, 19: 9, 20: 9, 21: 10, 22: 10, 23: 11}


class OnnxTarget(Target):
    """See the module."""

    name = "onnx"
    precisions = ("fp32", "fp16", "w8", "int8")
    schemes: ClassVar[Mapping[Precision, tuple[str, ...]]] = {
        "int8": ("x86", "arm", "qnn", "qnn-w8a16")
    }
    options: ClassVar[Mapping[str, Any]] = {"opset": DEFAULT_OPSET, "float32": ""}
    smallest_in_bytes: ClassVar[int] = SMALLEST_COMPRESSED
    channels: ClassVar[tuple[int, ...]] = (1, 3, 4)
    adds_outputs: ClassVar[bool] = True
    parity_limit: ClassVar[Mapping[Precision, float]] = {"fp32": 1e-4, "fp16": 1e-2}
    rounding_slack: ClassVar[float] = 0.25
    advice: ClassVar[Mapping[str, str]] = {
        "qnn_simulator": "--scheme qnn-w8a16 rounds activations 256 times as finely, and the NPU "
        "takes --precision fp32 files as well, which it computes in float16"
    }

    def check_options(self, options: Mapping[str, Any]) -> None:
        """Refuses opsets that the oldest runtimes are not known for."""
        OnnxSettings.from_options(options)

    def unavailable(
        self, precision: Precision, scheme: str | None, options: Mapping[str, Any]
    ) -> str:
        """Says of a scheme that the opset has no such integers."""
        del precision
        if scheme is None or SCHEMES.load(scheme).activation.dtype != torch.uint16:
            return ""
        return OnnxSettings.from_options(options).problem_with_uint16()

    def write(self, request: WriteRequest, folder: Path) -> WrittenModel:
        """Writes `model.onnx`."""
        settings = OnnxSettings.from_options(request.options).fitting(request.program)
        model = _as_asked(request, settings)
        add_outputs(model, request)
        describe(model, request)
        onnx.checker.check_model(model, full_check=True)
        with atomic_file(folder / MODEL_FILE) as temporary:
            temporary.write_bytes(model.SerializeToString())
        return WrittenModel(
            model=MODEL_FILE,
            minimum_runtime=minimum_runtime(model),
            details={"ir_version": model.ir_version, **dataclasses.asdict(settings)},
        )

    def check(
        self, folder: Path, manifest: Manifest, model: Model, pixels: npt.NDArray[np.uint8]
    ) -> tuple[Finding, ...]:
        """Compares versions, minimum runtime, operators, unread weights and metadata."""
        del model, pixels
        file = onnx.load(folder / manifest.model, load_external_data=False)
        return tuple(check_file(file, manifest, minimum_runtime=minimum_runtime(file)))

    def open(self, folder: Path, manifest: Manifest) -> OnnxModel:
        """Opens it in ONNX Runtime on the CPU."""
        scheme = None if manifest.quantization is None else manifest.quantization.scheme
        return open_onnx(folder, manifest, is_engine=scheme in (None, scheme_of_this_machine()))

    def compile_gate(self, folder: Path, manifest: Manifest) -> GateResult | NotRun | None:
        """Runs a plain QDQ file on the simulator of Qualcomm's NPU; see `npu.py`."""
        if manifest.quantization is None:
            return None
        scheme: Scheme = SCHEMES.load(manifest.quantization.scheme)
        if not scheme.plain_qdq:
            return None
        return npu_gate(folder, manifest, self.open(folder, manifest))


def minimum_runtime(model: ModelProto) -> dict[str, str]:
    """The oldest ONNX Runtime that takes a file: by its opset, its types and its operators."""
    opset = next(item.version for item in model.opset_import if item.domain in ("", "ai.onnx"))
    if opset not in _FIRST_RUNTIME:
        return {"onnxruntime": "unknown"}
    versions = [_FIRST_RUNTIME[opset]]
    constants = {item.name: item.data_type for item in model.graph.initializer}
    if onnx.TensorProto.FLOAT16 in constants.values():
        versions.append(_FIRST_WITH_HALF)
    if any(
        node.op_type == "Min" and constants.get(name) in _BYTES
        for node in model.graph.node
        for name in node.input
    ):
        versions.append(_FIRST_WITH_MINIMUM_OF_BYTES)
    return {"onnxruntime": max(versions, key=lambda v: tuple(map(int, v.split("."))))}


@dataclasses.dataclass(frozen=True, kw_only=True)
class OnnxSettings:
    """The target's options, checked.

    Attributes:
        opset: Of the file.
        float32: What a float16 file computes in float32: types or names of its nodes, with commas
            between.
    """

    opset: int
    float32: tuple[str, ...]

    @classmethod
    def from_options(cls, options: Mapping[str, Any]) -> "OnnxSettings":
        """The settings of one export.

        Raises:
            UsageError: If the opset is none that the oldest runtimes are known for.
        """
        given = str(options["opset"])
        if given not in map(str, _IR_OF_OPSET):
            raise UsageError(f"opset is {given!r}; known: {', '.join(map(str, _IR_OF_OPSET))}")
        return cls(opset=int(given), float32=tuple(split_names(str(options["float32"]))))

    def fitting(self, program: torch.export.ExportedProgram) -> "OnnxSettings":
        """The same, with the opset that a program's integers need in place of the default.

        Raises:
            UsageError: If another was asked for that has no such integers.
        """
        stored = [node for node in program.graph.nodes if node.target is _QUANTIZE]
        if not any(torch.uint16 in node.args for node in stored):
            return self
        if problem := self.problem_with_uint16():
            raise UsageError(problem)
        return dataclasses.replace(self, opset=max(self.opset, _FIRST_OPSET_WITH_UINT16))

    def problem_with_uint16(self) -> str:
        """Why a file of uint16 cannot have this opset; empty if it can, or if it is the default."""
        least = _FIRST_OPSET_WITH_UINT16
        if self.opset in (DEFAULT_OPSET, *range(least, max(_IR_OF_OPSET) + 1)):
            return ""
        return (
            f"opset is {self.opset}, and ONNX quantizes to uint16 from {least} on; "
            "leave it out, or ask for a later one"
        )


def scheme_of_this_machine() -> str:
    """The int8 scheme whose integers this machine's processor multiplies."""
    return "arm" if platform.machine().lower() in ("arm64", "aarch64") else "x86"


def _as_asked(request: WriteRequest, settings: OnnxSettings) -> ModelProto:
    program = request.program
    if request.precision == "fp16":
        shape = request.spec.preprocess.shape
        program = half_program(program, shape=shape, batch=request.batch)
    model = convert_program(program, output_names=request.output_names, opset=settings.opset)
    if request.precision == "fp16":
        return to_half(model, keep_float32=settings.float32)
    if request.precision == "int8":
        keep_floats_float(model)
        # Of the layers in float: quantization has put the weights on the grid where it could.
        return store_as_bytes(model, only_exact=True)
    return store_as_bytes(model) if request.precision == "w8" else model


def keep_floats_float(model: ModelProto) -> None:
    """Keeps ONNX Runtime from rounding the weights of layers that stay in float, in place.

    Since 1.21 it gives a convolution or matrix product with float weights between integers weights
    of eight bits, with one scale for all channels (`WeightBiasQuantization`), whatever its author
    had in mind. It does so where the layer's input is read with a single scale; so such a layer
    reads it with the same scale for each channel.
    """
    constants = {item.name: item for item in model.graph.initializer}
    makers = {name: node for node in model.graph.node for name in node.output}
    nodes = []
    for node in model.graph.node:
        reading = makers.get(node.input[0]) if node.input else None
        is_float = node.op_type in ("Conv", "Gemm") and node.input[1] in constants
        if is_float and reading is not None and reading.op_type == "DequantizeLinear":
            own = NodeProto()
            own.CopyFrom(reading)
            own.name = own.output[0] = f"{reading.output[0]}_of_{node.name}"
            channels = _input_channels(node, constants[node.input[1]].dims)
            # Scale and zero point; the stored tensor itself stays shared.
            for at in range(1, len(own.input)):
                value = onnx.numpy_helper.to_array(constants[own.input[at]]).reshape(-1)
                name = f"{own.input[at]}_of_{node.name}"
                rows = np.broadcast_to(value, channels).copy()
                model.graph.initializer.append(onnx.numpy_helper.from_array(rows, name))
                own.input[at] = name
            for item in [item for item in own.attribute if item.name == "axis"]:
                own.attribute.remove(item)
            own.attribute.append(onnx.helper.make_attribute("axis", 1))
            node.input[0] = own.output[0]
            nodes.append(own)
        nodes.append(node)
    read = {name for node in nodes for name in node.input}
    read |= {item.name for item in model.graph.output}
    # A reading that only float layers had is read by nobody now.
    kept = [node for node in nodes if read.intersection(node.output)]
    del model.graph.node[:]
    model.graph.node.extend(kept)
    _remove_unread_constants(model)


def _input_channels(node: NodeProto, dims: Sequence[int]) -> int:
    attributes = {item.name: item.i for item in node.attribute}
    if node.op_type == "Conv":
        return int(dims[1]) * int(attributes.get("group", 1))
    return int(dims[1] if attributes.get("transB") else dims[0])


def convert_program(
    program: torch.export.ExportedProgram, *, output_names: tuple[str, ...], opset: int
) -> ModelProto:
    """Exported program -> ONNX, without the traces of the machine it was made on."""
    known = _with_known_operators(program)
    with _quiet_exporter():
        try:
            exported = _convert(_decomposed(known), output_names, opset)
        except Exception as error:  # an operator that ONNX has in parts: let torch take it apart
            raise_shortage(error, _CONVERTING)
            exported = _convert_or_say_why(known, output_names, opset)
    model = exported.model_proto
    _use_global_pooling(model)
    _strip_traces(model)
    _name_batch(model)
    clip_bytes(model)
    model.ir_version = _IR_OF_OPSET[opset]
    return model


def _convert_or_say_why(
    program: torch.export.ExportedProgram, output_names: tuple[str, ...], opset: int
) -> torch.onnx.ONNXProgram:
    try:
        return _convert(program, output_names, opset)
    except Exception as error:  # torch.onnx raises its own errors, and those of its passes
        raise_shortage(error, _CONVERTING)
        raise WorkError(f"ONNX cannot express this network: {_first_line(error)}") from error


def _convert(
    program: torch.export.ExportedProgram, output_names: tuple[str, ...], opset: int
) -> torch.onnx.ONNXProgram:
    exported = torch.onnx.export(
        program,
        dynamo=True,
        opset_version=opset,
        input_names=[INPUT_NAME],
        output_names=list(output_names),
        verbose=False,
    )
    assert exported is not None
    return exported


def _with_known_operators(program: torch.export.ExportedProgram) -> torch.export.ExportedProgram:
    """A copy in which operators that torch's exporter does not know are written by others.

    Where torch takes a global pooling apart itself, it may give a view of strides, which ONNX has
    as a table of indexes that is computed as the model runs. It refuses attention over windows
    (NesT), whose query, key and value have five dimensions.
    """
    aten = torch.ops.aten
    known = copy.copy(program)
    # The exporter edits the graph that it gets.
    known._graph_module = copy.deepcopy(program.graph_module)
    graph = known.graph_module.graph
    for node in list(graph.nodes):
        if node.target is aten.adaptive_avg_pool2d.default and list(node.args[1]) == [1, 1]:
            node.target, node.args = aten.mean.dim, (node.args[0], [-1, -2], True)
        elif node.target is aten.batch_norm.default and not node.args[5]:
            image, weight, bias, mean, variance, _, momentum, epsilon, *_ = node.args
            arguments = (image, weight, bias, mean, variance, momentum, epsilon)
            with graph.inserting_before(node):
                normed = graph.call_function(
                    aten._native_batch_norm_legit_no_training.default, arguments
                )
                result = graph.call_function(operator.getitem, (normed, 0))
            empty = node.meta["val"].new_empty(0)
            # The exporter asks for shapes; the batch's own mean and variance are never read.
            normed.meta["val"] = (node.meta["val"], empty, empty)
            result.meta["val"] = node.meta["val"]
            node.replace_all_uses_with(result)
            graph.erase_node(node)
        elif (
            node.target is aten.scaled_dot_product_attention.default
            and node.args[0].meta["val"].dim() != _DIMENSIONS_OF_ATTENTION
        ):
            _take_attention_apart(node)
    known.graph_module.recompile()
    return known


def _take_attention_apart(node: torch.fx.Node) -> None:
    """softmax(query key^T * scale + mask) value, in operators of their own.

    Query and key get a root of the scale each, as torch does it: neither overflows in float16.
    """
    aten = torch.ops.aten
    arguments = dict(zip(_ATTENTION, node.args, strict=False)) | node.kwargs
    query, key, value, mask = (arguments.get(name) for name in _ATTENTION[:4])
    if arguments.get("dropout_p") or arguments.get("is_causal") or arguments.get("enable_gqa"):
        return  # no network of timm asks for these at inference
    assert isinstance(query, torch.fx.Node)
    scale = arguments.get("scale") or query.meta["val"].shape[-1] ** -0.5
    assert isinstance(scale, float)

    def add(target: Any, *inputs: Any) -> torch.fx.Node:
        made = node.graph.call_function(target, inputs)
        made.meta["val"] = value_of(made, node.meta["val"].fake_mode)
        return made

    with node.graph.inserting_before(node):
        root = scale**0.5
        turned = add(aten.transpose.int, add(aten.mul.Tensor, key, root), -2, -1)
        scores = add(aten.matmul.default, add(aten.mul.Tensor, query, root), turned)
        if isinstance(mask, torch.fx.Node):
            if mask.meta["val"].dtype == torch.bool:
                scores = add(aten.where.ScalarOther, mask, scores, float("-inf"))
            else:
                scores = add(aten.add.Tensor, scores, mask)
        result = add(aten.matmul.default, add(aten.softmax.int, scores, -1), value)
    node.replace_all_uses_with(result)
    node.graph.erase_node(node)


def _decomposed(program: torch.export.ExportedProgram) -> torch.export.ExportedProgram:
    """A copy that the exporter need not decompose, which is two thirds of its time.

    It would trace the whole program anew to split operators that ONNX lacks. Ours is pure already.
    The exporter asks the program to decompose itself; the copy answers that it has.
    """
    ready = copy.copy(program)
    ready._graph_module = copy.deepcopy(program.graph_module)
    setattr(ready, "run_decompositions", lambda *_, **__: ready)  # noqa: B010  # of this copy only
    return ready


def add_outputs(model: ModelProto, request: WriteRequest) -> None:
    """Writes the outputs that follow from the logits, which are float32 in every file."""
    if not request.added:
        return
    graph, make = model.graph, onnx.helper.make_node
    names = {name for each in request.added for name in each.outputs}
    # The best classes need the softmax also where nobody asked for it as an output.
    shares = PROBABILITIES if PROBABILITIES in names else f"{PROBABILITIES}_of_logits"
    graph.node.append(make("Softmax", ["logits"], [shares], name="softmax", axis=1))
    for each in request.added:
        if each.k is None:
            continue
        (values, indices), count, places = each.outputs, f"{each.name}_k", f"{each.name}_places"
        graph.initializer.append(onnx.numpy_helper.from_array(np.array([each.k], np.int64), count))
        graph.node.append(
            make("TopK", [shares, count], [values, places], name=each.name, axis=1, largest=1,
                 sorted=1)
        )  # fmt: skip
        # ONNX counts in int64, which browsers give as BigInt.
        graph.node.append(make("Cast", [places], [indices], name=f"{each.name}_cast",
                               to=onnx.TensorProto.INT32))  # fmt: skip
    batch = "batch" if request.batch == "dynamic" else request.batch
    kinds = {"float32": onnx.TensorProto.FLOAT, "int32": onnx.TensorProto.INT32}
    graph.output.extend(
        onnx.helper.make_tensor_value_info(each.name, kinds[each.dtype], [batch, each.width])
        for each in added_tensors(request.added, len(request.spec.classes or ()))
    )


def describe(model: ModelProto, request: WriteRequest) -> None:
    """Writes into the model's metadata what an app needs when it has the one file only."""
    spec = request.spec
    onnx.helper.set_model_props(
        model, file_metadata(spec.preprocess, precision=request.precision, classes=spec.classes)
    )
    model.producer_name = "edgeseed"
    model.producer_version = ""
    model.graph.name = request.spec.architecture.name


def _strip_traces(model: ModelProto) -> None:
    """Removes stack traces: they name the author's folders and outweigh small models."""
    del model.metadata_props[:]
    del model.graph.metadata_props[:]
    del model.functions[:]
    for node in model.graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
    for value in [
        *model.graph.input,
        *model.graph.output,
        *model.graph.value_info,
        *model.graph.initializer,
    ]:
        del value.metadata_props[:]
    # Shapes in the middle are inferred anew by every runtime; with a symbolic batch they only add
    # bytes.
    del model.graph.value_info[:]


def _use_global_pooling(model: ModelProto) -> None:
    """`ReduceMean` over height and width -> `GlobalAveragePool`, which has an integer kernel.

    The ranks are read from the model, before `_strip_traces` takes them away.
    """
    constants = {item.name: onnx.numpy_helper.to_array(item) for item in model.graph.initializer}
    values = (*model.graph.value_info, *model.graph.input)
    ranks = {item.name: len(item.type.tensor_type.shape.dim) for item in values}
    for node in model.graph.node:
        # With five dimensions it would pool one more, with three one less.
        if node.op_type != "ReduceMean" or len(node.input) < 2 or ranks.get(node.input[0]) != 4:
            continue
        axes = constants.get(node.input[1])
        # ONNX keeps the dimensions where the attribute is not written.
        kept = all(item.i for item in node.attribute if item.name == "keepdims")
        if axes is not None and kept and sorted(int(axis) % 4 for axis in axes) == [2, 3]:
            node.op_type = "GlobalAveragePool"
            del node.input[1:]
            del node.attribute[:]
    _remove_unread_constants(model)


def clip_bytes(model: ModelProto) -> None:
    """`Min` of bytes and a constant -> `Clip`, which has a kernel for bytes in every runtime.

    ONNX Runtime has none for `Min` of bytes before 1.24, and does not load the file.
    """
    bytes_of = {
        item.name: item
        for item in model.graph.initializer
        if item.data_type in (onnx.TensorProto.UINT8, onnx.TensorProto.INT8) and not item.dims
    }
    for node in model.graph.node:
        if node.op_type == "Min" and len(node.input) == 2 and node.input[1] in bytes_of:
            node.op_type = "Clip"
            node.input[:] = [node.input[0], "", node.input[1]]


def _remove_unread_constants(model: ModelProto) -> None:
    read = {name for node in model.graph.node for name in node.input}
    kept = [item for item in model.graph.initializer if item.name in read]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)


def _name_batch(model: ModelProto) -> None:
    for value in [*model.graph.input, *model.graph.output]:
        batch = value.type.tensor_type.shape.dim[0]
        if batch.dim_param:
            batch.dim_param = "batch"


@contextlib.contextmanager
def _quiet_exporter() -> Iterator[None]:
    """torch.onnx prints, warns and logs about its own internals; what fails is raised anyway."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _first_line(error: BaseException) -> str:
    cause: BaseException = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    return str(cause).strip().partition("\n")[0] or type(cause).__name__


TARGET = OnnxTarget()
