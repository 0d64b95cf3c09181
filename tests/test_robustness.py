"""Whatever a file or an option holds: our own errors, never a traceback, and no work on garbage.

A small share of the examples runs by default. `EDGESEED_EXAMPLES=10000 pytest -n 0 FILE` runs more;
what failed once is kept beside its test, as an `@example`.
"""

import copy
import dataclasses
import io
import json
import os
import re
import signal
import struct
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st
from PIL import Image
from support.fake_device import FakeDevice, fake_measurement
from support.memo import remember_conformance_set

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
from edgeseed.distill.batch import ReplayedViews
from edgeseed.distill.data.labels import choose_labels
from edgeseed.distill.networks.teacher_cache import (
    CACHE_FILE,
    CacheKey,
    TeacherCache,
    ViewKey,
    open_cache_folder,
)
from edgeseed.distill.training.recipe import Recipe
from edgeseed.distill.training.run_folder import RunFolder
from edgeseed.export.apps.gallery import make_gallery, read_gallery, write_gallery
from edgeseed.export.apps.record import RECORD, read_module_record
from edgeseed.export.proof.golden import read_golden
from edgeseed.export.targets.coreml.interpreter.reading import parse_package
from edgeseed.runtime import profile
from edgeseed.runtime.agent.dispatch import Listener, raise_if_failed
from edgeseed.runtime.agent.job_file import Job
from edgeseed.runtime.conformance import read_measurement, read_measurement_file
from edgeseed.runtime.device import Ended
from edgeseed.runtime.devices import open_device
from edgeseed.runtime.result import Result, read_result

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
        assert isinstance(found.trained_on | found.photo_hashes, frozenset)


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
            survives(partial(photos.image, index))


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


def read_and_unwrap(path: Path) -> object:
    return unwrap(read_weights(path), path=path)


@quickly
@example(content=b"\x80\x00")
@given(content=st.binary(max_size=300))
def test_checkpoints_of_any_bytes(place: Path, content: bytes) -> None:
    for name in ("a.pth", "a.safetensors"):
        (place / name).write_bytes(content)
        survives(partial(read_and_unwrap, place / name))


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


# ------------------------------------------------------------------ photos in other containers


def photo_bytes() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (9, 8), "red").save(file, "PNG")
    return file.getvalue()


PHOTO = photo_bytes()


def zip_of_photos() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("a/0.png", "a/1.png", "b/2.png", "notes.txt"):
            archive.writestr(name, PHOTO if name.endswith(".png") else b"notes")
    return file.getvalue()


def look_at_all(photos: Any) -> None:
    for index in range(len(photos)):
        for channels in (3, 4):
            survives(partial(photos.image, index, channels=channels))
        survives(partial(photos.draft, index, 4))
        survives(partial(photos.mark, index))


ZIP = zip_of_photos()


@quickly
@given(cuts=CUTS, end=ENDS)
def test_zips_with_broken_bytes(place: Path, cuts: list[tuple[int, bytes]], end: int) -> None:
    path = place / "photos.zip"
    path.write_bytes(spoil_bytes(ZIP, cuts, end))
    photos = survives(lambda: open_photos(path))
    if photos is not None:
        look_at_all(photos)


@quickly
@given(cuts=CUTS, end=ENDS, suffix=st.sampled_from(["png", "jpg", "gif", "tif", "webp", "bmp"]))
def test_photos_with_broken_bytes(
    place: Path, cuts: list[tuple[int, bytes]], end: int, suffix: str
) -> None:
    folder = place / "broken-photos"
    folder.mkdir(exist_ok=True)
    file = io.BytesIO()
    format_name = {"jpg": "JPEG", "tif": "TIFF"}.get(suffix, suffix.upper())
    Image.effect_mandelbrot((24, 20), (-2, -1.5, 1, 1.5), 50).convert("RGB").save(file, format_name)
    path = folder / f"a.{suffix}"
    path.write_bytes(spoil_bytes(file.getvalue(), cuts, end))
    photos = survives(lambda: open_photos(folder))
    if photos is not None:
        look_at_all(photos)
    path.unlink()


