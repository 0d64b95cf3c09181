"""Makes bundles of one student. What several of them share is computed once."""

import dataclasses
import difflib
import functools
import re
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from torch.export import ExportedProgram

from edgeseed.core.bundle import Bundle
from edgeseed.core.errors import UsageError
from edgeseed.core.reading import read_record
from edgeseed.core.records import ModelSpeed, QuantizationRecord, SpeedRecord
from edgeseed.export.added_outputs import parse_added
from edgeseed.export.bundling.writer import (
    BuiltBundle,
    ExportSource,
    describe_bundle,
    write_bundle,
    write_photos,
)
from edgeseed.export.call import Batch
from edgeseed.export.program import build_program, module_name, output_names
from edgeseed.export.proof.reference import Outputs, layer_names, reference_outputs
from edgeseed.export.proof.rounding import (
    Simulated,
    simulate_integers,
    simulate_rounded_weights,
)
from edgeseed.export.quantize.config import QuantizeConfig
from edgeseed.export.quantize.corrections.float_biases import correct_float_biases
from edgeseed.export.quantize.quantize import quantize
from edgeseed.export.quantize.schemes import SCHEMES
from edgeseed.export.samples import Photos
from edgeseed.export.speed import compare_speed
from edgeseed.export.target import Model, Precision, Target, WriteRequest


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Variant:
    """One variant that a student may take on a target."""

    precision: Precision
    scheme: str | None
    """Of the integers, where the precision has them."""


class StudentWork:
    """What bundles of all targets are made from, each part computed once.

    Args:
        source: The student and its photos; of the settings nothing is read.
        scratch: A folder that lasts as long as this is used.
    """

    def __init__(self, source: ExportSource, scratch: Path) -> None:
        self.source = source
        self.scratch = scratch

    @functools.cached_property
    def free_program(self) -> ExportedProgram:
        """The float program of any batch size."""
        return build_program(self.source.network, self.source.spec.preprocess, batch="dynamic")

    @functools.cached_property
    def reference(self) -> Outputs:
        """What the float student says of the photos held out as proof."""
        source = self.source
        return reference_outputs(
            source.network, source.spec.preprocess, source.samples.proof.pixels
        )

    @functools.cached_property
    def proof(self) -> Path:
        """These photos as bundles have them: compressing them takes longer than copying."""
        path = self.scratch / "proof.npz"
        write_photos(path, self.source.samples.proof)
        return path


