"""An ONNX model as ONNX Runtime computes it on this machine's CPU."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime

from edgeseed.core.bundle import Manifest
from edgeseed.core.errors import ArtifactError
from edgeseed.core.files import raise_shortage
from edgeseed.core.records import QuantizationRecord
from edgeseed.core.scratch import scratch_folder
from edgeseed.export.added_outputs import OWN_OUTPUTS
from edgeseed.export.proof.scale_lint import lint_scales, lint_zero_points
from edgeseed.export.quantize.scheme import Scheme
from edgeseed.export.quantize.schemes import SCHEMES
from edgeseed.export.target import Finding, Model
from edgeseed.export.targets.onnx.byte_weights import large_float_readers
from edgeseed.export.targets.onnx.plain_qdq import lint_plain_qdq
from edgeseed.export.targets.onnx.saturation import lint_pairs

_BATCH = 16


class OnnxModel(Model):
    """An open model file.

    Args:
        path: The file.
        batch: A name, or the only batch size it takes.
        precision: What it was exported as.
        float32: Types or names of nodes that a float16 file computes in float32.
        quantization: The manifest's record of it; None for a float model.
        is_engine: Whether an app would run it as it is run here, so that it may be timed.
    """

    runner = "onnxruntime CPU"

    def __init__(
        self,
        path: Path,
        *,
        batch: int | str,
        precision: str = "fp32",
        float32: Sequence[str] = (),
        quantization: QuantizationRecord | None = None,
        is_engine: bool = False,
    ) -> None:
        self.path = path
        self._precision = precision
        self._float32 = float32
        self._quantization = quantization
        self._is_engine = is_engine
        self._batch = batch if isinstance(batch, int) else None
        # Integers that this machine's processor has no kernels for are computed as on the other.
        self._signed = quantization is not None and quantization.scheme == "arm"
        scheme: Scheme | None = None if quantization is None else SCHEMES.load(quantization.scheme)
        # What an NPU is to run is computed as the file has it, step by step, whatever this CPU is:
        # without VNNI its integer kernels cut off sums, and the NPU's do not.
        self._session = _session(
            path.read_bytes(), source=path, signed=self._signed,
            has_integer_kernels=scheme is None or not scheme.plain_qdq,
        )  # fmt: skip

    def infer(self, pixels: npt.NDArray[np.uint8]) -> dict[str, npt.NDArray[np.float32]]:
        """Runs a batch, in pieces of a size that keeps memory small."""
        known = [output.name for output in self._session.get_outputs()]
        names = [name for name in OWN_OUTPUTS if name in known]
        return run_photos(self._session, pixels, names, fixed_batch=self._batch)

    def answer(self, pixels: npt.NDArray[np.uint8]) -> dict[str, npt.NDArray[Any]]:
        """All outputs of the file."""
        kinds = {each.name: _dtype(each.type) for each in self._session.get_outputs()}
        found = run_photos(self._session, pixels, list(kinds), fixed_batch=self._batch)
        return {name: values.astype(kinds[name], copy=False) for name, values in found.items()}

    def layers(
        self, pixels: npt.NDArray[np.uint8], names: Sequence[str]
    ) -> dict[str, npt.NDArray[np.float32]]:
        """Values inside, by the name they have in the exported program."""
        model = onnx.load(self.path)
        found = [name for name in names if name in _float_values(model)]
        del model.graph.output[:]
        model.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in found)
        # Optimised, most of these values would be gone: fused into the operator behind them.
        session = _session(model.SerializeToString(), source=self.path, optimise=False)
        return run_photos(session, pixels, found, fixed_batch=self._batch)

    def lint(self) -> tuple[Finding, ...]:
        """What the precision promised and the graph does not keep.

        int8: weights that are not symmetric, weights that x86 CPUs without VNNI multiply wrongly,
        and layers that stayed in float; the last is asked of ONNX Runtime itself, which writes the
        graph that it runs. For an NPU: whatever is not plain QDQ. w8 and fp16: large weights that
        are still float32.
        """
        graph = onnx.load(self.path).graph
        if self._quantization is not None:
            scheme: Scheme = SCHEMES.load(self._quantization.scheme)
            of_scheme = (
                lint_plain_qdq(graph, self._quantization)
                if scheme.plain_qdq
                else (*lint_pairs(graph), *self._lint_layers())
            )
            return (
                *_lint_weights(graph),
                *of_scheme,
                *lint_scales(stored_scales(graph), self._quantization),
                *lint_zero_points(_stored_zero_points(graph), self._quantization),
            )
        if self._precision in ("w8", "fp16"):
            return tuple(_lint_float_weights(graph, self._precision, self._float32))
        return ()

    def single_run(self) -> Callable[[], object] | None:
        """A session of one thread with a grey photo, if this is the engine that an app has."""
        if not self._is_engine:
            return None
        session = _session(self.path.read_bytes(), source=self.path, threads=1)
        (image,) = session.get_inputs()
        shape = [size if isinstance(size, int) else 1 for size in image.shape]
        feed = {image.name: np.full(shape, 128, np.float32)}
        return lambda: session.run(None, feed)

    def check_interface(self, manifest: Manifest) -> None:
        """Compares inputs and outputs with the manifest's.

        Raises:
            ArtifactError: If they differ.
        """
        for kind, specs, actual in (
            ("input", manifest.inputs, self._session.get_inputs()),
            ("output", manifest.outputs, self._session.get_outputs()),
        ):
            expected = [(spec.name, list(spec.shape), spec.dtype) for spec in specs]
            found = [(value.name, list(value.shape), _dtype(value.type)) for value in actual]
            if expected != found:
                raise ArtifactError(
                    f"{self.path}: its {kind}s are {found}, the manifest says {expected}; "
                    "the model file belongs to another bundle: export it anew"
                )

    def _lint_layers(self) -> list[Finding]:
        assert self._quantization is not None
        wanted = Counter(self._quantization.integer_operators.values())
        runs = Counter(
            node.op_type for node in optimised_graph(self.path, signed=self._signed).node
        )
        return [
            Finding(
                operator,
                f"{wanted[operator]} were meant to be int8, ONNX Runtime has {runs[kernel]}",
            )
            for operator, kernel in _KERNELS.items()
            if runs[kernel] < wanted[operator]
        ]


def _dtype(text: str) -> str:
    """ONNX Runtime's name of a tensor's type, such as `tensor(float)`, as numpy calls it."""
    kind = text.removeprefix("tensor(").removesuffix(")")
    return {"float": "float32", "double": "float64"}.get(kind, kind)


# Operators that are worth an export only if they run in integers, and what ONNX Runtime calls them
# then.
_KERNELS = {"conv": "QLinearConv", "add": "QLinearAdd", "pool": "QLinearGlobalAveragePool"}


# ONNX Runtime takes int8 activations into its integer kernels on Arm only, unless it is told to.
_SIGNED = "session.qdqisint8allowed"
# What stands between two roundings is computed in float32, on the values that the integers mean.
_NO_INTEGER_KERNELS = "session.disable_quant_qdq"


def optimised_graph(path: Path, *, signed: bool = False) -> onnx.GraphProto:
    """The graph that ONNX Runtime makes of a file on this machine's CPU.

    Args:
        path: The model.
        signed: Whether to treat int8 activations as ONNX Runtime does on Arm.
    """
    with scratch_folder() as folder:
        written = folder / "optimised.onnx"
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.optimized_model_filepath = str(written)
        if signed:
            options.add_session_config_entry(_SIGNED, "1")
        onnxruntime.InferenceSession(path.read_bytes(), options, providers=["CPUExecutionProvider"])
        return onnx.load(written).graph


def _lint_weights(graph: onnx.GraphProto) -> Iterator[Finding]:
    """Integer kernels for bytes want weights with zero point 0, one scale an output channel."""
    constants = {item.name: onnx.numpy_helper.to_array(item) for item in graph.initializer}
    readers = {node.output[0]: node for node in graph.node if node.op_type == "DequantizeLinear"}
    for node in graph.node:
        if node.op_type not in ("Conv", "Gemm") or node.input[1] not in readers:
            continue
        values, scales, *zero = readers[node.input[1]].input
        if values not in constants or scales not in constants:
            yield Finding(node.output[0], "its quantized weights are not constant")
            continue
        if constants[scales].shape != constants[values].shape[:1]:
            yield Finding(node.output[0], "its weights have one scale, not one an output channel")
        elif channel_axis(readers[node.input[1]], constants[values].ndim) != 0:
            yield Finding(
                node.output[0], "the scales of its weights do not lie along the output channels"
            )
        if zero and np.any(constants[zero[0]]):
            yield Finding(node.output[0], "its weights have a zero point that is not 0")
        if not np.all(constants[scales] > 0):
            yield Finding(node.output[0], "a scale of its weights is not above 0")


def channel_axis(reading: onnx.NodeProto, rank: int) -> int:
    """The axis of a `DequantizeLinear` along which its scales lie; ONNX's default is 1."""
    axis = next((item.i for item in reading.attribute if item.name == "axis"), 1)
    return int(axis) % rank


