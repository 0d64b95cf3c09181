"""What TensorRT's ONNX parser takes, looked up without TensorRT.

A build on a Jetson takes minutes and ends with "no importer registered". The two questions that can
be asked of the file alone are whether every operator has an importer and whether every tensor has a
type that TensorRT has. What only the device can say, such as a kernel's shape limits, it says.

Sources: the support matrix of NVIDIA's parser (github.com/onnx/onnx-tensorrt, docs/operators.md, as
of TensorRT 8.5; nothing has been taken out since), the release notes of 8.6 (the normalisations)
and the support matrices of TensorRT 10.3 and 11.4 (opsets).
"""

from collections.abc import Collection, Iterator

import onnx
from onnx import ModelProto, TensorProto

from edgeseed.export.target import Finding

MADE_FOR = ("10.3", "10.13", "10.16", "11")
"""JetPack 6.1 and 6.2; JetPack 7.0 and 7.1; JetPack 7.2; servers, and JetPack from 7.2.2 on."""
HIGHEST_OPSET = {"10": 20, "11": 25}

_OPERATORS = frozenset(
    """
    Abs Acos Acosh Add And ArgMax ArgMin Asin Asinh Atan Atanh AveragePool BatchNormalization Cast
    Ceil Celu Clip Concat Constant ConstantOfShape Conv ConvTranspose Cos Cosh CumSum DepthToSpace
    DequantizeLinear Div Dropout Einsum Elu Equal Erf Exp Expand EyeLike Flatten Floor Gather
    GatherElements GatherND Gemm GlobalAveragePool GlobalLpPool GlobalMaxPool Greater GreaterOrEqual
    GridSample GroupNormalization HardSigmoid HardSwish Identity If InstanceNormalization IsNaN
    LRN LayerNormalization LeakyRelu Less LessOrEqual Log LogSoftmax LpNormalization LpPool MatMul
    Max MaxPool Mean MeanVarianceNormalization Min Mod Mul Neg NonZero Not OneHot Or PRelu Pad Pow
    QuantizeLinear Range Reciprocal ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax
    ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare Relu Reshape Resize RoiAlign Round
    ScatterElements ScatterND Selu Shape Shrink Sigmoid Sign Sin Sinh Size Slice Softmax Softplus
    Softsign SpaceToDepth Split Sqrt Squeeze Sub Sum Tan Tanh ThresholdedRelu Tile TopK Transpose
    Trilu Unsqueeze Upsample Where Xor
    """.split()  # noqa: SIM905 - a hundred quotes would hide the names
)
_TYPES = {
    TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.INT8, TensorProto.INT32,
    TensorProto.INT64, TensorProto.BOOL,
}  # fmt: skip


def major(version: str) -> int:
    """`"10.3"` -> 10."""
    return int(version.partition(".")[0])


def preflight(model: ModelProto, *, versions: Collection[str]) -> Iterator[Finding]:
    """What the parsers of these TensorRT versions would refuse."""
    opset = next(item.version for item in model.opset_import if item.domain in ("", "ai.onnx"))
    for version in versions:
        highest = HIGHEST_OPSET[str(major(version))]
        if opset > highest:
            yield Finding(f"opset {opset}", f"TensorRT {version} reads up to opset {highest}")
    seen = set()
    for node in model.graph.node:
        unknown = node.op_type not in _OPERATORS or node.domain not in ("", "ai.onnx")
        if unknown and node.op_type not in seen:
            seen.add(node.op_type)
            yield Finding(node.name or node.output[0], f"TensorRT has no operator {node.op_type}")
    yield from _types(model)


def _types(model: ModelProto) -> Iterator[Finding]:
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
    for value in [*inferred.input, *inferred.value_info, *inferred.output]:
        kind = value.type.tensor_type.elem_type
        if kind not in _TYPES:
            yield Finding(value.name, f"TensorRT has no type {TensorProto.DataType.Name(kind)}")
    for constant in inferred.initializer:
        if constant.data_type not in _TYPES:
            name = TensorProto.DataType.Name(constant.data_type)
            yield Finding(constant.name, f"TensorRT has no type {name}")
