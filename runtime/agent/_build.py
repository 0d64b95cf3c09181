"""Builds a TensorRT engine on the device that will run it, from the bundle's ONNX and build.json.

It runs on the device: Python 3.8 and the device's own TensorRT, 10.0 to 11.x. What differs between
versions is asked of the library, not assumed:

* 10: the network is made strongly typed by a flag. 11: every network is, and the flag is ignored.
* The builder has FP16 and INT8 flags in 10 and none in 11; neither is used, because the types are
  in the graph.
* 8 and 9 cannot be told the types at all; they are refused.
"""

from __future__ import annotations

import hashlib
import platform
import time
from pathlib import Path
from typing import TYPE_CHECKING

from edgeseed.runtime import tensorrt_engines
from edgeseed.runtime.cuda import Cuda
from edgeseed.runtime.engine import EngineError

if TYPE_CHECKING:
    from typing import Any

    from edgeseed.runtime.tensorrt_engines import EngineRecipe, Record

_MIB = 1 << 20
_DRIVER_FILE = Path("/proc/driver/nvidia/version")
_JETSON_FILE = Path("/etc/nv_tegra_release")
_MAX_PARSER_ERRORS = 3


def build_engine(bundle: Path, destination: Path) -> Record:
    """Build the engine of a bundle for this machine.

    Args:
        bundle: has `model.onnx` and `build.json`, and perhaps engines of earlier builds.
        destination: folder for `model.engine`, `engine.json` and the timing cache.

    Raises:
        EngineError: If there is no GPU or TensorRT here, or TensorRT cannot build the network.
    """
    trt = tensorrt_engines.load_tensorrt()
    recipe = tensorrt_engines.EngineRecipe.read(bundle / tensorrt_engines.RECIPE)
    model = bundle / recipe.model
    if not model.is_file() or tensorrt_engines.sha256(model) != recipe.model_sha256:
        raise EngineError(
            f"{recipe.model} is missing or not the file that build.json was made for; copy the "
            "bundle again or export it anew"
        )
    _check_version(trt, recipe)
    cuda = Cuda()
    try:
        cache = _earlier_cache(bundle, recipe, cuda, trt.__version__)
        started = time.monotonic()
        built = _Build(trt, recipe, model.read_bytes(), cache)
        seconds = time.monotonic() - started
        destination.mkdir(parents=True, exist_ok=True)
        _write(destination / tensorrt_engines.ENGINE_FILE, built.plan)
        _write(destination / recipe.timing_cache, built.timing_cache)
        record = tensorrt_engines.Record(
            gpu=cuda.name,
            compute_capability=cuda.compute_capability,
            tensorrt=trt.__version__,
            cuda=cuda.cuda_version,
            driver=_driver(),
            system=platform.machine() + " " + platform.system() + " " + platform.release(),
            model_sha256=recipe.model_sha256,
            recipe_sha256=tensorrt_engines.sha256(bundle / tensorrt_engines.RECIPE),
            engine_sha256=hashlib.sha256(built.plan).hexdigest(),
            size_bytes=len(built.plan),
            precision=recipe.precision,
            dla_core=recipe.dla_core,
            strongly_typed=built.strongly_typed,
            layers=built.layers,
            num_layers=built.num_layers,
            timing_cache_reused=cache is not None,
            seconds=seconds,
        )
        # Last: an engine without its papers is no engine.
        record.write(destination / tensorrt_engines.RECORD_FILE)
        return record
    finally:
        cuda.close()


def _check_version(trt: Any, recipe: EngineRecipe) -> None:
    here = tensorrt_engines.version_of(trt.__version__)
    if here < tensorrt_engines.version_of(recipe.minimum_tensorrt):
        raise EngineError(
            f"TensorRT {trt.__version__} is older than {recipe.minimum_tensorrt}, which the bundle "
            "was made for; update JetPack or TensorRT on the device"
        )
    if str(here[0]) not in recipe.strongly_typed:
        known = ", ".join(recipe.made_for)
        raise EngineError(
            f"TensorRT {trt.__version__} is newer than what the bundle was made for ({known}); "
            "export it anew with a newer edgeseed"
        )


