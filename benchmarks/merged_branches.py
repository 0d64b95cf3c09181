"""What export gains by merging the branches that blocks train with, on this CPU.

    python benchmarks/merged_branches.py [STUDENT ...] [--rounds 25]

RepVGG, MobileOne, FastViT and RepViT train with parallel convolutions that are equal to one. Each
student, with random weights, is written as fp32 ONNX twice: as it trains, and as export merges it.
The two files take turns on one thread, one photo at a time. The speed-up is the median over rounds
of the ratio of their processor times.
"""

import argparse
import json
import os
import statistics
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import onnxruntime
import torch

from edgeseed.core.environment import environment
from edgeseed.core.files import write_json
from edgeseed.core.network import StudentNetwork, build_student
from edgeseed.core.preprocess import Preprocess
from edgeseed.core.student import Architecture
from edgeseed.export import program
from edgeseed.export.targets.onnx.target import convert_program

RESULT = Path(__file__).parent / "results" / "merged_branches.json"
STUDENTS = ("mobileone_s0", "repvgg_a0", "repvit_m0_9", "fastvit_t8")
SIZE = 224
WARM_UP = 3


def write(network: StudentNetwork, *, merged: bool) -> Any:
    """The file of a network as an ONNX model."""
    preprocess = Preprocess(image_size=SIZE, resize=SIZE)
    merge = program._merge_branches
    if not merged:
        program._merge_branches = lambda network: network
    try:
        exported = program.build_program(network, preprocess, batch=1)
    finally:
        program._merge_branches = merge
    return convert_program(exported, output_names=("embedding", "logits"), opset=18)


def session_of(model: Any) -> onnxruntime.InferenceSession:
    """A session of one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(model.SerializeToString(), options)


def measure(name: str, *, rounds: int) -> dict[str, Any]:
    """One student's numbers."""
    torch.manual_seed(0)
    network = build_student(Architecture(name=name), num_classes=10).eval()
    models = [write(network, merged=merged) for merged in (False, True)]
    sessions = [session_of(model) for model in models]
    photo = {"image": np.full((1, 3, SIZE, SIZE), 128, np.float32)}
    ratios = []
    for number in range(WARM_UP + rounds):
        seconds = []
        for session in sessions:
            before = time.process_time()
            session.run(None, photo)
            seconds.append(time.process_time() - before)
        if number >= WARM_UP:
            ratios.append(seconds[0] / seconds[1])
    low, middle, high = statistics.quantiles(ratios, n=4)
    return {
        "speedup": middle,
        "speedup_quartiles": [low, high],
        "operators": [len(model.graph.node) for model in models],
        "bytes": [model.ByteSize() for model in models],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("students", nargs="*", default=STUDENTS)
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--out", type=Path, default=RESULT)
    arguments = parser.parse_args()
    result: dict[str, Any] = {
        "benchmark": "merged_branches",
        "image_size": SIZE,
        "rounds": arguments.rounds,
        "threads": 1,
        "environment": environment(),
        "load_average_before": os.getloadavg()[0],
        "students": {},
    }
    for name in arguments.students:
        result["students"][name] = measure(name, rounds=arguments.rounds)
        print(name, json.dumps(result["students"][name]), flush=True)
    write_json(arguments.out, result)


if __name__ == "__main__":
    main()
