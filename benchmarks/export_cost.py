"""What an export costs: its time beside the bare tools on the same photos, and its memory.

    python benchmarks/export_cost.py --data FOLDER [--student FILE]

Time: a float and an int8 bundle of MobileNetV3-L at 224 px, with 512 calibration photos and all
that proves them (256 further photos, gates, golden photos, the comparison of speed), against bare
`torch.onnx.export` and ONNX Runtime's `quantize_static` (min-max, per channel) on the same
calibration photos, which verify nothing. Both sides read and resize the photos themselves. They
take turns, each in a process of its own, and the ratio is that of each turn: by the
clock, and by processor time, which other work on the machine hardly moves. The bundles are made by
one call, twice: where the way of choosing ranges that is tried first keeps enough decisions, and
where it does not, so that all ways compete.

Memory: the peak of such a call, all ways competing, in a fresh process for each number of photos:
of the resident set, and of what in it is no mapped file. The preprocessed photos lie in a file,
whose pages count as resident as long as nobody else wants the memory. (Linux only.)
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from edgeseed.core.environment import environment

RESULT = Path(__file__).parent / "results" / "export_cost.json"
ARCHITECTURE, IMAGE_SIZE, COUNT = "mobilenetv3_large_100", 224, 512
# (With 128, weights would not be rounded together, which takes memory too.)
MEMORY_COUNTS = (192, 1024)
# The most that are calibrated with, the proof, and those that count decisions.
NUM_PHOTOS, STORED_SIZE = max(MEMORY_COUNTS) + 256 + 256, 256
# Random weights lose by int8, whatever is tried. The search for layers to leave in float, which is
# for such students, is left out of both.
ENOUGH, COMPETING = "first way is enough", "all ways compete"
SETTINGS = {
    ENOUGH: {"min_agreement": 0.0},
    COMPETING: {"min_agreement": 1.1, "max_float_layers": 0},
}
TIME_BAR, MEMORY_BAR = 1.5, 1.1


def enlarge_photos(source: Path, folder: Path) -> None:
    """As many photos as are needed, as JPEG files of a size that has to be shrunk again."""
    import numpy as np

    from edgeseed.core.photos import open_photos

    photos = open_photos(source, min_count=NUM_PHOTOS)
    folder.mkdir()
    for number, index in enumerate(np.linspace(0, len(photos) - 1, NUM_PHOTOS).astype(int)):
        photo = photos.image(int(index)).resize((STORED_SIZE, STORED_SIZE))
        photo.save(folder / f"{number:04}.jpg", quality=90)


def make_student(path: Path, photos: Path) -> None:
    """Random weights with the batch statistics of photos: the cost does not ask for training."""
    import numpy as np
    import torch

    from edgeseed.core.network import build_student, save_student
    from edgeseed.core.photos import open_photos
    from edgeseed.core.preprocess import Preprocess
    from edgeseed.core.student import Architecture, StudentSpec

    torch.manual_seed(0)
    architecture = Architecture(name=ARCHITECTURE)
    network = build_student(architecture, num_classes=10)
    preprocess = Preprocess(image_size=IMAGE_SIZE, resize=IMAGE_SIZE)
    opened = open_photos(photos)
    pixels = np.stack([preprocess.pixels(opened.image(i)) for i in range(64)])
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None
    with torch.no_grad():
        network.train()(torch.from_numpy(preprocess.normalize(pixels)))
    spec = StudentSpec(
        architecture=architecture, preprocess=preprocess, embedding_dim=network.embedding_dim,
        classes=tuple(f"class {i}" for i in range(10)),
    )  # fmt: skip
    save_student(path, network.eval(), spec)


def run_edgeseed(
    student: Path, photos: Path, work: Path, *, count: int, precisions: str, ways: str
) -> dict[str, float]:
    """The bundles, by the call that the command makes. Gates are computed, not enforced."""
    from edgeseed.export import export

    start = time.perf_counter()
    results = export(
        student, precision=precisions.split(","), calibration=photos, calibration_count=count,
        out=work, verify=False, quantization=SETTINGS[ways],
    )  # fmt: skip
    total = time.perf_counter() - start
    (record,) = [item.quantization for item in results if item.quantization is not None]
    assert (len(record.tried) > 3) == (ways == COMPETING), record.tried
    return {**{result.precision: result.seconds for result in results}, "total": total}


def run_bare(student: Path, photos: Path, work: Path, *, count: int) -> dict:
    """The same two files by the tools that are there already, with nothing verified."""
    import numpy as np
    import torch
    from onnxruntime import quantization

    from edgeseed.core.network import load_student
    from edgeseed.core.photos import open_photos

    start = time.perf_counter()
    network, spec = load_student(student)
    work.mkdir()
    example = torch.zeros(2, 3, IMAGE_SIZE, IMAGE_SIZE)
    torch.onnx.export(
        network, (example,), str(work / "float.onnx"), dynamo=True, input_names=["image"],
        dynamic_shapes={"images": {0: torch.export.Dim("batch", min=1)}}, verbose=False,
        external_data=False,
    )  # fmt: skip
    exported = time.perf_counter()
    opened = open_photos(photos)
    order = np.random.default_rng(0).permutation(len(opened))[:count]

    class Reader(quantization.CalibrationDataReader):
        def __init__(self) -> None:
            self.batches = self.read()

        def read(self) -> Iterator[dict[str, Any]]:
            for index in order:
                pixels = spec.preprocess.pixels(opened.image(int(index)))
                yield {"image": spec.preprocess.normalize(pixels[None])}

        def get_next(self) -> dict[str, Any] | None:
            return next(self.batches, None)

    quantization.quantize_static(
        str(work / "float.onnx"), str(work / "int8.onnx"), Reader(), per_channel=True,
        activation_type=quantization.QuantType.QUInt8, weight_type=quantization.QuantType.QInt8,
        # Without it, ONNX Runtime keeps what all photos gave until the end. (Where it divides the
        # number of photos, nothing is left at the end, which ONNX Runtime takes for an error.)
        extra_options={"CalibMaxIntermediateOutputs": 33},
    )  # fmt: skip
    end = time.perf_counter()
    return {
        "torch.onnx.export": exported - start,
        "quantize_static": end - exported,
        "total": end - start,
    }


def in_a_process(side: str, student: Path, photos: Path, **options: Any) -> dict[str, Any]:
    """One side in a fresh process: its seconds and its peak memory."""
    words = [word for key, value in options.items() for word in (f"--{key}", str(value))]
    command = [sys.executable, __file__, "--side", side, "--data", str(photos),
               "--student", str(student), *words]  # fmt: skip
    start = time.perf_counter()
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    found["process_seconds"] = time.perf_counter() - start
    found["load_average"] = os.getloadavg()[0]
    print(f"{side} {options}: {found}", file=sys.stderr, flush=True)
    return found


class Memory(threading.Thread):
    """Looks twenty times a second how much memory is this process's own."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.done = threading.Event()
        self.peak_kib = 0

    def run(self) -> None:
        """Until `done`."""
        while not self.done.wait(0.05):
            status = Path("/proc/self/status").read_text(encoding="utf-8")
            (line,) = (line for line in status.splitlines() if line.startswith("RssAnon"))
            self.peak_kib = max(self.peak_kib, int(line.split()[1]))


