"""How fast distillation trains: float32, bfloat16 and torch.compile, by the loop that users run.

    python benchmarks/train_speed.py --data FOLDER

Each row is one call of `edgeseed distill --method regress` on up to 10,000 photos of FOLDER, held
in memory: views, teacher, student, loss and update. The speed is that of the last epoch, when
kernels are chosen and compiled; what compiling costs is the difference of the first. Weights are
random, since only time is measured. On a CPU, 256 photos are what fits into a minute.
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import torch

from edgeseed.core.console import quiet
from edgeseed.core.environment import environment
from edgeseed.core.files import write_json
from edgeseed.core.network import build_student, save_student
from edgeseed.core.photos import open_photos
from edgeseed.core.preprocess import Preprocess
from edgeseed.core.student import Architecture, StudentSpec

RESULT = Path(__file__).parent / "results" / "train_speed.json"
WAYS: dict[str, dict[str, Any]] = {
    "float32": {"precision": "fp32"},
    "bfloat16": {"precision": "bf16"},
    "bfloat16, compiled": {"precision": "bf16", "settings": ["training.compile=true"]},
}
EPOCHS = 3


def save_teacher(name: str, size: int, path: Path) -> Path:
    """A network with random weights as a student file, which may teach."""
    network = build_student(Architecture(name=name))
    spec = StudentSpec(
        architecture=Architecture(name=name), embedding_dim=network.embedding_dim,
        preprocess=Preprocess(image_size=size, resize=size),
    )  # fmt: skip
    save_student(path, network, spec)
    return path


def measure(student: str, size: int, batch_size: int, photos: Path, folder: Path, way: str,
            teacher: Path) -> dict[str, Any]:  # fmt: skip
    """One call; photos a second in its first epoch and in its last."""
    from edgeseed.distill import distill

    out = folder / f"{student}-{size}-{way}".replace(", ", "-")
    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    with quiet():
        distill(
            method="regress", teacher=str(teacher), student=student, image_size=size, data=photos,
            epochs=EPOCHS, batch_size=batch_size, out=out, **WAYS[way],
        )  # fmt: skip
    lines = (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    epochs = [r for r in map(json.loads, lines) if r["kind"] == "epoch"]
    return {
        "images_per_second": epochs[-1]["images_per_second"],
        "first_epoch_images_per_second": epochs[0]["images_per_second"],
        "data_wait_percent": epochs[-1]["data_wait_percent"],
        "peak_memory_gib": torch.cuda.max_memory_allocated() / 2**30 if cuda else None,
    }


def copy_photos(data: Path, count: int, folder: Path) -> Path:
    """The first photos of a folder, without its class folders."""
    photos = open_photos(data)
    folder.mkdir()
    for index in range(min(count, len(photos))):
        photos.image(index).save(folder / f"{index:06}.png")
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="a folder of photos")
    parser.add_argument("--teacher", default="resnet50")
    parser.add_argument("--students", nargs="+", default=["mobilenetv3_large_100"])
    parser.add_argument("--sizes", nargs="+", type=int, default=[224])
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=list(WAYS))
    parser.add_argument("--photos", type=int, help="default: 10,000, on a CPU 256")
    parser.add_argument("--results", type=Path, default=RESULT)
    arguments = parser.parse_args()
    cuda = torch.cuda.is_available()
    count = arguments.photos or (10_000 if cuda else 256)
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        photos = copy_photos(arguments.data, count, folder / "photos")
        for size in arguments.sizes:
            teacher = save_teacher(arguments.teacher, size, folder / f"teacher-{size}.safetensors")
            for student in arguments.students:
                for way in arguments.ways:
                    row = {"student": student, "image_size": size, "way": way}
                    row |= measure(
                        student, size, min(arguments.batch_size, count), photos, folder, way,
                        teacher,
                    )  # fmt: skip
                    print(json.dumps(row), flush=True)
                    rows.append(row)
                    write_json(
                        arguments.results,
                        {
                            "benchmark": "train_speed", "method": "regress",
                            "teacher": arguments.teacher, "photos": count,
                            "batch_size": arguments.batch_size, "epochs": EPOCHS,
                            "device": torch.cuda.get_device_name() if cuda else "cpu",
                            "environment": environment(), "rows": rows,
                        },
                    )  # fmt: skip


if __name__ == "__main__":
    main()
