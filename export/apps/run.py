"""`edgeseed embed`: writes a bundle as a module for an app, and verifies one."""

import dataclasses
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from edgeseed.core.bundle import MANIFEST, Bundle, read_bundle
from edgeseed.core.console import warn
from edgeseed.core.errors import ArtifactError, MissingDependencyError, UsageError
from edgeseed.core.files import atomic_directory, sha256_file, write_json
from edgeseed.core.scratch import scratch_folder
from edgeseed.export.apps.contents import (
    ModelFacts,
    Role,
    model_facts,
    write_assets,
    write_model_assets,
)
from edgeseed.export.apps.platform import PLATFORMS, Platform
from edgeseed.export.apps.record import RECORD, ModuleFile, ModuleRecord, read_module_record
from edgeseed.export.targets import TARGETS

README = "README.md"
# What a module promises to be the bundle's. Sources are the app's own to change.
_STRICT: tuple[Role, ...] = ("model", "labels", "golden", "conformance", "constants")


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class EmbedResult:
    """A module that was just written."""

    module: Path
    platform: str
    name: str
    target: str
    precision: str
    bundle_digest: str
    size_bytes: int
    """Of the whole folder."""
    assets_bytes: int
    """Of what travels inside the app beside its code: model, labels, golden photos and such."""
    num_files: int

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return {**dataclasses.asdict(self), "module": str(self.module)}


def embed(
    bundle: str | Path, *, platform: str, out: str | Path, name: str | None = None
) -> EmbedResult:
    """Writes a bundle as a module for an app.

    Args:
        bundle: A folder made by `edgeseed export`.
        platform: `ios`, `android` or `web`.
        out: Where the module goes; must not exist.
        name: Of the module, in lower case; by default made of the student's.

    Raises:
        UsageError: If the platform does not run the bundle's target; the message names the one
            that it needs.
        ArtifactError: If the bundle is not whole, or its model cannot be opened.
    """
    opened = read_bundle(bundle)
    chosen: Platform = PLATFORMS.load(platform)
    _check_fit(opened, chosen)
    _check_model(opened)
    facts = model_facts(opened, module=name)
    advice = chosen.advice(facts)
    if advice is not None:
        warn(f"{bundle}: {advice}")
    with atomic_directory(Path(out)) as folder:
        roles = _write_module(opened, facts, chosen, folder)
        record = ModuleRecord(
            platform=chosen.name,
            model=facts,
            manifest_sha256=sha256_file(opened.path / MANIFEST),
            sealed={
                path: entry.sha256
                for path, entry in opened.manifest.files.items()
                if entry.role == "ship"
            },
            files={
                path: ModuleFile(
                    role=role,
                    sha256=sha256_file(folder / path),
                    size_bytes=(folder / path).stat().st_size,
                )
                for path, role in sorted(roles.items())
            },
        )
        write_json(folder / RECORD, record.to_dict())
    sizes = {path: file.size_bytes for path, file in record.files.items()}
    assets = render(chosen.assets, facts)
    return EmbedResult(
        module=Path(out),
        platform=chosen.name,
        name=facts.module,
        target=facts.target,
        precision=facts.precision,
        bundle_digest=facts.bundle_digest,
        size_bytes=sum(sizes.values()),
        assets_bytes=sum(size for path, size in sizes.items() if path.startswith(f"{assets}/")),
        num_files=len(sizes) + 1,
    )


def _check_fit(bundle: Bundle, platform: Platform) -> None:
    manifest = bundle.manifest
    if manifest.target not in platform.targets:
        needed = " or ".join(platform.targets)
        raise UsageError(
            f"{bundle.path} is of target {manifest.target}, which --platform {platform.name} does "
            f"not run; it needs {needed}: edgeseed export STUDENT --target {platform.targets[0]} "
            "--out BUNDLE"
        )


def _check_model(bundle: Bundle) -> None:
    """Opens the model where this machine can: an app would find out when it starts."""
    target = TARGETS.load(bundle.manifest.target)
    try:
        target.open(bundle.path, bundle.manifest)
    except MissingDependencyError as error:
        warn(f"{bundle.path}: its model was not opened: {error}")


def _write_module(
    bundle: Bundle, facts: ModelFacts, platform: Platform, folder: Path
) -> dict[str, Role]:
    """Fills an empty folder; returns each file's role."""
    roles: dict[str, Role] = {}
    for path, source in _template_files(platform.templates(facts)):
        place = folder / render(path, facts)
        place.parent.mkdir(parents=True, exist_ok=True)
        content = source.read_bytes()
        try:
            place.write_text(render(content.decode("utf-8"), facts), encoding="utf-8")
        except UnicodeDecodeError:
            shutil.copyfile(source, place)
        roles[render(path, facts)] = "source"
    for path, text in platform.constants(facts).items():
        place = folder / render(path, facts)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text, encoding="utf-8")
        roles[render(path, facts)] = "constants"
    (folder / README).write_text(platform.readme(facts), encoding="utf-8")
    roles[README] = "source"
    assets = folder / render(platform.assets, facts)
    assets.mkdir(parents=True, exist_ok=True)
    for path, role in write_assets(bundle, facts, assets).items():
        roles[f"{render(platform.assets, facts)}/{path}"] = role
    return roles


def _template_files(templates: Sequence[Path]) -> Iterator[tuple[str, Path]]:
    for template in templates:
        for source in sorted(template.rglob("*")):
            if source.is_file() and "__pycache__" not in source.parts:
                yield source.relative_to(template).as_posix(), source


