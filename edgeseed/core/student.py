"""`student.safetensors`: a trained student's weights and all that the next stage must know of it.

Reading the specification needs neither torch nor a pickle. The weights are plain safetensors; the
specification is one JSON under the metadata key `edgeseed`.
"""

import dataclasses
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open

from edgeseed.core.errors import ArtifactError, DataError, SchemaVersionError, UsageError
from edgeseed.core.files import atomic_file
from edgeseed.core.names import check_class_names
from edgeseed.core.preprocess import Preprocess
from edgeseed.core.reading import read_record

if TYPE_CHECKING:
    import torch

SCHEMA_VERSION = 1
_METADATA_KEY = "edgeseed"


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Architecture:
    """What builds the network: a timm name, its arguments, and our changes to it."""

    name: str
    kwargs: dict[str, Any] = dataclasses.field(default_factory=dict)
    variant: dict[str, Any] = dataclasses.field(default_factory=dict)
    """Changes after creation that the weights rely on, such as `{"activation": "relu6"}`."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class StudentSpec:
    """Everything in a student file but the weights."""

    architecture: Architecture
    preprocess: Preprocess
    embedding_dim: int
    classes: tuple[str, ...] | None = None
    """Class names in the order of the head's outputs; None for a student without a head."""
    provenance: dict[str, Any] = dataclasses.field(default_factory=dict)
    """Method, resolved config, teacher, data fingerprint, environment."""
    metrics: tuple[dict[str, Any], ...] = ()
    """Measured results, each with its protocol and n."""
    schema_version: int = SCHEMA_VERSION

    @property
    def trained_on(self) -> frozenset[str]:
        """Fingerprints of the photo sets that it was trained on, or on a part of."""
        return self.trained_on_all_of | frozenset(
            str(part.get("fingerprint"))
            for part in _entries(self.provenance, "part_of")
            if isinstance(part, Mapping)
        )

    @property
    def trained_on_all_of(self) -> frozenset[str]:
        """Fingerprints of the photo sets that it was trained on as a whole."""
        return frozenset(map(str, _entries(self.provenance, "fingerprint")))

    @property
    def photo_hashes(self) -> frozenset[str]:
        """Hashes of some photos of these sets: see `core.photos.count_shared_by_hash`."""
        return frozenset(map(str, _entries(self.provenance, "sketch")))

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        values = dataclasses.asdict(self)
        values["preprocess"] = self.preprocess.to_dict()
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], *, source: Path) -> "StudentSpec":
        """From `to_dict`'s form.

        Raises:
            SchemaVersionError: If a newer edgeseed wrote it.
            ArtifactError: If it is not a student's specification.
        """
        check_schema_version(values, supported=SCHEMA_VERSION, source=source)
        try:
            # All of them, also those with defaults; what a later edgeseed adds is passed over.
            known = {field.name: values[field.name] for field in dataclasses.fields(cls)}
        except KeyError as error:
            raise ArtifactError(f"{source}: its specification has no {error.args[0]}") from error
        spec = read_record(cls, known, what=str(source))
        if spec.classes is not None:
            if not spec.classes:
                raise ArtifactError(f"{source}: its list of classes is empty")
            try:
                check_class_names(spec.classes, source=str(source))
            except DataError as error:
                raise ArtifactError(str(error)) from error
        return spec


def _entries(values: Mapping[str, Any], what: str) -> Iterator[Any]:
    """Of all photos that a provenance speaks of, those of earlier stages and of the head too."""
    for name, value in values.items():
        if name == what:
            yield value
        elif isinstance(value, Mapping) and name != "part_of":
            yield from _entries(value, what)


def check_schema_version(values: Any, *, supported: int, source: Path) -> None:
    """Refuses what a newer edgeseed wrote, and what has no version at all.

    Raises:
        SchemaVersionError: If the version is newer than `supported`.
        ArtifactError: If there is none.
    """
    version = values.get("schema_version") if isinstance(values, Mapping) else None
    if not isinstance(version, int) or isinstance(version, bool):
        raise ArtifactError(f"{source} was not written by edgeseed: it has no schema_version")
    if version > supported:
        written_by = _writer(values) or "a newer version"
        raise SchemaVersionError(
            f"{source} has schema version {version}, this edgeseed reads up to {supported}; "
            f"it was written by edgeseed {written_by}: pip install --upgrade edgeseed"
        )


def _writer(values: Mapping[str, Any]) -> str | None:
    """The edgeseed that wrote a file, as far as it says."""
    provenance = values.get("provenance")
    for place in (provenance, values):
        environment = place.get("environment") if isinstance(place, Mapping) else None
        if isinstance(environment, Mapping) and isinstance(environment.get("edgeseed"), str):
            return str(environment["edgeseed"])
    return None


def read_spec(path: str | Path) -> StudentSpec:
    """Reads a student file's specification.

    Raises:
        UsageError: If there is no such file.
        SchemaVersionError: If a newer edgeseed wrote it.
        ArtifactError: If it is truncated, or no student file.
    """
    path = Path(path)
    if not path.is_file():
        raise UsageError(
            f"{path} does not exist or is not a file; a student.safetensors was expected there"
        )
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise ArtifactError(
            f"{path} is not a whole safetensors file ({error}); it may be truncated: copy or "
            "train it again"
        ) from error
    if _METADATA_KEY not in metadata:
        raise ArtifactError(
            f"{path} is a safetensors file, but not an edgeseed student: it has no "
            f"{_METADATA_KEY!r} metadata; "
            f"give weights of another origin with their architecture, as NAME={path}"
        )
    try:
        values = json.loads(metadata[_METADATA_KEY])
    except (ValueError, RecursionError) as error:
        raise ArtifactError(f"{path}: its {_METADATA_KEY!r} metadata is not JSON") from error
    return StudentSpec.from_dict(values, source=path)


def write_student(path: str | Path, state: Mapping[str, "torch.Tensor"], spec: StudentSpec) -> None:
    """Writes a student file, whole or not at all.

    Args:
        path: Where to.
        state: The network's state dict; keys as in `core.network.StudentNetwork`.
        spec: The rest.
    """
    import torch
    from safetensors.torch import save

    tensors = {
        name: tensor.detach().to("cpu", memory_format=torch.contiguous_format).contiguous().clone()
        for name, tensor in state.items()
    }
    content = save(tensors, metadata={_METADATA_KEY: json.dumps(spec.to_dict(), allow_nan=False)})
    with atomic_file(Path(path)) as temporary:
        temporary.write_bytes(content)
