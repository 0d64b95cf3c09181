"""What every module holds besides its sources, and the record by which it is verified.

```text
MODULE/
  module.json            this module's record: facts of the model, digest and role of every file
  README.md
  ...                    sources of the platform, and the generated constants
  ASSETS/                (the platform says where)
    model.*              as in the bundle
    labels.json          ["cat", "dog"], or [] for a model without classes
    golden/
      golden.json        {"photos": [...], "inputs": "inputs.npy", "outputs": {...}, "tolerance": t}
      000.png ...        photos as they come: upright, opaque, sRGB
      inputs.npy         (G, 3, S, S) uint8: what each of them must become
      embedding.npy      (G, D) float32 [, logits.npy (G, C)]: what the model must answer
    conformance/         see conformance.py
```
"""

import dataclasses
import json
import re
import shutil
from pathlib import Path
from typing import Any, Literal

import numpy as np

from edgeseed.core.bundle import GOLDEN, Bundle, TensorSpec
from edgeseed.core.environment import edgeseed_version
from edgeseed.core.errors import UsageError
from edgeseed.core.preprocess import Preprocess
from edgeseed.export.added_outputs import OWN_OUTPUTS
from edgeseed.export.apps.conformance import write_conformance_set
from edgeseed.export.proof.golden import read_golden

Role = Literal["model", "labels", "golden", "conformance", "constants", "source"]
LABELS = "labels.json"
CONFORMANCE = "conformance"
GOLDEN_TOLERANCE = {"fp32": 1e-3}
"""Largest error of a golden output relative to the largest value; others: 5e-2, as in profile."""
_OTHER_TOLERANCE = 5e-2
_NAME = re.compile(r"[a-z][a-z0-9]{0,39}")
# Words that a language or its packages keep for themselves and that fit _NAME.
_RESERVED_WORDS = (
    "abstract actor as async await bool boolean break byte case catch char class const continue "
    "debugger default defer deinit delete do double else enum export extends extension false final "
    "finally float for fun func function guard if implements import in init inout int interface "
    "internal is let long native new nil null object open operator override package private "
    "protected protocol public rethrows return self short static struct subscript super switch "
    "synchronized this throw throws transient true try typealias typeof val var void volatile when "
    "where while with yield core test tests "
    # Modules of Swift and Apple that the package imports: one of its own would hide them.
    "swift foundation accelerate photos vision "
    # Packages that the npm package depends on, and Node's own, which win over an installed one.
    "vite vitest typescript assert buffer cluster console constants crypto dgram dns domain events "
    "fs http http2 https inspector module net os path perf process punycode querystring readline "
    "repl stream timers tls tty url util v8 vm wasi worker zlib sys"
)
_RESERVED = frozenset(_RESERVED_WORDS.split())


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ModelFacts:
    """What a module must know of its model: the manifest's, as far as an app needs it."""

    module: str
    """Name of the module: a lower-case word that is a valid identifier in every language."""
    architecture: str
    target: str
    precision: str
    scheme: str | None
    """Of int8: `"arm"`, `"x86"`; None for a float model."""
    model: str
    """File or folder of the model, relative to the assets."""
    input: TensorSpec
    outputs: tuple[TensorSpec, ...]
    preprocess: Preprocess
    embedding_dim: int
    num_classes: int
    """0 for a model without classes."""
    golden_tolerance: float
    minimum_runtime: dict[str, str]
    bundle_digest: str
    """Digest of the model's files, as results and measurements state it."""
    student_sha256: str
    """Of the student file; galleries say which student they are of."""
    edgeseed: str
    """The version that wrote the module."""

    @property
    def module_title(self) -> str:
        """The name with a capital, for types and Swift targets."""
        return self.module[0].upper() + self.module[1:]

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return {**dataclasses.asdict(self), "preprocess": self.preprocess.to_dict()}


