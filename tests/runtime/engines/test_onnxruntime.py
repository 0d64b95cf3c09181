import os
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeseed.core.bundle import Bundle
from edgeseed.runtime.engine import EngineError, EngineTensor
from edgeseed.runtime.engines import onnxruntime as plugin
from edgeseed.runtime.engines.onnxruntime import OnnxRuntimeEngine


def test_it_gives_the_bundles_golden_outputs(bundle: Bundle) -> None:
    engine = OnnxRuntimeEngine.open(bundle.model_path, unit="cpu", threads=1)
    images = np.load(bundle.path / "golden" / "inputs.npy")
    golden = np.load(bundle.path / "golden" / "model.npz")

    outputs = engine.infer({"image": images})

    assert set(outputs) == {"embedding", "logits"}
    np.testing.assert_allclose(outputs["logits"], golden["logits"], rtol=1e-5)
    engine.close()


def test_inputs_and_outputs_are_described(bundle: Bundle) -> None:
    engine = OnnxRuntimeEngine.open(bundle.model_path, unit="cpu", threads=1)

    assert engine.inputs == (EngineTensor("image", (None, 3, 16, 16), "float32"),)
    assert engine.outputs[0] == EngineTensor("embedding", (None, 8), "float32")


def test_the_placement_counts_nodes_that_were_seen_on_the_unit(bundle: Bundle) -> None:
    engine = OnnxRuntimeEngine.open(bundle.model_path, unit="cpu", threads=1)

    assert engine.placement.actual == "cpu"
    assert engine.placement.share == 1
    assert engine.placement.nodes is not None
    assert engine.placement.nodes["cpu"] > 0


def test_nodes_that_fell_back_to_the_cpu_are_seen() -> None:
    class Part:
        def __init__(self, ep_name: str, count: int) -> None:
            self.ep_name, self._count = ep_name, count

        def get_nodes(self) -> list[Any]:
            return [types.SimpleNamespace(op_type="Resize")] * self._count

    class Session:
        def get_provider_graph_assignment_info(self) -> list[Part]:
            return [Part("CPUExecutionProvider", 30), Part("QNNExecutionProvider", 10)]

    placement = plugin._placement(Session(), "qnn")

    assert (placement.actual, placement.share) == ("cpu", 0.25)
    assert placement.fallback == {"Resize": 30}


def test_an_older_onnxruntime_tells_its_first_provider_and_no_share() -> None:
    class Session:
        def get_providers(self) -> list[str]:
            return ["CPUExecutionProvider"]

    placement = plugin._placement(Session(), "cuda")

    assert (placement.requested, placement.actual, placement.share) == ("cuda", "cpu", None)


def test_threads_are_set_and_recorded(bundle: Bundle) -> None:
    engine = OnnxRuntimeEngine.open(bundle.model_path, unit="cpu", threads=2)

    assert engine.settings["intra_op_threads"] == 2
    assert engine.settings["inter_op_threads"] == 1
    assert engine.settings["deterministic_compute"] is True


def test_a_unit_that_the_build_lacks_is_refused_and_not_substituted(bundle: Bundle) -> None:
    with pytest.raises(EngineError, match=r"has no unit 'coreml'; it has: .*cpu"):
        OnnxRuntimeEngine.open(bundle.model_path, unit="coreml", threads=1)


def test_a_file_that_is_no_model_is_refused_by_name(tmp_path: Path) -> None:
    broken = tmp_path / "model.onnx"
    broken.write_bytes(b"not a model")

    with pytest.raises(EngineError, match=r"cannot open model\.onnx on cpu"):
        OnnxRuntimeEngine.open(broken, unit="cpu", threads=1)


def test_a_device_without_onnxruntime_is_told_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)

    with pytest.raises(EngineError, match="python3 -m pip install onnxruntime"):
        OnnxRuntimeEngine.version()


def test_two_runs_give_the_same_bits(bundle: Bundle) -> None:
    engine = OnnxRuntimeEngine.open(bundle.model_path, unit="cpu", threads=2)
    feed: dict[str, Any] = {"image": np.load(bundle.path / "golden" / "inputs.npy")}

    first, second = engine.infer(feed), engine.infer(feed)

    assert first["embedding"].tobytes() == second["embedding"].tobytes()


