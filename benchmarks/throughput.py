"""How fast distillation trains, beside loops that do nothing else: ratios of one run.

    python benchmarks/throughput.py                      # noise as photos: only time is measured
    python benchmarks/throughput.py --data FOLDER --peer-venv DIR

Four ways, in turns, so that what else the machine does hits all of them alike:

* `bare`: the loop that anyone would write: views ready as tensors, teacher, student, the method's
  head, loss, update;
* `student alone`: the same without the teacher, whose answers are tensors as well;
* `live`: `edgeseed distill --method regress`, its last epoch: photos, views, records, states too;
* `cached`: the same with `--teacher-cache`, once all answers are known.

Networks have random weights, and the teacher runs in the precision that edgeseed chooses. With
`--peer-venv`, LightlyTrain is timed too: its own command in an environment of its own, which is
made there if it does not exist. (It is AGPL: nothing of it is imported here.) Its teacher has
random weights as well, laid where it would download them to. Its time is that of three epochs minus
that of one, so that its start counts for nothing.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from PIL import Image
from torch.nn import functional as F

from edgeseed.core.console import note, quiet
from edgeseed.core.environment import environment
from edgeseed.core.files import write_json
from edgeseed.core.network import build_student, save_student
from edgeseed.core.photos import open_photos
from edgeseed.core.preprocess import Preprocess
from edgeseed.core.student import Architecture, StudentSpec
from edgeseed.distill import distill
from edgeseed.distill.heads import mlp
from edgeseed.distill.networks.frozen import FrozenTeacher
from edgeseed.distill.networks.students import create_student
from edgeseed.distill.teachers import load_teacher
from edgeseed.distill.training.device import (
    choose_device,
    choose_dtypes,
    prefers_channels_last,
)

RESULT = Path(__file__).parent / "results" / "throughput.json"
PEER = ("lightly-train==0.18.0", "timm")
PEER_TEACHER = "dinov2/vits14-noreg"
_PEER_CHECKPOINT = "dinov2_vits14_pretrain.pth"
_WARM_UP = 3


def make_photos(folder: Path, *, count: int, side: int) -> Path:
    """Noise as JPEGs: decoding takes as long as for photos, learning is not asked for."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for index in range(count):
        coarse = rng.integers(0, 256, (side // 8, side // 8, 3), np.uint8)
        photo = Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC)
        photo.save(folder / f"{index:06}.jpg", quality=90)
    return folder


def save_teacher(name: str, size: int, path: Path) -> Path:
    """A network with random weights as a student file, which may teach."""
    kwargs = {"img_size": size} if name.startswith("vit_") else {}
    architecture = Architecture(name=name, kwargs=kwargs)
    network = build_student(architecture)
    spec = StudentSpec(
        architecture=architecture, embedding_dim=network.embedding_dim,
        preprocess=Preprocess(image_size=size, resize=size),
    )  # fmt: skip
    save_student(path, network, spec)
    return path


class BareLoop:
    """Views as tensors, and nothing but networks, loss and update.

    Args:
        arguments: Of the command line.
        teacher: A student file that teaches.
        device: Where it runs.
    """

    def __init__(self, arguments: argparse.Namespace, teacher: Path, device: torch.device) -> None:
        size, batch = arguments.size, arguments.batch_size
        with quiet(notes=True):
            network = load_teacher(str(teacher), image_size=size)
        dtypes = choose_dtypes("auto", device=device, teacher=network)
        self.teacher = FrozenTeacher(network, device=device, dtype=dtypes.teacher)
        self.dtype = dtypes.student
        channels_last = prefers_channels_last(device, size)
        layout = torch.channels_last if channels_last else torch.contiguous_format
        self.student = create_student(arguments.student, seed=0, image_size=size)[0].to(device)
        self.student.to(memory_format=layout)
        width = self.student.embedding_dim
        # The method's own: twice as many weights as a MobileNetV3-small.
        self.head = mlp(width, 2 * width, network.embedding_dim, activation="gelu", norm="batch")
        self.head.to(device)
        weights = [*self.student.parameters(), *self.head.parameters()]
        self.optimizer = torch.optim.AdamW(weights, fused=True)
        pixels = torch.rand(batch, 3, size, size, device=device)
        self.pixels = pixels.contiguous(memory_format=layout)
        self.answers = torch.randn(batch, network.embedding_dim, device=device)
        self.steps = max(1, arguments.photos // batch)

    def speed(self, *, teaches: bool) -> float:
        """Photos a second of an epoch."""
        for _ in range(_WARM_UP):
            self._step(teaches=teaches)
        _wait(self.pixels.device)
        began = time.perf_counter()
        for _ in range(self.steps):
            self._step(teaches=teaches)
        _wait(self.pixels.device)
        return self.steps * len(self.pixels) / (time.perf_counter() - began)

    def _step(self, *, teaches: bool) -> None:
        target = self.teacher.answer(self.pixels).embedding if teaches else self.answers
        reduced = self.dtype != torch.float32
        with torch.autocast(
            self.pixels.device.type, dtype=self.dtype if reduced else None, enabled=reduced
        ):
            prediction = self.head(self.student(self.pixels).embedding)
        loss = 1 - F.cosine_similarity(prediction.float(), target).mean()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def run_edgeseed(
    arguments: argparse.Namespace, photos: Path, teacher: Path, out: Path, cache: Path | None
) -> float:
    """Photos a second of the last epoch of one call."""
    settings: dict[str, Any] = {"mixup": False, "views.replay": 0 if cache is None else 1}
    with quiet(notes=True):
        distill(
            teacher=str(teacher), student=arguments.student, image_size=arguments.size,
            data=photos, out=out, epochs=2, batch_size=arguments.batch_size, settings=settings,
            teacher_cache=cache,
        )  # fmt: skip
    lines = (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return float(json.loads(lines[-1])["images_per_second"])


def save_peer_teacher(path: Path) -> None:
    """Random weights of DINOv2's ViT-S/14 under the names of its own checkpoint."""
    if path.is_file():
        return
    network = timm.create_model("vit_small_patch14_dinov2", num_classes=0)
    weights = {**network.state_dict(), "mask_token": torch.zeros(1, network.num_features)}
    path.parent.mkdir(parents=True)
    torch.save(weights, path)


def run_peer(arguments: argparse.Namespace, photos: Path, folder: Path, precision: str) -> float:
    """Photos a second of LightlyTrain's own command."""
    venv = Path(arguments.peer_venv)
    if not (venv / "bin" / "lightly-train").exists():
        subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
        subprocess.run([str(venv / "bin" / "pip"), "install", "--quiet", *PEER], check=True)
    caches = folder / "peer-cache"
    if arguments.peer_teacher == PEER_TEACHER:
        save_peer_teacher(caches / "models" / _PEER_CHECKPOINT)

    def seconds(epochs: int) -> float:
        out = folder / f"peer-{precision}-{epochs}"
        began = time.perf_counter()
        subprocess.run(
            [
                str(venv / "bin" / "lightly-train"), "pretrain", f"out={out}", f"data={photos}",
                f"model=timm/{arguments.student}", "method=distillation", f"epochs={epochs}",
                f"batch_size={arguments.batch_size}", f"precision={precision}",
                f"method_args.teacher={arguments.peer_teacher}",
                f"transform_args.image_size=[{arguments.size},{arguments.size}]", "overwrite=true",
            ],
            check=True, capture_output=True,
            env={**os.environ, "LIGHTLY_TRAIN_CACHE_DIR": str(caches)},
        )  # fmt: skip
        return time.perf_counter() - began

    return 2 * arguments.photos / (seconds(3) - seconds(1))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, help="a folder of photos; default: noise")
    parser.add_argument("--photos", type=int, default=2000)
    parser.add_argument("--side", type=int, default=64, help="of the noise, in pixels")
    parser.add_argument("--teacher", default="vit_small_patch14_dinov2")
    parser.add_argument("--student", default="mobilenetv3_small_100")
    parser.add_argument("--size", type=int, default=70)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peer-venv", help="also time LightlyTrain, installed there")
    parser.add_argument("--peer-teacher", default=PEER_TEACHER)
    parser.add_argument(
        "--peer-precision", nargs="+", default=["32-true", "bf16-mixed"],
        help="a processor without bfloat16 is not worth the second",
    )  # fmt: skip
    parser.add_argument("--busy", action="store_true", help="mark the result: other work ran")
    parser.add_argument("--results", type=Path, default=RESULT)
    arguments = parser.parse_args()
    device = choose_device("auto")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        photos = arguments.data or make_photos(
            folder / "photos", count=arguments.photos, side=arguments.side
        )
        arguments.photos = len(open_photos(photos))
        teacher = save_teacher(arguments.teacher, arguments.size, folder / "teacher.safetensors")
        bare = BareLoop(arguments, teacher, device)
        ways = make_ways(arguments, photos, teacher, folder, bare)
        speeds: dict[str, list[float]] = {way: [] for way in ways}
        for number in range(arguments.rounds):
            for way, measure in ways.items():
                speeds[way].append(measure(number))
                print(f"{way}: {speeds[way][-1]:.0f} photos/s", flush=True)
            write_result(arguments, device, speeds)


def make_ways(
    arguments: argparse.Namespace, photos: Path, teacher: Path, folder: Path, bare: BareLoop
) -> dict[str, Callable[[int], float]]:
    """What is timed, each as a call that takes the number of the round."""
    cache = folder / "cache"
    ways: dict[str, Callable[[int], float]] = {
        "bare": lambda _: bare.speed(teaches=True),
        "student alone": lambda _: bare.speed(teaches=False),
        "live": lambda n: run_edgeseed(arguments, photos, teacher, folder / f"live-{n}", None),
        "cached": lambda n: run_edgeseed(arguments, photos, teacher, folder / f"cached-{n}", cache),
    }
    if arguments.peer_venv:
        for precision in arguments.peer_precision:
            ways[f"LightlyTrain {precision}"] = lambda n, p=precision: run_peer(  # type: ignore[misc]
                arguments, photos, folder, p
            )
    return ways


def write_result(
    arguments: argparse.Namespace, device: torch.device, speeds: dict[str, list[float]]
) -> None:
    """Writes the medians and the ratios of each round."""
    pairs = [("live", "bare"), ("cached", "student alone"), ("cached", "live")]
    peers = [way for way in speeds if "Lightly" in way]
    pairs += [(way, peer) for peer in peers for way in ("live", "cached")]
    ratios = {
        f"{one} / {other}": [
            round(a / b, 3) for a, b in zip(speeds[one], speeds[other], strict=True)
        ]
        for one, other in pairs
    }
    for name, values in ratios.items():
        print(f"{name}: {statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})")
    if arguments.busy:
        note("other work ran on this machine: only the ratios mean anything")
    write_json(
        arguments.results,
        {
            "benchmark": "throughput", "teacher": arguments.teacher, "student": arguments.student,
            "image_size": arguments.size, "batch_size": arguments.batch_size,
            "photos": arguments.photos, "rounds": len(speeds["bare"]), "device": str(device),
            "threads": torch.get_num_threads(), "busy_machine": arguments.busy,
            "photos_per_second": {way: [round(v, 1) for v in s] for way, s in speeds.items()},
            "ratios": ratios, "environment": environment(),
        },
    )  # fmt: skip


if __name__ == "__main__":
    main()
