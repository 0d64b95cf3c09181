"""Core ML for iPhones, iPads and Macs: an ML program in a `.mlpackage`, made on Linux or macOS.

What is in the package, and why:

* **Input `image`**, an image of the student's size, RGB or grey. Core ML's own scaling has one
  scale for all channels, which cannot divide by a standard deviation per channel; it is left at
  identity, and mean and std are in the graph, as for every target. Core ML fixes an image's batch
  at 1.
* **Outputs** `embedding` and, with a head, `logits`, both float32; with a head also `classLabel`
  and `classLabel_probs` (softmax inside), which make it a classifier for Xcode and Vision.
* **iOS 17, macOS 14** as the oldest system: the first whose programs have `quantize` and
  `dequantize`, without which int8 activations cannot be expressed. One floor for all precisions
  keeps an app's deployment target independent of the precision that it ships. Every iPhone from
  2018 on runs it. An app for older systems asks for them by `deployment_target`: w8 needs iOS 16,
  whose programs unpack stored weights, and fp16 and fp32 run from iOS 15 on.
* **float16** is the default of the Neural Engine; operations named by `float32` are kept in float32
  (they then run on the CPU or GPU).

The conversion goes through `torch.export`, and through `torch.jit.trace` where coremltools does not
take the exported program. The package is written by this file, so that the same student gives the
same bytes.
"""

import copy
import dataclasses
import gc
import json
import shutil
import uuid
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, fx, nn
from torch.export import ExportedProgram

from edgeseed.core.bundle import Manifest
from edgeseed.core.console import warn
from edgeseed.core.errors import UsageError, WorkError
from edgeseed.core.files import raise_shortage
from edgeseed.core.names import split_names
from edgeseed.core.registry import unknown_name
from edgeseed.core.scratch import temporary_files_in_scratch
from edgeseed.export.exact_normalisation import centre_on_whole_numbers
from edgeseed.export.program import INPUT_NAME, trace
from edgeseed.export.target import (
    Finding,
    Model,
    Precision,
    Target,
    WriteRequest,
    WrittenModel,
)
from edgeseed.export.targets.coreml.checks import (
    DEPLOYMENT_TARGETS,
    FIRST_SYSTEM,
    LABEL,
    PROBABILITIES,
    check_package,
    feature_texts,
    user_metadata,
)
from edgeseed.export.targets.coreml.model import CoreMLModel, open_coreml
from edgeseed.export.targets.coreml.palettes import palettize
from edgeseed.export.targets.coreml.refusals import refusal
from edgeseed.export.targets.coreml.tools import errors_logged, load_coremltools, quiet

MODEL_FOLDER = "model.mlpackage"
WEIGHTS = ("linear8", "palette8", "palette6", "palette4")
_DEFAULT_DEPLOYMENT = "iOS17"
_FIRST_DEPLOYMENT: Mapping[Precision, str] = {"w8": "iOS16", "int8": "iOS17"}
_PROBABILITIES = "probabilities"
_PADDING_PASSES_END = "common::fuse_pad_conv"
_DIVIDES_SCALES = "common::distributive_quantized_binary_op_scale_normalization"
_READS_WEIGHTS = "common::fuse_conv_bias"
_aten = torch.ops.aten
# What coremltools has no operator for, and torch can write in others that it has.
_WRITTEN_IN_OTHERS = (
    _aten.addcdiv.default,
    _aten.upsample_bicubic2d.vec,
)
# A compressed tensor has a scale or a palette beside it; up to this size that eats what it saves.
_LARGEST_UNCOMPRESSED = 512


