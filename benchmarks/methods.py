"""Does each method do what its paper says? Every relation on real photos, with three seeds.

    apt install dataset-fashion-mnist
    python benchmarks/methods.py --preset cpu --out runs/methods        # an hour on two free cores
    python benchmarks/methods.py --preset gpu --data FOLDER     # FOLDER/{train,test}/CLASS/*

A relation is a sentence of a paper about two ways of training, such as "a student with a teacher is
better than the same student by MoCo alone". It is tried by cells: one cell is one call of
`pretrain`, `distill` or `finetune`, and the measurement of what came out. Cells of a preset have
fixed epochs, chosen so that the cells of the table of all methods take about the same time; the
time that each took is in the table. Each network has a row untrained: relations between rows below
that level say nothing.

Each finished cell is a line of OUT/cells.jsonl. The same call again goes on where it was stopped:
finished cells are skipped, half-done ones resumed. Photos are drawn once, so many of each class,
and written to OUT/photos. The result is two tables on stdout, and all that they depend on in
benchmarks/results/methods-PRESET.json; while cells are left to do, in OUT/methods-PRESET.json.
"""

import argparse
import dataclasses
import fnmatch
import itertools
import json
import math
import multiprocessing
import os
import statistics
import sys
import traceback
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from edgeseed.core.console import quiet
from edgeseed.core.environment import environment
from edgeseed.core.files import append_jsonl, write_json
from edgeseed.core.photos import PhotoSet, open_photos

RESULTS = Path(__file__).parent / "results"
IMAGE_SIZE = 32
Kind = Literal["untrained", "pretrain", "distill", "finetune"]


# --------------------------------------------------------------------------- presets


@dataclass(frozen=True, kw_only=True)
class Preset:
    """How large a run is: networks, photos and epochs. Names of epochs are names of groups.

    Attributes:
        data: Photos, unless others are given.
        train_per_class: Training photos drawn of each class; None takes all.
        test_per_class: Test photos drawn of each class; None takes all.
        batch_size: Of all cells,
        batch_sizes: but of these groups.
        teacher: Network of the self-supervised teacher.
        teacher_settings: Of its pre-training.
        teacher_seeds: Whether each seed has a teacher of its own, or all have that of seed 0.
        students: The first is in all relations, others in SEED's alone.
        student_settings: How students are built.
        peer: DoGo's second network.
        transformer: EsViT's network.
        classifiers: CRD's pair, teacher and student.
        esvit_settings: Of its crops and heads.
        labels: SimCLRv2's few labels.
        views: For all cells.
        lr: Of AdamW, which all cells use, whatever their batch.
        momentum: Of MoCo's keys.
        regress_settings: Of feature regression.
        epochs: Of each group of cells.
    """

    data: str | None
    train_per_class: int | None
    test_per_class: int | None
    batch_size: int
    batch_sizes: Mapping[str, int] = field(default_factory=dict)
    teacher: str
    teacher_settings: tuple[str, ...] = ()
    teacher_seeds: bool = False
    students: tuple[str, ...]
    student_settings: tuple[str, ...] = ()
    peer: str
    transformer: str
    classifiers: tuple[str, str]
    esvit_settings: tuple[str, ...]
    labels: str = "1%"
    views: tuple[str, ...] = ()
    lr: float = 1e-3
    momentum: float = 0.99
    regress_settings: tuple[str, ...] = ()
    epochs: Mapping[str, int] = field(default_factory=dict)


