"""A Gradle library module in Kotlin, on onnxruntime-android or on LiteRT."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from edgeseed.core.preprocess import COLORS
from edgeseed.core.records import NPU_SCHEMES
from edgeseed.export.apps.contents import ModelFacts
from edgeseed.export.apps.literals import kotlin_string, one_line
from edgeseed.export.apps.platform import Platform

_HERE = Path(__file__).parent
_PACKAGE = "src/main/kotlin/edgeseed/edgeseedmodule"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Runtime:
    """What runs the models of a target on a phone.

    Attributes:
        engine: As `edgeseed profile` calls it.
        package: Maven's name of it.
        version: The least that a module asks for.
        needed: Its name in a manifest's `minimum_runtime`.
        repository: Where Gradle finds it, for the README.
        engines: What an app may choose, for the README.
        compiled: What the sources were compiled against, for the README.
    """

    engine: str
    package: str
    version: str
    needed: str
    repository: str
    engines: str
    compiled: str

    def dependency(self, facts: ModelFacts) -> str:
        """For Gradle: the version that a module asks for at least, or newer where it needs it."""
        needed = facts.minimum_runtime.get(self.needed, "0")
        return f"{self.package}:{max(self.version, needed, key=_version_key)}"


RUNTIMES = {
    "onnx": Runtime(
        engine="onnxruntime",
        package="com.microsoft.onnxruntime:onnxruntime-android",
        # The one whose classes the sources were compiled against.
        version="1.29.0",
        needed="onnxruntime",
        repository="Maven Central (`mavenCentral()`)",
        engines="""\
`Classifier(context, engine = Engine.XNNPACK, threads = 2)` chooses what computes. XNNPACK speeds
float models up; int8 models run on the CPU's own kernels. Qualcomm's NPU needs the package
`onnxruntime-android-qnn` in place of `onnxruntime-android`, and a model made for it.""",
        compiled="ONNX Runtime 1.29's classes",
    ),
    "litert": Runtime(
        engine="litert",
        package="com.google.ai.edge.litert:litert",
        # The same release as the Python package that the export's gates run on.
        version="2.3.0",
        needed="ai-edge-litert",
        repository="Google's Maven repository (`google()`; it is not on Maven Central)",
        engines="""\
`Classifier(context, engine = Engine.CPU, threads = 2)` chooses what computes: `XNNPACK` (default)
for float and int8 models, or `CPU`, LiteRT's own kernels. The module calls LiteRT's
`Interpreter`, which takes a photo's bytes as they are. `CompiledModel`, the way to GPUs and NPUs,
names no type for unsigned bytes; it is not used.

An app needs no `noCompress`: the module reads the model whole. Gradle's Android plug-in stores
`.tflite` files uncompressed by itself. R8 keeps LiteRT's classes by `consumer-rules.pro`.""",
        compiled="hand-written signatures of LiteRT's Java API as it is documented,",
    ),
}
"""By export target."""


