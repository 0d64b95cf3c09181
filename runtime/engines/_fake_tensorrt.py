"""A TensorRT without a GPU, for tests: the part of its API that the builder and the engine use.

A "plan" holds the ONNX, and running it means ONNX Runtime. It is strict where the real one is: what
a version lacks raises AttributeError, an address that was not set or a shape outside of the profile
is an error. `install(version)` gives a module object to be put into `sys.modules["tensorrt"]`. The
memory that addresses point to is the host's, as with the stand-in for `libcuda` that the tests
compile. It runs on the device's Python 3.8, like its neighbours.
"""

from __future__ import annotations

import ctypes
import enum
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

    def log(self, severity: Severity, message: str) -> None:
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

    EXPLICIT_BATCH = 0
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


class Network:
    """What the parser fills.

    Args:
        flags: as given to `create_network`.
    """

    def __init__(self, flags: int) -> None:
        self.flags = flags
        self.model = b""
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

    def __init__(self, network: Network, logger: ILogger) -> None:
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
        self._network.model = model
        self._network.num_layers = len(graph.node)
        return True

    @property
    def num_errors(self) -> int:
        """How many complaints there are."""
        return len(self._errors)

    def get_error(self, index: int) -> ParserError:
        """One of them."""
        return self._errors[index]


class OptimizationProfile:
    """Shapes of the inputs."""

    def __init__(self) -> None:
        self.shapes: dict[str, list[list[int]]] = {}

    def set_shape(self, name: str, low: list[int], best: list[int], high: list[int]) -> None:
        """Of one input."""
        if not all(a <= b <= c for a, b, c in zip(low, best, high)):  # noqa: B905 - Python 3.8
            raise ValueError(f"{name}: {low} <= {best} <= {high} does not hold")
        self.shapes[name] = [list(low), list(best), list(high)]


class TimingCache:
    """Bytes that grow by one with each build.

    Args:
        content: of an earlier build.
    """

    def __init__(self, content: bytes) -> None:
        self.content = content

    def serialize(self) -> bytes:
        """To be stored."""
        return self.content + b"t"


class BuilderConfig:
    """Settings of a build."""

    def __init__(self) -> None:
        self.flags: set[int] = {int(BuilderFlag10.TF32)}
        self.profiles: list[OptimizationProfile] = []
        self.limits: dict[int, int] = {}
        self.default_device_type = DeviceType.GPU
        self.DLA_core = -1
        self._cache = TimingCache(b"")

    def set_memory_pool_limit(self, pool: MemoryPoolType, size: int) -> None:
        """Remembers it."""
        self.limits[int(pool)] = size

    def set_flag(self, flag: enum.IntEnum) -> None:
        """Remembers it."""
        self.flags.add(int(flag))

    def clear_flag(self, flag: enum.IntEnum) -> None:
        """Forgets it."""
        self.flags.discard(int(flag))

    def add_optimization_profile(self, profile: OptimizationProfile) -> int:
        """Its index."""
        self.profiles.append(profile)
        return len(self.profiles) - 1

    def create_timing_cache(self, content: bytes) -> TimingCache:
        """From stored bytes, or none."""
        return TimingCache(content)

    def set_timing_cache(self, cache: TimingCache, ignore_mismatch: bool) -> bool:
        """Uses it."""
        self._cache = cache
        return not ignore_mismatch

    def get_timing_cache(self) -> TimingCache:
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

    def create_network(self, flags: int) -> Network:
        """An empty one."""
        return Network(flags)

    def create_builder_config(self) -> BuilderConfig:
        """The defaults."""
        return BuilderConfig()

    def create_optimization_profile(self) -> OptimizationProfile:
        """An empty one."""
        return OptimizationProfile()

    def build_serialized_network(self, network: Network, config: BuilderConfig) -> bytes | None:
        """A plan, or None."""
        if _has_free_batch(network.model) and not config.profiles:
            self._logger.log(Severity.ERROR, "Network has dynamic inputs, but no profile")
            return None
        papers = {
            "flags": network.flags,
            "config": sorted(config.flags),
            "workspace": config.limits,
            "profiles": [profile.shapes for profile in config.profiles],
        }
        return MAGIC + json.dumps(papers).encode() + b"\n" + network.model


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

    def deserialize_cuda_engine(self, plan: bytes) -> CudaEngine | None:
        """An engine, or None where the bytes are no plan."""
        if not plan.startswith(MAGIC):
            self._logger.log(Severity.ERROR, "Serialization assertion magicTagRead failed")
            return None
        papers, _, model = plan[len(MAGIC) :].partition(b"\n")
        return CudaEngine(json.loads(papers), model)