PRESETS = {
    "cpu": Preset(
        data="fashion-mnist",
        train_per_class=400,
        test_per_class=300,
        # Small: what short runs lack is steps. Losses over the photos of one batch need many,
        # which these have.
        batch_size=32,
        batch_sizes={"teacher": 128, "simclr": 128, "esvit": 128},
        teacher="resnet18",
        students=("mobilenetv3_small_100",),
        peer="resnet10t",
        transformer="cifar_swin_mini",
        classifiers=("cifar_resnet20", "cifar_resnet8"),
        esvit_settings=(
            "num_local=4", "local_size=16", "hidden_dim=256", "bottleneck_dim=64",
            "num_prototypes=1024", "ema_momentum=0.99",
        ),
        regress_settings=("views.mixup=false",),  # for runs of hundreds of epochs
        epochs={
            "teacher": 20, "moco": 6, "simclr": 4, "seed": 6, "queue-kl": 6, "regress": 6,
            "crd-unlabelled": 6, "dogo": 4, "esvit": 4, "classifier-teacher": 20, "classifier": 8,
            "finetune": 100, "distilled": 6,
        },
    ),
    "gpu": Preset(
        data=None,
        train_per_class=None,
        test_per_class=None,
        batch_size=512,
        teacher="resnet50",
        teacher_settings=("student.reduce_stride=4",),
        students=("mobilenetv3_large_100", "efficientnet_b0"),
        student_settings=("student.reduce_stride=4",),
        peer="resnet18",
        transformer="cifar_swin",
        classifiers=("cifar_resnet32x4", "cifar_resnet8x4"),
        esvit_settings=(
            "num_local=6", "local_size=16", "hidden_dim=512", "bottleneck_dim=128",
            "num_prototypes=4096",
        ),
        lr=2e-3,
        momentum=0.996,
        epochs={
            "teacher": 200, "moco": 60, "simclr": 40, "seed": 60, "queue-kl": 60, "regress": 60,
            "crd-unlabelled": 60, "dogo": 24, "esvit": 40, "classifier-teacher": 60,
            "classifier": 60, "finetune": 60, "distilled": 60,
        },
    ),
    # To see that everything runs, in a few minutes. Its numbers mean nothing.
    "smoke": Preset(
        data="digits",
        train_per_class=20,
        test_per_class=10,
        batch_size=32,
        teacher="test_resnet",
        students=("test_efficientnet",),
        peer="test_resnet",
        transformer="cifar_swin_mini",
        classifiers=("cifar_resnet8", "cifar_resnet8"),
        esvit_settings=("num_local=2", "local_size=16", "hidden_dim=64", "bottleneck_dim=16"),
        labels="2pc",
        views=("views.flip=0",),
        epochs=dict.fromkeys(
            ("teacher", "moco", "simclr", "seed", "queue-kl", "regress", "crd-unlabelled", "dogo",
             "esvit", "classifier-teacher", "classifier", "finetune", "distilled"), 1,
        ),
    ),
}  # fmt: skip


# --------------------------------------------------------------------------- cells


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One call and what is measured of it.

    Attributes:
        group: What it is, whatever the seed.
        seed: Of the call.
        kind: What is called.
        arguments: Of the call. `@CELL` stands for the student file of that cell.
        labelled: Whether the call sees the photos in class folders, or without any label.
        measure: Of each network: its frozen `features`, or its own `classifier`.
    """

    group: str
    seed: int
    kind: Kind
    arguments: Mapping[str, Any]
    labelled: bool = False
    measure: Literal["features", "classifier"] = "features"

    @property
    def name(self) -> str:
        """What it is called in OUT and by `--only`."""
        return f"{self.group}/{self.seed}"

    @property
    def needs(self) -> tuple[str, ...]:
        """Names of the cells whose networks it takes."""
        return tuple(v[1:] for v in self.arguments.values() if isinstance(v, str) and v[:1] == "@")


def make_cells(preset: Preset, seeds: Sequence[int]) -> list[Cell]:
    """All cells of a preset, those that others need first."""
    cells: dict[str, Cell] = {}
    for seed in seeds:
        for cell in (
            *_untrained_cells(preset, seed),
            *_teacher_cells(preset, seed),
            *_classifier_cells(preset, seed),
            *_esvit_cells(preset, seed),
            *_dogo_cells(preset, seed),
            *_table_cells(preset, seed),
            *_simclrv2_cells(preset, seed),
        ):
            cells.setdefault(cell.name, cell)
    return list(cells.values())


def _untrained_cells(preset: Preset, seed: int) -> list[Cell]:
    """Every network whose features are measured, as it is before training."""
    names = (*preset.students, preset.teacher, preset.peer, preset.transformer)
    return [
        Cell(
            group=_group(preset, "untrained", name), seed=seed, kind="untrained",
            arguments={"student": name, "settings": list(_form(preset, name))},
        )
        for name in dict.fromkeys(names)
    ]  # fmt: skip


def _form(preset: Preset, name: str) -> tuple[str, ...]:
    """How a network is built where it is trained."""
    if name in preset.students or name == preset.peer:
        return preset.student_settings
    return preset.teacher_settings if name == preset.teacher else ()


def _recipe(preset: Preset, group: str, *settings: str) -> dict[str, Any]:
    """One optimiser for all: what differs between cells is the method."""
    batch_size = preset.batch_sizes.get(group, preset.batch_size)
    return {
        "epochs": preset.epochs[group],
        "batch_size": batch_size,
        "lr": preset.lr,
        "settings": [
            "recipe.optimizer=adamw", f"recipe.lr_batch_size={batch_size}",
            "recipe.weight_decay=0.01", "recipe.decay_norm_and_bias=false",
            "recipe.schedule=cosine", "recipe.warmup_epochs=0.3", "recipe.clip_norm=3",
            *preset.views, *settings,
        ],
    }  # fmt: skip


def _teacher(preset: Preset, seed: int) -> str:
    return f"@teacher/{seed if preset.teacher_seeds else 0}"


def _teacher_cells(preset: Preset, seed: int) -> list[Cell]:
    settings = ("temperature=0.2", *preset.teacher_settings)
    recipe = _recipe(preset, "teacher", *settings)
    arguments = {"method": "simclr", "model": preset.teacher, **recipe}
    seed = seed if preset.teacher_seeds else 0
    return [Cell(group="teacher", seed=seed, kind="pretrain", arguments=arguments)]


def _table_cells(preset: Preset, seed: int) -> list[Cell]:
    """SEED's relation, and the table of all methods that see no label, at about equal time."""
    return [
        cell
        for student in preset.students
        for cell in (
            _pretrained(preset, seed, student, "moco", f"momentum={preset.momentum}"),
            _pretrained(preset, seed, student, "simclr", "temperature=0.2"),
            *(_distilled(preset, seed, student, name) for name in ("seed", "queue-kl", "regress")),
            _distilled(preset, seed, student, "crd-unlabelled"),
        )
        if student == preset.students[0] or cell.group.partition(" ")[0] not in _FIRST_ONLY
    ]