class _Build:
    """One build; its results are its attributes.

    Args:
        trt: TensorRT.
        recipe: how to build.
        model: the ONNX.
        cache: timings of an earlier build on this device, or None.
    """

    def __init__(self, trt: Any, recipe: EngineRecipe, model: bytes, cache: bytes | None) -> None:
        self._trt = trt
        self._recipe = recipe
        self._logger = tensorrt_engines.make_logger(trt)
        builder = trt.Builder(self._logger)
        self.strongly_typed = recipe.strongly_typed[trt.__version__.split(".")[0]]
        network = builder.create_network(self._network_flags())
        self._parse(network, model)
        config = builder.create_builder_config()
        self._configure(config)
        self._add_profiles(builder, config)
        timing_cache = config.create_timing_cache(cache or b"")
        config.set_timing_cache(timing_cache, ignore_mismatch=False)
        self.layers = self._use_dla(builder, network, config)
        plan = builder.build_serialized_network(network, config)
        if plan is None:
            raise EngineError(
                f"TensorRT {trt.__version__} could not build the engine: {self._logger.reason}"
            )
        self.plan = bytes(plan)
        self.timing_cache = bytes(config.get_timing_cache().serialize())
        self.num_layers = self._count_layers()

    def _network_flags(self) -> int:
        if self.strongly_typed == "always":
            return 0
        return 1 << int(self._trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)

    def _parse(self, network: Any, model: bytes) -> None:
        parser = self._trt.OnnxParser(network, self._logger)
        if parser.parse(model):
            return
        count = min(parser.num_errors, _MAX_PARSER_ERRORS)
        errors = [" ".join(parser.get_error(index).desc().split()) for index in range(count)]
        reason = "; ".join(errors) or self._logger.reason
        raise EngineError(
            f"TensorRT {self._trt.__version__} cannot read {self._recipe.model}: {reason}"
        )

    def _configure(self, config: Any) -> None:
        trt, recipe = self._trt, self._recipe
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, recipe.workspace_mib * _MIB)
        if recipe.tf32:
            config.set_flag(trt.BuilderFlag.TF32)
        else:
            config.clear_flag(trt.BuilderFlag.TF32)  # it is on by default

    def _add_profiles(self, builder: Any, config: Any) -> None:
        for shapes in self._recipe.profiles:
            profile = builder.create_optimization_profile()
            for name, shape in sorted(shapes.items()):
                profile.set_shape(name, *(tuple(shape[key]) for key in ("min", "opt", "max")))
            config.add_optimization_profile(profile)

    def _use_dla(self, builder: Any, network: Any, config: Any) -> dict[str, int] | None:
        trt, core = self._trt, self._recipe.dla_core
        if core is None:
            return None
        if core >= builder.num_DLA_cores:
            raise EngineError(
                f"dla_core {core} was asked for, but TensorRT {trt.__version__} shows "
                f"{builder.num_DLA_cores} DLA cores here; export without --set dla_core (TensorRT "
                "11.0 to 11.4.0 has no DLA on any Jetson)"
            )
        config.default_device_type = trt.DeviceType.DLA
        config.DLA_core = core
        if self._recipe.gpu_fallback:
            config.set_flag(trt.BuilderFlag.GPU_FALLBACK)
        units = {"dla": 0, "gpu": 0}
        for index in range(network.num_layers):
            units["dla" if config.can_run_on_DLA(network.get_layer(index)) else "gpu"] += 1
        return units

    def _count_layers(self) -> int | None:
        """Layers after fusion; it also proves that the engine can be opened here."""
        runtime = self._trt.Runtime(self._logger)
        engine = runtime.deserialize_cuda_engine(self.plan)
        if engine is None:
            raise EngineError(
                "the engine was built, but cannot be opened again: " + self._logger.reason
            )
        return int(engine.num_layers)


def _earlier_cache(bundle: Path, recipe: EngineRecipe, cuda: Cuda, version: str) -> bytes | None:
    """Timings of an earlier build for this GPU and TensorRT; those of another one would mislead."""
    folder = bundle / tensorrt_engines.ENGINES_FOLDER
    for path in sorted(folder.glob("*/" + tensorrt_engines.RECORD_FILE)):
        record = tensorrt_engines.Record.read(path)
        cache = path.parent / recipe.timing_cache
        here = (cuda.name, cuda.compute_capability, version)
        if (record.gpu, record.compute_capability, record.tensorrt) == here and cache.is_file():
            return cache.read_bytes()
    return None


def _write(path: Path, content: bytes) -> None:
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_bytes(content)
    temporary.replace(path)


def _driver() -> str | None:
    """The driver's own version line, or on a Jetson the release of Linux for Tegra."""
    for path in (_DRIVER_FILE, _JETSON_FILE):
        try:
            return path.read_text(encoding="utf-8", errors="replace").splitlines()[0].strip("# ")
        except (OSError, IndexError):
            continue
    return None
