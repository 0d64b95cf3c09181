"""Core ML packages of small networks, as `export` would have them written."""

from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
from torch.export import ExportedProgram

from edgeseed.core.bundle import read_bundle
from edgeseed.core.network import StudentNetwork
from edgeseed.core.preprocess import Preprocess
from edgeseed.core.student import Architecture, StudentSpec
from edgeseed.export.program import build_program, output_names
from edgeseed.export.proof.reference import Outputs
from edgeseed.export.quantize.config import QuantizeConfig
from edgeseed.export.quantize.quantize import quantize
from edgeseed.export.quantize.schemes import SCHEMES
from edgeseed.export.samples import Photos
from edgeseed.export.target import Precision, WriteRequest
from edgeseed.export.targets.coreml.target import TARGET
from support.export import CLASSES, tiny_preprocess

Pixels = npt.NDArray[np.uint8]


def spec_of(network: StudentNetwork, preprocess: Preprocess, classes: Any) -> StudentSpec:
    return StudentSpec(
        architecture=Architecture(name="net", kwargs={}),
        preprocess=preprocess,
        embedding_dim=network.embedding_dim,
        classes=classes,
    )


def write(
    network: StudentNetwork,
    folder: Path,
    precision: Precision,
    *,
    preprocess: Preprocess | None = None,
    classes: Any = CLASSES,
    calibration: Pixels | None = None,
    calibrator: str = "minmax",
    **options: Any,
) -> Path:
    """The package of a network, as `export` would have it written."""
    preprocess = preprocess or tiny_preprocess()
    program = build_program(network, preprocess, batch=1 if calibration is None else "dynamic")
    if calibration is not None:
        scheme = SCHEMES.load(TARGET.schemes[precision][0])
        photos = Photos(pixels=calibration)
        config = QuantizeConfig(max_float_layers=0, calibrator=calibrator)
        program = quantize(program, scheme, photos, batch=1, config=config).program
    spec = spec_of(network, preprocess, classes)
    return write_program(spec, folder, precision, program, **options)


def write_program(
    spec: StudentSpec, folder: Path, precision: Precision, program: ExportedProgram, **options: Any
) -> Path:
    """The package of a program."""
    request = WriteRequest(
        program=program,
        output_names=output_names(program),
        spec=spec,
        precision=precision,
        batch=1,
        options={**TARGET.options, **options},
    )
    folder.mkdir(parents=True)
    return folder / TARGET.write(request, folder).model


def difference(found: Outputs, wanted: Outputs) -> float:
    """Of all photos together, the worse output: |found - wanted| / |wanted|."""
    return max(
        float(np.linalg.norm(found[name] - wanted[name]) / np.linalg.norm(wanted[name]))
        for name in wanted
    )


class Packages:
    """The student's package of each kind, made when it is first asked for."""

    def __init__(self, network: StudentNetwork, folder: Path, made_int8: Path) -> None:
        self._network = network
        self._folder = folder
        self._made = {"int8": made_int8 / read_bundle(made_int8).manifest.model}

    def __getitem__(self, kind: str) -> Path:
        if kind not in self._made:
            self._made[kind] = (
                write(self._network, self._folder / kind, cast(Precision, kind))
                if kind in ("fp32", "fp16")
                else write(self._network, self._folder / kind, "w8", weights=kind)
            )
        return self._made[kind]