_FIRST_ONLY = ("simclr", "crd-unlabelled")


def _group(preset: Preset, name: str, student: str) -> str:
    return name if student == preset.students[0] else f"{name} {student}"


def _pretrained(preset: Preset, seed: int, student: str, method: str, *settings: str) -> Cell:
    recipe = _recipe(preset, method, *settings, *preset.student_settings)
    arguments = {"method": method, "model": student, **recipe}
    group = _group(preset, method, student)
    return Cell(group=group, seed=seed, kind="pretrain", arguments=arguments)


def _distilled(preset: Preset, seed: int, student: str, name: str) -> Cell:
    own = preset.regress_settings if name == "regress" else ()
    recipe = _recipe(preset, name, *preset.student_settings, *own)
    arguments = {
        "method": name.removesuffix("-unlabelled"), "teacher": _teacher(preset, seed),
        "student": student, **recipe,
    }  # fmt: skip
    group = _group(preset, name, student)
    return Cell(group=group, seed=seed, kind="distill", arguments=arguments)


def _dogo_cells(preset: Preset, seed: int) -> list[Cell]:
    """The pair together, and each alone: the same call, in which neither looks at the other."""
    cells = []
    for group, settings in {"dogo": (), "dogo-alone": ("kl_weight=0",)}.items():
        recipe = _recipe(preset, "dogo", *settings, *preset.student_settings)
        arguments = {
            "method": "dogo", "teacher": None, "student": preset.students[0], "peer": preset.peer,
            **recipe,
        }  # fmt: skip
        cells.append(Cell(group=group, seed=seed, kind="distill", arguments=arguments))
    return cells


def _simclrv2_cells(preset: Preset, seed: int) -> list[Cell]:
    """A few labels: on the student alone, or on the teacher, which then labels all photos."""
    student, teacher = preset.students[0], _teacher(preset, seed)
    few = {
        "labels": preset.labels, "projection": True, "epochs": preset.epochs["finetune"],
        "settings": list(preset.views),
    }  # fmt: skip
    distilled = _recipe(preset, "distilled", "min_scale=0.3", *preset.student_settings)
    mixed = {
        **distilled,
        "settings": [*distilled["settings"], "alpha=0.8"],
        "labels": few["labels"],
    }
    tuned = f"@teacher-few/{seed}"

    def finetuned(group: str, start: str) -> Cell:
        return Cell(
            group=group, seed=seed, kind="finetune", arguments={"student": start, **few},
            labelled=True, measure="classifier",
        )  # fmt: skip

    def taught(group: str, recipe: Mapping[str, Any], *, labelled: bool) -> Cell:
        arguments = {"method": "simclrv2", "teacher": tuned, "student": student, **recipe}
        return Cell(
            group=group, seed=seed, kind="distill", arguments=arguments, labelled=labelled,
            measure="classifier",
        )  # fmt: skip

    return [
        finetuned("teacher-few", teacher),
        finetuned("student-few", f"@simclr/{seed}"),
        taught("simclrv2", distilled, labelled=False),
        taught("simclrv2-mixed", mixed, labelled=True),
    ]


