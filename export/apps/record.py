"""`module.json`: what a module was made of, and what each of its files was when it was written."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edgeseed.core.errors import ArtifactError, SchemaVersionError
from edgeseed.core.files import read_json
from edgeseed.core.reading import read_record
from edgeseed.export.apps.contents import ModelFacts

SCHEMA_VERSION = 1
RECORD = "module.json"
_KIND = "edgeseed-module"


@dataclass(frozen=True, kw_only=True, slots=True)
class ModuleFile:
    """One file of a module, as it was written."""

    role: str
    sha256: str
    size_bytes: int


@dataclass(frozen=True, kw_only=True, slots=True)
class ModuleRecord:
    """The contents of `module.json`."""

    platform: str
    model: ModelFacts
    manifest_sha256: str
    """Of the bundle."""
    sealed: Mapping[str, str]
    """Path -> SHA-256 of the bundle's files that ship, as its manifest has them."""
    files: Mapping[str, ModuleFile]
    """Path in the module -> the file."""

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "schema_version": SCHEMA_VERSION,
            "kind": _KIND,
            "platform": self.platform,
            "model": self.model.to_dict(),
            "bundle": {"manifest_sha256": self.manifest_sha256, "files": dict(self.sealed)},
            "files": {path: asdict(file) for path, file in self.files.items()},
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], *, what: str) -> "ModuleRecord":
        """From `to_dict`'s form.

        Args:
            values: The JSON.
            what: Where it came from, for messages.

        Raises:
            ArtifactError: If it is of something else, or something in it is missing.
            SchemaVersionError: If another edgeseed wrote it in another form.
        """
        if not isinstance(values, Mapping) or values.get("kind") != _KIND:
            raise ArtifactError(f"{what} is no record of a module made by `edgeseed embed`")
        if values.get("schema_version") != SCHEMA_VERSION:
            raise SchemaVersionError(
                f"{what} has schema version {values.get('schema_version')}, this edgeseed reads "
                f"{SCHEMA_VERSION}; write the module anew"
            )
        try:
            record = cls(
                platform=values["platform"],
                model=read_record(ModelFacts, values["model"], what="the facts of the model"),
                manifest_sha256=values["bundle"]["manifest_sha256"],
                sealed=dict(values["bundle"]["files"].items()),
                files={path: ModuleFile(**file) for path, file in values["files"].items()},
            )
        except ArtifactError as error:
            raise ArtifactError(f"{what}: {error}; write the module anew") from error
        except (KeyError, TypeError, AttributeError) as error:
            raise ArtifactError(
                f"{what} is not whole ({error!r}); write the module anew"
            ) from error
        texts = [record.platform, record.model.module, *record.sealed.values()]
        texts += [text for file in record.files.values() for text in (file.role, file.sha256)]
        if not all(isinstance(text, str) for text in texts):
            raise ArtifactError(f"{what} is not what `edgeseed embed` wrote; write the module anew")
        return record


def read_module_record(folder: Path) -> ModuleRecord:
    """Reads the record of a module.

    Raises:
        ArtifactError: If there is none, or it is not whole.
        SchemaVersionError: If another edgeseed wrote it in another form.
    """
    path = folder / RECORD
    return ModuleRecord.from_dict(read_json(path, what="a module's record"), what=str(path))
