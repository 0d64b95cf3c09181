"""A TensorRT without a GPU, for tests: the part of its API that the builder and the engine use.

Names, and names of parameters, are TensorRT's; a test compares them with what was read from the
real one, version by version, so that what runs on this fake is at least a call that exists. What is
not TensorRT's starts with `_`. A "plan" holds the ONNX, and running it means ONNX Runtime. A shape
outside of the profile is refused, and what a version lacks raises AttributeError, as there.

`install(version)` gives a module object to be put into `sys.modules["tensorrt"]`. The memory that
addresses point to is the host's, as with the stand-in for `libcuda` that the tests compile. It runs
on the device's Python 3.8, like its neighbours.
"""

from __future__ import annotations

import ctypes
import enum
import importlib
import json
import types
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from typing import Any

MAGIC = b"fake plan\n"


class Severity(enum.IntEnum):
    """Of a message."""

    INTERNAL_ERROR = 0
    ERROR = 1
    WARNING = 2


class ILogger:
    """What a logger of ours derives from."""

    Severity = Severity
    INTERNAL_ERROR = Severity.INTERNAL_ERROR
    ERROR = Severity.ERROR

    def log(self, severity: enum.IntEnum, msg: str) -> None:
        """Implemented by the derived class."""
        raise NotImplementedError


class MemoryPoolType(enum.IntEnum):
    """Only the one that is used."""

    WORKSPACE = 0


class DeviceType(enum.IntEnum):
    """Where a layer runs."""

    GPU = 0
    DLA = 1


class TensorIOMode(enum.IntEnum):
    """Which way a tensor goes."""

    NONE = 0
    INPUT = 1
    OUTPUT = 2


class NetworkDefinitionCreationFlag(enum.IntEnum):
    """As in 10 and 11."""

    STRONGLY_TYPED = 1


class BuilderFlag10(enum.IntEnum):
    """The flags of 10 that matter here."""

    FP16 = 0
    INT8 = 1
    GPU_FALLBACK = 2
    TF32 = 3


class BuilderFlag11(enum.IntEnum):
    """In 11 there are none for precision."""

    GPU_FALLBACK = 2
    TF32 = 3


class ParserError:
    """One complaint of the parser."""

    def __init__(self, text: str) -> None:
        self._text = text

    def desc(self) -> str:
        """What it is about."""
        return self._text


class INetworkDefinition:
    """What the parser fills.

    Args:
        flags: as given to `create_network`.
    """

    def __init__(self, flags: int) -> None:
        self._flags = flags
        self._model = b""
        self.num_layers = 0

    def get_layer(self, index: int) -> int:
        """The index stands for the layer."""
        return index


class OnnxParser:
    """Takes any ONNX that has nodes.

    Args:
        network: to be filled.
        logger: unused.
    """

    def __init__(self, network: INetworkDefinition, logger: ILogger) -> None:
        self._network = network
        self._errors: list[ParserError] = []

    def parse(self, model: bytes) -> bool:
        """Whether it could be read."""
        import onnx

        try:
            graph = onnx.load_from_string(model).graph
        except Exception as error:  # a stand-in for the parser's own errors
            self._errors.append(ParserError(f"ModelImporter.cpp:1: {error}"))
            return False
        unknown = [node.op_type for node in graph.node if node.domain]
        if unknown:
            self._errors.append(ParserError(f"no importer registered for op: {unknown[0]}"))
            return False
        self._network._model = model
        self._network.num_layers = len(graph.node)
        return True

    @property
    def num_errors(self) -> int:
        """How many complaints there are."""
        return len(self._errors)

    def get_error(self, index: int) -> ParserError:
        """One of them."""
        return self._errors[index]


class IOptimizationProfile:
    """Shapes of the inputs."""

    def __init__(self) -> None:
        self._shapes: dict[str, list[list[int]]] = {}

    def set_shape(
        self, input: str, min: tuple[int, ...], opt: tuple[int, ...], max: tuple[int, ...]
    ) -> None:
        """Of one input."""
        if not all(a <= b <= c for a, b, c in zip(min, opt, max)):  # noqa: B905 - Python 3.8
            raise ValueError(f"{input}: {min} <= {opt} <= {max} does not hold")
        self._shapes[input] = [list(min), list(opt), list(max)]


