"""Photos where they are: every reader gives the same photos and labels for the same set."""

import io
import json
import pickle
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edgeseed.core.errors import DataError
from edgeseed.core.photos import PhotoSet, open_photos, shared_photos

# dill, by which the datasets library digests itself, warns of classes of pyarrow.
pytestmark = pytest.mark.filterwarnings("ignore:Cannot (locate|pickle)")

CLASSES = ("cat", "dog")
NAMES = tuple(f"{CLASSES[index % 2]}/{index:02}.png" for index in range(12))


def content(index: int) -> bytes:
    pixels = np.random.default_rng(index).integers(0, 255, (8, 9 + index, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


FILES = {name: content(index) for index, name in enumerate(NAMES)}


def as_folder(place: Path) -> str:
    for name, data in FILES.items():
        path = place / "folder" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return str(place / "folder")


def as_two_folders(place: Path) -> str:
    for index, (name, data) in enumerate(FILES.items()):
        path = place / f"half{index // 6}" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return f"{place / 'half0'},{place / 'half1'}"


def as_shards(place: Path) -> str:
    with tarfile.open(place / "a.tar", "w") as tar:
        for name, data in FILES.items():
            stem = name.removesuffix(".png")
            for path, part in ((name, data), (f"{stem}.cls", name[:3].encode())):
                member = tarfile.TarInfo(path)
                member.size = len(part)
                tar.addfile(member, io.BytesIO(part))
    return str(place / "a.tar")


def as_zip(place: Path) -> str:
    with zipfile.ZipFile(place / "a.zip", "w") as archive:
        for name, data in FILES.items():
            archive.writestr(f"any folder/{name}", data)
        archive.writestr("__MACOSX/any folder/._00.png", b"no photo")
    return str(place / "a.zip")


def as_text_list(place: Path) -> str:
    as_folder(place)
    lines = [f"folder/{name}\t{name[:3]}" for name in NAMES]
    (place / "a.txt").write_text("# photos\n" + "\n".join(lines) + "\n", encoding="utf-8")
    return str(place / "a.txt")


def as_table(place: Path) -> str:
    as_folder(place)
    lines = [f'"folder/{name}",{name[:3]},x' for name in NAMES]
    (place / "a.csv").write_text("file_name,label,note\n" + "\n".join(lines), encoding="utf-8")
    return str(place / "a.csv")


def as_parquet(place: Path) -> str:
    pyarrow: Any = pytest.importorskip("pyarrow", reason="pip install 'edgeseed[parquet]'")
    from pyarrow import parquet

    rows = [{"bytes": data, "path": name} for name, data in FILES.items()]
    described = {"info": {"features": {"label": {"names": list(CLASSES)}}}}
    table = pyarrow.table({"image": rows, "label": [CLASSES.index(name[:3]) for name in NAMES]})
    table = table.replace_schema_metadata({"huggingface": json.dumps(described)})
    parquet.write_table(table, place / "a.parquet", row_group_size=5)
    return str(place / "a.parquet")


def as_dataset(place: Path) -> str:
    datasets: Any = pytest.importorskip("datasets", reason="pip install 'edgeseed[datasets]'")
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=list(CLASSES))}
    )
    rows = {
        "image": [{"bytes": data, "path": None} for data in FILES.values()],
        "label": [CLASSES.index(name[:3]) for name in NAMES],
    }
    datasets.Dataset.from_dict(rows, features=features).save_to_disk(str(place / "set"))
    return f"hf:{place / 'set'}"


READERS: dict[str, Callable[[Path], str]] = {
    "folder": as_folder, "two folders": as_two_folders, "shards": as_shards, "zip": as_zip,
    "text list": as_text_list, "table": as_table, "parquet": as_parquet, "dataset": as_dataset,
}  # fmt: skip


def facts(photos: PhotoSet) -> set[tuple[bytes, str]]:
    assert photos.labels is not None
    assert photos.classes == CLASSES
    return {
        (photos.image(index).tobytes(), CLASSES[photos.labels[index]])
        for index in range(len(photos))
    }


@pytest.mark.parametrize("reader", READERS)
def test_every_reader_gives_the_same_photos_and_labels(tmp_path: Path, reader: str) -> None:
    photos = open_photos(READERS[reader](tmp_path))
    (tmp_path / "plain").mkdir()
    folder = open_photos(as_folder(tmp_path / "plain"))
    assert len(photos) == len(folder) == 12
    assert facts(photos) == facts(folder)
    assert shared_photos(photos, folder).count == 12


@pytest.mark.parametrize("reader", READERS)
def test_every_reader_survives_pickling_and_drafts(tmp_path: Path, reader: str) -> None:
    photos = open_photos(READERS[reader](tmp_path))
    again = pickle.loads(pickle.dumps(photos))
    assert again.fingerprint == photos.fingerprint
    assert again.image(7).tobytes() == photos.image(7).tobytes()
    assert again.draft(3, 100).size == photos.image(3).size


@pytest.mark.parametrize("reader", READERS)
def test_labels_can_be_left_out(tmp_path: Path, reader: str) -> None:
    assert open_photos(READERS[reader](tmp_path), labels=False).labels is None


def test_a_zip_of_a_folder_is_the_same_set(tmp_path: Path) -> None:
    folder, archive = open_photos(as_folder(tmp_path)), open_photos(as_zip(tmp_path))
    assert folder.fingerprint == archive.fingerprint


def test_several_sets_may_be_of_any_kind_and_classes_of_one_name_are_one(tmp_path: Path) -> None:
    photos = open_photos([as_zip(tmp_path), as_folder(tmp_path)])
    assert len(photos) == 24
    assert photos.classes == CLASSES
    assert photos.image(12).tobytes() == photos.image(0).tobytes()


def test_sets_of_which_only_some_have_labels_are_an_error(tmp_path: Path) -> None:
    (tmp_path / "bare").mkdir()
    for index in range(3):
        (tmp_path / f"bare/{index}.png").write_bytes(content(index))
    with pytest.raises(DataError, match="bare has no labels, and the others have"):
        open_photos([tmp_path / "bare", as_folder(tmp_path)])
    assert len(open_photos([tmp_path / "bare", as_folder(tmp_path)], labels=False)) == 15


def test_broken_archives_are_one_line(tmp_path: Path) -> None:
    whole = Path(as_zip(tmp_path)).read_bytes()
    (tmp_path / "cut.zip").write_bytes(whole[:500])
    with pytest.raises(DataError, match="is not a whole zip archive"):
        open_photos(tmp_path / "cut.zip")
    pytest.importorskip("pyarrow", reason="pip install 'edgeseed[parquet]'")
    (tmp_path / "cut.parquet").write_bytes(Path(as_parquet(tmp_path)).read_bytes()[:500])
    with pytest.raises(DataError, match="is not a whole parquet file"):
        open_photos(tmp_path / "cut.parquet")


def test_a_missing_library_is_named_with_its_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    (tmp_path / "a.parquet").write_bytes(b"x")
    with pytest.raises(ImportError, match=r"edgeseed\[parquet\]"):
        open_photos(tmp_path / "a.parquet")
