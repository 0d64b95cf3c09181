"""The gate of Qualcomm's NPU: a plain QDQ file on the simulator that comes with onnxruntime-qnn.

The simulator computes what QNN's compiler makes of the graph for one generation of the NPU (Hexagon
v75, Snapdragon 8 Gen 3), in its fixed-point arithmetic. It proves that the whole graph is taken,
with fallback to the CPU forbidden, and that its answers are the student's. It is no device: it says
nothing of speed, and whether the silicon gives the same last bits cannot be seen from here.

onnxruntime-qnn is used for this gate alone, and only where it is installed. Its own code is under
the MIT licence, the libraries in it under Qualcomm's "AI Stack License": see
`docs/quantization.md`.
"""

import importlib.util
import math
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edgeseed.core.agreement import cosines
from edgeseed.core.arrays import read_arrays
from edgeseed.core.bundle import PHOTOS_FILE, STUDENT_FILE, GateResult, Manifest
from edgeseed.core.files import raise_shortage
from edgeseed.core.network import load_student
from edgeseed.core.scratch import scratch_folder
from edgeseed.export.proof.gates import MIN_AGREEMENT, MIN_COSINE
from edgeseed.export.proof.reference import reference_outputs
from edgeseed.export.target import NotRun
from edgeseed.export.targets.onnx.model import OnnxModel
from edgeseed.export.targets.onnx.npu_worker import HTP_ARCHITECTURE

Outputs = Mapping[str, npt.NDArray[np.float32]]

MODULE = "onnxruntime_qnn"
GATE = "qnn_simulator on this machine"
"""Not recorded in a bundle: who verifies it may not have the package."""
WORKER = Path(__file__).with_name("npu_worker.py")
INSTALL = "pip install 'edgeseed[qnn]'"
MOST_PHOTOS = 64
# At 64 px a photo takes 0.2 to 0.5 s.
_RUN_SECONDS = 120
# Compiling takes a second or two at 64 px; a graph of 224 px was not done in 200 s.
TIME_LIMIT_S = 900
# A result that is at least this probable at the limit does not contradict the limit.
_CHANCE = 0.01


def is_available() -> bool:
    """Whether onnxruntime-qnn is installed; looks without importing it."""
    return importlib.util.find_spec(MODULE) is not None


def npu_gate(
    folder: Path, manifest: Manifest, model: OnnxModel, *, worker: Path | None = None
) -> GateResult | NotRun:
    """Whether the simulated NPU takes the whole graph and gives the student's answers.

    Args:
        folder: The bundle.
        manifest: The bundle's.
        model: Its file on the CPU, which is told of beside the student.
        worker: The script that runs the simulator; by default `WORKER`.
    """
    if not is_available():
        return NotRun(GATE, f"onnxruntime-qnn is not installed; {INSTALL}")
    pixels = read_arrays(folder / PHOTOS_FILE)["pixels"][:MOST_PHOTOS]
    with scratch_folder() as scratch:
        found = simulate_npu(folder / manifest.model, pixels, scratch, worker=worker or WORKER)
    if isinstance(found, NotRun):
        return found
    if isinstance(found, str):
        return _result([found], n=1)
    network, spec = load_student(folder / STUDENT_FILE)
    count = len(found["embedding"])
    reference = reference_outputs(network, spec.preprocess, pixels[:count])
    required = manifest.provenance.export.min_agreement or MIN_AGREEMENT
    problems, numbers = compare(found, reference, required=required)
    nearness = float(cosines(found["embedding"], model.infer(pixels[:count])["embedding"]).mean())
    proof = (
        f"agrees on the NPU's arithmetic (simulated, v{HTP_ARCHITECTURE}): {numbers}; mean cosine "
        f"to the CPU's answers {nearness:.4f}; the whole graph, not a device"
    )
    return _result(problems, n=count, proof=proof)


def simulate_npu(
    model: Path, pixels: npt.NDArray[np.uint8], scratch: Path, *, worker: Path = WORKER
) -> Outputs | NotRun | str:
    """Outputs of photos on the simulated NPU, or why there are none.

    Args:
        model: The ONNX file.
        pixels: (N, C, H, W).
        scratch: A folder for the answers.
        worker: The script that runs the simulator.

    Returns:
        The outputs of as many photos as there was time for; a text where the graph is refused.
    """
    photos, answers = scratch / "photos.npy", scratch / "answers.npz"
    np.save(photos, pixels)
    # -P: modules of this folder are not to stand in for those that the worker imports.
    command = [sys.executable, "-P", worker, model, photos, answers, str(_RUN_SECONDS)]
    try:
        done = subprocess.run(
            list(map(str, command)), capture_output=True, text=True, errors="replace",
            timeout=TIME_LIMIT_S, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        height, width = pixels.shape[2:]
        return NotRun(
            GATE,
            f"the simulator was not done in {TIME_LIMIT_S // 60} minutes; photos of {height}x"
            f"{width} may be too large for it",
        )
    if answers.is_file():
        return read_arrays(answers)
    refused = [line for line in done.stdout.splitlines() if line.startswith("REFUSED")]
    if refused:
        raise_shortage(RuntimeError(refused[0]), "running the NPU's simulator")
        return f"the NPU's compiler refuses the graph: {refused[0].removeprefix('REFUSED ')}"
    # Not a verdict on the graph: the vendor's simulator does crash on some that are sound.
    last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
    return NotRun(GATE, f"the simulator broke down (exit code {done.returncode}): {last}")


def compare(found: Outputs, reference: Outputs, *, required: float) -> tuple[list[str], str]:
    """What is too far from the student, and the numbers in words.

    Args:
        found: The simulator's outputs.
        reference: The float student's, of the same photos.
        required: The top-1 agreement that is asked for, 0 to 1.
    """
    problems = []
    cosine = float(cosines(found["embedding"], reference["embedding"]).mean())
    numbers = f"mean cosine to the float student {cosine:.4f}"
    # Written so that NaN fails.
    if not cosine >= MIN_COSINE:
        problems.append(f"{numbers}, limit {MIN_COSINE:g}")
    if "logits" in reference:
        same = found["logits"].argmax(axis=1) == reference["logits"].argmax(axis=1)
        lost, count = int(np.sum(~same)), len(same)
        share = f"top-1 agreement {1 - lost / count:.1%} of {count} photos"
        if chance_of(lost, count, 1 - required) < _CHANCE:
            problems.append(f"{share}, too few by more than chance for {required:.1%}")
        numbers = f"{share}, {numbers}"
    return problems, numbers


def chance_of(lost: int, count: int, share: float) -> float:
    """The probability that so many of `count` photos or more are lost, if `share` of all are."""
    return 1.0 - sum(
        math.comb(count, k) * share**k * (1 - share) ** (count - k) for k in range(lost)
    )


def _result(problems: list[str], *, n: int, proof: str = "") -> GateResult:
    return GateResult(
        name=GATE, value=float(len(problems)), limit=0.0, passed=not problems, unit="problems",
        n=n, detail="; ".join(problems) or proof,
    )  # fmt: skip