def test_nothing_is_reported_to_anyone_while_a_model_is_measured(
    bundle: Bundle, tmp_path: Path
) -> None:
    # onnxruntime 1.29 and newer left a session file in the temporary folder, and an uploader's
    # thread in the process that was being timed.
    code = (
        "import sys, pathlib, os; from edgeseed.runtime.engines.onnxruntime import ENGINE;"
        "ENGINE.open(pathlib.Path(sys.argv[1]), unit='cpu', threads=1)"
    )
    environment = {k: v for k, v in os.environ.items() if k != "ORT_DISABLE_TELEMETRY"}
    environment |= {"TMPDIR": str(tmp_path / "tmp"), "HOME": str(tmp_path / "home")}
    for name in ("tmp", "home"):
        (tmp_path / name).mkdir()

    subprocess.run(
        [sys.executable, "-P", "-c", code, bundle.model_path], check=True, env=environment
    )

    assert list((tmp_path / "tmp").iterdir()) == []
    assert list((tmp_path / "home").iterdir()) == []


# --------------------------------------------------------------------------- layers


def test_each_layer_is_timed_in_runs_of_their_own(slow_layers: Path) -> None:
    feeds = {"image": np.zeros((1, 256), np.float32)}

    times = OnnxRuntimeEngine.time_layers(slow_layers, unit="cpu", threads=1, feeds=feeds, runs=5)

    assert times is not None
    assert times.runs == 3  # the faster half
    slowest = max(times.layers, key=lambda layer: layer.mean_ns)
    assert (slowest.name, slowest.kind, slowest.unit) == ("wide", "MatMul", "cpu")
    assert 0.3 * times.run_ns < sum(layer.mean_ns for layer in times.layers) <= times.run_ns


@pytest.fixture
def slow_layers(tmp_path: Path) -> Path:
    """A product of some milliseconds, and a small one."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    widths = {"narrow": (256, 4096), "wide": (4096, 4096)}
    value, nodes, weights = "image", [], []
    for name, shape in widths.items():
        weights.append(numpy_helper.from_array(np.ones(shape, np.float32), f"{name}_weight"))
        nodes.append(helper.make_node("MatMul", [value, f"{name}_weight"], [name], name=name))
        value = name
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 256])
    output = helper.make_tensor_value_info("wide", TensorProto.FLOAT, [1, 4096])
    graph = helper.make_graph(nodes, "slow", [image], [output], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    model.ir_version = 8
    onnx.save(model, tmp_path / "slow.onnx")
    return tmp_path / "slow.onnx"


def test_a_profile_is_read_without_the_first_runs_and_by_node() -> None:
    def event(name: str, ts: int, dur: int, cat: str = "Node", **args: str) -> dict[str, Any]:
        return {"name": name, "ts": ts, "dur": dur, "cat": cat, "args": args}

    conv = {"op_name": "Conv", "provider": "QNNExecutionProvider"}
    events = [
        event("model_run", 0, 900, "Session"),
        event("a_kernel_time", 10, 800, **conv),
        event("model_run", 1000, 100, "Session"),
        event("a_fence_before", 1005, 5, **conv),
        event("a_kernel_time", 1010, 60, **conv),
        event("b_kernel_time", 1080, 0, op_name="Relu", provider="CPUExecutionProvider"),
        event("model_run", 2000, 110, "Session"),
        event("a_kernel_time", 2010, 70, **conv),
    ]

    times = plugin._read_profile(events, 2)

    # The mean of 60 and 70 us; `b` took no whole microsecond.
    assert times is not None
    assert (times.runs, times.run_ns) == (2, 105_000)
    assert [(x.name, x.unit, x.mean_ns) for x in times.layers] == [("a", "qnn", 65_000)]


def test_a_run_that_other_work_held_up_makes_no_layer_slow() -> None:
    # Two profiles of one model on a busy machine had no slow layer in common.
    events = []
    for run in range(6):
        held = 5000 if run == 3 else 0
        begin = 10_000 * run
        events += [
            {"name": "model_run", "ts": begin, "dur": 100 + held, "cat": "Session", "args": {}},
            *(
                {
                    "name": f"{layer}_kernel_time", "ts": begin + 10 * at, "cat": "Node",
                    "dur": us + (held if layer == "b" else 0), "args": {"op_name": "Conv"},
                }
                for at, (layer, us) in enumerate({"a": 60, "b": 20}.items())
            ),
        ]  # fmt: skip

    times = plugin._read_profile(events, 6)

    assert times is not None
    assert (times.runs, times.run_ns) == (3, 100_000)
    assert [(x.name, x.mean_ns) for x in times.layers] == [("a", 60_000), ("b", 20_000)]


def test_a_profile_without_runs_tells_nothing() -> None:
    assert plugin._read_profile([], 2) is None
