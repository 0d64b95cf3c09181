"""From a `.mlpackage` on disk to a `Program`."""

import mmap
import struct
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from edgeseed.core.errors import ArtifactError
from edgeseed.core.files import read_json
from edgeseed.export.targets.coreml.interpreter.program import (
    ArrayInput,
    Constant,
    ImageInput,
    LiteralValue,
    Operation,
    OperationResult,
    Program,
    Reference,
    TensorType,
)
from edgeseed.export.targets.coreml.tools import load_coremltools

# `DataType` of MIL.proto.
_DTYPES = {
    1: "bool",
    2: "string",
    10: "float16",
    11: "float32",
    12: "float64",
    21: "int8",
    22: "int16",
    23: "int32",
    24: "int64",
    25: "int4",
    31: "uint8",
    32: "uint16",
    33: "uint32",
    34: "uint64",
    35: "uint4",
    36: "uint2",
    37: "uint1",
    38: "uint6",
    39: "uint3",
}
# Numpy has no type below a byte: those are unpacked into one byte an element.
_NUMPY_DTYPES = {
    "bool": "?",
    "float16": "<f2",
    "float32": "<f4",
    "float64": "<f8",
    "int4": "i1",
    "int8": "i1",
    "int16": "<i2",
    "int32": "<i4",
    "int64": "<i8",
    "uint1": "u1",
    "uint2": "u1",
    "uint3": "u1",
    "uint4": "u1",
    "uint6": "u1",
    "uint8": "u1",
    "uint16": "<u2",
    "uint32": "<u4",
    "uint64": "<u8",
}
_BITS_BELOW_A_BYTE = {"int4": 4, "uint1": 1, "uint2": 2, "uint3": 3, "uint4": 4, "uint6": 6}

# `BlobDataType` of MILBlob, the storage format that coremltools publishes: its number for each
# type.
_BLOB_DTYPES = {
    "float16": 1,
    "float32": 2,
    "uint8": 3,
    "int8": 4,
    "int16": 6,
    "uint16": 7,
    "int4": 8,
    "uint1": 9,
    "uint2": 10,
    "uint4": 11,
    "uint3": 12,
    "uint6": 13,
    "int32": 14,
    "uint32": 15,
}
_BLOB_SENTINEL = 0xDEADBEEF
_BLOB_METADATA = struct.Struct("<IIQQ")  # sentinel, type, size in bytes, offset of the data


def read_program(package: Path) -> Program:
    """Reads the program of a `.mlpackage`.

    Args:
        package: The folder that ends in `.mlpackage`.

    Raises:
        ArtifactError: If it is not a Core ML program, or a part of it is missing or damaged.
        MissingDependencyError: If coremltools, which brings Core ML's message types, is absent.
    """
    model = parse_package(package)
    kind = model.WhichOneof("Type")
    if kind != "mlProgram":
        raise ArtifactError(f"{package}: holds a Core ML model of kind {kind}, not an ML program")
    function = model.mlProgram.functions["main"]
    block = function.block_specializations[function.opset]
    weights = WeightFiles(_specification_path(package).parent)
    operations = tuple(_operation(each, weights) for each in block.operations)
    description = model.description
    return Program(
        specification_version=model.specificationVersion,
        inputs=tuple(_input(each) for each in description.input),
        outputs=tuple(each.name for each in description.output),
        operations=operations,
        metadata=dict(description.metadata.userDefined),
        labels=_labels(operations),
    )


def parse_package(package: Path) -> Any:
    """The package's protobuf message, `Model` of Core ML's `Model.proto`."""
    return _parse(_specification_path(package))


def _specification_path(package: Path) -> Path:
    """The `.mlmodel` inside, as the package's own table of contents names it."""
    contents = package / "Manifest.json"
    if not contents.is_file():
        raise ArtifactError(f"{package}: is no .mlpackage: it has no Manifest.json")
    manifest = read_json(contents, what="a .mlpackage")
    try:
        root = manifest["itemInfoEntries"][manifest["rootModelIdentifier"]]["path"]
    except (LookupError, TypeError) as error:
        raise ArtifactError(f"{contents}: names no root model") from error
    if not isinstance(root, str) or ".." in Path(root).parts or Path(root).is_absolute():
        raise ArtifactError(f"{contents}: its root model {root!r} is no file of the package")
    path = package / "Data" / root
    if not path.is_file():
        raise ArtifactError(f"{package}: its Manifest.json names {root}, which is not there")
    return path