def render(text: str, facts: ModelFacts) -> str:
    """A template's text, or a path in it, with the module's name in place of the stand-in's."""
    return text.replace("edgeseedmodule", facts.module).replace(
        "EdgeseedModule", facts.module_title
    )


# --------------------------------------------------------------------------- verifying


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ModuleReport:
    """A module whose model, labels, golden photos and constants are the bundle's."""

    module: Path
    platform: str
    name: str
    bundle_digest: str
    checked: dict[str, int]
    """How many files of each role are as they were written."""
    edited: tuple[str, ...]
    """Sources that the app's authors changed or removed; that is theirs to do."""
    compared_with: str | None
    """The bundle whose files these are, if one was given."""

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return {**dataclasses.asdict(self), "module": str(self.module)}


def is_module(folder: str | Path) -> bool:
    """Whether a folder is a module that `edgeseed embed` wrote."""
    return (Path(folder) / RECORD).is_file()


def verify_module(module: str | Path, *, bundle: str | Path | None = None) -> ModuleReport:
    """Checks that what a module holds is still what the bundle gave it.

    Args:
        module: A folder made by `edgeseed embed`.
        bundle: The bundle to compare it with besides; without, the module's own record counts.

    Raises:
        ArtifactError: If model, labels, golden photos, conformance set or generated constants were
            changed, or are of another bundle; the message names all of them.
    """
    folder = Path(module)
    record = read_module_record(folder)
    facts = record.model
    platform: Platform = PLATFORMS.load(record.platform)
    assets = render(platform.assets, facts)
    problems, edited, checked = _compare_files(folder, record.files, assets=assets)
    problems += _compare_constants(folder, facts, platform)
    problems += _compare_model(folder, facts, platform, record.sealed)
    if bundle is not None:
        opened = read_bundle(bundle)
        problems += _compare_bundle(opened, record)
        problems += _compare_assets(opened, folder, facts, platform)
    if problems:
        raise ArtifactError(
            f"{folder} is not the bundle's module any more: {'; '.join(sorted(set(problems)))}; "
            f"write it anew: edgeseed embed BUNDLE --platform {platform.name} --out DIR"
        )
    return ModuleReport(
        module=folder,
        platform=platform.name,
        name=facts.module,
        bundle_digest=facts.bundle_digest,
        checked=checked,
        edited=tuple(edited),
        compared_with=None if bundle is None else str(bundle),
    )


def _compare_files(
    folder: Path, files: Mapping[str, ModuleFile], *, assets: str
) -> tuple[list[str], list[str], dict[str, int]]:
    problems, edited = [], []
    checked: dict[str, int] = {}
    for path, entry in files.items():
        role, file = entry.role, folder / path
        if file.is_file() and sha256_file(file) == entry.sha256:
            checked[role] = checked.get(role, 0) + 1
        # By place as well: a record that calls the model a source makes it none.
        elif role in _STRICT or path.startswith(f"{assets}/"):
            problems.append(f"{path} ({role}) {'was changed' if file.is_file() else 'is missing'}")
        else:
            edited.append(path)
    recorded = {entry.role for entry in files.values()}
    problems += [f"{RECORD} lists no {role}" for role in _STRICT if role not in recorded]
    return problems, edited, checked


def _compare_constants(folder: Path, facts: ModelFacts, platform: Platform) -> list[str]:
    """What the generated sources say against what they would be generated as today."""
    problems = []
    for path, text in platform.constants(facts).items():
        file = folder / render(path, facts)
        if not file.is_file():
            problems.append(f"{render(path, facts)} (constants) is missing")
        # As bytes: what someone else wrote there need not be UTF-8.
        elif file.read_bytes() != text.encode("utf-8"):
            problems.append(f"{render(path, facts)} (constants) does not say what {RECORD} does")
    return problems


def _compare_model(
    folder: Path, facts: ModelFacts, platform: Platform, sealed: Mapping[str, str]
) -> list[str]:
    """The files that the bundle's manifest sealed, against its digests."""
    assets = folder / render(platform.assets, facts)
    problems = []
    for path, digest in sealed.items():
        file = assets / path
        place = file.relative_to(folder).as_posix()
        if file.is_file():
            if sha256_file(file) != digest:
                problems.append(f"{place} is not the bundle's {path}")
        # Others, such as labels.txt, do not travel under their own name.
        elif path == facts.model or path.startswith(f"{facts.model}/"):
            problems.append(f"{place} (model) is missing")
    return problems


def _compare_assets(
    bundle: Bundle, folder: Path, facts: ModelFacts, platform: Platform
) -> list[str]:
    """Model, labels and golden photos against the bundle's, whatever the record says of them."""
    assets = folder / render(platform.assets, facts)
    problems = []
    with scratch_folder() as temporary:
        for path in write_model_assets(bundle, facts, temporary):
            file = assets / path
            if not file.is_file() or sha256_file(file) != sha256_file(temporary / path):
                problems.append(
                    f"{file.relative_to(folder).as_posix()} is not as {bundle.path} has it"
                )
    return problems


def _compare_bundle(bundle: Bundle, record: ModuleRecord) -> list[str]:
    facts = model_facts(bundle, module=record.model.module)
    theirs, ours = facts.to_dict(), record.model.to_dict()
    different = [field for field in theirs if field != "edgeseed" and theirs[field] != ours[field]]
    ship = {p: e.sha256 for p, e in bundle.manifest.files.items() if e.role == "ship"}
    different += [path for path, digest in ship.items() if record.sealed.get(path) != digest]
    return [f"{bundle.path} has another {what}" for what in different]
