"""A Gradle library module in Kotlin on onnxruntime-android."""

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from edgeseed.core.preprocess import COLORS
from edgeseed.export.apps.contents import ModelFacts
from edgeseed.export.apps.literals import kotlin_string, one_line
from edgeseed.export.apps.platform import Platform

_PACKAGE = "src/main/kotlin/edgeseed/edgeseedmodule"
RUNTIME_VERSION = "1.29.0"
"""The onnxruntime-android whose classes the template was compiled against."""


class AndroidPlatform(Platform):
    """See the module."""

    name = "android"
    targets = ("onnx",)
    template: ClassVar[Path] = Path(__file__).parent / "template"
    assets = "src/main/assets/edgeseedmodule"

    def constants(self, facts: ModelFacts) -> Mapping[str, str]:
        """`ModelInfo.kt`, and the runtime's version for Gradle."""
        return {
            f"{_PACKAGE}/ModelInfo.kt": _model_info(facts),
            "onnxruntime.version": f"{runtime_version(facts)}\n",
        }

    def readme(self, facts: ModelFacts) -> str:
        """How an Android app uses the module."""
        text = (Path(__file__).parent / "README.md").read_text(encoding="utf-8")
        return (
            text.replace("EdgeseedModule", facts.module_title)
            .replace("edgeseedmodule", facts.module)
            .replace("@MODEL@", one_line(facts.architecture))
            .replace("@PRECISION@", facts.precision)
            .replace("@WIDTH@", str(facts.preprocess.size[1]))
            .replace("@HEIGHT@", str(facts.preprocess.size[0]))
            .replace("@RUNTIME@", runtime_version(facts))
            .replace("@EDGESEED@", one_line(facts.edgeseed))
            .replace("@DIGEST@", facts.bundle_digest)
        )

    def advice(self, facts: ModelFacts) -> str | None:
        """Names the int8 scheme of phones where the bundle has another."""
        if facts.scheme in (None, "arm"):
            return None
        return (
            f"its int8 is of scheme {facts.scheme}, which a phone computes right but not fast; for "
            "Android, export it with --scheme arm"
        )


def runtime_version(facts: ModelFacts) -> str:
    """The onnxruntime-android to depend on: the one compiled against, or newer where needed."""
    needed = facts.minimum_runtime.get("onnxruntime", "0")
    return max(RUNTIME_VERSION, needed, key=_version_key)


def _version_key(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdigit())


def _model_info(facts: ModelFacts) -> str:
    preprocess = facts.preprocess
    mean, std = (
        ", ".join(f"{value!r}f" for value in values) for values in (preprocess.mean, preprocess.std)
    )
    outputs = ", ".join(kotlin_string(output.name) for output in facts.outputs)
    input_shape = f"(N, {', '.join(map(str, preprocess.shape))})"
    return f"""package edgeseed.{facts.module}

import edgeseed.{facts.module}.core.Interpolation
import edgeseed.{facts.module}.core.Preprocess

/** Facts of the model, by `edgeseed embed`. Do not edit: `edgeseed verify` compares them. */
object ModelInfo {{
    const val ARCHITECTURE = {kotlin_string(facts.architecture)}
    const val PRECISION = {kotlin_string(facts.precision)}

    /** Folder of the module's files among the app's assets. */
    const val ASSETS = {kotlin_string(facts.module)}

    /** The model's file below [ASSETS]. */
    const val MODEL = {kotlin_string(facts.model)}

    /** The model's input: {COLORS[preprocess.channels]} values 0 to 255, {input_shape}. */
    const val INPUT = {kotlin_string(facts.input.name)}
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
