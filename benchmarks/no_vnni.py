"""Agreement of an int8 bundle with its float student, here and on a processor without VNNI.

    apt install qemu-user-static
    edgeseed export STUDENT --precision int8 --calibration FOLDER --out int8
    python benchmarks/no_vnni.py --data FOLDER int8 ...

ONNX Runtime computes each bundle on the same photos twice: on this machine, and under
`qemu-x86_64 -cpu Haswell`, which has AVX2 and no VNNI. The photos should be others than those that
calibrated. Emulation is slow: 200 photos of 96 pixels take minutes. Prints a table, and writes
benchmarks/results/no_vnni.json.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from edgeseed.core.agreement import cosines, top1_agreement
from edgeseed.core.bundle import STUDENT_FILE, read_bundle
from edgeseed.core.environment import environment
from edgeseed.core.files import write_json
from edgeseed.core.network import load_student
from edgeseed.core.photos import open_photos
from edgeseed.export.proof.reference import Outputs, reference_outputs
from edgeseed.export.targets import TARGETS

RESULT = Path(__file__).parent / "results" / "no_vnni.json"
PROCESSOR = "Haswell"
_RUN = """
import json, sys
import numpy, onnxruntime
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
options.log_severity_level = 3
session = onnxruntime.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
names = [output.name for output in session.get_outputs()]
parts = {name: [] for name in names}
for photo in numpy.load(sys.argv[2]).astype(numpy.float32):
    for name, value in zip(names, session.run(names, {session.get_inputs()[0].name: photo[None]})):
        parts[name].append(value)
numpy.savez(sys.argv[3], **{name: numpy.concatenate(values) for name, values in parts.items()})
"""


def emulated(model: Path, pixels: Any) -> Outputs:
    """Outputs on the emulated processor."""
    emulator = shutil.which("qemu-x86_64-static") or shutil.which("qemu-x86_64")
    if emulator is None:
        raise SystemExit("no qemu-x86_64; on Debian: apt install qemu-user-static")
    with tempfile.TemporaryDirectory() as folder:
        photos, answers = Path(folder) / "photos.npy", Path(folder) / "answers.npz"
        np.save(photos, pixels)
        python = str(Path(sys.executable).resolve())
        subprocess.run(
            [emulator, "-cpu", PROCESSOR, python, "-c", _RUN, *map(str, (model, photos, answers))],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"},
            check=True,
        )
        with np.load(answers) as found:
            return {name: found[name] for name in found.files}


def measure(folder: Path, data: str, count: int) -> dict[str, Any]:
    """One bundle's row."""
    bundle = read_bundle(folder)
    network, spec = load_student(bundle.path / STUDENT_FILE)
    photos = open_photos(data)
    order = np.random.default_rng(0).permutation(len(photos))[:count]
    pixels = np.stack([spec.preprocess.pixels(photos.image(int(index))) for index in order])
    truth = reference_outputs(network, spec.preprocess, pixels)
    model = TARGETS.load("onnx").open(bundle.path, bundle.manifest)
    answers = {
        "here": model.infer(pixels),
        PROCESSOR: emulated(bundle.path / bundle.manifest.model, pixels),
    }
    row: dict[str, Any] = {
        "network": bundle.manifest.name,
        "image_size": spec.preprocess.image_size,
        "photos": len(pixels),
        "scheme": bundle.manifest.quantization and bundle.manifest.quantization.scheme,
    }
    for where, found in answers.items():
        row[where] = {"mean_cosine": float(cosines(found["embedding"], truth["embedding"]).mean())}
        if "logits" in truth:
            share = top1_agreement(found["logits"], truth["logits"])
            row[where]["agreement_percent"] = 100 * share
    row["largest_difference"] = max(
        float(np.abs(answers["here"][name] - answers[PROCESSOR][name]).max()) for name in truth
    )
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("bundles", nargs="+", type=Path)
    parser.add_argument("--data", required=True, help="photos, as `edgeseed verify` takes them")
    parser.add_argument("--count", type=int, default=200, help="photos that judge")
    parser.add_argument("--out", type=Path, default=RESULT)
    arguments = parser.parse_args()
    rows = [measure(folder, arguments.data, arguments.count) for folder in arguments.bundles]
    print(json.dumps(rows, indent=1))
    write_json(
        arguments.out,
        {
            "benchmark": "no_vnni",
            "processor": PROCESSOR,
            "environment": environment(),
            "rows": rows,
        },
    )


if __name__ == "__main__":
    main()
