"""Tar shards behave as a folder of the same photos does, near and far."""

import io
import pickle
import re
import tarfile
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from edgeseed.core.errors import DataError, MissingDependencyError
from edgeseed.core.photos import Shared, count_shared_by_hash, open_photos, shared_photos
from edgeseed.distill import pretrain
from edgeseed.distill.data.canvases import PhotoOrder, StreamedCanvases
from edgeseed.distill.data.labels import photo_names

fsspec: Any = pytest.importorskip("fsspec")


def _jpeg(seed: int, size: tuple[int, int] = (20, 16)) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG")
    return file.getvalue()


def _tar(members: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return file.getvalue()


def _shard(number: int, *, count: int = 3, labels: bool = True) -> bytes:
    members: dict[str, bytes] = {}
    for index in range(count):
        key = f"part.{number}/{number:02}{index:04}"
        members[f"{key}.jpg"] = _jpeg(10 * number + index)
        if labels:
            members[f"{key}.cls"] = str(index % 2).encode()
        members[f"{key}.json"] = b"{}"
    return _tar(members)


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    folder = tmp_path / "shards"
    folder.mkdir()
    for number in range(3):
        (folder / f"train-{number:03}.tar").write_bytes(_shard(number))
    return folder


def test_a_folder_of_shards_is_its_photos_in_order(shards: Path) -> None:
    photos = open_photos(shards)
    assert len(photos) == 9
    assert photos.labels is not None
    assert photos.labels.tolist() == [0, 1, 0] * 3
    assert photos.classes == ("0", "1")
    with Image.open(io.BytesIO(_jpeg(21))) as expected:
        assert np.array_equal(np.asarray(photos.image(7)), np.asarray(expected))


def test_a_pattern_names_the_shards_it_means(shards: Path) -> None:
    assert len(open_photos(f"{shards}/train-{{000..001}}.tar")) == 6
    assert len(open_photos(f"{shards}/train-{{000,002}}.tar")) == 6
    assert len(open_photos(f"{shards}/train-001.tar")) == 3


def test_it_is_one_set_however_it_is_named(shards: Path) -> None:
    pattern = open_photos(f"{shards}/train-{{000..002}}.tar")
    assert open_photos(shards).fingerprint == pattern.fingerprint
    assert pattern.subset([1, 2]).fingerprint != pattern.fingerprint


def test_loader_workers_get_a_copy(shards: Path) -> None:
    photos = pickle.loads(pickle.dumps(open_photos(shards)))
    assert photos.image(8).size == (20, 16)


def test_a_large_jpeg_is_drafted(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(_tar({"a.jpg": _jpeg(0, (400, 320))}))
    draft = open_photos(tmp_path / "a.tar").draft(0, 40)
    assert (draft.size, draft.image.size) == ((400, 320), (50, 40))


def test_names_of_classes_stand_beside_the_shards(shards: Path) -> None:
    (shards / "classes.txt").write_text("cat\ndog\n")
    assert open_photos(shards).classes == ("cat", "dog")
    (shards / "classes.txt").write_text("cat\n")
    with pytest.raises(DataError, match="names 1 classes, and labels count up to 1"):
        open_photos(shards)


def test_photos_without_labels_have_none(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(_shard(0, labels=False))
    assert open_photos(tmp_path / "a.tar").labels is None
    with pytest.raises(DataError, match=r"3 of 3 photos have no \.cls beside them"):
        open_photos(tmp_path / "a.tar", labels=True)


def test_labels_may_be_declined(shards: Path) -> None:
    assert open_photos(shards, labels=False).labels is None


def test_shards_over_fsspec_are_read_by_their_parts() -> None:
    files = fsspec.filesystem("memory")
    for number in range(2):
        files.pipe_file(f"/photos/train-{number}.tar", _shard(number))
    photos = open_photos("memory://photos/train-{0..1}.tar")
    assert len(photos) == 6
    with Image.open(io.BytesIO(_jpeg(12))) as expected:
        assert np.array_equal(np.asarray(photos.image(5)), np.asarray(expected))
    files.pipe_file("/photos/train-1.tar", _shard(1)[:600])
    with pytest.raises(DataError, match=r"train-1\.tar changed, or its server does not give parts"):
        photos.image(5)


class _Parts(SimpleHTTPRequestHandler):
    """Serves files, and parts of files, as object stores do."""

    def do_GET(self) -> None:
        content = Path(self.translate_path(self.path)).read_bytes()
        span = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        self.send_response(206 if span else 200)
        if span:
            total, content = len(content), content[int(span[1]) : int(span[2]) + 1]
            self.send_header("Content-Range", f"bytes {span[1]}-{span[2]}/{total}")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


def test_shards_over_http_are_read_here_and_by_loader_workers(
    shards: Path,
) -> None:
    pytest.importorskip("aiohttp", reason="aiohttp is missing: pip install 'edgeseed[remote]'")
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Parts, directory=str(shards)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        url = f"http://127.0.0.1:{server.server_port}/train-{{000..002}}.tar"
        photos = open_photos(url)
        near = open_photos(shards)
        assert np.array_equal(np.asarray(photos.image(4)), np.asarray(near.image(4)))
        source = StreamedCanvases(photos, side=16, device=torch.device("cpu"), workers=2)
        order = PhotoOrder(9, batch_size=3, seed=0)
        batches = list(source.batches(order, start=0, stop=3))
        assert sorted(int(i) for batch in batches for i in batch.indices) == list(range(9))
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (_shard(0)[:2000], "is not a whole, plain tar"),
        (_shard(0)[:1100], "is not a whole, plain tar"),
        (b"words" * 300, "is not a whole, plain tar"),
        (_tar({"a.txt": b"words"}), "holds no photo; samples are named like 000017.jpg"),
        (_tar({"a.jpg": _jpeg(0), "a.cls": b"\xff"}), "a.cls is no text; a label is"),
        (_tar({"a.jpg": _jpeg(0), "a.cls": b"1" * 2000}), "a.cls holds 2.00 kB; a label is"),
        (_tar({"a.jpg": _jpeg(0), "b.jpg": _jpeg(1), "a.cls": b"1", "b.cls": b"x"}), "all numbers"),
    ],
)
def test_a_shard_that_is_none_is_one_line(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "a.tar").write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        open_photos(tmp_path / "a.tar")
    assert "\n" not in str(caught.value)


def test_photos_are_called_as_in_the_tar(shards: Path) -> None:
    assert photo_names(open_photos(shards))[4] == "train-001.tar/part.1/010001.jpg"


def unpack(tar: tarfile.TarFile, folder: Path) -> None:
    """The photos of a shard, as files."""
    for member in tar:
        content = tar.extractfile(member) if member.name.endswith(".jpg") else None
        if content is not None:
            path = folder / member.name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content.read())


