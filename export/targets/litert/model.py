"""A LiteRT model as LiteRT itself computes it on this machine's CPU, with XNNPACK."""

import contextlib
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional as F

from edgeseed.core.bundle import Manifest
from edgeseed.core.errors import ArtifactError
from edgeseed.core.files import raise_shortage
from edgeseed.core.optional import require
from edgeseed.core.records import QuantizationRecord
from edgeseed.export.added_outputs import OWN_OUTPUTS
from edgeseed.export.proof.scale_lint import lint_scales, lint_zero_points
from edgeseed.export.target import Finding, Model
from edgeseed.export.targets.litert.flatbuffer import File, StoredOperator, pack
from edgeseed.export.targets.litert.integers import SHIFTED
from edgeseed.export.targets.litert.lowering import factor_of
from edgeseed.export.targets.litert.trial import try_model

Array = npt.NDArray[Any]
_LAYERS = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")
_SMALLEST_LARGE = 1024
_GREY = 128
_LOWEST_BYTE = -128


class LiteRTModel(Model):
    """An open model file.

    Args:
        path: The file.
        precision: What it was exported as.
        quantization: The manifest's record of it; None for a float model.

    Raises:
        ArtifactError: If it is no whole file, or LiteRT refuses it.
    """

    runner = "LiteRT CPU (XNNPACK)"

    def __init__(
        self, path: Path, *, precision: str, quantization: QuantizationRecord | None
    ) -> None:
        self.path = path
        self._precision = precision
        self._quantization = quantization
        content = path.read_bytes()
        try:
            self.file = File(content)
        except ValueError as error:
            raise ArtifactError(
                f"{path} is not a LiteRT model: {error}; it may be truncated: export it anew"
            ) from error
        try_model(content, source=path)
        self._interpreter = open_interpreter(content, source=path)

    def infer(self, pixels: npt.NDArray[np.uint8]) -> dict[str, npt.NDArray[np.float32]]:
        """Runs the photos one by one."""
        found = self.answer(pixels)
        return {name: found[name] for name in OWN_OUTPUTS if name in found}

    def answer(self, pixels: npt.NDArray[np.uint8]) -> dict[str, npt.NDArray[Any]]:
        """All outputs of the file."""
        return _run(self._interpreter, pixels)

    def layers(
        self, pixels: npt.NDArray[np.uint8], names: Sequence[str]
    ) -> dict[str, npt.NDArray[np.float32]]:
        """What the file's layers make of their own inputs, by the program's names.

        Kernels write a layer's result after its activation and in integers. So its input is read
        from the model, and the layer itself computed here from the file's weights.
        """
        found = {
            name.partition("__")[0]: each
            for each in self.file.operators
            if each.kind in _LAYERS
            for name in [self.file.name(each.outputs[0])]
        }
        wanted = {name: found[name] for name in names if name in found}
        if not wanted:
            return {}
        inputs = self._values(pixels, sorted({each.inputs[0] for each in wanted.values()}))
        makers = self.file.makers()
        return {
            name: _layer(self.file, each, inputs[each.inputs[0]], makers)
            for name, each in wanted.items()
        }

    def _values(self, pixels: npt.NDArray[np.uint8], numbers: Sequence[int]) -> dict[int, Array]:
        """Real numbers of tensors of the file, which a copy gives as further outputs."""
        copy = File(self.path.read_bytes())
        copy.graph.outputs = np.array(numbers, np.int32)
        # They name outputs that the copy no longer has.
        copy.model.signatureDefs = []
        content = pack(copy.model)
        # With other outputs it needs other memory.
        try_model(content, source=self.path)
        interpreter = open_interpreter(content, source=self.path)
        places = [each["index"] for each in interpreter.get_output_details()]
        rows: list[list[Array]] = []
        for photo in pixels:
            _invoke(interpreter, photo)
            rows.append([interpreter.get_tensor(place).copy() for place in places])
        return {
            at: np.concatenate(
                [self.file.real(at, each) / np.float32(factor_of(self.file.name(at)))
                 for each in column]
            )
            for at, column in zip(numbers, zip(*rows, strict=True), strict=True)
        }  # fmt: skip

    def lint(self) -> tuple[Finding, ...]:
        """What the precision promised and the graph does not keep.

        * int8: weights with a zero point or one scale for all channels; layers that stayed in
          float; scales and zero points that are not the manifest's.
        * w8 and fp16: large weights that are still float32.

        Operators that XNNPACK leaves to slower kernels are no finding; `edgeseed profile` says so.
        """
        findings = [*self._lint_weights()]
        if self._quantization is not None:
            findings += self._lint_layers(self._quantization)
            stored = [(self.file.name(at), *self._true_scale(at)) for at in self.file.activations()]
            findings += lint_scales([scale for _, scale, _ in stored], self._quantization)
            # The bytes that a hard-swish reads a second time, with the lowest for zero.
            again = [each for each in stored if each[0].endswith(SHIFTED)]
            findings += [
                Finding(name, f"its zero point is {zero}, not {_LOWEST_BYTE}")
                for name, _, zero in again
                if zero != _LOWEST_BYTE
            ]
            findings += lint_zero_points(
                [each for each in stored if each not in again], self._quantization
            )
        return tuple(findings)

    def _true_scale(self, at: int) -> tuple[float, int]:
        """Scale and zero point of a tensor as the program has them."""
        scales = self.file.scales(at)
        assert scales is not None
        factor = factor_of(self.file.name(at))
        return float(scales.scale[0]) / factor, int(scales.zero_point[0])

    def _lint_weights(self) -> Iterator[Finding]:
        wanted = {"fp16": "float16", "w8": "int8"}.get(self._precision)
        makers = self.file.makers()
        for each in self.file.operators:
            if each.kind not in _LAYERS:
                continue
            name, weight = self.file.name(each.outputs[0]), _stored(self.file, each, makers)
            if not self.file.is_constant(weight):
                yield Finding(name, "its weights are not constant")
                continue
            kind, scales = self.file.dtype(weight), self.file.scales(weight)
            if wanted not in (None, kind) and self.file.constant(weight).size >= _SMALLEST_LARGE:
                yield Finding(name, f"{kind} weights in a file that is to be {self._precision}")
            if kind != "int8":
                continue
            channels = 0 if each.kind != "DEPTHWISE_CONV_2D" else 3
            if scales is None or len(scales.scale) != self.file.constant(weight).shape[channels]:
                yield Finding(name, "its weights have one scale, not one an output channel")
            elif scales.axis != channels:
                yield Finding(name, f"the scales of its weights are those of axis {scales.axis}")
            elif np.any(scales.zero_point):
                yield Finding(name, "its weights have a zero point that is not 0")
            elif not np.all(scales.scale > 0):
                yield Finding(name, "a scale of its weights is not above 0")

    def _lint_layers(self, record: QuantizationRecord) -> Iterator[Finding]:
        wanted = list(record.integer_operators.values())
        for kind, names in (("conv", _LAYERS[:2]), ("linear", _LAYERS[2:]), ("add", ("ADD",))):
            found = sum(
                each.kind in names and self._is_integer(each) for each in self.file.operators
            )
            meant = wanted.count(kind)
            if found < meant:
                yield Finding(kind, f"{meant} were meant to be int8, the file has {found}")

    def _is_integer(self, operator: StoredOperator) -> bool:
        """Whether a layer's weights are integers, or a sum's result."""
        if operator.kind != "ADD":
            return self.file.dtype(operator.inputs[1]) == "int8"
        # A sum with a constant is none of the network's: it shifts a zero point.
        shifts = any(self.file.is_constant(at) for at in operator.inputs)
        return self.file.dtype(operator.outputs[0]) == "int8" and not shifts

    def single_run(self) -> Callable[[], object] | None:
        """A run of a grey photo on one thread: this is the engine that an app has."""
        interpreter = open_interpreter(self.path.read_bytes(), source=self.path)
        (image,) = interpreter.get_input_details()
        interpreter.set_tensor(image["index"], np.full(image["shape"], _GREY, image["dtype"]))
        run: Callable[[], object] = interpreter.invoke
        return run

    def check_interface(self, manifest: Manifest) -> None:
        """Compares inputs and outputs with the manifest's.

        Raises:
            ArtifactError: If they differ.
        """
        details = self._interpreter.get_signature_runner()
        for kind, specs, found in (
            ("input", manifest.inputs, details.get_input_details()),
            ("output", manifest.outputs, details.get_output_details()),
        ):
            expected = {each.name: (list(each.shape), each.dtype) for each in specs}
            actual = {
                name: ([int(size) for size in each["shape"]], np.dtype(each["dtype"]).name)
                for name, each in found.items()
            }
            if expected != actual:
                raise ArtifactError(
                    f"{self.path}: its {kind}s are {actual}, the manifest says {expected}; "
                    "the model file belongs to another bundle: export it anew"
                )