def _parse(path: Path) -> Any:
    coremltools = load_coremltools("reading a .mlpackage")
    from google.protobuf.message import DecodeError

    model = coremltools.proto.Model_pb2.Model()
    try:
        model.ParseFromString(path.read_bytes())
    except DecodeError as error:
        raise ArtifactError(f"{path}: is damaged: {error}") from error
    return model


def _input(feature: Any) -> ImageInput | ArrayInput:
    kind = feature.type.WhichOneof("Type")
    if kind == "imageType":
        image = feature.type.imageType
        return ImageInput(feature.name, image.height, image.width, _color(feature.name, image))
    if kind == "multiArrayType":
        return ArrayInput(feature.name, tuple(feature.type.multiArrayType.shape))
    raise ArtifactError(f"input {feature.name!r} is a {kind}; an image or an array was expected")


def _color(name: str, image: Any) -> Literal["RGB", "BGR", "GRAYSCALE"]:
    color = image.ColorSpace.Name(image.colorSpace)
    if color not in {"RGB", "BGR", "GRAYSCALE"}:
        raise ArtifactError(
            f"input {name!r} has the colour space {color}; known: RGB, BGR, GRAYSCALE"
        )
    known: Literal["RGB", "BGR", "GRAYSCALE"] = color
    return known


def _labels(operations: tuple[Operation, ...]) -> tuple[str, ...] | None:
    for operation in operations:
        if operation.type == "classify":
            (argument,) = operation.arguments["classes"]
            if isinstance(argument, Constant) and isinstance(argument.value, tuple):
                return argument.value
    return None


def _operation(message: Any, weights: "WeightFiles") -> Operation:
    arguments: dict[str, tuple[Reference | Constant, ...]] = {
        name: tuple(_binding(each, weights) for each in argument.arguments)
        for name, argument in message.inputs.items()
    }
    # `const` and the `constexpr_` operations of iOS 16 and 17 write their parameters as attributes.
    # `name` is the operation's own, for people; no operation takes a parameter of that name.
    for name, value in message.attributes.items():
        if name != "name":
            arguments[name] = (Constant(read_value(value, weights)),)
    results = tuple(OperationResult(each.name, _tensor_type(each.type)) for each in message.outputs)
    return Operation(message.type, arguments, results)


def _binding(message: Any, weights: "WeightFiles") -> Reference | Constant:
    if message.WhichOneof("binding") == "name":
        return Reference(message.name)
    return Constant(read_value(message.value, weights))


def _tensor_type(message: Any) -> TensorType | None:
    if message.WhichOneof("type") != "tensorType":
        return None
    tensor = message.tensorType
    shape = tuple(
        each.constant.size if each.WhichOneof("dimension") == "constant" else None
        for each in tensor.dimensions
    )
    return TensorType(_dtype_name(tensor.dataType), shape)


def _dtype_name(number: int) -> str:
    if number not in _DTYPES:
        raise ArtifactError(f"a value is of MIL type {number}; known: {sorted(_DTYPES)}")
    return _DTYPES[number]


def read_value(message: Any, weights: "WeightFiles") -> LiteralValue:
    """A literal of the file: an array, text, or a list of text.

    Args:
        message: A `MIL.proto` Value.
        weights: Where the values lie that the file keeps beside the program.

    Raises:
        ArtifactError: If it is of a kind that Core ML's own converter does not write.
    """
    if message.WhichOneof("value") == "blobFileValue":
        declared = _tensor_type(message.type)
        assert declared is not None  # only tensors are kept in weight files
        blob = message.blobFileValue
        return weights.read(blob.fileName, blob.offset, declared)
    literal = message.immediateValue
    kind = literal.WhichOneof("value")
    if kind == "list":
        return _list(literal.list.values, weights)
    if kind != "tensor":
        raise ArtifactError(f"a literal of kind {kind} is not known; expected a tensor or a list")
    declared = _tensor_type(message.type)
    assert declared is not None
    return _immediate_tensor(literal.tensor, declared)