def test_copies_of_a_shards_photos_are_found(shards: Path, tmp_path: Path) -> None:
    with tarfile.open(shards / "train-001.tar") as tar:
        unpack(tar, tmp_path / "folder")
    unpacked, packed = open_photos(tmp_path / "folder"), open_photos(shards)
    assert shared_photos(unpacked, packed) == Shared(3, 3)
    assert shared_photos(packed, unpacked) == Shared(3, 9)
    assert count_shared_by_hash(packed, [unpacked.photo_hashes]) == Shared(3, 9)


def test_a_student_learns_from_shards_what_it_learns_from_the_folder(
    shards: Path, tmp_path: Path
) -> None:
    for path in sorted(shards.iterdir()):
        with tarfile.open(path) as tar:
            unpack(tar, tmp_path / "folder" / path.name)
    losses = [
        pretrain(
            method="moco", model="test_efficientnet", data=data, epochs=1,
            image_size=32, batch_size=4, devices="cpu", out=tmp_path / f"run{number}",
            settings=("training.workers=0", "training.cache=off"),
        ).loss
        for number, data in enumerate((shards, tmp_path / "folder"))
    ]  # fmt: skip
    assert losses[0] == losses[1]


def test_missing_shards_are_counted_and_named(shards: Path) -> None:
    with pytest.raises(DataError, match=r"2 of 5 shards do not exist: .*train-003\.tar"):
        open_photos(f"{shards}/train-{{000..004}}.tar")


def test_a_broken_photo_is_named_by_shard_and_member(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(_tar({"x.jpg": b"\xff\xd8\xff no more"}))
    photos = open_photos(tmp_path / "a.tar")
    with pytest.raises(DataError, match=r"a\.tar/x\.jpg cannot be read as an image"):
        photos.image(0)


def test_a_protocol_that_nobody_knows_is_an_error() -> None:
    with pytest.raises(DataError, match="give a local path, http"):
        open_photos("gopherx://host/a.tar")


def test_a_missing_package_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(url: str) -> None:
        raise ImportError("HTTPFileSystem requires aiohttp")

    monkeypatch.setattr(fsspec.core, "url_to_fs", missing)
    with pytest.raises(MissingDependencyError, match=r"pip install 'edgeseed\[remote\]'"):
        open_photos("https://host/a.tar")


def test_a_folder_with_photos_and_a_tar_is_a_folder_of_photos(tmp_path: Path) -> None:
    (tmp_path / "old.tar").write_bytes(_shard(0))
    for index in range(10):
        (tmp_path / f"{index}.jpg").write_bytes(_jpeg(index))
    assert len(open_photos(tmp_path)) == 10