def _esvit_cells(preset: Preset, seed: int) -> list[Cell]:
    cells = []
    for group, weight in {"esvit": 0.5, "esvit-view": 0.0}.items():
        settings = (f"region_weight={weight}", *preset.esvit_settings)
        arguments = {
            "method": "esvit", "model": preset.transformer, **_recipe(preset, "esvit", *settings),
        }  # fmt: skip
        cells.append(Cell(group=group, seed=seed, kind="pretrain", arguments=arguments))
    return cells


def _classifier_cells(preset: Preset, seed: int) -> list[Cell]:
    """CRD's pair with labels. All three students train alike; a weight of 0 leaves a term out."""
    teacher, student = preset.classifiers
    shared = _recipe(preset, "classifier")
    supervised = {
        "student": teacher, "image_size": IMAGE_SIZE,
        **_recipe(preset, "classifier-teacher", "min_scale=0.6"),
    }  # fmt: skip
    cells = [
        Cell(
            group="classifier-teacher", seed=0, kind="finetune", arguments=supervised,
            labelled=True, measure="classifier",
        )
    ]  # fmt: skip
    terms = {
        "plain": ("kd", "soft_weight=0", "label_weight=1"),
        "kd": ("kd", "soft_weight=0.9", "label_weight=0.1"),
        "crd": ("crd",),
    }
    for group, (method, *settings) in terms.items():
        arguments = {
            **shared, "method": method, "teacher": "@classifier-teacher/0", "student": student,
            "settings": [*shared["settings"], "views.min_scale=0.6", *settings],
        }  # fmt: skip
        cells.append(
            Cell(
                group=group, seed=seed, kind="distill", arguments=arguments, labelled=True,
                measure="classifier",
            )
        )  # fmt: skip
    return cells


# --------------------------------------------------------------------------- running


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a run lives.

    Attributes:
        root: Its folder.
        threads: Of each cell.
        device: As `distill` takes it.
    """

    root: Path
    threads: int
    device: str

    def run(self, name: str) -> Path:
        """The run folder of a cell."""
        return self.root / "runs" / name.replace(" ", "-")

    def student(self, name: str) -> Path:
        """The student file of a cell."""
        return self.run(name) / "student.safetensors"

    def photos(self, *, labelled: bool) -> Path:
        """The training photos, in class folders or all in one."""
        return self.root / "photos" / ("train" if labelled else "unlabelled")

    @property
    def test_photos(self) -> Path:
        """The test photos, in class folders."""
        return self.root / "photos" / "test"

    @property
    def cells(self) -> Path:
        """The finished cells."""
        return self.root / "cells.jsonl"


def run_cell(cell: Cell, place: Place) -> dict[str, Any]:
    """Makes one call and measures what came out."""
    import small_networks  # noqa: F401  # timm learns their names
    import torch

    from edgeseed.distill import distill, finetune, pretrain

    torch.set_num_threads(place.threads)
    before = _cpu_seconds()
    out = place.run(cell.name)
    if cell.kind == "untrained":
        return _run_untrained(cell, place)
    calls: dict[Kind, Any] = {"pretrain": pretrain, "distill": distill, "finetune": finetune}
    arguments = {key: _resolve(value, place) for key, value in cell.arguments.items()}
    if cell.kind != "finetune":
        arguments["image_size"] = IMAGE_SIZE
    else:
        arguments["test_data"] = place.test_photos
    with quiet():
        result = calls[cell.kind](
            **arguments,
            data=place.photos(labelled=cell.labelled),
            out=out,
            seed=cell.seed,
            devices=place.device,
            resume=(out / "config.toml").is_file(),
        )
        spent = _cpu_seconds() - before
        networks = getattr(result, "networks", {"student": result.student})
        measured = {name: _measure(cell, path, place) for name, path in networks.items()}
    values = result.to_dict()
    kept = ("seconds", "epochs", "steps", "loss", "floor", "images_per_second", "device")
    return {
        "cell": cell.name,
        "group": cell.group,
        "seed": cell.seed,
        "call": cell.kind,
        "arguments": dict(cell.arguments),
        "labelled": cell.labelled,
        **{name: values[name] for name in kept if name in values},
        "cpu_seconds": round(spent, 1),
        "measured": measured,
        "environment": environment(),
    }


def _run_untrained(cell: Cell, place: Place) -> dict[str, Any]:
    """Measures the weights that a run of this seed starts from."""
    from edgeseed.core.network import save_student
    from edgeseed.core.preprocess import Preprocess
    from edgeseed.core.student import StudentSpec
    from edgeseed.distill import create_student

    changes = dict(setting.removeprefix("student.").split("=") for setting in
                   cell.arguments["settings"])  # fmt: skip
    with quiet():
        network, architecture = create_student(
            cell.arguments["student"], seed=cell.seed, image_size=IMAGE_SIZE,
            **{name: int(value) for name, value in changes.items()},
        )  # fmt: skip
        network.head = None
        spec = StudentSpec(
            architecture=architecture, embedding_dim=network.embedding_dim,
            preprocess=Preprocess(image_size=IMAGE_SIZE, resize=IMAGE_SIZE),
        )  # fmt: skip
        place.student(cell.name).parent.mkdir(parents=True, exist_ok=True)
        save_student(place.student(cell.name), network, spec)
        measured = {"student": _measure(cell, place.student(cell.name), place)}
    return {
        "cell": cell.name, "group": cell.group, "seed": cell.seed, "call": cell.kind,
        "arguments": dict(cell.arguments), "labelled": False, "seconds": 0.0, "cpu_seconds": 0.0,
        "measured": measured, "environment": environment(),
    }  # fmt: skip


def _cpu_seconds() -> float:
    """Processor time of this process and its workers: what else the machine does is not in it."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def _resolve(value: Any, place: Place) -> Any:
    is_reference = isinstance(value, str) and value.startswith("@")
    return str(place.student(value[1:])) if is_reference else value


