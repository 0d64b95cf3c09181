import sys
import types
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edgeseed.runtime.engine import EngineError, EngineTensor
from edgeseed.runtime.engines import litert as plugin
from edgeseed.runtime.engines.litert import LiteRTEngine

litert = pytest.mark.skipif(
    not any(map(find_spec, plugin._MODULES)),
    reason="needs ai-edge-litert: pip install edgeseed[litert]",
)


class _Pools(nn.Module):
    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        pooled = image.mean((2, 3))
        return pooled, pooled * 2


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from edgeseed.export.program import trace
    from edgeseed.export.targets.litert.lowering import Lowering

    graph: Any = trace(_Pools(), torch.zeros(1, 3, 8, 8), batch=1).module(check_guards=False)
    lowering = Lowering(graph)
    outputs = lowering.run(("embedding", "logits"))
    content = lowering.builder.finish(
        name="pools", inputs=lowering.inputs, outputs=outputs, metadata={}
    )
    path = tmp_path_factory.mktemp("litert") / "model.tflite"
    path.write_bytes(content)
    return path


@litert
@pytest.mark.parametrize("unit", plugin.UNITS)
def test_it_computes_what_the_file_says(model: Path, unit: str) -> None:
    engine = LiteRTEngine.open(model, unit=unit, threads=1)
    image = np.random.default_rng(0).integers(0, 256, (1, 8, 8, 3), np.uint8)

    outputs = engine.infer({"image": image})

    mean = image.astype(np.float32).mean((1, 2))
    np.testing.assert_allclose(outputs["embedding"], mean, rtol=1e-5)
    np.testing.assert_allclose(outputs["logits"], 2 * mean, rtol=1e-5)
    engine.close()


@litert
def test_inputs_and_outputs_are_described(model: Path) -> None:
    engine = LiteRTEngine.open(model, unit="xnnpack", threads=2)

    assert engine.inputs == (EngineTensor("image", (1, 8, 8, 3), "uint8"),)
    assert EngineTensor("embedding", (1, 3), "float32") in engine.outputs
    assert engine.settings == {"num_threads": 2, "xnnpack": True}


@litert
def test_the_placement_counts_operators_that_xnnpack_took(model: Path) -> None:
    with_xnnpack = LiteRTEngine.open(model, unit="xnnpack", threads=1).placement
    without = LiteRTEngine.open(model, unit="cpu", threads=1).placement

    assert (with_xnnpack.actual, with_xnnpack.share, with_xnnpack.fallback) == ("xnnpack", 1, {})
    assert (without.actual, without.share) == ("cpu", 1)


def operator(kind: str, inputs: list[int], outputs: list[int]) -> dict[str, Any]:
    return {"op_name": kind, "inputs": np.array(inputs), "outputs": np.array(outputs)}


def test_operators_that_xnnpack_left_are_seen() -> None:
    listed = [
        operator("CONV_2D", [0, 10], [1]), operator("ADD", [1, 11], [2]),
        operator("HARD_SWISH", [2], [3]), operator("CONV_2D", [3, 12], [4]),
        operator("TfLiteXNNPackDelegate", [0, 10, 11], [2]), operator("DELEGATE", [3, 12], [4]),
    ]  # fmt: skip
    interpreter = types.SimpleNamespace(_get_ops_details=lambda: listed)

    placement = plugin._placement(interpreter, "xnnpack")

    assert placement.nodes == {"xnnpack": 3, "cpu": 1}
    assert (placement.actual, placement.fallback) == ("xnnpack", {"HARD_SWISH": 1})


def test_an_interpreter_that_does_not_tell_gives_no_share() -> None:
    placement = plugin._placement(types.SimpleNamespace(), "xnnpack")

    assert (placement.actual, placement.share) == ("xnnpack", None)


@litert
@pytest.mark.parametrize(
    ("content", "what"), [(b"", "empty; export"), (b"not a model", "no LiteRT file, it begins")]
)
def test_a_file_that_is_no_model_is_refused_by_name(
    content: bytes, what: str, tmp_path: Path
) -> None:
    broken = tmp_path / "model.tflite"
    broken.write_bytes(content)

    # LiteRT itself shows an errno of an empty file, and a number in hexadecimals of another.
    with pytest.raises(EngineError, match=rf"cannot open model\.tflite on xnnpack: it is {what}"):
        LiteRTEngine.open(broken, unit="xnnpack", threads=1)


def test_a_unit_that_it_lacks_is_refused_and_not_substituted(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="has no unit 'gpu'; it has: xnnpack, cpu"):
        LiteRTEngine.open(tmp_path, unit="gpu", threads=1)


def test_a_device_without_litert_is_told_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in plugin._MODULES:
        monkeypatch.setitem(sys.modules, name, None)

    with pytest.raises(EngineError, match="python3 -m pip install ai-edge-litert"):
        LiteRTEngine.version()


@litert
def test_nothing_is_said_on_stderr(model: Path, capfd: pytest.CaptureFixture[str]) -> None:
    # The host reads the agent's stderr as the reason of a failure.
    LiteRTEngine.open(model, unit="xnnpack", threads=1)

    assert capfd.readouterr().err == ""