class CoreMLTarget(Target):
    """See the module."""

    name = "coreml"
    precisions = ("fp16", "fp32", "w8", "int8")
    schemes: ClassVar[Mapping[Precision, tuple[str, ...]]] = {"int8": ("coreml", "coreml-affine")}
    fixed_batch: ClassVar[int | None] = 1  # of an image input
    judges_natively: ClassVar[bool] = True  # on a Mac
    modules = ("coremltools",)
    smallest_in_bytes: ClassVar[int] = _LARGEST_UNCOMPRESSED + 1
    options: ClassVar[Mapping[str, Any]] = {
        "weights": "linear8",
        "float32": "",
        "deployment_target": _DEFAULT_DEPLOYMENT,
    }
    parity_limit: ClassVar[Mapping[Precision, float]] = {"fp32": 2e-5, "fp16": 2e-3}

    def check_options(self, options: Mapping[str, Any]) -> None:
        """Refuses unknown weights and systems."""
        CoreMLSettings.from_options(options)

    def require_modules(self) -> None:
        """Imports coremltools."""
        load_coremltools("--target coreml")

    def unavailable(
        self, precision: Precision, scheme: str | None, options: Mapping[str, Any]
    ) -> str:
        """Says of a precision that it needs a newer system than the app is for."""
        del scheme
        asked = str(options["deployment_target"])
        first = {name: _FIRST_DEPLOYMENT.get(name, asked) for name in self.precisions}
        able = [
            name
            for name in self.precisions
            if DEPLOYMENT_TARGETS[asked] >= DEPLOYMENT_TARGETS[first[name]]
        ]
        if precision in able:
            return ""
        return (
            f"it needs {first[precision]}, and deployment_target is {asked}; set "
            f"deployment_target={first[precision]}, or make {' or '.join(able)}"
        )

    def write(self, request: WriteRequest, folder: Path) -> WrittenModel:
        """Writes `model.mlpackage`."""
        settings = CoreMLSettings.from_options(request.options)
        coremltools = load_coremltools("--target coreml")
        _say_what_has_no_effect(request, settings)
        with temporary_files_in_scratch():
            model = convert(coremltools, request, settings)
            if request.precision == "w8":
                model = compress_weights(coremltools, model, weights=settings.weights)
            specification = model.get_spec()
            if request.spec.classes is not None:
                make_classifier(coremltools, specification, request.spec.classes)
            describe(specification, request)
            write_package(folder / MODEL_FOLDER, specification, weights=Path(model.weights_dir))
        return WrittenModel(
            model=MODEL_FOLDER,
            minimum_runtime=FIRST_SYSTEM[specification.specificationVersion],
            details={
                "specification_version": specification.specificationVersion,
                "coremltools": version("coremltools"),
                **dataclasses.asdict(settings),
            },
        )

    def round_weight(
        self, weight: npt.NDArray[np.float32], options: Mapping[str, Any]
    ) -> npt.NDArray[np.float32]:
        """In eight bits a channel, or as a palette."""
        weights = str(options.get("weights", WEIGHTS[0]))
        if weights == WEIGHTS[0]:
            return super().round_weight(weight, options)
        if weight.size < self.smallest_in_bytes:
            return weight
        palette, places = palettize(weight, bits=int(weights.removeprefix("palette")))
        return np.asarray(palette[places], dtype=np.float32).reshape(weight.shape)

    def check(
        self, folder: Path, manifest: Manifest, model: Model, pixels: npt.NDArray[np.uint8]
    ) -> tuple[Finding, ...]:
        """Compares outputs, probabilities, labels, versions and metadata."""
        del folder
        assert isinstance(model, CoreMLModel)
        # Bundles of before have not all of today's options.
        options = {**self.options, **manifest.provenance.export.options}
        try:
            settings = CoreMLSettings.from_options(options)
        except UsageError as error:
            return (Finding("the export's options", str(error)),)
        return tuple(check_package(model, manifest, pixels, asked=settings.deployment_target))

    def open(self, folder: Path, manifest: Manifest) -> CoreMLModel:
        """Opens it in the reference interpreter."""
        return open_coreml(folder, manifest)


@dataclasses.dataclass(frozen=True, kw_only=True)
class CoreMLSettings:
    """The target's options, checked.

    Attributes:
        weights: How `--precision w8` stores weights: `linear8` (8 bits, one scale a channel), or a
            palette of 256, 64 or 16 values a tensor (`palette8`, `palette6`, `palette4`).
        float32: Operations that a float16 package computes in float32: types or names of the
            program's operations, with commas between.
        deployment_target: The oldest system that the app is for, as coremltools calls it.
    """

    weights: str
    float32: tuple[str, ...]
    deployment_target: str

    @classmethod
    def from_options(cls, options: Mapping[str, Any]) -> "CoreMLSettings":
        """The settings of one export.

        Raises:
            UsageError: If a value is none that the option takes.
        """
        weights = str(options["weights"])
        if weights not in WEIGHTS:
            raise UsageError(f"weights is {weights!r}; known: {', '.join(WEIGHTS)}")
        oldest = str(options["deployment_target"])
        if oldest not in DEPLOYMENT_TARGETS:
            raise UsageError(
                f"deployment_target is {oldest!r}; known: {', '.join(DEPLOYMENT_TARGETS)}, and "
                "later systems run what is made for these"
            )
        return cls(
            weights=weights,
            float32=tuple(split_names(str(options["float32"]))),
            deployment_target=oldest,
        )