def one_side(arguments: argparse.Namespace) -> dict[str, Any]:
    """What `in_a_process` runs."""
    memory = Memory()
    memory.start()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder) / "work"
        if arguments.side == "bare":
            seconds = run_bare(arguments.student, arguments.data, work, count=arguments.count)
        else:
            seconds = run_edgeseed(
                arguments.student, arguments.data, work, count=arguments.count,
                precisions=arguments.precisions, ways=arguments.ways,
            )  # fmt: skip
    memory.done.set()
    usage = resource.getrusage(resource.RUSAGE_SELF)
    total = seconds.pop("total")
    return {
        "seconds": seconds,
        "total_seconds": total,
        # Of other work on the machine this tells less than the clock does.
        "processor_seconds": usage.ru_utime + usage.ru_stime,
        "peak_mib": usage.ru_maxrss / 1024,
        "peak_own_mib": memory.peak_kib / 1024,
    }


def measure_time(student: Path, photos: Path, *, turns: int) -> dict[str, Any]:
    """Both sides in turns."""
    rounds = []
    for _ in range(turns):
        turn = {ways: in_a_process("edgeseed", student, photos, ways=ways) for ways in SETTINGS}
        rounds.append({**turn, "bare": in_a_process("bare", student, photos)})
    ratios = {
        ways: {
            kind: [turn[ways][kind] / turn["bare"][kind] for turn in rounds]
            for kind in ("total_seconds", "processor_seconds")
        }
        for ways in SETTINGS
    }
    ratio = {
        ways: {kind: statistics.median(values) for kind, values in found.items()}
        for ways, found in ratios.items()
    }
    held = {ways: found["total_seconds"] <= TIME_BAR for ways, found in ratio.items()}
    return {"turns": rounds, "ratios": ratios, "ratio": ratio, "bar": TIME_BAR, "held": held}