class CudaEngine:
    """An ONNX Runtime session behind TensorRT's names.

    Args:
        papers: what the builder wrote.
        model: the ONNX.
    """

    def __init__(self, papers: dict[str, Any], model: bytes) -> None:
        import onnxruntime

        self.papers = papers
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        self.session = onnxruntime.InferenceSession(
            model, options, providers=["CPUExecutionProvider"]
        )
        self.tensors = [*self.session.get_inputs(), *self.session.get_outputs()]
        self.num_inputs = len(self.session.get_inputs())
        self.num_io_tensors = len(self.tensors)
        self.num_layers = 7

    def get_tensor_name(self, index: int) -> str:
        """Inputs first."""
        return str(self.tensors[index].name)

    def _index(self, name: str) -> int:
        return [tensor.name for tensor in self.tensors].index(name)

    def get_tensor_mode(self, name: str) -> TensorIOMode:
        """Which way it goes."""
        is_input = self._index(name) < self.num_inputs
        return TensorIOMode.INPUT if is_input else TensorIOMode.OUTPUT

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        """-1 where any size goes."""
        shape = self.tensors[self._index(name)].shape
        return tuple(size if isinstance(size, int) else -1 for size in shape)

    def get_tensor_dtype(self, name: str) -> str:
        """The name of numpy's type stands for TensorRT's type."""
        return {"tensor(float)": "float32"}[self.tensors[self._index(name)].type]

    def get_tensor_profile_shape(self, name: str, profile: int) -> list[list[int]]:
        """Smallest, best, largest."""
        shapes: list[list[int]] = self.papers["profiles"][profile][name]
        return shapes

    def create_execution_context(self) -> ExecutionContext:
        """One run at a time."""
        return ExecutionContext(self)


class ExecutionContext:
    """Runs an engine.

    Args:
        engine: the engine.
    """

    def __init__(self, engine: CudaEngine) -> None:
        self._engine = engine
        self._addresses: dict[str, int] = {}
        self._shapes = {
            engine.get_tensor_name(i): engine.get_tensor_shape(engine.get_tensor_name(i))
            for i in range(engine.num_io_tensors)
        }

    def set_tensor_address(self, name: str, address: int) -> bool:
        """Where a tensor lies."""
        self._addresses[name] = address
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

    def execute_async_v3(self, stream: int) -> bool:
        """Reads and writes the memory at the addresses."""
        names = [self._engine.get_tensor_name(i) for i in range(self._engine.num_io_tensors)]
        inputs = names[: self._engine.num_inputs]
        outputs = names[self._engine.num_inputs :]
        feeds = {name: self._memory(name).copy() for name in inputs}
        values = self._engine.session.run(outputs, feeds)
        for name, value in zip(outputs, values):  # noqa: B905 - Python 3.8
            self._memory(name)[...] = value
        return True

    def _memory(self, name: str) -> Any:
        shape = self._shapes[name]
        count = int(np.prod(shape))
        pointer = ctypes.cast(self._addresses[name], ctypes.POINTER(ctypes.c_float))
        return np.ctypeslib.as_array(pointer, (count,)).reshape(shape)


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
        "nptype": np.dtype,
    }
    for name, member in members.items():
        setattr(module, name, member)
    return module