def _measure(cell: Cell, path: Path, place: Place) -> dict[str, float]:
    if cell.measure == "classifier":
        return {"classifier": _classifier_accuracy(path, place)}
    from edgeseed.distill import evaluate

    result = evaluate(
        path, data=place.photos(labelled=True), test_data=place.test_photos, device=place.device
    )
    return {name: round(result.metric(name).top1_percent, 3) for name in ("knn-20", "linear")}


def _classifier_accuracy(path: Path, place: Place) -> float:
    import torch

    from edgeseed.core.network import load_student
    from edgeseed.distill.networks.inference import predict
    from edgeseed.distill.training.device import choose_device

    network, spec = load_student(path)
    photos = open_photos(place.test_photos, labels=True)
    assert photos.labels is not None
    assert spec.classes == photos.classes
    device = choose_device(place.device)
    logits = predict(network, photos, preprocess=spec.preprocess, device=device).values
    right = (logits.argmax(1) == torch.from_numpy(photos.labels)).float().mean()
    return round(100 * float(right), 3)


def run_all(cells: Sequence[Cell], place: Place, *, jobs: int) -> list[str]:
    """Runs what is not finished, each cell once its needs are there.

    Returns:
        Names of the cells that failed, or need one that did.
    """
    finished = {record["cell"] for record in read_records(place)}
    waiting = [cell for cell in cells if cell.name not in finished]
    running: dict[Future[dict[str, Any]], Cell] = {}
    failed: list[str] = []
    # Fresh processes: torch's threads do not survive a fork, and CUDA refuses one.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=context, max_tasks_per_child=1) as pool:
        while waiting or running:
            for cell in [cell for cell in waiting if finished.issuperset(cell.needs)]:
                if len(running) < jobs:
                    waiting.remove(cell)
                    running[pool.submit(run_cell, cell, place)] = cell
            if not running:
                break
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                cell = running.pop(future)
                if (error := future.exception()) is not None:
                    failed.append(cell.name)
                    tell(f"{cell.name} FAILED: {''.join(traceback.format_exception(error))}")
                    continue
                finished.add(cell.name)
                append_jsonl(place.cells, future.result())
                tell(_line(future.result(), left=len(waiting) + len(running)))
    return [*failed, *(cell.name for cell in waiting)]


def _line(record: Mapping[str, Any], *, left: int) -> str:
    numbers = ", ".join(
        f"{network} {name} {value:.1f}"
        for network, values in record["measured"].items()
        for name, value in values.items()
    )
    return f"{record['cell']}: {numbers} % ({record['seconds']:.0f} s; {left} cells left)"


