"""An ONNX model as ONNX Runtime computes it on this machine's CPU."""

import functools
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
from google.protobuf.message import DecodeError

from edgeseed.core.bundle import Manifest
from edgeseed.core.errors import ArtifactError
from edgeseed.export.targets._target import Finding, Model

_BATCH = 16


class OnnxModel(Model):
    """An open model file.

    Args:
        path: The file.
        batch: `"dynamic"`, or the only batch size it takes.
    """

    runner = "onnxruntime CPU"

    def __init__(self, path: Path, *, batch: int | str) -> None:
        self.path = path
        self._batch = batch if isinstance(batch, int) else None
        self._session = _session(path.read_bytes(), source=path)

    def infer(self, pixels: npt.NDArray[np.uint8]) -> dict[str, npt.NDArray[np.float32]]:
        """Runs a batch, in pieces of a size that keeps memory small."""
        names = [output.name for output in self._session.get_outputs()]
        return _run(self._session, pixels, names, fixed_batch=self._batch)

    def layers(
        self, pixels: npt.NDArray[np.uint8], names: Sequence[str]
    ) -> dict[str, npt.NDArray[np.float32]]:
        """Values inside, by the name they have in the exported program."""
        model = onnx.load(self.path)
        found = [name for name in names if name in _float_values(model)]
        del model.graph.output[:]
        model.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in found)
        session = _session(model.SerializeToString(), source=self.path, optimise=False)
        return _run(session, pixels, found, fixed_batch=self._batch)

    def lint(self) -> tuple[Finding, ...]:
        """Quantized graphs: what a runtime could not turn into an integer kernel."""
        return ()

    @functools.cached_property
    def graph(self) -> onnx.GraphProto:
        """The graph in the file."""
        return onnx.load(self.path).graph


def open_onnx(folder: Path, manifest: Manifest) -> OnnxModel:
    """Opens a bundle's model and compares its inputs and outputs with the manifest's.

    Raises:
        ArtifactError: If the file is no whole ONNX model, or has other inputs or outputs.
    """
    model = OnnxModel(folder / manifest.model, batch=manifest.inputs[0].shape[0])
    for kind, specs, actual in (
        ("input", manifest.inputs, model._session.get_inputs()),
        ("output", manifest.outputs, model._session.get_outputs()),
    ):
        expected = [(spec.name, list(spec.shape)) for spec in specs]
        found = [(value.name, list(value.shape)) for value in actual]
        if expected != found:
            raise ArtifactError(
                f"{folder / manifest.model}: its {kind}s are {found}, the manifest says {expected}; "
                "the model file belongs to another bundle: export it anew"
            )
    return model


def _session(
    content: bytes, *, source: Path, optimise: bool = True
) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if not optimise:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except (RuntimeError, ValueError, DecodeError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise ArtifactError(
            f"{source} is not a model that ONNX Runtime {onnxruntime.__version__} can load ({reason}); "
            "it may be truncated, or need a newer runtime: see minimum_runtime in the manifest"
        ) from error


def _run(
    session: onnxruntime.InferenceSession,
    pixels: npt.NDArray[np.uint8],
    names: list[str],
    *,
    fixed_batch: int | None,
) -> dict[str, npt.NDArray[np.float32]]:
    input_name = session.get_inputs()[0].name
    parts: dict[str, list[npt.NDArray[np.float32]]] = defaultdict(list)
    size = fixed_batch or _BATCH
    for start in range(0, len(pixels), size):
        piece = pixels[start : start + size].astype(np.float32)
        count = len(piece)
        if fixed_batch:
            # A model of one fixed batch gets a full one; the copies' results are dropped.
            piece = np.resize(piece, (fixed_batch, *piece.shape[1:]))
        values = cast("list[Any]", session.run(names, {input_name: piece}))
        for name, value in zip(names, values, strict=True):
            parts[name].append(value[:count])
    return {name: np.concatenate(pieces) for name, pieces in parts.items()}


def _float_values(model: onnx.ModelProto) -> set[str]:
    return {name for node in model.graph.node for name in node.output}