def open_litert(folder: Path, manifest: Manifest) -> LiteRTModel:
    """Opens a bundle's model and compares its inputs and outputs with the manifest's.

    Raises:
        ArtifactError: If the file is no whole LiteRT model, or has other inputs or outputs.
    """
    model = LiteRTModel(
        folder / manifest.model, precision=manifest.precision, quantization=manifest.quantization
    )
    model.check_interface(manifest)
    return model


def load_litert() -> Any:
    """The module of LiteRT's interpreter.

    Raises:
        MissingDependencyError: If its package is not installed, or broken.
    """
    # The package by its name first: that is what may be missing.
    require("ai_edge_litert", extra="litert", why="--target litert")
    return require("ai_edge_litert.interpreter", extra="litert", why="--target litert")


def open_interpreter(content: bytes, *, source: Path, threads: int = 1) -> Any:
    """LiteRT's interpreter, ready to run.

    Raises:
        ArtifactError: If LiteRT refuses the file.
        MissingDependencyError: If its package is not installed.
    """
    litert = load_litert()
    with _quiet_stderr() as said:
        try:
            interpreter = litert.Interpreter(model_content=content, num_threads=threads)
            interpreter.allocate_tensors()
        except Exception as error:  # it raises ValueError and RuntimeError, by the place
            raise_shortage(error, f"opening {source} in LiteRT")
            reason = str(error).strip().partition("\n")[0] or said()
            raise ArtifactError(
                f"{source} is not a model that LiteRT can load ({reason}); it may be truncated, "
                "or need a newer runtime: see minimum_runtime in the manifest"
            ) from error
    return interpreter


