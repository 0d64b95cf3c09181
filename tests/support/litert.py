"""LiteRT files of small networks, written without a bundle."""

from collections import Counter
from pathlib import Path
from typing import Any

from edgeseed.core.network import StudentNetwork
from edgeseed.core.student import Architecture, StudentSpec
from edgeseed.export.program import build_program, output_names
from edgeseed.export.quantize.config import QuantizeConfig
from edgeseed.export.quantize.quantize import quantize
from edgeseed.export.quantize.schemes import SCHEMES
from edgeseed.export.samples import Photos
from edgeseed.export.target import Precision, WriteRequest
from edgeseed.export.targets import TARGETS
from edgeseed.export.targets.litert.flatbuffer import File
from support.export import CLASSES, tiny_preprocess


def spec_of(network: StudentNetwork, name: str) -> StudentSpec:
    return StudentSpec(
        architecture=Architecture(name=name),
        preprocess=tiny_preprocess(),
        embedding_dim=network.embedding_dim,
        classes=CLASSES,
    )


def quantized(network: StudentNetwork, pixels: Any) -> Any:
    config = QuantizeConfig(calibrator="minmax", max_float_layers=0, bias_correction=False)
    program = build_program(network, tiny_preprocess())
    scheme = SCHEMES.load("litert")
    return quantize(program, scheme, Photos(pixels=pixels), batch=1, config=config).program


def write_program(program: Any, spec: StudentSpec, folder: Path, precision: Precision) -> Path:
    folder.mkdir(exist_ok=True)
    request = WriteRequest(
        program=program, output_names=output_names(program), spec=spec, precision=precision,
        batch=1, options={},
    )  # fmt: skip
    return Path(folder / TARGETS.load("litert").write(request, folder).model)


def write(network: StudentNetwork, folder: Path, *, name: str = "test_efficientnet") -> Path:
    """A float file."""
    program = build_program(network, tiny_preprocess(), batch=1)
    return write_program(program, spec_of(network, name), folder, "fp32")


def kinds(path: Path) -> Counter[str]:
    return Counter(each.kind for each in File(path.read_bytes()).operators)
