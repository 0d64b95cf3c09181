"""What a Core ML package says beside its numbers: names, labels, probabilities, metadata."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeseed.core.agreement import relative_error
from edgeseed.core.bundle import Manifest
from edgeseed.core.preprocess import Preprocess
from edgeseed.export.file_metadata import compare_metadata, file_metadata
from edgeseed.export.program import INPUT_NAME
from edgeseed.export.target import Finding
from edgeseed.export.targets.coreml.interpreter.program import Program, Reference
from edgeseed.export.targets.coreml.interpreter.reading import parse_package
from edgeseed.export.targets.coreml.model import CoreMLModel

LABEL = "classLabel"
PROBABILITIES = f"{LABEL}_probs"
DEPLOYMENT_TARGETS = {"iOS15": 6, "iOS16": 7, "iOS17": 8}
"""Systems that an app may be for, and the version of the specification that they read."""
FIRST_SYSTEM = {
    6: {"iOS": "15", "macOS": "12"},
    7: {"iOS": "16", "macOS": "13"},
    8: {"iOS": "17", "macOS": "14"},
}
"""By the version of the specification, the first systems that read it."""
_FIRST_VERSION = {"constexpr": 7, "quantize": 8, "dequantize": 8}
"""First version that has an operation, by its name up to a `_`."""
# Probabilities of float16 logits are rounded to float16 once more.
_PROBABILITY_LIMIT = 1e-2


def user_metadata(
    preprocess: Preprocess, *, precision: str, classes: tuple[str, ...] | None, version: str
) -> dict[str, str]:
    """The model's user-defined metadata: what an app needs that has only the package."""
    texts = file_metadata(preprocess, precision=precision, classes=classes)
    return {"edgeseed.version": version, **texts}


def feature_texts(preprocess: Preprocess) -> dict[str, str]:
    """What Xcode shows beside each input and output."""
    return {
        INPUT_NAME: f"The photo, already of this size: {_resized(preprocess)} "
        f"({preprocess.interpolation}), its centre cut out.",
        "embedding": "What the student saw, for search and comparison (cosine).",
        "logits": "One score a class, before the softmax.",
        LABEL: "The likeliest class.",
        PROBABILITIES: "The probability of each class.",
    }


def _resized(preprocess: Preprocess) -> str:
    if preprocess.width is None:
        return f"its shorter side resized to {preprocess.resize} pixels"
    return f"resized to cover {preprocess.box_text}"


def check_package(
    model: CoreMLModel, manifest: Manifest, pixels: npt.NDArray[np.uint8], *, asked: str
) -> Iterator[Finding]:
    """Differences between a package and its manifest.

    Args:
        model: The open package.
        manifest: The bundle's.
        pixels: A few photos, whose probabilities are compared with the softmax of their logits.
        asked: The oldest system that the package is for, of `DEPLOYMENT_TARGETS`.
    """
    specification = parse_package(model.package)
    said: Mapping[str, Any] = manifest.provenance.model
    version = specification.specificationVersion
    if version != said.get("specification_version"):
        found = said.get("specification_version")
        yield Finding("specification", f"is of version {version}, the manifest says {found}")
    if FIRST_SYSTEM.get(version) != dict(manifest.minimum_runtime):
        yield Finding(
            "minimum runtime",
            f"is {FIRST_SYSTEM.get(version)}, the manifest says {dict(manifest.minimum_runtime)}",
        )
    if version != DEPLOYMENT_TARGETS[asked]:
        yield Finding("specification", f"is of version {version}, and deployment_target is {asked}")
    yield from _too_new(specification.mlProgram, model.interpreter.program, version)
    if list(specification.mlProgram.functions) != ["main"]:
        names = ", ".join(specification.mlProgram.functions)
        yield Finding("program", f"has the functions {names}; the export writes main alone")
    yield from _features(specification.description, manifest)
    yield from _metadata(specification.description, manifest)
    yield from _unread(model.interpreter.program)
    if manifest.classes is not None:
        yield from _probabilities(model, pixels)


def _too_new(program: Any, read: Program, version: int) -> Iterator[Finding]:
    """What systems that read this version of the specification do not know."""
    wanted = f"CoreML{version - 1}"
    for name, function in program.functions.items():
        if function.opset != wanted:
            found = function.opset
            yield Finding(
                name, f"has the operations of {found}, version {version} those of {wanted}"
            )
    for operation in read.operations:
        first = _FIRST_VERSION.get(operation.type.partition("_")[0], 0)
        if first > version:
            yield Finding(operation.place, f"is of version {first}, the specification {version}")


def _features(description: Any, manifest: Manifest) -> Iterator[Finding]:
    classifies = manifest.classes is not None
    wanted = [spec.name for spec in manifest.outputs]
    wanted += [LABEL, PROBABILITIES] if classifies else []
    found = [feature.name for feature in description.output]
    if found != wanted:
        yield Finding("outputs", f"are {', '.join(found)}; meant were {', '.join(wanted)}")
    for name, meant in (
        ("predictedFeatureName", LABEL if classifies else ""),
        ("predictedProbabilitiesName", PROBABILITIES if classifies else ""),
    ):
        value = getattr(description, name)
        if value != meant:
            yield Finding(name, f"is {value!r}, meant was {meant!r}")
    texts = feature_texts(manifest.preprocess)
    for feature in [*description.input, *description.output]:
        if feature.shortDescription != texts.get(feature.name):
            yield Finding(f"description of {feature.name}", f"is {feature.shortDescription!r}")


def _metadata(description: Any, manifest: Manifest) -> Iterator[Finding]:
    version = manifest.provenance.edgeseed_version or ""
    wanted = user_metadata(
        manifest.preprocess, precision=manifest.precision, classes=manifest.classes, version=version
    )
    found = dict(description.metadata.userDefined)
    # Bundles of before have a digest that nothing can be compared with, and nothing reads.
    found.pop("edgeseed.weights", None)
    yield from compare_metadata(found, wanted)
    text = f"{manifest.name}, {manifest.precision}"
    if description.metadata.shortDescription != text:
        yield Finding("description", f"is {description.metadata.shortDescription!r}, not {text!r}")
    if description.metadata.versionString != version:
        yield Finding("version", f"is {description.metadata.versionString!r}, not {version!r}")


def _unread(program: Program) -> Iterator[Finding]:
    read = {
        argument.name
        for operation in program.operations
        for arguments in operation.arguments.values()
        for argument in arguments
        if isinstance(argument, Reference)
    } | set(program.outputs)
    for operation in program.operations:
        if not read.intersection(result.name for result in operation.results):
            yield Finding(operation.place, "computes what nothing reads")


def _probabilities(model: CoreMLModel, pixels: npt.NDArray[np.uint8]) -> Iterator[Finding]:
    outputs = model.interpreter.run_photos(pixels)
    if PROBABILITIES not in outputs or LABEL not in outputs:
        return  # told as a missing output
    logits = outputs["logits"].astype(np.float64)
    shares = np.exp(logits - logits.max(axis=1, keepdims=True))
    shares /= shares.sum(axis=1, keepdims=True)
    found = outputs[PROBABILITIES].reshape(shares.shape)
    error = relative_error(found, shares)
    if error > _PROBABILITY_LIMIT:
        yield Finding(
            PROBABILITIES, f"is not the softmax of the logits (relative error {error:.2g})"
        )
    if not np.array_equal(outputs[LABEL].reshape(-1), found.argmax(axis=1)):
        yield Finding(LABEL, "is not the class of the largest probability")