def tell(text: str) -> None:
    """One line for the person who waits."""
    print(text, file=sys.stderr, flush=True)


def read_records(place: Place) -> list[dict[str, Any]]:
    """The finished cells."""
    if not place.cells.is_file():
        return []
    return [json.loads(line) for line in place.cells.read_text(encoding="utf-8").splitlines()]


# --------------------------------------------------------------------------- photos


def prepare_photos(preset: Preset, data: str, place: Place) -> dict[str, Any]:
    """Draws the photos and writes them as PNG, once.

    Returns:
        What was drawn from where.
    """
    folder = Path(data)
    is_split = (folder / "train").is_dir() and (folder / "test").is_dir()
    if data.partition("=")[0] == "fashion-mnist":
        import fashion_mnist

        train = fashion_mnist.open_fashion_mnist(data)
    else:
        train = open_photos(str(folder / "train") if is_split else data, labels=True)
    test = open_photos(str(folder / "test"), labels=True) if is_split else train.test()
    if test is None:
        raise SystemExit(f"{data} has no test photos: give FOLDER with train/CLASS and test/CLASS")
    drawn = {
        "train": _draw(train, preset.train_per_class),
        "test": _draw(test, preset.test_per_class),
    }
    for name, photos in drawn.items():
        if not (place.root / "photos" / name).is_dir():
            tell(f"writing {len(photos)} photos to {place.root / 'photos' / name}")
            _write_photos(photos, place.root / "photos" / name)
    if not place.photos(labelled=False).is_dir():
        _link_unlabelled(place)
    return {
        "source": folder.name if is_split else data.partition("=")[0],
        **{f"{name}_photos": len(photos) for name, photos in drawn.items()},
        **{f"{name}_fingerprint": photos.fingerprint for name, photos in drawn.items()},
    }


def _draw(photos: PhotoSet, per_class: int | None) -> PhotoSet:
    if per_class is None:
        return photos
    assert photos.labels is not None
    generator = np.random.default_rng(0)
    chosen = [
        generator.permutation(np.flatnonzero(photos.labels == label))[:per_class]
        for label in np.unique(photos.labels)
    ]
    return photos.subset(np.sort(np.concatenate(chosen)))


def _write_photos(photos: PhotoSet, folder: Path) -> None:
    assert photos.labels is not None
    assert photos.classes is not None
    unfinished = folder.with_name(f"{folder.name}.unfinished")
    for index, label in enumerate(photos.labels):
        target = unfinished / photos.classes[label].replace("/", "-") / f"{index:06}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        photos.image(index).save(target)
    unfinished.rename(folder)


def _link_unlabelled(place: Place) -> None:
    """The same files without the class folders: what a team with bare photos has."""
    folder = place.photos(labelled=False)
    folder.mkdir(parents=True)
    for photo in sorted(place.photos(labelled=True).glob("*/*.png")):
        os.link(photo, folder / photo.name)


# --------------------------------------------------------------------------- results


@dataclass(frozen=True, kw_only=True)
class Relation:
    """One sentence of a paper: what should be better than what.

    Attributes:
        claim: The sentence.
        better: Group that should be better, and which of its networks.
        worse: Group that should be worse.
        network: Whose accuracy is compared.
        metric: Which accuracy.
        at_least: Whether being as good is enough.
    """

    claim: str
    better: str
    worse: str
    network: str = "student"
    metric: str = "linear"
    at_least: bool = False


def make_relations(preset: Preset) -> list[Relation]:
    """The sentences, in the order of the papers."""
    found: list[Relation] = []
    for student, method, metric in itertools.product(
        preset.students, ("seed", "queue-kl", "regress"), ("linear", "knn-20")
    ):
        claim = f"{method}: {student} with a teacher > by MoCo alone"
        better, worse = (_group(preset, name, student) for name in (method, "moco"))
        found.append(Relation(claim=claim, better=better, worse=worse, metric=metric))
    for network, name in {"student": preset.students[0], "peer": preset.peer}.items():
        found.append(
            Relation(
                claim=f"DoGo: {name} in the pair > trained alone", better="dogo",
                worse="dogo-alone", network=network,
            )
        )  # fmt: skip
    labels = preset.labels
    found += [
        Relation(
            claim=f"SimCLRv2: at {labels} labels, distilled without labels > fine-tuned directly",
            better="simclrv2", worse="student-few", metric="classifier",
        ),
        Relation(
            claim="SimCLRv2: distilled without labels >= distilled with the few labels mixed in",
            better="simclrv2", worse="simclrv2-mixed", metric="classifier", at_least=True,
        ),
        Relation(
            claim="EsViT: view and region loss >= view loss alone, at equal epochs",
            better="esvit", worse="esvit-view", at_least=True,
        ),
        Relation(claim="CRD > KD", better="crd", worse="kd", metric="classifier"),
        Relation(claim="KD > plain student", better="kd", worse="plain", metric="classifier"),
        Relation(claim="CRD > plain student", better="crd", worse="plain", metric="classifier"),
    ]  # fmt: skip
    return found