def stored_scales(graph: onnx.GraphProto) -> list[float]:
    """Scales of the quantized activations."""
    constants = {item.name: onnx.numpy_helper.to_array(item) for item in graph.initializer}
    names = [node.input[1] for node in graph.node if node.op_type == "QuantizeLinear"]
    return [float(constants[name].item()) for name in names if name in constants]


def _stored_zero_points(graph: onnx.GraphProto) -> Iterator[tuple[str, float, int]]:
    """Name, scale and zero point of each stored activation, where it is written and read."""
    constants = {item.name: onnx.numpy_helper.to_array(item) for item in graph.initializer}
    for node in graph.node:
        is_activation = node.op_type in ("QuantizeLinear", "DequantizeLinear")
        if not is_activation or node.input[0] in constants or len(node.input) < 3:
            continue
        scale, zero = (constants.get(name) for name in node.input[1:3])
        if scale is not None and zero is not None:
            # One scale a channel, all equal, where a float layer reads; see `keep_floats_float`.
            yield node.output[0], float(scale.reshape(-1)[0]), int(zero.reshape(-1)[0])


def _lint_float_weights(
    graph: onnx.GraphProto, precision: str, kept: Sequence[str]
) -> Iterator[Finding]:
    for node in large_float_readers(graph):
        if node.op_type not in kept and node.name not in kept:
            yield Finding(node.input[1], f"float32 weights in a file that is to be {precision}")


