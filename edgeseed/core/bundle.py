"""`bundle/`: an exported model with everything that proves it, uses it and tests it.

```text
bundle/
  manifest.json   this module's Manifest: digests of all other files, preprocess, gates, versions
  model.*         the model (one or more files, or a folder such as model.mlpackage)
  labels.txt      one class a line, if the model has classes
  golden/         photos as the model sees them, their input tensors, float and model outputs
  MODEL_CARD.md
  engines/        TensorRT: what `edgeseed build` made on devices. Not sealed: it comes later
  reference/      role "proof": the float student and held-out photos, so that `edgeseed verify`
  needs nothing else
```
"""

import dataclasses
import hashlib
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from edgeseed.core.config import to_plain
from edgeseed.core.errors import ArtifactError, DataError, SchemaVersionError, UsageError
from edgeseed.core.files import read_json, sha256_file, write_json
from edgeseed.core.names import check_class_names
from edgeseed.core.preprocess import Preprocess
from edgeseed.core.reading import read_record
from edgeseed.core.records import Provenance, QuantizationRecord, SelectionRecord, SpeedRecord
from edgeseed.core.student import check_schema_version

SCHEMA_VERSION = 1
OLDEST_SCHEMA_VERSION = 1
MANIFEST = "manifest.json"
MODEL_CARD = "MODEL_CARD.md"
LABELS_FILE = "labels.txt"
GOLDEN = "golden"
GOLDEN_INPUTS = "golden/inputs.npy"
"""(G, 3, H, W) uint8: the golden photos as the model takes them."""
GOLDEN_FLOAT = "golden/float.npz"
"""The float student's outputs for them."""
GOLDEN_MODEL = "golden/model.npz"
"""The exported model's outputs for them."""
REFERENCE = "reference"
STUDENT_FILE = "reference/student.safetensors"
PHOTOS_FILE = "reference/photos.npz"
"""`pixels` (N, 3, H, W) uint8 of the held-out photos and, where known, `labels` (N,)."""
SIMULATED_FILE = "reference/simulated.npz"
"""Outputs of the simulated quantized program for those photos; absent for float models."""
ENGINES = "engines"
"""Folder of what was built on devices after the export. The manifest does not list it."""
_BLOCKS = {
    "quantization": QuantizationRecord,
    "provenance": Provenance,
    "speed": SpeedRecord,
    "selection": SelectionRecord,
}


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class TensorSpec:
    """One input or output of a model."""

    name: str
    shape: tuple[int | str, ...]
    """A size, or a name such as `"batch"` where any size goes."""
    dtype: str
    semantics: str
    """What it holds: `"RGB pixels 0..255"`, `"embedding"`, `"logits"`."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class GateResult:
    """One check of an exported model, with the number it rests on."""

    name: str
    value: float
    limit: float
    passed: bool
    unit: str
    n: int
    """How many photos or tensors the value rests on."""
    detail: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class FileEntry:
    """One file of a bundle."""

    sha256: str
    size_bytes: int
    role: Literal["ship", "proof"]
    """`ship` goes into the app, `proof` only backs up the gates."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Manifest:
    """The contents of `manifest.json`."""

    name: str
    """The student's architecture."""
    target: str
    precision: str
    model: str
    """Relative path of the model file or folder."""
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    preprocess: Preprocess
    embedding_dim: int
    classes: tuple[str, ...] | None
    quantization: QuantizationRecord | None
    """Scheme, calibration, and what was left in float and why; None for a float model."""
    gates: tuple[GateResult, ...]
    student_sha256: str
    """Digest of the student file that was exported."""
    minimum_runtime: dict[str, str]
    provenance: Provenance
    """The student's provenance, this export's settings, and the environment."""
    speed: SpeedRecord | None = None
    """How fast it was beside the float model on the machine that exported it; an aid to choose,
    not a measurement. None where nothing was compared."""
    selection: SelectionRecord | None = None
    """What `--precision auto` tried, what it chose and why."""
    files: dict[str, FileEntry] = dataclasses.field(default_factory=dict)
    """Relative path -> digest; filled in by `seal_bundle`."""
    schema_version: int = SCHEMA_VERSION

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        values: dict[str, Any] = to_plain(self)
        values["preprocess"] = self.preprocess.to_dict()
        for name in _BLOCKS:
            block = getattr(self, name)
            values[name] = None if block is None else block.to_dict()
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], *, source: Path) -> "Manifest":
        """From `to_dict`'s form.

        Raises:
            SchemaVersionError: If an edgeseed wrote it whose manifests this one does not read.
            ArtifactError: If it is not a manifest.
        """
        check_schema_version(values, supported=SCHEMA_VERSION, source=source)
        _check_readable(values, source=source)
        manifest = read_record(cls, values, what=str(source))
        if manifest.classes is not None:
            try:
                check_class_names(manifest.classes, source=str(source))
            except DataError as error:
                raise ArtifactError(str(error)) from error
        for path in (manifest.model, *manifest.files):
            _check_inside(path, source)
        return manifest


def _check_inside(path: str, source: Path) -> None:
    parts = PurePosixPath(path).parts
    if not parts or ".." in parts or path.startswith("/") or "\\" in path or "\0" in path:
        raise ArtifactError(f"{source}: {path!r} is no path inside the bundle")