class ITimingCache:
    """Bytes that grow by one with each build.

    Args:
        content: of an earlier build.
    """

    def __init__(self, content: bytes) -> None:
        self._content = content

    def serialize(self) -> bytes:
        """To be stored."""
        return self._content + b"t"


class IBuilderConfig:
    """Settings of a build."""

    def __init__(self) -> None:
        self._flags: set[int] = {int(BuilderFlag10.TF32)}
        self._profiles: list[IOptimizationProfile] = []
        self._limits: dict[int, int] = {}
        self.default_device_type = DeviceType.GPU
        self.DLA_core = -1
        self._cache = ITimingCache(b"")

    def set_memory_pool_limit(self, pool: MemoryPoolType, pool_size: int) -> None:
        """Remembers it."""
        self._limits[int(pool)] = pool_size

    def set_flag(self, flag: enum.IntEnum) -> None:
        """Remembers it."""
        self._flags.add(int(flag))

    def clear_flag(self, flag: enum.IntEnum) -> None:
        """Forgets it."""
        self._flags.discard(int(flag))

    def add_optimization_profile(self, profile: IOptimizationProfile) -> int:
        """Its index."""
        self._profiles.append(profile)
        return len(self._profiles) - 1

    def create_timing_cache(self, serialized_timing_cache: bytes) -> ITimingCache:
        """From stored bytes, or none."""
        return ITimingCache(serialized_timing_cache)

    def set_timing_cache(self, cache: ITimingCache, ignore_mismatch: bool) -> bool:
        """Uses it."""
        self._cache = cache
        return not ignore_mismatch

    def get_timing_cache(self) -> ITimingCache:
        """The one in use."""
        return self._cache

    def can_run_on_DLA(self, layer: int) -> bool:  # noqa: N802 - TensorRT's name
        """Every other layer."""
        return layer % 2 == 0


class Builder:
    """Makes plans.

    Args:
        logger: told of errors.
    """

    num_DLA_cores = 0  # noqa: N815 - TensorRT's name

    def __init__(self, logger: ILogger) -> None:
        self._logger = logger

    def create_network(self, flags: int) -> INetworkDefinition:
        """An empty one."""
        return INetworkDefinition(flags)

    def create_builder_config(self) -> IBuilderConfig:
        """The defaults."""
        return IBuilderConfig()

    def create_optimization_profile(self) -> IOptimizationProfile:
        """An empty one."""
        return IOptimizationProfile()

    def build_serialized_network(
        self, network: INetworkDefinition, config: IBuilderConfig
    ) -> bytes | None:
        """A plan, or None."""
        if _has_free_batch(network._model) and not config._profiles:
            self._logger.log(Severity.ERROR, "Network has dynamic inputs, but no profile")
            return None
        papers = {
            "flags": network._flags,
            "config": sorted(config._flags),
            "workspace": config._limits,
            "profiles": [profile._shapes for profile in config._profiles],
        }
        return MAGIC + json.dumps(papers).encode() + b"\n" + network._model


def _has_free_batch(model: bytes) -> bool:
    import onnx

    (image,) = onnx.load_from_string(model).graph.input
    return bool(image.type.tensor_type.shape.dim[0].dim_param)


class Runtime:
    """Opens plans.

    Args:
        logger: told of errors.
    """

    def __init__(self, logger: ILogger) -> None:
        self._logger = logger

    def deserialize_cuda_engine(self, serialized_engine: bytes) -> ICudaEngine | None:
        """An engine, or None where the bytes are no plan."""
        if not serialized_engine.startswith(MAGIC):
            self._logger.log(Severity.ERROR, "Serialization assertion magicTagRead failed")
            return None
        papers, _, model = serialized_engine[len(MAGIC) :].partition(b"\n")
        return ICudaEngine(json.loads(papers), model)


