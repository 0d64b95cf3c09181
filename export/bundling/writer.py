"""Writes a bundle: model, golden photos, proof, labels, card, manifest, digests."""

import dataclasses
import shutil
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeseed.core.bundle import (
    LABELS_FILE,
    MODEL_CARD,
    PHOTOS_FILE,
    STUDENT_FILE,
    Bundle,
    GateResult,
    Manifest,
    seal_bundle,
)
from edgeseed.core.files import sha256_file, write_text
from edgeseed.core.network import StudentNetwork
from edgeseed.core.records import ExportSettings, Provenance, QuantizationRecord
from edgeseed.core.student import StudentSpec
from edgeseed.export.bundling.card import model_card
from edgeseed.export.bundling.interface import tensor_specs
from edgeseed.export.proof.golden import Golden, golden_inputs, write_golden
from edgeseed.export.proof.reference import Outputs, reference_outputs
from edgeseed.export.proof.rounding import Simulated, write_simulated
from edgeseed.export.proof.verify import (
    Evidence,
    gather,
    judge,
)
from edgeseed.export.samples import Photos, Samples
from edgeseed.export.target import Model, Target, WriteRequest, WrittenModel


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExportSource:
    """What a bundle is made of, before any file is written."""

    student: Path
    network: StudentNetwork
    spec: StudentSpec
    samples: Samples
    settings: ExportSettings
    """The call's arguments: they go into the manifest as they are."""
    environment: Mapping[str, Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class BuiltBundle:
    """A bundle that was just made, and what its gates found."""

    bundle: Bundle
    evidence: Evidence
    gates: tuple[GateResult, ...]
    """Whether they passed or not."""
    seconds: float = 0.0

    @property
    def runner(self) -> str:
        """What computed the model here."""
        return self.evidence.model.runner


def write_bundle(
    folder: Path,
    source: ExportSource,
    target: Target,
    request: WriteRequest,
    *,
    quantization: QuantizationRecord | None,
    reference: Outputs,
    simulated: Simulated | None,
    proof: Path,
) -> BuiltBundle:
    """Fills an empty folder with a bundle, and judges it.

    Args:
        folder: Where to.
        source: The student and its photos.
        target: What to make.
        request: The program and how it is to be written.
        quantization: The record of how the program was quantized.
        reference: The float student's outputs on the proof photos.
        simulated: The simulated quantized program's outputs on them; None for a float model.
        proof: A file of these photos, by `write_photos`.
    """
    spec = source.spec
    written = target.write(request, folder)
    (folder / STUDENT_FILE).parent.mkdir()
    shutil.copyfile(source.student, folder / STUDENT_FILE)
    shutil.copyfile(proof, folder / PHOTOS_FILE)
    if simulated is not None:
        write_simulated(folder, simulated)
    if spec.classes is not None:
        write_text(folder / LABELS_FILE, "\n".join(spec.classes) + "\n")
    manifest = describe_bundle(source, target, request, written, quantization=quantization)
    _write_golden(folder, source, target.open(folder, manifest))
    evidence = gather(Bundle(path=folder, manifest=manifest))
    gates = tuple(judge(evidence, reference=reference))
    bundle = seal(folder, dataclasses.replace(manifest, gates=gates))
    return BuiltBundle(bundle=bundle, evidence=evidence, gates=gates)


def seal(folder: Path, manifest: Manifest) -> Bundle:
    """Writes the model card, then the manifest with the digests of all files."""
    write_text(folder / MODEL_CARD, model_card(manifest))
    return Bundle(path=folder, manifest=seal_bundle(folder, manifest))


def write_photos(path: Path, photos: Photos) -> None:
    """Pixels and labels as an .npz file."""
    arrays: dict[str, npt.NDArray[Any]] = {"pixels": photos.pixels}
    if photos.labels is not None:
        arrays["labels"] = photos.labels
    # As np.savez_compressed, which has no say in how hard it tries: photos hardly give way.
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as file:
        for name, array in arrays.items():
            with file.open(f"{name}.npy", "w", force_zip64=True) as entry:
                np.lib.format.write_array(entry, np.asarray(array), allow_pickle=False)


def _write_golden(folder: Path, source: ExportSource, model: Model) -> None:
    inputs = golden_inputs(source.samples.golden, source.spec.preprocess)
    golden = Golden(
        photos=source.samples.golden,
        inputs=inputs,
        float_outputs=reference_outputs(source.network, source.spec.preprocess, inputs),
        model_outputs=model.answer(inputs),
    )
    write_golden(folder, golden)


def describe_bundle(
    source: ExportSource,
    target: Target,
    request: WriteRequest,
    written: WrittenModel,
    *,
    quantization: QuantizationRecord | None = None,
) -> Manifest:
    """The manifest before there are gates and digests."""
    spec = source.spec
    inputs, outputs = tensor_specs(
        spec,
        target,
        batch=request.batch,
        outputs=request.output_names,
        options=request.options,
        added=request.added,
    )
    return Manifest(
        name=spec.architecture.name,
        target=target.name,
        precision=request.precision,
        model=written.model,
        inputs=inputs,
        outputs=outputs,
        preprocess=spec.preprocess,
        embedding_dim=spec.embedding_dim,
        classes=spec.classes,
        quantization=quantization,
        gates=(),
        student_sha256=sha256_file(source.student),
        minimum_runtime=written.minimum_runtime,
        provenance=Provenance(
            student=_without_photo_hashes(spec.provenance),
            student_metrics=list(spec.metrics),
            export=source.settings,
            photos=source.samples.description,
            model=written.details,
            environment=dict(source.environment),
        ),
    )


def _without_photo_hashes(provenance: Mapping[str, Any]) -> dict[str, Any]:
    """The provenance without the hashes of training photos, which no device needs."""
    return {
        name: _without_photo_hashes(value) if isinstance(value, Mapping) else value
        for name, value in provenance.items()
        if name != "sketch"
    }