def _list(values: Any, weights: "WeightFiles") -> tuple[str, ...]:
    return tuple(str(read_value(each, weights)) for each in values)


def _immediate_tensor(message: Any, declared: TensorType) -> LiteralValue:
    field = message.WhichOneof("value")
    if declared.dtype == "string":
        texts = tuple(message.strings.values)
        return texts if declared.shape else texts[0]
    values = getattr(message, field).values
    if field == "bytes":
        return _unpack(values, declared)
    return np.array(values, _NUMPY_DTYPES[declared.dtype]).reshape(_sizes(declared))


def _unpack(raw: bytes, declared: TensorType) -> NDArray[np.generic]:
    """Little-endian bytes to an array; types below a byte are packed from the lowest bit up."""
    dtype = np.dtype(_NUMPY_DTYPES[declared.dtype])
    bits = _BITS_BELOW_A_BYTE.get(declared.dtype)
    shape = _sizes(declared)
    if bits is None:
        return np.frombuffer(raw, dtype).reshape(shape)
    unpacked = unpack_bits(np.frombuffer(raw, np.uint8), bits=bits, count=int(np.prod(shape)))
    if declared.dtype.startswith("int"):
        # Extends the sign: with the top bit flipped, a number is too large by just that bit.
        unpacked = ((unpacked.astype(np.int16) ^ (1 << (bits - 1))) - (1 << (bits - 1))).astype(
            dtype
        )
    return unpacked.reshape(shape)


def unpack_bits(packed: NDArray[np.uint8], *, bits: int, count: int) -> NDArray[np.uint8]:
    """`count` unsigned numbers of `bits` bits each, packed from each byte's lowest bit up."""
    lanes = np.unpackbits(packed, bitorder="little")[: bits * count].reshape(count, bits)
    weights = (1 << np.arange(bits)).astype(np.uint8)
    numbers: NDArray[np.uint8] = (lanes * weights).sum(axis=1, dtype=np.uint8)
    return numbers


def _sizes(declared: TensorType) -> tuple[int, ...]:
    sizes = tuple(size for size in declared.shape if size is not None)
    assert len(sizes) == len(declared.shape)  # a literal has a shape
    return sizes


class WeightFiles:
    """The weight files of a package, mapped into memory when they are first read.

    A file is a header of 64 bytes, then for each value 64 bytes of metadata and its bytes, both
    aligned to 64. A value is found by the offset of its metadata, which starts with a sentinel.

    Args:
        folder: The folder of the `.mlmodel`; the program names files relative to it.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files: dict[str, mmap.mmap] = {}

    def _file(self, name: str) -> mmap.mmap:
        if name not in self._files:
            path = self._folder / name.removeprefix("@model_path/")
            try:
                with path.open("rb") as file:
                    self._files[name] = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            except (OSError, ValueError) as error:  # ValueError: an empty file cannot be mapped
                raise ArtifactError(
                    f"{path}: the program keeps its weights there: {error}"
                ) from error
        return self._files[name]

    def read(self, name: str, offset: int, declared: TensorType) -> NDArray[np.generic]:
        """The value whose metadata is at `offset`.

        Raises:
            ArtifactError: If the file is cut off there, or holds another type or size than the
                program declares.
        """
        file = self._file(name)
        place = f"{name} at {offset}"
        if offset + _BLOB_METADATA.size > len(file):
            raise ArtifactError(f"{place}: the file ends before; it is cut off")
        sentinel, dtype, size, start = _BLOB_METADATA.unpack_from(file, offset)
        if sentinel != _BLOB_SENTINEL:
            raise ArtifactError(f"{place}: holds no value; the file is damaged")
        if dtype != _BLOB_DTYPES.get(declared.dtype):
            raise ArtifactError(
                f"{place}: holds type {dtype}; the program declares {declared.dtype}"
            )
        if start + size > len(file):
            raise ArtifactError(f"{place}: the file ends inside this value; it is cut off")
        try:
            return _unpack(file[start : start + size], declared)
        except ValueError as error:
            raise ArtifactError(
                f"{place}: holds {size} bytes, which do not make {declared.dtype}{declared.shape}"
            ) from error