def model_facts(bundle: Bundle, *, module: str | None) -> ModelFacts:
    """The facts of a bundle's model.

    Args:
        bundle: The bundle.
        module: Name of the module; by default made of the student's.

    Raises:
        UsageError: If the name is none that every language takes, or the model has four channels.
    """
    manifest = bundle.manifest
    if manifest.preprocess.channels == 4:
        raise UsageError(
            f"{bundle.path} takes photos of four channels, and cameras and photo libraries of apps "
            "give three; modules are made for students of three channels or one"
        )
    name = _default_name(manifest.name) if module is None else module
    if not _NAME.fullmatch(name) or name in _RESERVED:
        raise UsageError(
            f"--name {name!r} cannot name a module in every language: give a lower-case letter and "
            "then lower-case letters and digits, up to 40, that is no keyword and no library of a "
            "platform, such as birds"
        )
    return ModelFacts(
        module=name,
        architecture=manifest.name,
        target=manifest.target,
        precision=manifest.precision,
        scheme=None if manifest.quantization is None else manifest.quantization.scheme,
        model=manifest.model,
        input=manifest.inputs[0],
        # Modules compute probabilities and the best classes themselves, and read no more.
        outputs=tuple(each for each in manifest.outputs if each.name in OWN_OUTPUTS),
        preprocess=manifest.preprocess,
        embedding_dim=manifest.embedding_dim,
        num_classes=len(manifest.classes or ()),
        golden_tolerance=GOLDEN_TOLERANCE.get(manifest.precision, _OTHER_TOLERANCE),
        minimum_runtime=manifest.minimum_runtime,
        bundle_digest=bundle.digest,
        student_sha256=manifest.student_sha256,
        edgeseed=edgeseed_version(),
    )


def _default_name(architecture: str) -> str:
    name = re.sub(r"[^a-z0-9]", "", architecture.lower())[:40]
    if name in _RESERVED or not _NAME.fullmatch(name):
        return f"model{name}"[:40]
    return name


def write_assets(bundle: Bundle, facts: ModelFacts, folder: Path) -> dict[str, Role]:
    """Fills an empty folder with what the app ships beside its code.

    Returns:
        The role of each file, by its path in the folder.
    """
    roles = write_model_assets(bundle, facts, folder)
    (folder / CONFORMANCE).mkdir()
    write_conformance_set(folder / CONFORMANCE)
    return {**roles, **_roles_below(folder, CONFORMANCE, "conformance")}


def write_model_assets(bundle: Bundle, facts: ModelFacts, folder: Path) -> dict[str, Role]:
    """Of `write_assets`, what is the bundle's own: all but the conformance set."""
    roles: dict[str, Role] = {}
    for path in _model_files(bundle):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(bundle.path / path, folder / path)
        roles[path] = "model"
    labels = list(bundle.manifest.classes or ())
    # One line, and nothing but ASCII: no label can be read otherwise by another JSON reader.
    (folder / LABELS).write_text(json.dumps(labels) + "\n", encoding="ascii")
    roles[LABELS] = "labels"
    (folder / GOLDEN).mkdir()
    _write_golden(bundle, facts, folder / GOLDEN)
    return {**roles, **_roles_below(folder, GOLDEN, "golden")}


def _roles_below(folder: Path, name: str, role: Role) -> dict[str, Role]:
    files = sorted((folder / name).rglob("*"))
    return {file.relative_to(folder).as_posix(): role for file in files if file.is_file()}


def _model_files(bundle: Bundle) -> list[str]:
    model = bundle.manifest.model
    return [
        path
        for path in bundle.manifest.files
        if path == model or path.startswith((f"{model}/", f"{model}."))
    ]


def _write_golden(bundle: Bundle, facts: ModelFacts, folder: Path) -> None:
    golden = read_golden(bundle.path)
    photos = sorted(path.name for path in (bundle.path / GOLDEN).glob("*.png"))
    for name in photos:
        shutil.copyfile(bundle.path / GOLDEN / name, folder / name)
    np.save(folder / "inputs.npy", golden.inputs)
    outputs = {each.name: golden.model_outputs[each.name] for each in facts.outputs}
    for name, values in outputs.items():
        np.save(folder / f"{name}.npy", values.astype(np.float32))
    description = {
        "photos": photos,
        "inputs": "inputs.npy",
        "outputs": {name: f"{name}.npy" for name in outputs},
        "tolerance": facts.golden_tolerance,
    }
    (folder / "golden.json").write_text(json.dumps(description, indent=2) + "\n", encoding="ascii")