class ICudaEngine:
    """An ONNX Runtime session behind TensorRT's names.

    Args:
        papers: what the builder wrote.
        model: the ONNX.
    """

    def __init__(self, papers: dict[str, Any], model: bytes) -> None:
        # Not an import statement, which type checkers take for the module beside this one.
        onnxruntime: Any = importlib.import_module("onnxruntime")
        self._papers = papers
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(
            model, options, providers=["CPUExecutionProvider"]
        )
        self._tensors = [*self._session.get_inputs(), *self._session.get_outputs()]
        self._num_inputs = len(self._session.get_inputs())
        self.num_io_tensors = len(self._tensors)
        self.num_layers = 7

    def get_tensor_name(self, index: int) -> str:
        """Inputs first."""
        return str(self._tensors[index].name)

    def _index(self, name: str) -> int:
        return [tensor.name for tensor in self._tensors].index(name)

    def get_tensor_mode(self, name: str) -> TensorIOMode:
        """Which way it goes."""
        is_input = self._index(name) < self._num_inputs
        return TensorIOMode.INPUT if is_input else TensorIOMode.OUTPUT

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        """-1 where any size goes."""
        shape = self._tensors[self._index(name)].shape
        return tuple(size if isinstance(size, int) else -1 for size in shape)

    def get_tensor_dtype(self, name: str) -> str:
        """The name of numpy's type stands for TensorRT's type."""
        return {"tensor(float)": "float32"}[self._tensors[self._index(name)].type]

    def get_tensor_profile_shape(self, name: str, profile_index: int) -> list[list[int]]:
        """Smallest, best, largest."""
        shapes: list[list[int]] = self._papers["profiles"][profile_index][name]
        return shapes

    def create_execution_context(self) -> IExecutionContext:
        """One run at a time."""
        return IExecutionContext(self)


class IExecutionContext:
    """Runs an engine.

    Args:
        engine: the engine.
    """

    def __init__(self, engine: ICudaEngine) -> None:
        self._engine = engine
        self._addresses: dict[str, int] = {}
        self._shapes = {
            engine.get_tensor_name(i): engine.get_tensor_shape(engine.get_tensor_name(i))
            for i in range(engine.num_io_tensors)
        }

    def set_tensor_address(self, name: str, memory: int) -> bool:
        """Where a tensor lies."""
        self._addresses[name] = memory
        return True

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        """Whether the profile allows it."""
        low, _, high = self._engine.get_tensor_profile_shape(name, 0)
        if not all(a <= b <= c for a, b, c in zip(low, shape, high)):  # noqa: B905 - Python 3.8
            return False
        for other, sizes in self._shapes.items():
            self._shapes[other] = tuple(shape) if other == name else (shape[0], *sizes[1:])
        return True

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        """As it is for the shapes that were set."""
        return self._shapes[name]

    def execute_async_v3(self, stream_handle: int) -> bool:
        """Reads and writes the memory at the addresses."""
        names = [self._engine.get_tensor_name(i) for i in range(self._engine.num_io_tensors)]
        inputs = names[: self._engine._num_inputs]
        outputs = names[self._engine._num_inputs :]
        feeds = {name: self._memory(name).copy() for name in inputs}
        values = self._engine._session.run(outputs, feeds)
        for name, value in zip(outputs, values):  # noqa: B905 - Python 3.8
            self._memory(name)[...] = value
        return True

    def _memory(self, name: str) -> Any:
        shape = self._shapes[name]
        count = int(np.prod(shape))
        pointer = ctypes.cast(self._addresses[name], ctypes.POINTER(ctypes.c_float))
        return np.ctypeslib.as_array(pointer, (count,)).reshape(shape)


def nptype(trt_type: str) -> Any:
    """The numpy type of a TensorRT type."""
    return np.dtype(trt_type)


def install(version: str) -> types.ModuleType:
    """A module that looks like TensorRT of this version."""
    module = types.ModuleType("tensorrt")
    is_11 = version.startswith("11.")
    members: dict[str, Any] = {
        "__version__": version,
        "ILogger": ILogger,
        "Builder": Builder,
        "OnnxParser": OnnxParser,
        "Runtime": Runtime,
        "MemoryPoolType": MemoryPoolType,
        "DeviceType": DeviceType,
        "TensorIOMode": TensorIOMode,
        "NetworkDefinitionCreationFlag": NetworkDefinitionCreationFlag,
        "BuilderFlag": BuilderFlag11 if is_11 else BuilderFlag10,
        "nptype": nptype,
    }
    for name, member in members.items():
        setattr(module, name, member)
    return module
