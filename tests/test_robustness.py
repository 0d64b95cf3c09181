"""Whatever a file or an option holds: our own errors, never a traceback, and no work on garbage.

A small share of the examples runs by default. `EDGESEED_EXAMPLES=10000 pytest -n 0 FILE` runs more;
what failed once is kept beside its test, as an `@example`.
"""

import copy
import io
import json
import os
import struct
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st
from PIL import Image

from edgeseed.cli._main import cli, main
from edgeseed.core.bundle import Manifest, read_bundle, seal_bundle
from edgeseed.core.checkpoints import below_common_prefix, read_weights, unwrap
from edgeseed.core.config import build_config, read_toml, split_override
from edgeseed.core.errors import EdgeseedError
from edgeseed.core.network import build_student, load_student, save_student
from edgeseed.core.photos import open_photos
from edgeseed.core.preprocess import Preprocess
from edgeseed.core.records import Provenance
from edgeseed.core.student import Architecture, StudentSpec
from edgeseed.distill.training.recipe import Recipe
from edgeseed.export.proof.golden import read_golden
from edgeseed.runtime.conformance import read_measurement
from edgeseed.runtime.result import Result

EXAMPLES = int(os.environ.get("EDGESEED_EXAMPLES", "60"))
# Function-scoped fixtures are only places to write to; time differs too much on a busy machine.
quickly = settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize="EDGESEED_EXAMPLES" not in os.environ,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.explicit, Phase.generate, Phase.shrink],
    database=None,
)

# ------------------------------------------------------------------ strange values