@contextlib.contextmanager
def _quiet_stderr() -> Iterator[Callable[[], str]]:
    """Keeps what LiteRT's C++ says of its delegates out of the terminal."""
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as file:

        def said() -> str:
            file.seek(0)
            lines = file.read().decode(errors="replace").strip().splitlines()
            return lines[-1] if lines else "it does not say why"

        try:
            # The descriptor itself: C++ does not write by way of `sys.stderr`.
            os.dup2(file.fileno(), 2)
            yield said
        finally:
            os.dup2(kept, 2)
            os.close(kept)


def _invoke(interpreter: Any, photo: npt.NDArray[np.uint8]) -> None:
    (image,) = interpreter.get_input_details()
    shown = np.ascontiguousarray(photo.transpose(1, 2, 0))[None]
    interpreter.set_tensor(image["index"], shown.astype(image["dtype"], copy=False))
    interpreter.invoke()


def _run(interpreter: Any, pixels: npt.NDArray[np.uint8]) -> dict[str, Array]:
    places = _output_places(interpreter)
    rows: dict[str, list[Array]] = {name: [] for name in places}
    for photo in pixels:
        _invoke(interpreter, photo)
        for name, place in places.items():
            rows[name].append(interpreter.get_tensor(place).copy())
    return {name: np.concatenate(each) for name, each in rows.items()}


def _output_places(interpreter: Any) -> dict[str, int]:
    """Numbers of the outputs' tensors, in the manifest's order."""
    # Its runner must not outlive this: the interpreter does not run while another holds it.
    found = interpreter.get_signature_runner().get_output_details()
    own = [name for name in OWN_OUTPUTS if name in found]
    names = [*own, *(name for name in found if name not in own)]
    return {name: found[name]["index"] for name in names}


def _stored(file: File, layer: StoredOperator, makers: dict[int, StoredOperator]) -> int:
    """The tensor that holds a layer's weights, before they are unpacked."""
    weight = layer.inputs[1]
    maker = makers.get(weight)
    return maker.inputs[0] if maker is not None and maker.kind == "DEQUANTIZE" else weight


def _layer(
    file: File, layer: StoredOperator, source: Array, makers: dict[int, StoredOperator]
) -> Array:
    """(N, O, ...) what a layer gives, before its activation and rounding.

    Args:
        file: Where it is in.
        layer: The operator.
        source: Its input, channels last.
        makers: The file's.
    """
    at = _stored(file, layer, makers)
    factor = factor_of(file.name(layer.inputs[0]))
    weight = torch.from_numpy(file.real(at, file.constant(at)) * np.float32(factor))
    # A bias counts in steps of the input times those of the weights, as the file says them.
    bias = torch.from_numpy(file.real(layer.inputs[2], file.constant(layer.inputs[2])))
    result_factor = np.float32(factor_of(file.name(layer.outputs[0])))
    options, values = layer.options, torch.from_numpy(source)
    with torch.inference_mode():
        if layer.kind == "FULLY_CONNECTED":
            found = F.linear(values, weight, bias)
            return np.asarray(found.numpy() / result_factor)
        depthwise = layer.kind == "DEPTHWISE_CONV_2D"
        values = values.permute(0, 3, 1, 2)
        kernel = weight.permute(3, 0, 1, 2) if depthwise else weight.permute(0, 3, 1, 2)
        stride = (options.strideH, options.strideW)
        dilation = (options.dilationHFactor, options.dilationWFactor)
        if options.padding == 0:  # SAME
            pads: list[int] = []
            for size, step, reach, apart in zip(
                values.shape[:1:-1], stride[::-1], kernel.shape[:1:-1], dilation[::-1], strict=True
            ):
                # As `ConvGeometry.is_same` has it. Axes are reversed, since `F.pad` takes the last
                # one first.
                total = max((-(-size // step) - 1) * step + (reach - 1) * apart + 1 - size, 0)
                pads += [total // 2, total - total // 2]
            values = F.pad(values, pads)
        groups = values.shape[1] // kernel.shape[1]
        found = F.conv2d(values, kernel, bias, stride, 0, dilation, groups)
    return np.asarray(found.numpy() / result_factor)
