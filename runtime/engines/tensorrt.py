"""TensorRT: the engine that was built on this very device, on its GPU or DLA.

It runs on the device: Python 3.8, numpy and the device's own TensorRT, 10.0 to 11.x. A run is what
an app does with a photo: copy it to the GPU, compute, copy the results back, wait. (`trtexec`
leaves the copies out by default since TensorRT 11.)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edgeseed.runtime import tensorrt_engines
from edgeseed.runtime.cuda import Cuda
from edgeseed.runtime.engine import Engine, EngineError, EngineTensor, Placement

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Any

    from numpy.typing import NDArray

    from edgeseed.runtime.engine import Tensors
    from edgeseed.runtime.tensorrt_engines import Record

UNITS = ("gpu", "dla")


class TensorRTEngine(Engine):
    """An engine with its buffers on the GPU.

    Args:
        trt: TensorRT.
        cuda: the GPU.
        plan: bytes of `model.engine`.
        record: its papers.
        unit: the unit that was asked for.
    """

    name = "tensorrt"
    targets = ("tensorrt",)
    units = UNITS

    def __init__(self, trt: Any, cuda: Cuda, *, plan: bytes, record: Record, unit: str) -> None:
        self._cuda = cuda
        self._logger = tensorrt_engines.make_logger(trt)
        self._runtime = trt.Runtime(self._logger)
        self._engine = self._runtime.deserialize_cuda_engine(plan)
        if self._engine is None:
            raise EngineError(f"TensorRT cannot open the engine: {self._logger.reason}")
        self._context = self._engine.create_execution_context()
        if self._context is None:
            raise EngineError(f"TensorRT cannot run the engine: {self._logger.reason}")
        tensors = [_Tensor(trt, self._engine, i) for i in range(self._engine.num_io_tensors)]
        self._tensors = {tensor.name: tensor for tensor in tensors}
        self.inputs = tuple(tensor.spec for tensor in tensors if tensor.is_input)
        self.outputs = tuple(tensor.spec for tensor in tensors if not tensor.is_input)
        for tensor in tensors:
            tensor.pointer = cuda.allocate(tensor.size_bytes)
            self._context.set_tensor_address(tensor.name, tensor.pointer)
        self.placement = Placement(unit, _actual(record), _nodes(record))
        self.settings = {
            "precision": record.precision,
            "gpu": record.gpu,
            "compute_capability": record.compute_capability,
            "cuda": record.cuda,
            "driver": record.driver,
            "strongly_typed": record.strongly_typed,
            "dla_core": record.dla_core,
            "engine_sha256": record.engine_sha256,
            "build_seconds": record.seconds,
        }

    @classmethod
    def version(cls) -> str:
        """Version of TensorRT."""
        return str(tensorrt_engines.load_tensorrt().__version__)

    @classmethod
    def open(cls, model: Path, *, unit: str, threads: int) -> TensorRTEngine:
        """Open the bundle's engine for this GPU; one that belongs elsewhere is refused.

        Args:
            model: the ONNX in the bundle, beside which the engines lie.
            unit: `gpu` or `dla`.
            threads: 1: the processor does none of the work.
        """
        if unit not in UNITS:
            raise EngineError(f"tensorrt has no unit {unit!r}; it has: {', '.join(UNITS)}")
        if threads != 1:
            raise EngineError(f"threads={threads} means nothing to tensorrt; leave --threads out")
        trt = tensorrt_engines.load_tensorrt()
        cuda = Cuda()
        try:
            path, record = tensorrt_engines.find_engine(
                model.parent, cuda=cuda, version=trt.__version__
            )
            built_for = "gpu" if record.dla_core is None else "dla"
            if unit != built_for:
                raise EngineError(
                    f"unit {unit} was asked for, the engine was built for {built_for}; leave "
                    "--unit out, or export with or without --set dla_core"
                )
            return cls(trt, cuda, plan=path.read_bytes(), record=record, unit=unit)
        except BaseException:
            cuda.close()
            raise

    def infer(self, feeds: Tensors) -> Tensors:
        """Copy in, run once, copy out, wait."""
        for name, values in feeds.items():
            tensor = self._tensors[name]
            if tensor.is_dynamic:
                self._set_shape(tensor, values.shape)
            elif tuple(values.shape) != tensor.shape:
                raise EngineError(f"{name} has shape {values.shape}, the engine {tensor.shape}")
            kept = np.ascontiguousarray(values, dtype=tensor.dtype)
            tensor.host = kept  # alive until the copy is done
            self._cuda.copy_in(tensor.pointer, kept)
        if not self._context.execute_async_v3(self._cuda.stream):
            raise EngineError(f"TensorRT could not run the engine: {self._logger.reason}")
        results: Tensors = {}
        for spec in self.outputs:
            tensor = self._tensors[spec.name]
            shape = tuple(self._context.get_tensor_shape(spec.name))
            results[spec.name] = np.empty(shape, dtype=tensor.dtype)
            self._cuda.copy_out(results[spec.name], tensor.pointer)
        self._cuda.synchronize()
        return results

    def _set_shape(self, tensor: _Tensor, shape: tuple[int, ...]) -> None:
        if not self._context.set_input_shape(tensor.name, shape):
            raise EngineError(
                f"{tensor.name} cannot have shape {tuple(shape)}: the engine was built for at most "
                f"{tensor.largest}; export with a larger --set max_batch"
            )

    def close(self) -> None:
        """Free the memory on the GPU."""
        for tensor in self._tensors.values():
            self._cuda.free(tensor.pointer)
        del self._context, self._engine, self._runtime
        self._cuda.close()


class _Tensor:
    """One input or output.

    Args:
        trt: TensorRT.
        engine: the open engine.
        index: which one.
    """

    def __init__(self, trt: Any, engine: Any, index: int) -> None:
        self.name = str(engine.get_tensor_name(index))
        self.is_input = engine.get_tensor_mode(self.name) == trt.TensorIOMode.INPUT
        self.shape = tuple(engine.get_tensor_shape(self.name))
        self.dtype = np.dtype(trt.nptype(engine.get_tensor_dtype(self.name)))
        self.is_dynamic = any(size < 0 for size in self.shape)
        self.largest = self.shape
        if self.is_dynamic:
            self.largest = _largest_shape(trt, engine, self)
        self.size_bytes = int(np.prod(self.largest)) * self.dtype.itemsize
        self.pointer = 0
        self.host: NDArray[Any] | None = None

    @property
    def spec(self) -> EngineTensor:
        shape = tuple(None if size < 0 else int(size) for size in self.shape)
        return EngineTensor(self.name, shape, self.dtype.name)


def _largest_shape(trt: Any, engine: Any, tensor: _Tensor) -> tuple[int, ...]:
    """Of an input: what its profile allows. Of an output: the same batch."""
    names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
    inputs = [name for name in names if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT]
    name = tensor.name if tensor.is_input else inputs[0]
    largest = tuple(engine.get_tensor_profile_shape(name, 0)[2])
    if tensor.is_input:
        return largest
    return tuple(largest[0] if size < 0 else size for size in tensor.shape)


def _actual(record: Record) -> str:
    if record.layers is None:
        return "gpu"
    return max(record.layers, key=lambda unit: record.layers[unit] if record.layers else 0)


def _nodes(record: Record) -> dict[str, int] | None:
    """Layers by unit: an engine for the GPU has no other; for the DLA as the builder planned."""
    if record.layers is not None:
        return dict(record.layers)
    return None if record.num_layers is None else {"gpu": record.num_layers}


ENGINE = TensorRTEngine
