"""What the builder and the engine share: TensorRT itself, the recipe, and an engine's papers.

It runs on the device: Python 3.8 and the standard library.

```text
bundle/
  model.onnx  build.json       what engines are built from; sealed by the manifest
  engines/NAME/                one folder a GPU and TensorRT; not sealed, because each is made
    model.engine               where it runs, after the export
    engine.json                what it was built from and for, and its own digest
    timing.cache               makes the next build on the same device quicker
```
"""

from __future__ import annotations

import hashlib
import importlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgeseed.runtime.engine import EngineError

if TYPE_CHECKING:
    from typing import Any

RECIPE = "build.json"
ENGINES_FOLDER = "engines"
ENGINE_FILE = "model.engine"
RECORD_FILE = "engine.json"
SCHEMA_VERSION = 1
OLDEST = (10, 0)
_CHUNK_BYTES = 1 << 20


def load_tensorrt() -> Any:
    """The device's own TensorRT.

    Raises:
        EngineError: If there is none, or one without strongly typed networks.
    """
    try:
        # Not an import statement, which type checkers take for the module beside this one.
        tensorrt: Any = importlib.import_module("tensorrt")
    except ImportError as error:
        raise EngineError(
            "TensorRT is not installed for this Python (" + str(error).split("\n")[0] + "). "
            "On a Jetson it comes with JetPack: sudo apt install python3-libnvinfer, and use the "
            "system's Python; elsewhere: pip install tensorrt. Or build on a device that has it: "
            "--device ssh:USER@HOST"
        ) from error
    if version_of(tensorrt.__version__) < OLDEST:
        raise EngineError(
            f"TensorRT {tensorrt.__version__} has no strongly typed networks; 10.3 or newer is "
            "needed (JetPack 6.1 or newer on Jetsons)"
        )
    return tensorrt


def version_of(text: str) -> tuple[int, int]:
    """`"10.3.0.30"` -> (10, 3)."""
    numbers = [*text.split("+")[0].split("."), "0", "0"][:2]
    return int(numbers[0]), int(numbers[1])


def make_logger(trt: Any) -> Any:
    """A logger that prints nothing, and keeps what TensorRT complained of in `.errors`."""

    class Logger(trt.ILogger):  # type: ignore[misc]  # the base is known on the device only
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
                self.errors.append(" ".join(message.split()))

        @property
        def reason(self) -> str:
            """The first complaint, which is the cause of the others."""
            return self.errors[0][:400] if self.errors else "TensorRT gave no reason"

    return Logger()


@dataclass(frozen=True)
class EngineRecipe:
    """`build.json`: how an engine is built. The export writes it.

    Attributes:
        model: file name of the ONNX.
        model_sha256: its digest.
        precision: what is in the graph; for reports.
        minimum_tensorrt: the oldest version it was made for.
        made_for: all versions it was made for.
        strongly_typed: by major version, `flag` or `always`.
        profiles: input name -> `min`, `opt`, `max` shape; none for one fixed shape.
        workspace_mib: most scratch memory of a kernel.
        tf32: whether float32 may be computed in TF32.
        dla_core: the DLA to run on, or None.
        gpu_fallback: whether the GPU takes what the DLA cannot.
        timing_cache: file name of the timing cache.
    """

    model: str
    model_sha256: str
    precision: str
    minimum_tensorrt: str
    made_for: list[str]
    strongly_typed: dict[str, str]
    profiles: list[dict[str, dict[str, list[int]]]]
    workspace_mib: int
    tf32: bool
    dla_core: int | None
    gpu_fallback: bool
    timing_cache: str
    schema_version: int = SCHEMA_VERSION

    @classmethod
    def read(cls, path: Path) -> EngineRecipe:
        """Read `build.json`.

        Raises:
            EngineError: If it is missing, of a newer edgeseed, or not what it should be.
        """
        recipe: EngineRecipe = _read(cls, path, "export the bundle anew")
        return recipe