def _say_what_has_no_effect(request: WriteRequest, settings: CoreMLSettings) -> None:
    if settings.weights != WEIGHTS[0] and request.precision != "w8":
        warn(f"weights={settings.weights} has no effect on {request.precision}, only on w8")
    if settings.float32 and request.precision == "fp32":
        warn("float32 has no effect on fp32, where every operation is in float32")


class _WithProbabilities(nn.Module):
    """A program with the softmax of its logits as one more output.

    Args:
        program: Pixels to (embedding, logits).
    """

    def __init__(self, program: nn.Module) -> None:
        super().__init__()
        self.program = program

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Pixels to (embedding, logits, probabilities)."""
        embedding, logits = self.program(image)
        return embedding, logits, logits.softmax(dim=-1)


def convert(coremltools: Any, request: WriteRequest, settings: CoreMLSettings) -> Any:
    """The exported program as a Core ML model in memory.

    Raises:
        WorkError: If coremltools cannot express the network, by either of its two roads.
        UnknownNameError: If an operation to be kept in float32 is not in the program.
    """
    module = _module(request)
    precision = _ComputePrecision(settings.float32)
    pipeline = _pipeline(coremltools, request.precision)
    names = list(request.output_names)
    if request.spec.classes is not None:
        module, names = _WithProbabilities(module), [*names, _PROBABILITIES]
    example = torch.zeros(1, *request.spec.preprocess.shape)
    layouts = coremltools.colorlayout
    layout = layouts.GRAYSCALE if request.spec.preprocess.channels == 1 else layouts.RGB

    def run(source: object) -> Any:
        with quiet():
            return coremltools.convert(
                source,
                convert_to="mlprogram",
                inputs=[
                    coremltools.ImageType(
                        name=INPUT_NAME,
                        shape=tuple(example.shape),
                        color_layout=layout,
                    )
                ],
                outputs=[coremltools.TensorType(name=name, dtype=np.float32) for name in names],
                minimum_deployment_target=getattr(coremltools.target, settings.deployment_target),
                compute_precision=precision.of(coremltools, request.precision),
                pass_pipeline=pipeline,
                # Loading compiles the model for this machine's devices; only a Mac can, and no one
                # asked.
                skip_model_load=True,
            )

    roads: dict[str, Callable[[], object]] = {"torch.export": lambda: _exported(module, example)}
    if request.precision != "int8":
        # coremltools takes no operator that quantizes from a trace.
        roads["trace"] = lambda: _traced(module, example)
    model = _first_that_works(run, roads)
    precision.check_names()
    return model


def _pipeline(coremltools: Any, precision: Precision) -> Any:
    """The passes of coremltools without those that do not bear integers, and one of our own.

    * Where a sum of two stored tensors is stored, one of them divides all three scales by one of
      them, to save a multiplication. The file then has scales that no calibration gave: they cannot
      be compared with the manifest, which refused networks such as HGNetV2.
    * Another moves what is added behind a convolution into its bias. It reads the weights for that,
      and fails on weights of integers with a transpose in front of the sum, as where SAM 2's Hiera
      adds its positions. Biases are where they belong already: torch's layers have their own.
    * Ours stands behind those on padding.
    """
    with quiet():
        from edgeseed.export.targets.coreml.passes import PADDING
    pipeline = coremltools.PassPipeline()
    pipeline.remove_passes([_DIVIDES_SCALES])
    if precision == "int8":
        pipeline.remove_passes([_READS_WEIGHTS])
    pipeline.insert_pass(pipeline.passes.index(_PADDING_PASSES_END) + 1, PADDING)
    return pipeline


def _module(request: WriteRequest) -> nn.Module:
    graph = request.program.module(check_guards=False)
    assert isinstance(graph, fx.GraphModule)
    if request.precision in {"fp16", "w8"}:
        # A copy: the program's own tensors are the student's.
        graph = copy.deepcopy(graph)
        centre_on_whole_numbers(graph)
    return graph


def _first_that_works(
    run: Callable[[object], Any], roads: Mapping[str, Callable[[], object]]
) -> Any:
    lines = []
    for make in roads.values():
        with quiet(), errors_logged() as log:
            try:
                return run(make())
            except Exception as error:  # coremltools raises what its many passes happen to raise
                raise_shortage(error, "converting to Core ML")
                lines.append(refusal(error, log))
            # The error's frames hold a temporary folder of coremltools, which warns as it goes.
            gc.collect()
    # What the first road lacks is said; the others are tried in its place.
    raise WorkError(lines[0])


def _exported(module: nn.Module, example: Tensor) -> ExportedProgram:
    """The program for one photo, in the dialect of ATen that coremltools takes."""
    with quiet():
        known = torch.export.default_decompositions()
        table: dict[Any, Any] = {each: known[each] for each in _WRITTEN_IN_OTHERS}
        decomposed: ExportedProgram = trace(module, example, batch=1).run_decompositions(table)
    return decomposed


def _traced(module: nn.Module, example: Tensor) -> object:
    with quiet(), torch.no_grad():
        return torch.jit.trace(module, example, strict=False)


class _ComputePrecision:
    """Which operations compute in float32, and whether all those that were named exist.

    Args:
        kept: Types or names of operations that stay in float32.
    """

    def __init__(self, kept: tuple[str, ...]) -> None:
        self.kept = kept
        self.types: set[str] = set()
        self.names: set[str] = set()

    def of(self, coremltools: Any, precision: Precision) -> Any:
        """As coremltools takes it."""
        if precision == "fp32":
            return coremltools.precision.FLOAT32
        return coremltools.transform.FP16ComputePrecision(op_selector=self._in_float16)

    def _in_float16(self, operation: Any) -> bool:
        self.types.add(operation.op_type)
        self.names.add(operation.name)
        return operation.op_type not in self.kept and operation.name not in self.kept

    def check_names(self) -> None:
        """Raises for a name that no operation had.

        Raises:
            UnknownNameError: If there is one; it lists the types, for names are many.
        """
        if not self.types:
            return  # float32 throughout: nothing was asked
        for name in self.kept:
            if name not in self.types | self.names:
                raise unknown_name("operation to keep in float32:", name, self.types)


def compress_weights(coremltools: Any, model: Any, *, weights: str) -> Any:
    """The model with its large weights stored in fewer bits; it computes in float16 as before."""
    from coremltools.optimize import coreml as optimize

    if weights == "linear8":
        operation = optimize.OpLinearQuantizerConfig(
            mode="linear_symmetric", weight_threshold=_LARGEST_UNCOMPRESSED
        )
        with quiet():
            return optimize.linear_quantize_weights(
                model, optimize.OptimizationConfig(global_config=operation)
            )
    bits = int(weights.removeprefix("palette"))

    def make_palette(weight: Any) -> tuple[Any, Any]:
        # coremltools' own k-means asks for a scikit-learn of 2024, and runs for minutes.
        return palettize(np.asarray(weight), bits=bits)

    operation = optimize.OpPalettizerConfig(
        mode="custom", lut_function=make_palette, weight_threshold=_LARGEST_UNCOMPRESSED
    )
    with quiet():
        return optimize.palettize_weights(
            model, optimize.OptimizationConfig(global_config=operation)
        )


def make_classifier(coremltools: Any, specification: Any, classes: tuple[str, ...]) -> None:
    """Turns the output `probabilities` into `classLabel` and `classLabel_probs`, in place.

    As `coremltools.ClassifierConfig` does it, which in coremltools 9.0 cannot be given together
    with the names and types of other outputs (it fails with an IndexError).
    """
    mil = coremltools.proto.MIL_pb2
    function = specification.mlProgram.functions["main"]
    block = function.block_specializations[function.opset]
    text, number = _scalar_type(mil, mil.STRING), _scalar_type(mil, mil.FLOAT64)
    scores = PROBABILITIES

    operation = block.operations.add(type="classify")
    operation.inputs["probabilities"].arguments.add(name=_PROBABILITIES)
    labels = operation.inputs["classes"].arguments.add().value
    labels.type.listType.type.CopyFrom(text)
    labels.type.listType.length.constant.size = len(classes)
    for name in classes:
        labels.immediateValue.list.values.append(_text(mil, name))
    operation.outputs.add(name=LABEL).type.CopyFrom(text)
    dictionary = operation.outputs.add(name=scores).type.dictionaryType
    dictionary.keyType.CopyFrom(text)
    dictionary.valueType.CopyFrom(number)
    operation.attributes["name"].CopyFrom(_text(mil, "classify"))

    block.outputs.remove(_PROBABILITIES)
    block.outputs.extend([LABEL, scores])
    description = specification.description
    kept = [each for each in description.output if each.name != _PROBABILITIES]
    del description.output[:]
    description.output.extend(kept)
    # These types are empty messages: without this protobuf would not write them.
    description.output.add(name=LABEL).type.stringType.SetInParent()
    description.output.add(name=scores).type.dictionaryType.stringKeyType.SetInParent()
    description.predictedFeatureName = LABEL
    description.predictedProbabilitiesName = scores


def _scalar_type(mil: Any, number: int) -> Any:
    message = mil.ValueType()
    message.tensorType.dataType = number
    return message


def _text(mil: Any, text: str) -> Any:
    message = mil.Value(type=_scalar_type(mil, mil.STRING))
    message.immediateValue.tensor.strings.values.append(text)
    return message


def describe(specification: Any, request: WriteRequest) -> None:
    """Says in the model's metadata what an app needs to know that has only it; names no author."""
    spec = request.spec
    metadata = specification.description.metadata
    metadata.ClearField("userDefined")  # coremltools writes the day of the conversion there
    metadata.shortDescription = f"{spec.architecture.name}, {request.precision}"
    metadata.versionString = version("edgeseed")
    metadata.userDefined.update(
        user_metadata(
            spec.preprocess,
            precision=request.precision,
            classes=spec.classes,
            version=version("edgeseed"),
        )
    )
    texts = feature_texts(spec.preprocess)
    for feature in [*specification.description.input, *specification.description.output]:
        feature.shortDescription = texts[feature.name]