@pytest.fixture(scope="module")
def parquet(place: Path) -> bytes:
    arrow = pytest.importorskip("pyarrow", reason="pip install 'edgeseed[parquet]'")
    import pyarrow.parquet

    table = arrow.table({"image": [{"bytes": PHOTO}] * 4, "label": [0, 1, 0, 1]})
    pyarrow.parquet.write_table(table, place / "whole.parquet")
    return (place / "whole.parquet").read_bytes()


@quickly
@given(cuts=CUTS, end=ENDS)
def test_parquet_files_with_broken_bytes(
    place: Path, parquet: bytes, cuts: list[tuple[int, bytes]], end: int
) -> None:
    path = place / "photos.parquet"
    path.write_bytes(spoil_bytes(parquet, cuts, end))
    photos = survives(lambda: open_photos(path))
    if photos is not None:
        look_at_all(photos)


LINES = st.lists(
    TEXTS | st.sampled_from(["path,label", "file_name", "a/0.png", "a/0.png\tx", "../a/0.png"]),
    max_size=5,
)  # fmt: skip


@quickly
@given(
    lines=LINES, ending=st.sampled_from(["\n", "\r\n", "\r"]),
    suffix=st.sampled_from(["txt", "csv", "tsv"]), raw=st.one_of(st.none(), st.binary(max_size=60)),
)  # fmt: skip
def test_lists_of_photos_of_any_content(
    place: Path, lines: list[str], ending: str, suffix: str, raw: bytes | None
) -> None:
    (place / "listed/a").mkdir(parents=True, exist_ok=True)
    (place / "listed/a/0.png").write_bytes(PHOTO)
    path = place / f"listed/list.{suffix}"
    path.write_bytes(ending.join(lines).encode("utf-8", "surrogatepass") if raw is None else raw)
    photos = survives(lambda: open_photos(path))
    if photos is not None:
        look_at_all(photos)


@pytest.fixture(scope="module")
def labelled(place: Path) -> Any:
    for name in ("a", "b"):
        (place / "classes" / name).mkdir(parents=True)
        for index in range(3):
            (place / "classes" / name / f"{index}.png").write_bytes(PHOTO)
    return open_photos(place / "classes", labels=True)


@quickly
@given(content=st.one_of(st.binary(max_size=60), LINES.map(lambda lines: "\n".join(lines).encode(
    "utf-8", "surrogatepass"))))  # fmt: skip
def test_lists_of_labels_of_any_content(place: Path, labelled: Any, content: bytes) -> None:
    (place / "labels.txt").write_bytes(content)
    survives(lambda: choose_labels(labelled, str(place / "labels.txt"), seed=0))


@quickly
@given(text=TEXTS)
def test_shares_of_labels_of_any_text(labelled: Any, text: str) -> None:
    survives(lambda: choose_labels(labelled, text, seed=0))


@pytest.mark.slow
@quickly
@given(source=st.one_of(TEXTS, st.lists(TEXTS, max_size=3)))
def test_sets_of_any_name(source: Any) -> None:
    if "://" not in str(source):  # nothing is fetched here
        survives(lambda: open_photos(source))


# ------------------------------------------------------------------ what devices and apps say


@quickly
@given(cuts=CUTS, end=ENDS)
def test_galleries_with_broken_bytes(place: Path, cuts: list[tuple[int, bytes]], end: int) -> None:
    path = place / "whole.bin"
    if not path.exists():
        made = make_gallery(
            np.eye(4), [0, 1, 0, 1], classes=("a", "b"), threshold=0.5, student_sha256="0" * 64
        )
        write_gallery(path, made)
    (place / "gallery.bin").write_bytes(spoil_bytes(path.read_bytes(), cuts, end))
    survives(lambda: read_gallery(place / "gallery.bin"))


EVENTS: list[dict[str, Any]] = [
    {"event": "stage", "name": "load"},
    {"event": "progress", "stage": "timed", "runs": 3, "seconds": 0.5},
    {"event": "error", "kind": "golden", "message": "no"},
    {"event": "done", "name": "x"},
]