TEXTS = st.one_of(
    st.text(max_size=12),
    st.sampled_from(
        ["", " ", "\0", "\x1b[2J", "a\nb", "\u2028", "../../etc/passwd", "/", "nan", "1e999", "-1",
         "9" * 25, "None", "a=b=c", "\udce9", "x" * 5000, "https://host/a.tar", "{0..3}.tar", "%s"]
    ),
)  # fmt: skip
NUMBERS = st.one_of(
    st.integers(-3, 3),
    st.sampled_from([10**20, -(10**20), 2**63, 100_000, 8191, 1e308, -0.5, 0.1]),
    st.floats(allow_nan=True, allow_infinity=True),
)
LEAVES = st.one_of(st.none(), st.booleans(), NUMBERS, TEXTS)
VALUES = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=5,
)  # fmt: skip


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths of all values in a JSON document."""
    found = [path] if path else []
    items: Any = ()
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list):
        items = enumerate(value[:3])
    for key, inner in items:
        found += places(inner, (*path, key))
    return found


@st.composite
def spoiled(draw: st.DrawFn, document: Any) -> Any:
    """A document with one to three values replaced, removed or added."""
    result = copy.deepcopy(document)
    for _ in range(draw(st.integers(1, 3))):
        paths = places(result)
        if not paths:
            return draw(VALUES)
        *parents, last = draw(st.sampled_from(paths))
        owner = result
        for key in parents:
            owner = owner[key]
        kind = draw(st.sampled_from(["replace", "replace", "replace", "remove", "add"]))
        if kind == "remove":
            del owner[last]
        elif kind == "add" and isinstance(owner, dict):
            owner[draw(TEXTS)] = draw(VALUES)
        else:
            owner[last] = draw(VALUES)
    return result


def spoil_bytes(content: bytes, cuts: list[tuple[int, bytes]], end: int) -> bytes:
    changed = bytearray(content)
    for at, new in cuts:
        changed[at % len(changed) : at % len(changed) + len(new)] = new
    return bytes(changed[: max(1, end % (len(changed) + 1))] if end else changed)


CUTS = st.lists(st.tuples(st.integers(0, 2**20), st.binary(min_size=1, max_size=4)), max_size=4)
ENDS = st.one_of(st.just(0), st.integers(0, 2**20))


def survives(call: Callable[[], Any]) -> Any:
    """What `call` returns, or None for one of our own errors, whose message is one line."""
    message = "told"
    try:
        return call()
    except EdgeseedError as error:
        message = str(error)
    assert message.strip()
    return None


# ------------------------------------------------------------------ files of ours


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("robust")


ARCHITECTURE = Architecture(name="test_efficientnet")


def spec() -> StudentSpec:
    return StudentSpec(
        architecture=ARCHITECTURE,
        preprocess=Preprocess(image_size=32, resize=36),
        embedding_dim=build_student(ARCHITECTURE).embedding_dim,
        classes=("cat", "dog"),
        provenance={"environment": {"edgeseed": "0.1.0"}, "data": {"fingerprint": "0"}},
        metrics=({"name": "knn", "value": 0.5},),
    )


@pytest.fixture(scope="module")
def student(place: Path) -> Path:
    network = build_student(ARCHITECTURE, num_classes=2)
    save_student(place / "whole.safetensors", network, spec())
    return place / "whole.safetensors"


def with_spec(content: bytes, described: Any) -> bytes:
    length = struct.unpack("<Q", content[:8])[0]
    header = json.loads(content[8 : 8 + length])
    header["__metadata__"]["edgeseed"] = json.dumps(described)
    changed = json.dumps(header).encode()
    return struct.pack("<Q", len(changed)) + changed + content[8 + length :]


SPEC = json.loads(json.dumps(spec().to_dict()))


@quickly
@given(described=spoiled(SPEC))
def test_students_with_strange_specifications(place: Path, student: Path, described: Any) -> None:
    path = place / "student.safetensors"
    path.write_bytes(with_spec(student.read_bytes(), described))
    read = survives(lambda: load_student(path))
    if read is not None:
        network, found = read
        assert found.embedding_dim == network.embedding_dim
        found.to_dict()
        assert isinstance(found.taught_by | found.sketches, frozenset)


@quickly
@given(cuts=CUTS, end=ENDS)
def test_students_with_broken_bytes(
    place: Path, student: Path, cuts: list[tuple[int, bytes]], end: int
) -> None:
    path = place / "student.safetensors"
    path.write_bytes(spoil_bytes(student.read_bytes(), cuts, end))
    survives(lambda: load_student(path))


def manifest() -> dict[str, Any]:
    made = Manifest(
        name="test", target="onnx", precision="fp32", model="model.onnx", inputs=(), outputs=(),
        preprocess=Preprocess(image_size=32, resize=36), embedding_dim=4, classes=("a", "b"),
        quantization=None, gates=(), student_sha256="0" * 64, minimum_runtime={"onnxruntime": "1"},
        provenance=Provenance(),
    )  # fmt: skip
    values: dict[str, Any] = json.loads(json.dumps(made.to_dict()))
    return values


@quickly
@given(values=spoiled(manifest()))
def test_manifests_with_strange_values(place: Path, values: Any) -> None:
    folder = place / "bundle"
    folder.mkdir(exist_ok=True)
    (folder / "manifest.json").write_text(json.dumps(values), encoding="utf-8")
    bundle = survives(lambda: read_bundle(folder, check=False))
    if bundle is not None:
        bundle.manifest.to_dict()
        assert (folder / bundle.manifest.model).resolve().is_relative_to(folder.resolve())


def measurement() -> dict[str, Any]:
    from support.fake_device import fake_measurement

    values: dict[str, Any] = json.loads(json.dumps(fake_measurement([1000, 1100, 1200]).to_dict()))
    return values


@quickly
@given(values=spoiled(measurement()))
def test_measurements_with_strange_values(values: Any) -> None:
    survives(lambda: read_measurement(values, what="a page's measurement"))


@quickly
@given(values=spoiled(measurement()))
def test_results_with_strange_values(values: Any) -> None:
    survives(lambda: Result.from_dict(values, source=Path("result.json")))


# ------------------------------------------------------------------ settings


@quickly
@given(content=st.one_of(st.text(max_size=80), st.binary(max_size=80)))
def test_settings_files_of_any_content(place: Path, content: str | bytes) -> None:
    path = place / "settings.toml"
    if isinstance(content, str):
        content = content.encode("utf-8", "surrogatepass")
    path.write_bytes(content)
    survives(lambda: read_toml(path))


FIELDS = st.sampled_from([*Recipe.__dataclass_fields__, "nothing", ""])


@quickly
@given(name=FIELDS, value=VALUES)
def test_settings_of_any_value(name: str, value: Any) -> None:
    survives(lambda: build_config(Recipe, values={name: value}, what="recipe"))


@quickly
@given(text=st.one_of(TEXTS, st.builds("{}={}".format, FIELDS, TEXTS)))
def test_overrides_of_any_text(text: str) -> None:
    survives(lambda: split_override(text))
    survives(lambda: build_config(Recipe, overrides=[text], what="recipe"))


# ------------------------------------------------------------------ photos and checkpoints


def tar_of_photos() -> bytes:
    file, photo = io.BytesIO(), io.BytesIO()
    Image.new("RGB", (9, 8), "red").save(photo, "PNG")
    with tarfile.open(fileobj=file, mode="w") as tar:
        for index in range(3):
            for suffix, content in (("png", photo.getvalue()), ("cls", str(index).encode())):
                member = tarfile.TarInfo(f"{index}.{suffix}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    return file.getvalue()


TAR = tar_of_photos()


@quickly
@given(cuts=CUTS, end=ENDS)
def test_tars_with_broken_bytes(place: Path, cuts: list[tuple[int, bytes]], end: int) -> None:
    path = place / "photos.tar"
    path.write_bytes(spoil_bytes(TAR, cuts, end))
    photos = survives(lambda: open_photos(path))
    if photos is not None:
        for index in range(len(photos)):
            survives(lambda index=index: photos.image(index))


@quickly
@given(label=st.binary(max_size=2000), name=st.text(min_size=1, max_size=30))
def test_tars_with_strange_names_and_labels(place: Path, label: bytes, name: str) -> None:
    path = place / "photos.tar"
    with tarfile.open(path, "w") as tar:
        photo = io.BytesIO()
        Image.new("RGB", (9, 8), "red").save(photo, "PNG")
        contents = {
            f"{name}.png": photo.getvalue(),
            f"{name}.cls": label,
            "b.png": photo.getvalue(),
        }
        for member_name, content in contents.items():
            member = tarfile.TarInfo(member_name)
            member.size = len(content)
            try:
                tar.addfile(member, io.BytesIO(content))
            except UnicodeEncodeError:
                return  # no tar holds this name
    survives(lambda: open_photos(path))


@quickly
@example(content=b"\x80\x00")
@given(content=st.binary(max_size=300))
def test_checkpoints_of_any_bytes(place: Path, content: bytes) -> None:
    for name in ("a.pth", "a.safetensors"):
        (place / name).write_bytes(content)
        survives(lambda name=name: unwrap(read_weights(place / name), path=place / name))


@quickly
@given(value=VALUES)
def test_checkpoints_of_any_object(value: Any) -> None:
    found = survives(lambda: unwrap(value, path=Path("a.pth")))
    if found is not None:
        below_common_prefix(found[0], ["weight"])


def golden_bundle(place: Path) -> Path:
    folder = place / "golden-bundle"
    (folder / "golden").mkdir(parents=True, exist_ok=True)
    np.save(folder / "golden/inputs.npy", np.zeros((2, 3, 8, 8), np.uint8))
    for name in ("float", "model"):
        np.savez(folder / f"golden/{name}.npz", embedding=np.zeros((2, 4), np.float32))
    return folder


@quickly
@given(
    name=st.sampled_from(["inputs.npy", "float.npz", "model.npz"]), cuts=CUTS, end=ENDS,
)  # fmt: skip
def test_golden_arrays_with_broken_bytes(
    place: Path, name: str, cuts: list[tuple[int, bytes]], end: int
) -> None:
    folder = golden_bundle(place)
    path = folder / "golden" / name
    path.write_bytes(spoil_bytes(path.read_bytes(), cuts, end))
    values = {**manifest(), "model": "golden/inputs.npy"}
    seal_bundle(folder, Manifest.from_dict(values, source=folder))
    survives(lambda: read_golden(read_bundle(folder).path))


# ------------------------------------------------------------------ options

# These work without files, or for minutes: quickstart on photos that ship, doctor on the machine.
SKIPPED = {"quickstart", "doctor"}
COMMANDS = [name for name in cli.list_commands(click.Context(cli)) if name not in SKIPPED]


@st.composite
def calls(draw: st.DrawFn) -> list[str]:
    """A command with some of its options, and values of any kind; no file that it names exists."""
    name = draw(st.sampled_from(COMMANDS))
    command = cli.get_command(click.Context(cli), name)
    assert command is not None
    words = [name]
    for parameter in command.params:
        required = parameter.required
        if not required and draw(st.integers(0, 2)):
            continue
        value = draw(st.one_of(TEXTS, NUMBERS.map(str), st.just("nowhere/file")))
        if isinstance(parameter.type, click.Choice):
            value = draw(st.sampled_from([*map(str, parameter.type.choices), value]))
        # What a process can be given: no NUL, and what the system's encoding has.
        value = (
            value.replace("\0", "").encode("utf-8", "surrogateescape").decode("utf-8", "replace")
        )
        if isinstance(parameter, click.Argument):
            words.append(f"nowhere/{value}" if value.startswith("-") else value)
        elif getattr(parameter, "is_flag", False):
            words.append(parameter.opts[0])
        elif parameter.opts[0] in ("--device", "--devices"):
            words += [
                parameter.opts[0],
                draw(st.sampled_from(["toaster", "ssh:", "cuda:x", value])),
            ]
        else:
            words += [parameter.opts[0], value]
    return words


HARMLESS = {"methods", "teachers", "students", "targets", "devices"}


@quickly
@given(words=calls())
def test_calls_of_any_options(tmp_path_factory: pytest.TempPathFactory, words: list[str]) -> None:
    here = tmp_path_factory.mktemp("here")
    before = Path.cwd()
    os.chdir(here)
    try:
        with pytest.raises(SystemExit) as ended:
            main(words)
    finally:
        os.chdir(before)
    if words[0] not in HARMLESS and "--help" not in words:
        assert ended.value.code in (1, 2), words
        assert list(here.rglob("*")) == [], words