def measure_memory(student: Path, photos: Path, *, turns: int) -> dict[str, Any]:
    """The peaks with few photos and with many, in turns: of one count they differ by a tenth."""
    runs: dict[int, list[dict[str, Any]]] = {count: [] for count in MEMORY_COUNTS}
    for _ in range(turns):
        for count, found in runs.items():
            found.append(in_a_process("edgeseed", student, photos, ways=COMPETING, count=count))
    peaks = {
        kind: {
            count: statistics.median(run[kind] for run in found) for count, found in runs.items()
        }
        for kind in ("peak_mib", "peak_own_mib")
    }
    least, most = MEMORY_COUNTS
    growth = {kind: peak[most] / peak[least] for kind, peak in peaks.items()}
    held = growth["peak_own_mib"] <= MEMORY_BAR
    return {"runs": runs, "peaks": peaks, "growth": growth, "bar": MEMORY_BAR, "held": held}


PARTS = {"time": measure_time, "memory": measure_memory}


def main() -> None:
    """Runs the benchmark, or one side of it."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help=f"at least {NUM_PHOTOS:,} photos")
    parser.add_argument("--student", type=Path)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--only", choices=PARTS, help="the other part stays as it is in --json")
    parser.add_argument("--json", type=Path, default=RESULT)
    parser.add_argument("--side", choices=["edgeseed", "bare"], help=argparse.SUPPRESS)
    parser.add_argument("--count", type=int, default=COUNT, help=argparse.SUPPRESS)
    parser.add_argument("--precisions", default="fp32,int8", help=argparse.SUPPRESS)
    parser.add_argument("--ways", default=ENOUGH, choices=SETTINGS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side:
        print(json.dumps(one_side(arguments)))
        return
    with tempfile.TemporaryDirectory() as folder:
        photos = Path(folder) / "photos"
        enlarge_photos(arguments.data, photos)
        student = arguments.student or Path(folder) / "student.safetensors"
        if arguments.student is None:
            make_student(student, photos)
        found = {"student": ARCHITECTURE, "image_size": IMAGE_SIZE, "calibration_photos": COUNT}
        if arguments.only is not None and arguments.json.exists():
            found = json.loads(arguments.json.read_text(encoding="utf-8"))
        for part in [arguments.only] if arguments.only else PARTS:
            measured = PARTS[part](student, photos, turns=arguments.turns)
            found[part] = {**measured, "environment": environment()}
    text = json.dumps(found, indent=2)
    print(text)
    arguments.json.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