@quickly
@given(event=st.sampled_from(EVENTS).flatmap(spoiled), raw=st.one_of(st.none(), TEXTS))
def test_lines_of_an_agent_of_any_content(event: Any, raw: str | None) -> None:
    job = Job("e", "m", "cpu", 2, "quick", 1, 2.0, 3.0, 0.1, {})
    with Listener(job, "ssh:board", num_photos=3) as listen:
        for line in (json.dumps(event), "{}" if raw is None else raw):
            survives(partial(listen, line))
        survives(
            lambda: raise_if_failed(FakeDevice(None), Ended(exit_code=1, stderr=""), listen.error)
        )


@quickly
@given(values=spoiled(measurement()), raw=st.one_of(st.none(), st.binary(max_size=60)))
def test_files_of_results_and_measurements_of_any_content(
    place: Path, values: Any, raw: bytes | None
) -> None:
    path = place / "values.json"
    path.write_bytes(json.dumps(values).encode() if raw is None else raw)
    survives(lambda: read_measurement_file(path))
    survives(lambda: read_result(path))


CACHE_KEY = CacheKey(teacher="0", preprocess={}, precision="fp32", photos="0", num_photos=2, seed=0)
CACHE = {"schema_version": 1, "key": dataclasses.asdict(CACHE_KEY)}
MODULE = {
    "kind": "edgeseed-module", "schema_version": 1, "platform": "web", "model": {},
    "bundle": {"manifest_sha256": "0", "files": {}}, "files": {},
}  # fmt: skip
PACKAGE = {"itemInfoEntries": {"0": {"path": "model.mlmodel"}}, "rootModelIdentifier": "0"}


@quickly
@given(values=st.sampled_from([CACHE, MODULE, PACKAGE, {"dim": 3}]).flatmap(spoiled),
       raw=st.one_of(st.none(), st.binary(max_size=60)))  # fmt: skip
@example(values=5, raw=None)
@example(values={**PACKAGE, "itemInfoEntries": {"0": {"path": "../../etc/passwd"}}}, raw=None)
@example(values={**PACKAGE, "itemInfoEntries": {"0": {"path": 3}}}, raw=None)
@example(values={"itemInfoEntries": [], "rootModelIdentifier": False}, raw=None)
@example(values={**MODULE, "model": "0"}, raw=None)
@example(values={"dim": 10**20}, raw=None)
@example(values={"dim": -1}, raw=None)
@example(values={"dim": "x"}, raw=None)
def test_other_json_files_of_ours_of_any_content(
    place: Path, values: Any, raw: bytes | None
) -> None:
    folder = place / "json"
    folder.mkdir(exist_ok=True)
    view = ViewKey(number=0, crop={}, canvas=32)
    for name in (CACHE_FILE, RECORD, "Manifest.json", f"{view.file_name}.json"):
        (folder / name).write_bytes(json.dumps(values).encode() if raw is None else raw)
    survives(lambda: open_cache_folder(folder, CACHE_KEY))
    cache = TeacherCache(num_photos=2, num_views=1, folder=folder, views={0: view})
    survives(lambda: cache.get(ReplayedViews(number=0, photos=np.arange(2)), 0))
    survives(lambda: read_module_record(folder))
    survives(lambda: parse_package(folder))


@quickly
@given(
    text=TEXTS, kind=st.sampled_from(["", "ssh:", "adb:", "adb?", "browser?", "browser:", "host"])
)
def test_addresses_of_devices_of_any_text(text: str, kind: str) -> None:
    survives(lambda: open_device(kind + text))


@quickly
@given(name=st.sampled_from(["config.toml", "inputs.json", "state.pt", "metrics.jsonl"]),
       content=st.one_of(st.binary(max_size=60), st.text(max_size=60)))  # fmt: skip
