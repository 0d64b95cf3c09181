"""All that a target needs. Nothing outside this folder knows it by name."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch

from edgeseed.core.bundle import Manifest
from edgeseed.core.errors import ArtifactError
from edgeseed.export.program import LAYER_OPERATORS, constant
from edgeseed.export.target import (
    Finding,
    Model,
    Precision,
    Target,
    WriteRequest,
    WrittenModel,
    round_per_channel,
)

MODEL_FILE = "model.npz"


class ToyModel(Model):
    """A graph as the file lists it, run node by node.

    Args:
        arrays: `graph`, a JSON list of nodes, and each constant under its name.
    """

    runner = "the toy target's interpreter"

    def __init__(self, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
        self.nodes = json.loads(str(arrays["graph"]))
        self.constants = {
            name: torch.from_numpy(value) for name, value in arrays.items() if name != "graph"
        }

    def infer(self, pixels: npt.NDArray[np.uint8]) -> dict[str, npt.NDArray[np.float32]]:
        photos = np.ascontiguousarray(pixels.transpose(0, 2, 3, 1))  # as an app would have them
        values: dict[str, Any] = {"image": torch.from_numpy(photos).permute(0, 3, 1, 2).float()}
        values |= self.constants
        with torch.inference_mode():
            for node in self.nodes[:-1]:
                operator: Any = torch.ops
                for part in node["operator"].split("."):
                    operator = getattr(operator, part)
                arguments = [_decode(each, values) for each in node["arguments"]]
                values[node["name"]] = operator(*arguments)
        found = [values[name].numpy() for name in self.nodes[-1]["outputs"]]
        return dict(zip(("embedding", "logits"), found, strict=False))

    def layers(
        self, pixels: npt.NDArray[np.uint8], names: Sequence[str]
    ) -> dict[str, npt.NDArray[np.float32]]:
        del pixels, names
        return {}

    def lint(self) -> tuple[Finding, ...]:
        return ()


def _encode(value: Any) -> Any:
    if isinstance(value, torch.fx.Node):
        return {"node": value.name}
    return [_encode(each) for each in value] if isinstance(value, list | tuple) else value


def _decode(value: Any, values: Mapping[str, Any]) -> Any:
    if isinstance(value, dict):
        return values[value["node"]]
    return [_decode(each, values) for each in value] if isinstance(value, list) else value


class ToyTarget(Target):
    """See the module."""

    name = "toy"
    precisions = ("fp32", "w8")
    schemes: ClassVar[Mapping[Precision, tuple[str, ...]]] = {}
    layout = "NHWC"
    input_type = "uint8"
    parity_limit: ClassVar[Mapping[Precision, float]] = {"fp32": 1e-5}
    rounding_slack: ClassVar[float] = 0.01

    def write(self, request: WriteRequest, folder: Path) -> WrittenModel:
        graph = request.program.module(check_guards=False)
        assert isinstance(graph, torch.fx.GraphModule)
        arrays, nodes = dict[str, Any](), list[Any]()
        layers = {each.args[1] for each in graph.graph.nodes if each.target in LAYER_OPERATORS}
        for node in graph.graph.nodes:
            if node.op == "get_attr":
                value = constant(graph, node).numpy()
                is_rounded = request.precision == "w8" and node in layers
                arrays[node.name] = round_per_channel(value) if is_rounded else value
            elif node.op == "call_function" and str(node.target).startswith("aten."):
                arguments = [_encode(each) for each in node.args]
                nodes.append({"name": node.name, "operator": str(node.target),
                              "arguments": arguments})  # fmt: skip
            elif node.op == "output":
                nodes.append({"outputs": [each.name for each in node.args[0]]})
        np.savez(folder / MODEL_FILE, graph=np.array(json.dumps(nodes)), **arrays)
        return WrittenModel(model=MODEL_FILE, minimum_runtime={"numpy": "1.26"})

    def open(self, folder: Path, manifest: Manifest) -> ToyModel:
        try:
            with np.load(folder / manifest.model, allow_pickle=False) as arrays:
                return ToyModel(dict(arrays))
        except (OSError, ValueError, KeyError) as error:
            raise ArtifactError(f"{manifest.model} is no toy model: {error}") from error


TARGET = ToyTarget()