class BundleBuilder:
    """Turns one student into bundles for one target.

    Args:
        source: The student, its photos, and the settings that go into the manifest.
        target: What to make.
        batch: Of the models.
        config: Settings of quantization.
        scratch: A folder that lasts as long as the builder does.
        keep_float: Patterns of layers that int8 leaves in float.
        work: What builders of other targets share with this one.
    """

    def __init__(
        self,
        source: ExportSource,
        target: Target,
        *,
        batch: Batch,
        config: QuantizeConfig,
        scratch: Path,
        keep_float: Sequence[str] = (),
        work: StudentWork | None = None,
    ) -> None:
        self.source = source
        self.target = target
        self.batch: Batch = batch
        self.config = config
        self.scratch = scratch
        self.keep_float = tuple(keep_float)
        self.work = work or StudentWork(source, scratch)
        self._float: Bundle | None = None

    @functools.cached_property
    def program(self) -> ExportedProgram:
        """The float program of the batch size that was asked for."""
        if self.batch == "dynamic":
            return self.work.free_program
        return build_program(self.source.network, self.source.spec.preprocess, batch=self.batch)

    def make(self, variant: Variant, folder: Path) -> BuiltBundle:
        """Writes one bundle into an empty folder, which has to stay, and judges it."""
        start = time.monotonic()
        program, quantization = self._program(variant)
        made = write_bundle(
            folder,
            self._source(variant),
            self.target,
            self._request(variant, program),
            quantization=quantization,
            reference=self.work.reference,
            simulated=self._simulate(variant, program),
            proof=self.work.proof,
        )
        if variant.precision == baseline_precision(self.target):
            self._float = made.bundle
        return dataclasses.replace(made, seconds=time.monotonic() - start)

    def open_float(self) -> Model:
        """The model of the baseline precision; if that was not made, only its file is written."""
        if self._float is not None:
            return self.target.open(self._float.path, self._float.manifest)
        variant = Variant(precision=baseline_precision(self.target), scheme=None)
        request = self._request(variant, self.program)
        folder = self.scratch / "float"
        folder.mkdir()
        written = self.target.write(request, folder)
        manifest = describe_bundle(self._source(variant), self.target, request, written)
        return self.target.open(folder, manifest)

    def _source(self, variant: Variant) -> ExportSource:
        settings = dataclasses.replace(
            self.source.settings, precision=variant.precision, scheme=variant.scheme
        )
        return dataclasses.replace(self.source, settings=settings)

    def _request(self, variant: Variant, program: ExportedProgram) -> WriteRequest:
        return WriteRequest(
            program=program,
            output_names=output_names(program),
            spec=self.source.spec,
            precision=variant.precision,
            batch=self.batch,
            options=self.source.settings.options,
            added=parse_added(self.source.settings.add_outputs),
        )

    def _simulate(self, variant: Variant, program: ExportedProgram) -> Simulated | None:
        """What rounding alone makes of the outputs on the proof photos; None for a float model."""
        if variant.precision in self.target.parity_limit:
            return None
        pixels = self.source.samples.proof.pixels
        if variant.scheme is not None:
            return simulate_integers(program, pixels, batch=self.batch)
        return simulate_rounded_weights(
            program, pixels, batch=self.batch, round_weight=self._round_weight
        )

    def _round_weight(self, weight: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        return self.target.round_weight(weight, self.source.settings.options)

    def _program(self, variant: Variant) -> tuple[ExportedProgram, QuantizationRecord | None]:
        calibration = self.source.samples.calibration
        if variant.precision in self.target.parity_limit:
            return self.program, None
        if variant.scheme is None:
            return self._with_rounded_weights(calibration), None
        assert calibration is not None
        # Calibration runs photos in batches of its own, whatever the batch of the model will be.
        quantized = quantize(
            self.work.free_program,
            SCHEMES.load(variant.scheme),
            calibration,
            reserve=self.source.samples.reserve,
            batch=self.batch,
            config=self.config,
            keep_float=matching_layers(self.work.free_program, self.keep_float),
        )
        return quantized.program, read_record(
            QuantizationRecord, quantized.record, what="the quantization"
        )

    def _with_rounded_weights(self, calibration: Photos | None) -> ExportedProgram:
        """The float program, with biases for the weights that its file will have."""
        if calibration is None:
            return self.program
        corrected = correct_float_biases(
            self.work.free_program, calibration, round_weight=self._round_weight, batch=self.batch
        )
        return self.program if corrected is None else corrected


def baseline_precision(target: Target) -> Precision:
    """The float precision that the others are compared with."""
    floats: list[Precision] = [name for name in target.precisions if name in target.parity_limit]
    return "fp32" if "fp32" in floats else floats[0]


def matching_layers(program: ExportedProgram, patterns: Sequence[str]) -> dict[str, str]:
    """Layers of a program whose whole name fits one of the regular expressions, and why.

    A name is the network's, such as `blocks.2.0.conv_pw`, or the program's, such as `conv2d_7`.

    Raises:
        UsageError: If a pattern is no regular expression, or fits no layer.
    """
    nodes = [node for node in program.graph.nodes if node.op == "call_function"]
    names = [node.name for node in nodes]
    modules = sorted({name for node in nodes if (name := module_name(node))})
    found: dict[str, str] = {}
    for pattern in patterns:
        try:
            fitting = [
                node.name
                for node in nodes
                if re.fullmatch(pattern, node.name) or re.fullmatch(pattern, module_name(node))
            ]
        except re.error as error:
            raise UsageError(
                f"--keep-float {pattern!r} is no regular expression: {error}"
            ) from None
        if not fitting:
            near = difflib.get_close_matches(pattern, [*modules, *names], n=3, cutoff=0.7)
            near = near or list(layer_names(program.graph_module)[:3])
            raise UsageError(
                f"--keep-float {pattern!r} fits no layer; there are names such as "
                f"{', '.join(near)} (`edgeseed explain` lists them)"
            )
        found |= dict.fromkeys(fitting, f"asked for by --keep-float {pattern}")
    return found


def compare_with_float(builder: BundleBuilder, made: BuiltBundle) -> SpeedRecord:
    """How fast a quantized model is beside the float one, for the manifest."""
    precision, baseline = made.bundle.manifest.precision, baseline_precision(builder.target)
    run = made.evidence.model.single_run()
    if run is None:
        return not_timed(made)
    float_run = builder.open_float().single_run()
    assert float_run is not None
    speeds = compare_speed({baseline: float_run, precision: run}, baseline=baseline)
    return speed_record(speeds, precision=precision, baseline=baseline, runner=made.runner)


def not_timed(made: BuiltBundle) -> SpeedRecord:
    """The record of a model whose speed this machine cannot tell."""
    quantization = made.bundle.manifest.quantization
    what = f"scheme {quantization.scheme}" if quantization else "it"
    reason = f"{what} is computed otherwise here than on its device (by {made.runner})"
    return SpeedRecord(timed=False, reason=reason)


def speed_record(
    speeds: dict[str, ModelSpeed], *, precision: str, baseline: str, runner: str
) -> SpeedRecord:
    """The record of a comparison."""
    return SpeedRecord(
        timed=True,
        speedup=speeds[precision].speedup,
        baseline=baseline,
        batch=1,
        threads=1,
        runner=runner,
        compared=speeds,
    )
