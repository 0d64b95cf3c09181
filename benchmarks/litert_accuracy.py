"""What int8 costs in LiteRT beside ONNX: the same student, the same calibration photos.

    python benchmarks/litert_accuracy.py --test FOLDER --out runs/litert-accuracy \
        mobilenetv3_small=student.safetensors lite0=other.safetensors

FOLDER holds labelled photos, CLASS/*, that no student was trained on. Of them 2,000 judge; 512 of
the others calibrate. Each student is exported as int8 for `onnx` (scheme x86) and for `litert`,
with export's defaults; with `--no-search` by one calibrator, and no layer stays in float because it
loses too much. Top-1 and agreement with the float student are those of the written files, run by
ONNX Runtime and by LiteRT on this machine, on the same photos. No speed is measured. What is in OUT
already is taken as it is; the result is written after each student.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

sys.path.insert(0, str(Path(__file__).parent))

from quantization import read, split

from edgeseed.core.bundle import read_bundle
from edgeseed.core.environment import environment
from edgeseed.core.files import write_json
from edgeseed.core.network import load_student
from edgeseed.export import export
from edgeseed.export.proof.reference import reference_outputs
from edgeseed.export.samples import Photos
from edgeseed.export.targets import TARGETS

RESULT = Path(__file__).parent / "results" / "litert_accuracy.json"
TARGETS_COMPARED = ("onnx", "litert")
CALIBRATION = 512
# Minutes less: one calibrator, and no layer is left in float because it loses too much.
PLAIN = {"max_float_layers": 0, "calibrator": "fisher"}
Array = npt.NDArray[np.float32]


def make(student: Path, calibration: Path, target: str, folder: Path, *, search: bool) -> None:
    """The int8 bundle; gates are judged here by the table."""
    if not (folder / "manifest.json").is_file():
        export(
            student, target=target, precision="int8", calibration=calibration, out=folder,
            calibration_count=CALIBRATION, verify=False, speed=False,
            quantization={} if search else PLAIN,
        )  # fmt: skip


def judge(folder: Path, photos: Photos, truth: Array) -> dict[str, Any]:
    """Top-1 and agreement of a bundle's file, and what its record says."""
    bundle = read_bundle(folder)
    manifest = bundle.manifest
    model = TARGETS.load(manifest.target).open(folder, manifest)
    found = np.concatenate([model.infer(batch)["logits"] for batch in photos.batches(64)])
    assert photos.labels is not None
    assert manifest.quantization is not None
    error = np.linalg.norm(found - truth, axis=1).mean() / np.linalg.norm(truth, axis=1).mean()
    return {
        "top1_percent": 100 * float(np.mean(found.argmax(1) == photos.labels)),
        "agreement_percent": 100 * float(np.mean(found.argmax(1) == truth.argmax(1))),
        "relative_error": float(error),
        "size_mb": sum(each.size_bytes for each in manifest.files.values() if each.role == "ship")
        / 1e6,
        "runner": model.runner,
        "scheme": manifest.quantization.scheme,
        "calibrator": manifest.quantization.calibrator,
        "float_operators": len(manifest.quantization.float_operators),
    }


def compare(
    student: Path, photos: Photos, calibration: Path, out: Path, *, search: bool
) -> dict[str, Any]:
    """Both targets of one student."""
    network, spec = load_student(student)
    truth = np.concatenate(
        [
            reference_outputs(network, spec.preprocess, batch)["logits"]
            for batch in photos.batches(64)
        ]
    )
    assert photos.labels is not None
    rows: dict[str, Any] = {
        "architecture": spec.architecture.name,
        "image_size": spec.preprocess.image_size,
        "photos": len(truth),
        "float": {"top1_percent": 100 * float(np.mean(truth.argmax(1) == photos.labels))},
    }
    for target in TARGETS_COMPARED:
        make(student, calibration, target, out / target, search=search)
        rows[target] = judge(out / target, photos, truth)
    return rows


def main() -> None:
    """Writes the result; prints a line for each student."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("students", nargs="+", metavar="NAME=STUDENT")
    parser.add_argument("--test", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--judging", type=int, default=2000, help="photos that judge")
    parser.add_argument("--no-search", dest="search", action="store_false")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--result", type=Path, default=RESULT)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    given.out.mkdir(parents=True, exist_ok=True)
    judging, _ = split(given.test, given.out, given.judging)
    result: dict[str, Any] = {
        "environment": environment(),
        "photos": {"judging": given.judging, "calibration": CALIBRATION},
        "quantization": {} if given.search else PLAIN,
        "students": {},
    }
    for text in given.students:
        name, _, path = text.partition("=")
        student, folder = Path(path), given.out / name
        folder.mkdir(exist_ok=True)
        photos = read(judging, student, given.out)
        rows = compare(
            student, photos, given.out / f"field-{given.judging}", folder, search=given.search
        )
        result["students"][name] = rows
        write_json(given.result, result)
        for target in TARGETS_COMPARED:
            row = rows[target]
            print(
                f"{name} {target}: top-1 {row['top1_percent']:.2f} % (float "
                f"{rows['float']['top1_percent']:.2f} %), agreement "
                f"{row['agreement_percent']:.2f} %",
                flush=True,
            )


if __name__ == "__main__":
    main()
