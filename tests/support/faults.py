"""Faults planted in a sound bundle, as if the exporter itself had made the mistake."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

from edgeseed.core.bundle import GOLDEN_MODEL, Manifest, read_bundle, seal_bundle
from edgeseed.core.errors import EdgeseedError
from edgeseed.export.targets import TARGETS

Edit = Callable[[onnx.ModelProto], None]


def seal_again(
    bundle: Path, change: Callable[[Manifest], Manifest] = lambda manifest: manifest
) -> None:
    """Makes golden outputs and digests that fit the files as they are."""
    manifest = change(read_bundle(bundle, check=False).manifest)
    try:
        model = TARGETS.load(manifest.target).open(bundle, manifest)
        np.savez(bundle / GOLDEN_MODEL, **model.infer(np.load(bundle / "golden/inputs.npy")))
    except (EdgeseedError, KeyError):
        pass  # it opens or runs no more: verify has to say so
    seal_bundle(bundle, manifest)


# ------------------------------------------------------------------------------ ONNX files


def edit_onnx(bundle: Path, edit: Edit) -> None:
    """Edits `model.onnx` and seals the bundle again."""
    path = bundle / "model.onnx"
    model = onnx.load(path)
    edit(model)
    path.write_bytes(model.SerializeToString())
    seal_again(bundle)


def constants(model: onnx.ModelProto) -> dict[str, onnx.TensorProto]:
    """Stored tensors by name."""
    return {item.name: item for item in model.graph.initializer}


def change(tensor: onnx.TensorProto, value: Any) -> None:
    """Gives a stored tensor another value of the same type."""
    old = numpy_helper.to_array(tensor)
    tensor.CopyFrom(numpy_helper.from_array(np.asarray(value, old.dtype), tensor.name))


def convolution(model: onnx.ModelProto, index: int) -> onnx.NodeProto:
    """The convolution with this number, in the file's order."""
    found: list[onnx.NodeProto] = [node for node in model.graph.node if node.op_type == "Conv"]
    return found[index]


def integer_convolutions(model: onnx.ModelProto) -> list[tuple[onnx.NodeProto, onnx.NodeProto]]:
    """Convolutions with integer weights, each with the `DequantizeLinear` of these."""
    makers = {name: node for node in model.graph.node for name in node.output}
    return [
        (node, makers[node.input[1]])
        for node in model.graph.node
        if node.op_type == "Conv" and node.input[1] in makers
    ]


def weights_of(model: onnx.ModelProto, index: int) -> onnx.TensorProto:
    """The stored weights of a convolution, float or integer."""
    found, name = constants(model), convolution(model, index).input[1]
    if name in found:
        return found[name]
    (reader,) = [node for node in model.graph.node if node.output[0] == name]
    return found[reader.input[0]]


# ------------------------------------------------------------------------ Core ML packages


class Package:
    """An `.mlpackage` whose values can be read, and overwritten in place."""

    def __init__(self, folder: Path) -> None:
        from edgeseed.export.targets.coreml.interpreter.reading import parse_package

        self.data = folder / "Data/com.apple.CoreML"
        self.model = parse_package(folder)
        function = self.model.mlProgram.functions["main"]
        self.operations: Any = function.block_specializations[function.opset].operations

    def of_type(self, *kinds: str) -> list[Any]:
        """Operations in the file's order."""
        return [each for each in self.operations if each.type in kinds]

    def maker(self, operation: Any, parameter: str) -> Any:
        """The operation whose result a parameter is bound to."""
        name = operation.inputs[parameter].arguments[0].name
        (found,) = [each for each in self.operations if each.outputs[0].name == name]
        return found

    def literal(self, operation: Any, parameter: str) -> Any:
        """The literal that a parameter is bound to, be it an attribute, a value or a constant."""
        if parameter in operation.attributes:
            return operation.attributes[parameter]
        argument = operation.inputs[parameter].arguments[0]
        if argument.WhichOneof("binding") == "value":
            return argument.value
        return self.maker(operation, parameter).attributes["val"]

    def read(self, literal: Any) -> npt.NDArray[Any]:
        """A literal's numbers."""
        from edgeseed.export.targets.coreml.interpreter.reading import WeightFiles, read_value

        return np.array(read_value(literal, WeightFiles(self.data)))

    def write(self, literal: Any, numbers: npt.NDArray[Any]) -> None:
        """Other numbers of the same type and shape."""
        old = self.read(literal)
        raw = np.asarray(numbers, old.dtype).reshape(old.shape)
        if literal.WhichOneof("value") == "blobFileValue":
            weights = self.data / "weights/weight.bin"
            content = bytearray(weights.read_bytes())
            at = literal.blobFileValue.offset + 8
            size, start = (int(each) for each in np.frombuffer(content, "<u8", 2, offset=at))
            assert size == raw.nbytes
            content[start : start + size] = raw.tobytes()
            weights.write_bytes(content)
            return
        tensor = literal.immediateValue.tensor
        field = tensor.WhichOneof("value")
        if field == "bytes":
            tensor.bytes.values = raw.tobytes()
        else:
            getattr(tensor, field).values[:] = raw.reshape(-1).tolist()

    def integer_layers(self) -> list[tuple[Any, Any]]:
        """Convolutions with integer weights, each with the operation that unpacks these."""
        pairs = [(each, self.maker(each, "weight")) for each in self.of_type("conv")]
        return [pair for pair in pairs if pair[1].type == "constexpr_affine_dequantize"]


def edit_package(bundle: Path, edit: Callable[[Package], None]) -> None:
    """Edits `model.mlpackage` and seals the bundle again."""
    package = Package(bundle / "model.mlpackage")
    edit(package)
    (package.data / "model.mlmodel").write_bytes(package.model.SerializeToString())
    seal_again(bundle)