@dataclass(frozen=True)
class Record:
    """`engine.json`: what an engine was built from, where, and how long it took.

    Attributes:
        gpu, compute_capability, tensorrt: it runs where all three are the same.
        cuda, driver, system: for reports.
        model_sha256, recipe_sha256: what it was built from.
        engine_sha256, size_bytes: what it is.
        precision, dla_core: from the recipe.
        strongly_typed: `flag` or `always`: how this TensorRT was told.
        layers: layers of the network by unit, where the DLA was asked for.
        num_layers: layers after fusion.
        timing_cache_reused: whether the build began with the timings of an earlier one.
        seconds: how long it took.
    """

    gpu: str
    compute_capability: str
    tensorrt: str
    cuda: str
    driver: str | None
    system: str
    model_sha256: str
    recipe_sha256: str
    engine_sha256: str
    size_bytes: int
    precision: str
    dla_core: int | None
    strongly_typed: str
    layers: dict[str, int] | None
    num_layers: int | None
    timing_cache_reused: bool
    seconds: float
    schema_version: int = SCHEMA_VERSION

    @property
    def name(self) -> str:
        """Name of its folder."""
        words = "".join(c if c.isalnum() or c == "." else "-" for c in self.gpu.lower())
        return f"{words}-sm{self.compute_capability}-trt{self.tensorrt}"

    @classmethod
    def read(cls, path: Path) -> Record:
        """Read `engine.json`.

        Raises:
            EngineError: If it is missing, of a newer edgeseed, or not what it should be.
        """
        record: Record = _read(cls, path, "build the engine anew: edgeseed build BUNDLE")
        return record

    def write(self, path: Path) -> None:
        """Write as JSON, whole or not at all."""
        temporary = path.with_suffix(".tmp")
        temporary.write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")
        temporary.replace(path)


def _read(cls: Any, path: Path, remedy: str) -> Any:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        found = values.get("schema_version")
        if isinstance(found, int) and found > SCHEMA_VERSION:
            raise EngineError(
                f"{path.name} has schema {found}, this edgeseed reads {SCHEMA_VERSION}; use a "
                "newer edgeseed"
            )
        return cls(**values)
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise EngineError(f"{path} is missing or damaged ({error}); {remedy}") from error


def sha256(path: Path) -> str:
    """Hex digest of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for chunk in iter(lambda: file.read(_CHUNK_BYTES), b""):
            digest.update(chunk)
    return digest.hexdigest()


def mismatch(record: Record, folder: Path, *, bundle: Path, cuda: Any, version: str) -> str | None:
    """Why an engine must not be used here; None where it may.

    Args:
        record: its papers.
        folder: where it lies.
        bundle: the bundle that it belongs to.
        cuda: the GPU that is here.
        version: the TensorRT that is here.
    """
    here = {
        "GPU": (record.gpu, cuda.name),
        "compute capability": (record.compute_capability, cuda.compute_capability),
        "TensorRT": (record.tensorrt, version),
    }
    for what, (built, found) in here.items():
        if built != found:
            return f"it was built for {what} {built}, here is {found}"
    if record.model_sha256 != sha256(bundle / EngineRecipe.read(bundle / RECIPE).model):
        return "it was built from another model"
    if record.recipe_sha256 != sha256(bundle / RECIPE):
        return "build.json has changed since it was built"
    file = folder / ENGINE_FILE
    if not file.is_file() or file.stat().st_size != record.size_bytes:
        return f"{ENGINE_FILE} is missing or truncated"
    if sha256(file) != record.engine_sha256:
        return f"{ENGINE_FILE} was changed after it was built"
    return None


def find_engine(bundle: Path, *, cuda: Any, version: str) -> tuple[Path, Record]:
    """The engine of a bundle that belongs to this GPU and TensorRT.

    Raises:
        EngineError: If there is none; the reason is given for each that was refused.
    """
    refused = []
    for path in sorted((bundle / ENGINES_FOLDER).glob("*/" + RECORD_FILE)):
        record = Record.read(path)
        reason = mismatch(record, path.parent, bundle=bundle, cuda=cuda, version=version)
        if reason is None:
            return path.parent / ENGINE_FILE, record
        refused.append(f"{path.parent.name}: {reason}")
    found = "; ".join(refused) or "it has no engine at all"
    raise EngineError(
        f"the bundle has no engine for {cuda.name} with TensorRT {version} ({found}); build one "
        "there: edgeseed build BUNDLE --device DEVICE"
    )