@example(name="inputs.json", content="Infinity")
@example(name="inputs.json", content='["data"]')
def test_run_folders_with_files_of_any_content(
    place: Path, name: str, content: str | bytes
) -> None:
    folder = place / "run"
    folder.mkdir(exist_ok=True)
    for each in folder.iterdir():
        each.unlink()
    if isinstance(content, str):
        content = content.encode("utf-8", "surrogatepass")
    (folder / name).write_bytes(content)
    run = RunFolder(folder)
    survives(run.check_free)
    survives(run.settings_before)
    survives(lambda: run.check_inputs({"data": {"fingerprint": "0"}}))
    if run.has_state():
        survives(run.load_state)
    survives(lambda: run.forget_after(3))


# ------------------------------------------------------------------ options

# Works without files, for minutes, on photos that ship; doctor looks at this machine where no
# device is named.
SKIPPED = {"quickstart"}
COMMANDS = [name for name in cli.list_commands(click.Context(cli)) if name not in SKIPPED]
DEVICES = [
    "toaster", "ssh:", "ssh:-oProxyCommand=x", "ssh:a b", "ssh:host:0", "adb?colour=red",
    "adb?cool=x",
    "adb?runner=app", "adb:-s", "browser?port=x", "browser?colour=red", "browser?host=999.1.1.1",
    "browser?port=99999999", "host:x", "cuda:x",
]  # fmt: skip


@st.composite
def calls(draw: st.DrawFn) -> list[str]:
    """A command with some of its options, and values of any kind; no file that it names exists."""
    name = draw(st.sampled_from(COMMANDS))
    command = cli.get_command(click.Context(cli), name)
    assert command is not None
    words = [name]
    for parameter in command.params:
        is_device = parameter.opts[0] in ("--device", "--devices")
        required = parameter.required or (is_device and name == "doctor")
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
        elif is_device:
            # A text that names a board is looked for: in a moment where there is no network.
            words += [parameter.opts[0], draw(st.sampled_from(DEVICES))]
        else:
            words += [parameter.opts[0], value]
    return words


HARMLESS = {"methods", "teachers", "students", "targets", "devices"}


@pytest.mark.slow
@quickly
@given(words=calls())
@example(words=["explain", "", "--picture", ""])
@example(words=["explain", "bundle", "--picture="])
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


# ------------------------------------------------------------------ options of calls that work


@pytest.fixture(scope="module")
def patches() -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as monkeypatch:
        yield monkeypatch


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, patches: pytest.MonkeyPatch) -> Path:
    """Photos, students, a bundle, results and a module: all that calls are made of."""
    root = tmp_path_factory.mktemp("whole")
    remember_conformance_set(patches, tmp_path_factory)
    for number in range(12):
        folder = root / f"photos/{'ab'[number % 2]}"
        folder.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 255, (36, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:02}.png")
    save_student(root / "s.safetensors", build_student(ARCHITECTURE, num_classes=2), spec())
    call = ["export", "s.safetensors", "--out", "bundle", "--calibration", "photos"]
    assert run_in(root, call, seconds=300) == 0
    module = ["embed", "bundle", "--platform", "web", "--out", "module"]
    assert run_in(root, module, seconds=300) == 0
    for name in ("one", "two"):
        profile(
            root / "bundle", device=FakeDevice(fake_measurement([5_000_000] * 2000)),
            out=root / f"{name}.json", accuracy=False,
        )  # fmt: skip
    return root


CPU = ["--devices", "cpu", "--epochs", "1"]
SHORT = [*CPU, "--batch-size", "4", "--image-size", "32", "--out", "out", "--data", "photos"]
FILE, OUT = "s.safetensors", ["--out", "out"]
WORKING: list[list[str]] = [
    ["distill", "--teacher", FILE, "--student", "test_resnet", *SHORT],
    ["pretrain", "--model", "test_resnet", *SHORT],
    ["finetune", FILE, "--data", "photos", *CPU, *OUT],
    ["evaluate", FILE, "--data", "photos", "--protocol", "knn"],
    ["export", FILE, *OUT, "--calibration", "photos", "--no-verify", "--no-speed"],
    ["export", FILE, *OUT, "--target", "tensorrt", "--precision", "fp16"],
    ["convert", FILE, "--to", "hub", *OUT],
    ["convert", FILE, "--to", "timm", "--out", "out.safetensors"],
    ["verify", "bundle"],
    ["verify", "module", "--bundle", "bundle"],
    ["explain", "bundle"],
    ["build", "bundle"],
    ["profile", "bundle", "--protocol", "rapid", "--out", "out.json"],
    ["compare", "one.json", "two.json"],
    ["embed", "bundle", "--platform", "android", *OUT],
    ["gallery", FILE, "--data", "photos", "--out", "out.bin"],
    ["recommend", "--budget-ms", "9", "--cache", "cache", "--students", "test_resnet"],
    ["methods"], ["teachers"], ["students"], ["targets"], ["devices"], ["doctor"],
]  # fmt: skip
PLACES = ["", "nowhere/x", "photos", FILE, "bundle", "x" * 300, "a\nb", f"{FILE}/x"]
NAMES_A_PLACE = re.compile("out|html|plot|save|cache|png|csv|dir|list|config|against|bundle|data")
SECONDS = 3.0