def writer_version(provenance: Any) -> str | None:
    """The edgeseed that wrote a manifest, by its provenance; None if that does not say."""
    environment = provenance.get("environment") if isinstance(provenance, Mapping) else None
    version = environment.get("edgeseed") if isinstance(environment, Mapping) else None
    return None if version is None else str(version)


def _check_readable(values: Mapping[str, Any], *, source: Path) -> None:
    """Refuses manifests of an older schema, and fields of a version that had more of them."""
    writer = writer_version(values.get("provenance"))
    exact = f"edgeseed=={writer}" if writer else "the edgeseed that wrote it"
    version = values["schema_version"]
    if version < OLDEST_SCHEMA_VERSION:
        raise SchemaVersionError(
            f"{source} has schema version {version}, this edgeseed reads from "
            f"{OLDEST_SCHEMA_VERSION} on; {exact} reads it, or export it anew"
        )
    known = {field.name for field in dataclasses.fields(Manifest)}
    unknown = sorted(set(values) - known)
    if unknown:
        raise SchemaVersionError(
            f"{source} has fields that this edgeseed does not know ({', '.join(unknown)}); it was "
            f"written by another version or edited: {exact} reads it, or export it anew"
        )


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Bundle:
    """A bundle on disk."""

    path: Path
    manifest: Manifest

    @property
    def model_path(self) -> Path:
        """The model file or folder."""
        return self.path / self.manifest.model

    @property
    def model_size_bytes(self) -> int:
        """Bytes of the model, all its files together."""
        model = self.manifest.model
        return sum(
            entry.size_bytes
            for path, entry in self.manifest.files.items()
            if path == model or path.startswith((f"{model}/", f"{model}."))
        )

    @property
    def digest(self) -> str:
        """Digest of the model's files: equal exactly when two bundles hold the same model."""
        model = self.manifest.model
        lines = sorted(
            f"{path} {entry.sha256}"
            for path, entry in self.manifest.files.items()
            if path == model or path.startswith((f"{model}/", f"{model}."))
        )
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _files(folder: Path) -> list[str]:
    """Relative paths of all files but the manifest and built engines.

    Raises:
        ArtifactError: If there is a link: what it leads to may change, or lie outside the bundle.
    """
    for path in folder.rglob("*"):
        if path.is_symlink():
            raise ArtifactError(
                f"{path} is a symbolic link; a bundle holds its files itself: copy the bundle with "
                "its links resolved (cp -rL), or export it anew"
            )
    # Engines are made after the bundle was sealed, on the device that each of them belongs to. They
    # bring their own digests, which whoever opens one compares.
    found = (
        path
        for path in folder.rglob("*")
        if path.is_file()
        and path != folder / MANIFEST
        and not path.is_relative_to(folder / ENGINES)
    )
    return sorted(path.relative_to(folder).as_posix() for path in found)


def seal_bundle(folder: Path, manifest: Manifest) -> Manifest:
    """Writes `manifest.json` with the digest of every other file in `folder`.

    Returns:
        The manifest as written.
    """
    files = {
        name: FileEntry(
            sha256=sha256_file(folder / name),
            size_bytes=(folder / name).stat().st_size,
            role="proof" if name.startswith(f"{REFERENCE}/") else "ship",
        )
        for name in _files(folder)
    }
    sealed = dataclasses.replace(manifest, files=files)
    write_json(folder / MANIFEST, sealed.to_dict())
    return sealed


def read_bundle(folder: str | Path, *, check: bool = True) -> Bundle:
    """Reads a bundle.

    Args:
        folder: The bundle.
        check: Whether to compare every file with its digest.

    Raises:
        UsageError: If there is no such folder, or no manifest in it.
        SchemaVersionError: If an edgeseed wrote it whose manifests this one does not read.
        ArtifactError: If a file is missing, added, changed or a link, or the model is none of the
            bundle's files; the message names it.
    """
    folder = Path(folder)
    if not (folder / MANIFEST).is_file():
        found = "is not a folder" if not folder.is_dir() else f"has no {MANIFEST}"
        raise UsageError(f"{folder} {found}; a bundle made by `edgeseed export` was expected there")
    values = read_json(folder / MANIFEST, what="a bundle's manifest")
    bundle = Bundle(path=folder, manifest=Manifest.from_dict(values, source=folder / MANIFEST))
    _check_model_path(bundle)
    if check:
        _check_files(bundle)
    return bundle


def _check_model_path(bundle: Bundle) -> None:
    """Refuses a model that is not one of the bundle's own files."""
    model, names = bundle.manifest.model, bundle.manifest.files
    if not any(name == model or name.startswith(f"{model}/") for name in names):
        raise ArtifactError(
            f"{bundle.path}: the manifest's model, {model!r}, is none of the bundle's files; "
            "export it anew"
        )


def _check_files(bundle: Bundle) -> None:
    listed, found = set(bundle.manifest.files), set(_files(bundle.path))
    repair = "copy the bundle again or export it anew"
    for name in sorted(listed - found):
        raise ArtifactError(f"{bundle.path}: {name} is missing; {repair}")
    for name in sorted(found - listed):
        raise ArtifactError(
            f"{bundle.path}: {name} is not listed in the manifest; remove it, or {repair}"
        )
    for name, entry in bundle.manifest.files.items():
        if sha256_file(bundle.path / name) != entry.sha256:
            raise ArtifactError(
                f"{bundle.path}: {name} was changed after the export (its digest differs); {repair}"
            )