def write_package(package: Path, specification: Any, *, weights: Path) -> None:
    """Writes a `.mlpackage`: the specification, the weight file, and a table of contents.

    Core ML's own writer gives its entries random identifiers; these are made from what they name.

    Args:
        package: Where; it must not exist.
        specification: The model's protobuf message.
        weights: The folder with `weight.bin`, where coremltools left it.
    """
    data = package / "Data" / "com.apple.CoreML"
    data.mkdir(parents=True)
    # Protobuf writes maps in any order otherwise, and the same student gives the same bytes.
    (data / "model.mlmodel").write_bytes(specification.SerializeToString(deterministic=True))
    (data / "weights").mkdir()
    shutil.copyfile(weights / "weight.bin", data / "weights" / "weight.bin")
    entries = {
        "com.apple.CoreML/model.mlmodel": ("model.mlmodel", "CoreML Model Specification"),
        "com.apple.CoreML/weights": ("weights", "CoreML Model Weights"),
    }
    identifiers = {path: str(uuid.uuid5(uuid.NAMESPACE_URL, path)) for path in entries}
    contents = {
        "fileFormatVersion": "1.0.0",
        "itemInfoEntries": {
            identifiers[path]: {
                "author": "com.apple.CoreML",
                "description": description,
                "name": name,
                "path": path,
            }
            for path, (name, description) in entries.items()
        },
        "rootModelIdentifier": identifiers["com.apple.CoreML/model.mlmodel"],
    }
    # As Core ML itself orders it: whoever opens a package, coremltools too, writes this file anew,
    # and a bundle whose files were changed is refused.
    text = json.dumps(contents, indent=4, sort_keys=True) + "\n"
    (package / "Manifest.json").write_text(text, encoding="utf-8")


TARGET = CoreMLTarget()
