"""How much our measuring loop adds over a bare ONNX Runtime loop, and what it costs on the device.

    python benchmarks/latency_overhead.py [--pairs 20]

For models of three sizes, blocks of a bare loop (two clock readings around `session.run`) and of
`runtime.latency.measure` with the engine alternate on one session, so that a drifting machine
touches both alike. Reported is the ratio of the blocks' medians, pair by pair.
"""

import argparse
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgeseed.core.environment import environment
from edgeseed.core.files import write_json
from edgeseed.runtime.engines.onnxruntime import OnnxRuntimeEngine
from edgeseed.runtime.latency import LatencyProtocol, WarmUp, measure
from edgeseed.runtime.machine import load_now

RESULTS = Path(__file__).parent / "results"
BLOCK_SECONDS = 0.5
SIZES = {"tiny": (16, 1), "small": (32, 2), "medium": (64, 8)}
"""Name -> (image size, number of 3x3 convolutions of 32 channels)."""


def conv_stack(image_size: int, depth: int) -> onnx.ModelProto:
    rng = np.random.default_rng(0)
    nodes, constants, value, channels = [], [], "image", 3
    for layer in range(depth):
        kernel = rng.normal(0, 0.1, (32, channels, 3, 3)).astype(np.float32)
        constants.append(numpy_helper.from_array(kernel, f"kernel{layer}"))
        nodes.append(
            helper.make_node("Conv", [value, f"kernel{layer}"], [f"c{layer}"], pads=[1, 1, 1, 1])
        )
        nodes.append(helper.make_node("Relu", [f"c{layer}"], [f"r{layer}"]))
        value, channels = f"r{layer}", 32
    nodes.append(helper.make_node("GlobalAveragePool", [value], ["pooled"]))
    nodes.append(helper.make_node("Flatten", ["pooled"], ["embedding"]))
    shape = [1, 3, image_size, image_size]
    graph = helper.make_graph(
        nodes,
        "stack",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, [1, 32])],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    model.ir_version = 8
    return model


def bare(session: Any, feeds: dict[str, Any]) -> list[int]:
    samples: list[int] = []
    end = time.perf_counter_ns() + int(BLOCK_SECONDS * 1e9)
    after = 0
    while after < end:
        before = time.perf_counter_ns()
        session.run(None, feeds)
        after = time.perf_counter_ns()
        samples.append(after - before)
    return samples


def ours(engine: OnnxRuntimeEngine, feeds: dict[str, Any]) -> list[int]:
    block = LatencyProtocol("block", min_runs=1, min_seconds=BLOCK_SECONDS, max_seconds=60)
    warm = WarmUp(min_runs=1, min_seconds=0.0, max_seconds=0.0)
    return measure(lambda: engine.infer(feeds), block, warm_up=warm).samples_ns


def compare_loops(folder: Path, name: str, pairs: int) -> dict[str, Any]:
    image_size, depth = SIZES[name]
    path = folder / f"{name}.onnx"
    onnx.save(conv_stack(image_size, depth), path)
    engine = OnnxRuntimeEngine.open(path, unit="cpu", threads=1)
    session = engine._session
    feeds = {"image": np.full((1, 3, image_size, image_size), 128, np.float32)}
    bare(session, feeds)
    medians = [
        (statistics.median(bare(session, feeds)), statistics.median(ours(engine, feeds)))
        for _ in range(pairs)
    ]
    ratios = sorted(our / their for their, our in medians)
    added = sorted(our - their for their, our in medians)
    quarter = len(ratios) // 4
    return {
        "model": f"{depth} convolutions at {image_size}x{image_size}",
        "pairs": pairs,
        "bare_p50_us": statistics.median(their for their, _ in medians) / 1e3,
        "ratio_median": statistics.median(ratios),
        "ratio_quartiles": [ratios[quarter], ratios[-1 - quarter]],
        "added_us_median": statistics.median(added) / 1e3,
    }


def main() -> None:
    import tempfile

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=20)
    pairs = parser.parse_args().pairs
    load = load_now()
    with tempfile.TemporaryDirectory() as folder:
        rows = {name: compare_loops(Path(folder), name, pairs) for name in SIZES}
    for name, row in rows.items():
        low, high = row["ratio_quartiles"]
        print(
            f"{name:7} bare p50 {row['bare_p50_us']:9.1f} us   ratio {row['ratio_median']:.4f} "
            f"(quartiles {low:.4f} … {high:.4f})   adds {row['added_us_median']:.2f} us"
        )
    write_json(
        RESULTS / "latency_overhead.json",
        {
            "what": "measure() over a bare loop",
            "rows": rows,
            "load_before": load.to_dict(),
            "environment": environment(),
        },
    )


if __name__ == "__main__":
    main()