def run_in(folder: Path, words: list[str], *, seconds: float = SECONDS) -> int:
    """The exit code of a call in a folder; one that takes long is interrupted, as by Ctrl-C."""
    before = Path.cwd(), signal.getsignal(signal.SIGALRM), signal.getsignal(signal.SIGINT)
    os.chdir(folder)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGALRM, lambda *_: os.kill(os.getpid(), signal.SIGINT))
    signal.setitimer(signal.ITIMER_REAL, seconds, seconds)
    try:
        with pytest.raises(SystemExit) as ended:
            main(words)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        os.chdir(before[0])
        signal.signal(signal.SIGALRM, before[1])
        signal.signal(signal.SIGINT, before[2])
    return int(ended.value.code or 0)


@st.composite
def nearly_right_calls(draw: st.DrawFn) -> list[str]:
    """A call that works, with one or two of its options spoiled or added."""
    words = list(draw(st.sampled_from(WORKING)))
    command = cli.get_command(click.Context(cli), words[0])
    assert command is not None
    options = [each for each in command.params if isinstance(each, click.Option)]
    for option in draw(st.lists(st.sampled_from(options), min_size=1, max_size=2)):
        flag = option.opts[0]
        if option.is_flag:
            words.append(flag)
            continue
        if flag == "--device":
            value = draw(st.sampled_from(DEVICES))
        elif NAMES_A_PLACE.search(flag) and flag != "--devices":
            value = draw(st.sampled_from(PLACES))
        elif isinstance(option.type, click.Choice):
            value = draw(st.sampled_from([*map(str, option.type.choices), "neither"]))
        elif flag == "--set":
            value = draw(st.one_of(st.builds("{}={}".format, FIELDS, TEXTS), SETTINGS))
        else:
            value = draw(st.one_of(TEXTS, NUMBERS.map(str)))
        value = value.replace("\0", "").encode("utf-8", "replace").decode()
        if "://" in value or "{" in value:
            continue  # nothing is fetched here
        if flag in words:
            words[words.index(flag) + 1] = value
        else:
            words += [flag, value]
    return words


SETTINGS = st.builds(
    "{}={}".format,
    st.sampled_from(["recipe.lr", "recipe.weight_decay", "views.canvas", "views.min_scale",
                     "views.teacher_size", "views.replay", "training.workers", "student.width",
                     "student.channels", "student.reduce_stride", "knn.neighbours", "k"]),
    st.one_of(NUMBERS.map(str), TEXTS),
)  # fmt: skip
slowly = settings(quickly, max_examples=max(12, EXAMPLES // 20))


# An interrupt may fall into what Python cannot raise from, such as a finalizer.
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@slowly
@given(words=nearly_right_calls())
def test_calls_that_are_nearly_right(world: Path, words: list[str]) -> None:
    before = set(world.rglob("*"))
    code = run_in(world, words)
    made = set(world.rglob("*")) - before
    try:
        assert code in (0, 1, 2, 130), words
        left = [path for path in made if path.name.endswith((".tmp", ".old"))]
        assert left == [], words
        if code == 2:
            assert made == set(), words
    finally:
        for path in sorted(made, reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