class AndroidPlatform(Platform):
    """See the module."""

    name = "android"
    targets = tuple(RUNTIMES)
    template: ClassVar[Path] = _HERE / "template"
    assets = "src/main/assets/edgeseedmodule"

    def constants(self, facts: ModelFacts) -> Mapping[str, str]:
        """`ModelInfo.kt`, and the runtime's name and version for Gradle."""
        return {
            f"{_PACKAGE}/ModelInfo.kt": _model_info(facts),
            "runtime.dependency": f"{RUNTIMES[facts.target].dependency(facts)}\n",
        }

    def templates(self, facts: ModelFacts) -> tuple[Path, ...]:
        """The sources that all modules hold, and those that call the target's runtime."""
        return (self.template, _HERE / f"template_{facts.target}")

    def readme(self, facts: ModelFacts) -> str:
        """How an Android app uses the module."""
        runtime = RUNTIMES[facts.target]
        text = (_HERE / "README.md").read_text(encoding="utf-8")
        return (
            text.replace("@ENGINES@", runtime.engines)
            .replace("EdgeseedModule", facts.module_title)
            .replace("edgeseedmodule", facts.module)
            .replace("@MODEL@", one_line(facts.architecture))
            .replace("@PRECISION@", facts.precision)
            .replace("@WIDTH@", str(facts.preprocess.size[1]))
            .replace("@HEIGHT@", str(facts.preprocess.size[0]))
            .replace("@RUNTIME@", f"`{runtime.dependency(facts)}`")
            .replace("@REPOSITORY@", runtime.repository)
            .replace("@COMPILED@", runtime.compiled)
            .replace("@EDGESEED@", one_line(facts.edgeseed))
            .replace("@DIGEST@", facts.bundle_digest)
        )

    def advice(self, facts: ModelFacts) -> str | None:
        """Names the int8 scheme of phones' CPUs where an ONNX bundle has another."""
        if facts.target != "onnx" or facts.scheme in (None, "arm"):
            return None
        if facts.scheme in NPU_SCHEMES:
            return (
                f"its int8 is of scheme {facts.scheme}, for Qualcomm's NPU; this module runs it on "
                "the CPU, right but slowly. For phones' CPUs export it with --scheme arm; for the "
                "NPU add the QNN provider where the module's Model.kt opens its session, with the "
                "package onnxruntime-android-qnn"
            )
        return (
            f"its int8 is of scheme {facts.scheme}, which a phone computes right but not fast; for "
            "Android, export it with --scheme arm"
        )


def _version_key(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdigit())


def _model_info(facts: ModelFacts) -> str:
    preprocess = facts.preprocess
    mean, std = (
        ", ".join(f"{value!r}f" for value in values) for values in (preprocess.mean, preprocess.std)
    )
    outputs = ", ".join(kotlin_string(output.name) for output in facts.outputs)
    batch, *sizes = facts.input.shape
    input_shape = f"({batch if isinstance(batch, int) else 'N'}, {', '.join(map(str, sizes))})"
    is_float = str(facts.input.dtype == "float32").lower()
    return f"""package edgeseed.{facts.module}

import edgeseed.{facts.module}.core.Interpolation
import edgeseed.{facts.module}.core.Preprocess

/** Facts of the model, by `edgeseed embed`. Do not edit: `edgeseed verify` compares them. */
object ModelInfo {{
    const val ARCHITECTURE = {kotlin_string(facts.architecture)}
    const val PRECISION = {kotlin_string(facts.precision)}

    /** What runs the model, as `edgeseed profile` calls it. */
    const val RUNTIME = {kotlin_string(RUNTIMES[facts.target].engine)}

    /** Folder of the module's files among the app's assets. */
    const val ASSETS = {kotlin_string(facts.module)}

    /** The model's file below [ASSETS]. */
    const val MODEL = {kotlin_string(facts.model)}

    /** The model's input: {COLORS[preprocess.channels]} values 0 to 255, {input_shape}. */
    const val INPUT = {kotlin_string(facts.input.name)}

    /** Whether the input's values are 32-bit floats; bytes otherwise. */
    val inputIsFloat: Boolean = {is_float}
    val outputs: List<String> = listOf({outputs})
    const val EMBEDDING_DIM = {facts.embedding_dim}
    const val NUM_CLASSES = {facts.num_classes}

    /** The one batch size that the model takes; null where any goes. */
    val batch: Int? = {_batch(facts)}

    /** Digest of the model's files: measurements and results state it. */
    const val BUNDLE_DIGEST = {kotlin_string(facts.bundle_digest)}

    /** The student that galleries must be of. */
    const val STUDENT_SHA256 = {kotlin_string(facts.student_sha256)}
    const val EDGESEED_VERSION = {kotlin_string(facts.edgeseed)}

    val preprocess =
        Preprocess(
            imageSize = {preprocess.image_size},
            resize = {preprocess.resize},
            interpolation = Interpolation.{preprocess.interpolation.upper()},
            mean = floatArrayOf({mean}),
            std = floatArrayOf({std}),
            width = {preprocess.size[1]},
            channels = {preprocess.channels},
        )
}}
"""


def _batch(facts: ModelFacts) -> str:
    size = facts.input.shape[0]
    return str(size) if isinstance(size, int) else "null"


PLATFORM = AndroidPlatform()