Values = Mapping[tuple[str, str, str], Mapping[int, float]]
"""(group, network, metric) -> seed -> value."""


def collect(records: Iterable[Mapping[str, Any]]) -> Values:
    """Accuracies and seconds by what they are of."""
    values: dict[tuple[str, str, str], dict[int, float]] = {}
    for record in records:
        for unit in ("seconds", "cpu_seconds"):
            by_seed = values.setdefault((record["group"], "student", unit), {})
            by_seed[record["seed"]] = record[unit]
        for network, metrics in record["measured"].items():
            for metric, value in metrics.items():
                key = (record["group"], network, metric)
                values.setdefault(key, {})[record["seed"]] = value
    return values


def judge(relation: Relation, values: Values) -> dict[str, Any] | None:
    """Compares seed by seed; None while there is nothing to compare."""
    better = values.get((relation.better, relation.network, relation.metric), {})
    worse = values.get((relation.worse, relation.network, relation.metric), {})
    seeds = sorted(better.keys() & worse.keys())
    if not seeds:
        return None
    differences = [better[seed] - worse[seed] for seed in seeds]
    mean = statistics.mean(differences)
    sd = statistics.stdev(differences) if len(seeds) > 1 else math.nan
    return {
        **dataclasses.asdict(relation),
        "better_percent": summary(better[seed] for seed in seeds),
        "worse_percent": summary(worse[seed] for seed in seeds),
        "difference_points": {"mean": mean, "sd": sd, "n": len(seeds), "values": differences},
        "verdict": _verdict(mean, sd, len(seeds), at_least=relation.at_least),
    }


def _verdict(mean: float, sd: float, n: int, *, at_least: bool) -> str:
    """Two standard errors of the mean difference: a rule of thumb, with three seeds no more."""
    if n < 2:
        return "one seed"
    error = 2 * sd / math.sqrt(n)
    if mean > error:
        return "holds"
    if mean < -error:
        return "does not hold"
    return "within the spread: as good" if at_least else "within the spread"


def summary(values: Iterable[float]) -> dict[str, float | int]:
    """Mean, standard deviation over seeds, and how many there are."""
    found = list(values)
    sd = statistics.stdev(found) if len(found) > 1 else math.nan
    return {"mean": statistics.mean(found), "sd": sd, "n": len(found)}


def _plus_minus(value: Mapping[str, float | int] | None, digits: int = 1) -> str:
    if value is None:
        return ""
    spread = "" if math.isnan(value["sd"]) else f" ± {value['sd']:.{digits}f}"
    return f"{value['mean']:.{digits}f}{spread}"


def make_tables(preset: Preset, values: Values) -> str:
    """The relations, and all groups, as markdown."""
    lines = [
        "| relation | metric | first | second | difference | seeds | verdict |",
        "|---" * 7 + "|",
    ]
    for relation in make_relations(preset):
        judged = judge(relation, values)
        if judged is not None:
            first, second, difference = (
                _plus_minus(judged[key])
                for key in ("better_percent", "worse_percent", "difference_points")
            )
            n = judged["difference_points"]["n"]
            lines.append(
                f"| {relation.claim} | {relation.metric} | {first} | {second} | {difference} "
                f"| {n} | {judged['verdict']} |"
            )
    metrics = ("knn-20", "linear", "classifier", "seconds", "cpu_seconds")
    lines += ["", f"| group | network | {' | '.join(metrics)} |", "|---" * 7 + "|"]
    for group, network in dict.fromkeys((group, network) for group, network, _ in values):
        cells = []
        for metric in metrics:
            found = values.get((group, network, metric))
            cells.append(_plus_minus(summary(found.values()) if found else None, 1))
        lines.append(f"| {group} | {network} | {' | '.join(cells)} |")
    return "\n".join(lines)


