"""A graph for TensorRT as ONNX Runtime computes it on the CPU, rounded where TensorRT rounds.

ONNX Runtime's CPU kernels for float16 are mostly none: it computes such nodes in float32 and drops
the casts between them, so that an activation of 100 000 passes through a file that says float16. A
gate on that would prove nothing about overflow and too much about precision. So the graph that runs
here is a float32 twin, in which what is float16 in the file is cast to float16 and back after every
operator. Larger numbers than 65504 become infinite, as they do on the GPU.

It is not TensorRT: kernels there fuse operators and round less often, sum in another order, and may
be wrong in ways of their own. The golden outputs are compared on the device before anything is
timed there.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from edgeseed import profiles
from edgeseed.core.bundle import Manifest
from edgeseed.core.errors import GateError, UsageError
from edgeseed.core.records import QuantizationRecord
from edgeseed.export.target import Finding
from edgeseed.export.targets.onnx.half import LARGEST
from edgeseed.export.targets.onnx.model import OnnxModel, _session, channel_axis, run_photos
from edgeseed.export.targets.tensorrt.support import MADE_FOR, preflight

_FLOAT, _HALF = TensorProto.FLOAT, TensorProto.FLOAT16
_RANGED_PHOTOS = 16
_EXACT = "__exact"
# They hand values on, or pick among them: there is nothing to round.
_KEEPS = {
    "Concat", "Expand", "Flatten", "Gather", "Identity", "MaxPool", "Pad", "Relu", "Reshape",
    "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze",
    # An integer times its scale, which a kernel never writes down.
    "DequantizeLinear",
}  # fmt: skip


class TensorRTModel(OnnxModel):
    """The open graph.

    Args:
        path: The file.
        batch: A name, or the only batch size it takes.
        precision: What it was exported as.
        float32: Types or names of nodes that compute in float32.
        quantization: The manifest's record of it; None for a float model.
        versions: Of TensorRT, that are to build it.
    """

    runner = "onnxruntime CPU rounding to float16; not TensorRT"

    def __init__(
        self,
        path: Path,
        *,
        batch: int | str,
        precision: str = "fp16",
        float32: Sequence[str] = (),
        quantization: QuantizationRecord | None = None,
        versions: Sequence[str] = MADE_FOR,
    ) -> None:
        self._versions = versions
        super().__init__(
            path, batch=batch, precision=precision, float32=float32, quantization=quantization
        )
        self.graph = onnx.load(path)
        self._twin = rounded(self.graph)
        self._seen: npt.NDArray[np.uint8] | None = None
        self._session = _session(self._twin.SerializeToString(), source=path)

    def infer(self, pixels: npt.NDArray[np.uint8]) -> dict[str, npt.NDArray[np.float32]]:
        """Runs a batch.

        Raises:
            GateError: If an activation is beyond float16 and the outputs are not finite for it.
        """
        outputs = super().infer(pixels)
        if self._seen is None:
            self._seen = pixels[:_RANGED_PHOTOS]
        if not all(np.isfinite(values).all() for values in outputs.values()):
            for finding in self._overflows(pixels):
                raise GateError(f"the {self._precision} model's outputs are not finite: {finding}")
        return outputs

    def layers(
        self, pixels: npt.NDArray[np.uint8], names: Sequence[str]
    ) -> dict[str, npt.NDArray[np.float32]]:
        """Values inside, by the name they have in the exported program."""
        given = {name for node in self._twin.graph.node for name in node.output}
        return self._values(pixels, [name for name in names if name in given])

    def largest_values(self, pixels: npt.NDArray[np.uint8]) -> dict[str, float]:
        """Largest magnitude of every float16 activation on these photos, before it is rounded."""
        model = ModelProto()
        model.CopyFrom(self._twin)
        names = [name for node in model.graph.node for name in node.output if name.endswith(_EXACT)]
        for name in names:
            model.graph.node.extend(
                [
                    helper.make_node("Abs", [name], [f"{name}_abs"]),
                    helper.make_node("ReduceMax", [f"{name}_abs"], [f"{name}_max"], keepdims=0),
                    # `run_photos` joins the pieces of a batch, which it cannot do with numbers of
                    # no dimension.
                    helper.make_node("Reshape", [f"{name}_max", "_one"], [f"{name}_largest"]),
                ]
            )
        model.graph.initializer.append(numpy_helper.from_array(np.array([1], np.int64), "_one"))
        found = self._values(pixels, [f"{name}_largest" for name in names], model=model)
        return {name.partition(_EXACT)[0]: float(found[f"{name}_largest"].max()) for name in names}

    def lint(self) -> tuple[Finding, ...]:
        """What TensorRT would refuse, run in another type than meant, or overflow in."""
        findings = [*preflight(self.graph, versions=self._versions)]
        if self._precision != "fp32":
            findings += lint_types(self.graph, self._float32)
        if self._seen is not None:
            findings += self._overflows(self._seen)
        if self._quantization is not None:
            findings += lint_quantization(self.graph, self._quantization)
        return tuple(findings)

    def _overflows(self, pixels: npt.NDArray[np.uint8]) -> Iterator[Finding]:
        if self._precision == "fp32":
            return
        makers = {name: node for node in self.graph.graph.node for name in node.output}
        for name, largest in self.largest_values(pixels).items():
            # Written so that NaN is found as well.
            if not largest <= LARGEST:
                yield Finding(
                    name,
                    f"reaches {largest:.4g} on these photos, beyond float16's {LARGEST:.0f}; "
                    f"compute it in float32: --set float32={makers[name].name}",
                )
                return  # all that follows is infinite too

    def _values(
        self,
        pixels: npt.NDArray[np.uint8],
        names: Sequence[str],
        *,
        model: ModelProto | None = None,
    ) -> dict[str, npt.NDArray[np.float32]]:
        changed = ModelProto()
        changed.CopyFrom(model or self._twin)
        del changed.graph.output[:]
        changed.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in names)
        session = _session(changed.SerializeToString(), source=self.path, optimise=False)
        return run_photos(session, pixels, list(names), fixed_batch=self._batch)


def open_tensorrt(folder: Path, manifest: Manifest) -> TensorRTModel:
    """Opens a bundle's graph.

    Raises:
        ArtifactError: If the file is no whole ONNX model, or has other inputs or outputs.
        UsageError: If it is to run on a DLA that the device it was exported for does not have.
    """
    _check_dla(manifest)
    model = TensorRTModel(
        folder / manifest.model,
        batch=manifest.inputs[0].shape[0],
        precision=manifest.precision,
        float32=manifest.provenance.model.get("float32", ()),
        quantization=manifest.quantization,
        versions=_versions(manifest),
    )
    model.check_interface(manifest)
    return model


def _check_dla(manifest: Manifest) -> None:
    name, core = manifest.provenance.export.profile, _dla_core(manifest)
    if name is None or core is None:
        return
    cores = profiles.load(name).dla_cores
    if core >= cores:
        raise UsageError(
            f"--set dla_core={core}: profile {name} has {cores} DLA cores; leave it out"
        )


def _dla_core(manifest: Manifest) -> int | None:
    core: int | None = manifest.provenance.model.get("dla_core")
    return core


def _versions(manifest: Manifest) -> Sequence[str]:
    """Of TensorRT: those of the device that it was exported for, or all that edgeseed knows."""
    name = manifest.provenance.export.profile
    if name is None:
        return MADE_FOR
    return profiles.load(name).engine_for("tensorrt").versions or MADE_FOR


def rounded(model: ModelProto) -> ModelProto:
    """The float32 twin: float16 values are float32 numbers that float16 has, after every operator.

    What an operator gives before rounding is called `NAME__exact`.
    """
    halves = _values_of_type(model, _HALF)
    twin = ModelProto()
    twin.CopyFrom(model)
    nodes: list[NodeProto] = []
    for node in twin.graph.node:
        is_cast = node.op_type == "Cast" and node.output[0] in halves
        for item in node.attribute:
            if item.name in ("to", "dtype") and item.i == _HALF:
                item.i = _FLOAT
            elif item.type == onnx.AttributeProto.TENSOR and item.t.data_type == _HALF:
                item.t.CopyFrom(_float_tensor(item.t))
        nodes.append(node)
        if node.op_type in _KEEPS and not is_cast:
            continue
        for index, name in enumerate(node.output):
            if name in halves:
                node.output[index] = exact = name + _EXACT
                nodes.append(helper.make_node("Cast", [exact], [f"{name}__half"], to=_HALF))
                nodes.append(helper.make_node("Cast", [f"{name}__half"], [name], to=_FLOAT))
    del twin.graph.node[:]
    twin.graph.node.extend(nodes)
    for tensor in twin.graph.initializer:
        if tensor.data_type == _HALF:
            tensor.CopyFrom(_float_tensor(tensor))
    del twin.graph.value_info[:]
    return twin


def _float_tensor(tensor: TensorProto) -> TensorProto:
    return numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), tensor.name)


def _values_of_type(model: ModelProto, kind: int) -> set[str]:
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
    return {
        value.name
        for value in [*inferred.value_info, *inferred.output]
        if value.type.tensor_type.elem_type == kind
    }


def lint_types(model: ModelProto, kept: Sequence[str]) -> Iterator[Finding]:
    """Nodes that give float32 though nobody asked for it; casts at the border must."""
    floats = _values_of_type(model, _FLOAT)
    for node in model.graph.node:
        if node.op_type in kept or node.name in kept or node.op_type == "Cast":
            continue
        if any(name in floats for name in node.output):
            yield Finding(node.name or node.output[0], f"{node.op_type} computes in float32")


def lint_quantization(model: ModelProto, record: QuantizationRecord) -> Iterator[Finding]:
    """Q/DQ as TensorRT wants it, and every layer that was meant to be int8 between them."""
    graph = _QuantizedGraph(model)
    yield from graph.wrong_numbers()
    wanted = list(record.integer_operators.values())
    for operator, kinds in _LAYERS.items():
        meant, found = wanted.count(operator), graph.count_layers(kinds)
        if found < meant:
            yield Finding(operator, f"{meant} were meant to read int8, {found} do")
    meant, found = wanted.count("add"), graph.count_sums()
    if found < meant:
        yield Finding("add", f"{meant} residual sums were meant to read int8, {found} do")


_LAYERS = {"conv": ("Conv",), "linear": ("Gemm", "MatMul")}


class _QuantizedGraph:
    """Who reads what in a QDQ graph.

    Args:
        model: Of a file.
    """

    def __init__(self, model: ModelProto) -> None:
        self.nodes = model.graph.node
        self.constants = {item.name: item for item in model.graph.initializer}
        self.makers = {name: node for node in self.nodes for name in node.output}

    def wrong_numbers(self) -> Iterator[Finding]:
        for node in self.nodes:
            if node.op_type not in ("QuantizeLinear", "DequantizeLinear"):
                continue
            where = node.name or node.output[0]
            if any(name not in self.constants for name in node.input[1:]):
                yield Finding(where, "its scale or zero point is not constant")
                continue
            scales, *zeros = (numpy_helper.to_array(self.constants[n]) for n in node.input[1:])
            if any(np.any(zero) for zero in zeros):
                yield Finding(where, "its zero point is not 0: TensorRT has no other")
            if any(zero.dtype != np.int8 for zero in zeros):
                yield Finding(where, f"its integers are {zeros[0].dtype}, not int8")
            if not np.all(scales > 0):
                yield Finding(where, "a scale is not above 0")
            writer = self.makers.get(node.input[0])
            if writer is not None and writer.op_type == "QuantizeLinear":
                written = self.constants.get(writer.input[1])
                if written is None or np.any(numpy_helper.to_array(written) != scales):
                    yield Finding(where, "reads integers otherwise than they are written")
            weights = self.constants.get(node.input[0])
            if weights is None:
                continue
            if scales.shape != (weights.dims[0],):
                yield Finding(where, "its weights have one scale, not one an output channel")
            elif channel_axis(node, len(weights.dims)) != 0:
                yield Finding(
                    where, "the scales of its weights do not lie along the output channels"
                )

    def count_layers(self, kinds: Sequence[str]) -> int:
        """Layers whose input and weights are both read from int8."""
        return sum(
            node.op_type in kinds and self._is_int8(node.input[0]) and self._is_int8(node.input[1])
            for node in self.nodes
        )

    def count_sums(self) -> int:
        """Sums of two activations, one of them read from int8."""
        return sum(
            node.op_type == "Add"
            and not any(name in self.constants for name in node.input)
            and any(self._is_int8(name) for name in node.input)
            for node in self.nodes
        )

    def _is_int8(self, name: str) -> bool:
        """Whether a value comes from a `DequantizeLinear`, past operators that only move it."""
        node = self.makers.get(name)
        while node is not None and node.op_type in ("Transpose", "Reshape", "Pad"):
            node = self.makers.get(node.input[0])
        return node is not None and node.op_type == "DequantizeLinear"