def open_onnx(folder: Path, manifest: Manifest, *, is_engine: bool = False) -> OnnxModel:
    """Opens a bundle's model and compares its inputs and outputs with the manifest's.

    Args:
        folder: The bundle.
        manifest: The bundle's.
        is_engine: As `OnnxModel` takes it.

    Raises:
        ArtifactError: If the file is no whole ONNX model, or has other inputs or outputs.
    """
    model = OnnxModel(
        folder / manifest.model,
        batch=manifest.inputs[0].shape[0],
        precision=manifest.precision,
        float32=manifest.provenance.model.get("float32", ()),
        quantization=manifest.quantization,
        is_engine=is_engine,
    )
    model.check_interface(manifest)
    return model


def _session(
    content: bytes, *, source: Path, optimise: bool = True, threads: int = 0, signed: bool = False,
    has_integer_kernels: bool = True,
) -> onnxruntime.InferenceSession:  # fmt: skip
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads  # 0: as many as there are cores
    if signed:
        options.add_session_config_entry(_SIGNED, "1")
    if not has_integer_kernels:
        options.add_session_config_entry(_NO_INTEGER_KERNELS, "1")
    if not optimise:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's own errors have no base class in common
        raise_shortage(error, f"opening {source} in ONNX Runtime")
        reason = str(error).strip().partition("\n")[0]
        raise ArtifactError(
            f"{source} is not a model that ONNX Runtime {onnxruntime.__version__} can load "
            f"({reason}); it may be truncated, or need a newer runtime: see minimum_runtime in "
            "the manifest"
        ) from error


def run_photos(
    session: onnxruntime.InferenceSession,
    pixels: npt.NDArray[np.uint8],
    names: list[str],
    *,
    fixed_batch: int | None,
) -> dict[str, npt.NDArray[np.float32]]:
    """Runs photos in pieces, and gives the named values of all of them.

    Raises:
        ArtifactError: If the model loads and does not run.
    """
    input_name = session.get_inputs()[0].name
    parts: dict[str, list[npt.NDArray[np.float32]]] = defaultdict(list)
    size = fixed_batch or _BATCH
    for start in range(0, len(pixels), size):
        piece = pixels[start : start + size].astype(np.float32)
        count = len(piece)
        if fixed_batch:
            # A model of one fixed batch gets a full one; the copies' results are dropped.
            piece = np.resize(piece, (fixed_batch, *piece.shape[1:]))
        try:
            values = cast("list[Any]", session.run(names, {input_name: piece}))
        except Exception as error:  # as for loading
            raise_shortage(error, f"running {count} photos in ONNX Runtime")
            reason = str(error).strip().partition("\n")[0]
            raise ArtifactError(
                f"the model loads in ONNX Runtime {onnxruntime.__version__} and does not run "
                f"({reason}); the file was edited or is damaged: export it anew"
            ) from error
        for name, value in zip(names, values, strict=True):
            parts[name].append(value[:count].astype(np.float32, copy=False))
    return {name: np.concatenate(pieces) for name, pieces in parts.items()}


def _float_values(model: onnx.ModelProto) -> set[str]:
    return {name for node in model.graph.node for name in node.output}