def write_results(
    path: Path, name: str, preset: Preset, records: Sequence[Mapping[str, Any]],
    photos: Mapping[str, Any], *, jobs: int, threads: int,
) -> None:  # fmt: skip
    """Everything that the numbers depend on, beside them."""
    values = collect(records)
    judged = [judge(relation, values) for relation in make_relations(preset)]
    write_json(
        path,
        {
            "benchmark": "methods",
            "preset": name,
            "settings": dataclasses.asdict(preset),
            "photos": dict(photos),
            "jobs": jobs,
            "threads_a_job": threads,
            "environment": environment(),
            "devices": sorted({record.get("device", "") for record in records}),
            "relations": [_finite(found) for found in judged if found is not None],
            "groups": [
                {
                    "group": group, "network": network, "metric": metric,
                    "unit": "s" if metric.endswith("seconds") else "%",
                    **_finite(summary(by_seed.values())), "values": dict(by_seed),
                }
                for (group, network, metric), by_seed in values.items()
            ],
            "cells": list(records),
        },
    )  # fmt: skip


def _finite(value: Any) -> Any:
    """JSON has no NaN: the spread of one seed is null."""
    if isinstance(value, Mapping):
        return {key: _finite(one) for key, one in value.items()}
    return None if isinstance(value, float) and math.isnan(value) else value


# --------------------------------------------------------------------------- command


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--preset", choices=PRESETS, default="cpu")
    parser.add_argument("--data", help="photos: FOLDER with train/ and test/, or a named set")
    parser.add_argument("--out", type=Path, default=Path("runs/methods"), help="where it works")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", nargs="+", default=["*"], help="cells, such as 'seed/*' 'moco/0'")
    parser.add_argument(
        "--jobs", type=int, help="cells at a time (default: 1 on a GPU, else cores)"
    )
    parser.add_argument("--device", default="auto")
    parser.add_argument("--scale", type=float, default=1.0, help="multiplies the preset's epochs")
    parser.add_argument("--list", action="store_true", help="name the cells and stop")
    parser.add_argument("--report", action="store_true", help="run nothing, only report")
    parser.add_argument("--results", type=Path, help="the JSON file (default: see above)")
    arguments = parser.parse_args()
    preset = scaled(PRESETS[arguments.preset], arguments.scale)
    cells = make_cells(preset, arguments.seeds)
    cells = with_needs(cells, arguments.only)
    if arguments.list:
        print("\n".join(cell.name for cell in cells))
        return
    jobs, threads = share_cores(arguments.jobs, arguments.device)
    place = Place(root=arguments.out.resolve(), threads=threads, device=arguments.device)
    data = arguments.data or preset.data
    if data is None:
        parser.error(
            f"preset {arguments.preset} needs --data FOLDER with train/CLASS and test/CLASS"
        )
    photos = prepare_photos(preset, data, place)
    failed = [] if arguments.report else run_all(cells, place, jobs=jobs)
    known = {cell.name for cell in make_cells(preset, arguments.seeds)}
    records = [record for record in read_records(place) if record["cell"] in known]
    print(make_tables(preset, collect(records)))
    is_whole = (
        len(records) == len(known)
        and len(arguments.seeds) > 2
        and arguments.preset != "smoke"
        and arguments.scale == 1
    )
    folder = RESULTS if is_whole else place.root
    results = arguments.results or folder / f"methods-{arguments.preset}.json"
    write_results(results, arguments.preset, preset, records, photos, jobs=jobs, threads=threads)
    tell(f"written: {results}")
    if failed:
        raise SystemExit(f"not done: {', '.join(failed)}")


def scaled(preset: Preset, factor: float) -> Preset:
    """The preset with so many times its epochs, for less time or more."""
    epochs = {group: max(1, round(factor * count)) for group, count in preset.epochs.items()}
    return dataclasses.replace(preset, epochs=epochs)


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


def share_cores(jobs: int | None, device: str) -> tuple[int, int]:
    """How many cells run at a time, and with how many threads each."""
    import torch

    cores = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    on_cpu = device == "cpu" or (device == "auto" and not torch.cuda.is_available())
    # Small networks do not fill two cores; two of them do.
    jobs = jobs or (cores if on_cpu else 1)
    return jobs, max(1, cores // jobs)


if __name__ == "__main__":
    main()
