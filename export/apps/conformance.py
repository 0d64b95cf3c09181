"""The conformance set: photos and what their preprocessing must give, for every language's tests.

It is the same for every model: small tensors, computed by Pillow as edgeseed uses it.

```text
conformance/
  conformance.json   schema_version, faults, and a list each of photos, files and frames
  photos/*.png       lossless, without EXIF: the orientation stands in conformance.json
  files/*.jpg        whole files with EXIF; JPEG decoders may differ by some levels
  frames/*.yuv       camera frames: planes Y, U, V (I420)
  expected/*.npy     (C, H, W) uint8, C of 3 or 1
  gallery/           gallery.bin, queries.npy (Q, D) float32; the answers stand in conformance.json
```

A photo of the list says how its pixels are to be taken: `alpha`, `orientation`, `profile`.
`catches` names the faults that change its tensor. `platform_tolerance` is how many levels a value
may be off where the platform's own decoder and colour management come before: 0 unless alpha or a
profile is involved. The core, given the stored pixels, must meet every value exactly.
"""

import dataclasses
import io
import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from edgeseed.core.color import srgb_to_linear
from edgeseed.core.photos import decode
from edgeseed.core.preprocess import Interpolation, Preprocess, normalization
from edgeseed.export.apps.gallery import classify, make_gallery, write_gallery
from edgeseed.export.apps.reference import (
    FAULTS,
    Alpha,
    Fault,
    Matrix,
    Pixels,
    Range,
    StoredPhoto,
    preprocess_photo,
    resize_and_crop,
    upright,
    yuv_to_rgb,
)

SCHEMA_VERSION = 1
DESCRIPTION = "conformance.json"
_ALPHA_TOLERANCE = 1
"""Platforms multiply colours by alpha as they decode, and round."""
_PROFILE_TOLERANCE = 2
"""Where a platform's own colour management converts the profile."""
_JPEG_TOLERANCE = 6
"""Decoders may differ in the inverse DCT and in how they enlarge chroma (docs/preprocessing.md)."""
_ORIENTATION = 0x112
_SIZE = Preprocess(image_size=24, resize=27)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class _Case:
    """A photo of the set, before anything is computed."""

    name: str
    pixels: Pixels
    """(H, W) grey, or (H, W, 2 to 4): grey and alpha, RGB, RGB and alpha."""
    preprocess: Preprocess
    alpha: Alpha = "none"
    orientation: int = 1
    is_display_p3: bool = False
    file: str = ""
    """Name of the PNG where several cases share it; else the case's name."""
    on_platform: bool = True
    """Whether a platform's decoder gives these pixels: none stores them multiplied by alpha."""


def write_conformance_set(folder: Path) -> None:
    """Fills an empty folder with the set."""
    for name in ("photos", "files", "frames", "expected", "gallery"):
        (folder / name).mkdir()
    description = {
        "schema_version": SCHEMA_VERSION,
        "faults": FAULTS,
        "photos": [_write_photo(case, folder) for case in _cases()],
        "files": [_write_jpeg(orientation, folder) for orientation in range(1, 9)],
        "frames": [_write_frame(index, folder) for index in range(len(_FRAMES))],
        "gallery": _write_gallery_case(folder),
    }
    text = json.dumps(description, indent=1)
    (folder / DESCRIPTION).write_text(text + "\n", encoding="ascii")


def _with(interpolation: Interpolation, image_size: int = 24, resize: int = 27) -> Preprocess:
    return Preprocess(image_size=image_size, resize=resize, interpolation=interpolation)


def _cases() -> Iterator[_Case]:
    yield _Case(
        name="odd-size-bilinear", pixels=_photo(61, 47, seed=1), preprocess=_with("bilinear")
    )
    yield _Case(name="odd-size-bicubic", pixels=_photo(61, 47, seed=1), preprocess=_with("bicubic"))
    yield _Case(name="odd-size-nearest", pixels=_photo(61, 47, seed=1), preprocess=_with("nearest"))
    yield _Case(name="portrait", pixels=_photo(40, 71, seed=2), preprocess=_with("bicubic"))
    # Pillow 13 alone would resize its height first; see core/preprocess.py.
    yield _Case(name="tall", pixels=_photo(31, 110, seed=3), preprocess=_with("bilinear"))
    yield _Case(
        name="not-resized", pixels=_photo(24, 24, seed=4), preprocess=_with("bilinear", 24, 24)
    )
    yield _Case(name="cropped-only", pixels=_photo(33, 27, seed=4), preprocess=_with("bicubic"))
    yield _Case(
        name="enlarged-bilinear", pixels=_photo(13, 9, seed=5), preprocess=_with("bilinear")
    )
    yield _Case(name="enlarged-bicubic", pixels=_photo(9, 13, seed=5), preprocess=_with("bicubic"))
    yield _Case(name="noise-bicubic", pixels=_noise(53, 41, seed=6), preprocess=_with("bicubic"))
    yield _Case(name="noise-enlarged", pixels=_noise(11, 8, seed=7), preprocess=_with("bicubic"))
    yield _Case(name="one-pixel", pixels=_photo(1, 1, seed=8), preprocess=_with("bicubic"))
    for name, sides in {"wide": (24, 40), "high": (40, 24)}.items():
        box = Preprocess(image_size=sides[0], width=sides[1], resize=sides[0] + 5)
        yield _Case(name=f"{name}-input", pixels=_photo(61, 47, seed=14), preprocess=box)
        turned = dataclasses.replace(box, interpolation="bicubic")
        yield _Case(name=f"{name}-input-bicubic", pixels=_photo(35, 90, seed=15), preprocess=turned)
    grey = Preprocess(image_size=24, resize=27, **normalization(1))
    yield _Case(name="grey-input", pixels=_photo(61, 47, seed=16), preprocess=grey)
    wide = dataclasses.replace(grey, width=33, interpolation="bicubic")
    yield _Case(name="grey-wide-input", pixels=_photo(50, 44, seed=17), preprocess=wide)
    yield _Case(name="extreme-wide", pixels=_photo(400, 3, seed=9), preprocess=_with("bilinear"))
    yield _Case(name="extreme-tall", pixels=_photo(3, 400, seed=9), preprocess=_with("bicubic"))
    yield _Case(name="huge", pixels=_tiles(4032, 3024), preprocess=_with("bilinear", 32, 36))
    yield _Case(name="grey", pixels=_photo(50, 37, seed=10)[..., 0], preprocess=_with("bilinear"))
    grey_alpha = np.stack([_photo(50, 37, seed=11)[..., 0], _alpha(50, 37)], axis=-1)
    yield _Case(
        name="grey-alpha", pixels=grey_alpha, preprocess=_with("bilinear"), alpha="straight"
    )
    rgba = np.dstack([_photo(45, 33, seed=12), _alpha(45, 33)])
    yield _Case(name="alpha", pixels=rgba, preprocess=_with("bicubic"), alpha="straight")
    colors = rgba[..., :3].astype(np.int64) * rgba[..., 3:]
    multiplied = np.dstack([((colors * 2 + 255) // 510).astype(np.uint8), rgba[..., 3]])
    yield _Case(
        name="alpha-premultiplied",
        pixels=multiplied,
        preprocess=_with("bicubic"),
        alpha="premultiplied",
        on_platform=False,
    )
    yield _Case(
        name="display-p3",
        pixels=_saturated(48),
        preprocess=_with("bilinear"),
        is_display_p3=True,
    )
    for orientation in range(1, 9):
        yield _Case(
            name=f"orientation-{orientation}",
            pixels=_photo(37, 29, seed=13),
            preprocess=_with("bicubic" if orientation % 2 else "bilinear", 16, 19),
            orientation=orientation,
            file="orientation",
        )


def _photo(width: int, height: int, *, seed: int) -> Pixels:
    """Waves, edges and some noise: what a resize can get wrong is all there."""
    random = np.random.default_rng(seed)
    rows, columns = np.mgrid[0:height, 0:width]
    waves = np.zeros((height, width, 3))
    for _ in range(5):
        angle, phase, frequency = random.uniform(0, 6.28, 3)
        direction = np.cos(angle) * rows + np.sin(angle) * columns
        waves += np.cos((0.05 + frequency / 12) * direction[..., None] + phase + np.arange(3))
    waves[rows > columns] *= -0.6
    noisy = 128 + 40 * waves + random.normal(0, 8, waves.shape)
    return np.clip(noisy, 0, 255).astype(np.uint8)


def _noise(width: int, height: int, *, seed: int) -> Pixels:
    """Black and white in each channel: a bicubic resize overshoots, and must clip."""
    return np.random.default_rng(seed).integers(0, 2, (height, width, 3), dtype=np.uint8) * 255


def _alpha(width: int, height: int) -> Pixels:
    """From clear to opaque, with both ends."""
    ramp = np.linspace(-40, 295, width * height).reshape(height, width)
    return np.clip(ramp, 0, 255).astype(np.uint8)


def _saturated(side: int) -> Pixels:
    """Strong colours, where Display P3 and sRGB differ most, and a grey strip, where they agree."""
    ramp = np.linspace(0, 255, side)
    red, green = np.meshgrid(ramp, ramp)
    pixels = np.stack([red, green, 255 - (red + green) / 2], axis=-1)
    pixels[: side // 8] = ramp[None, :, None]
    return pixels.astype(np.uint8)


def _tiles(width: int, height: int) -> Pixels:
    """Twelve megapixels that repeat, so that they are a small file."""
    tile = _photo(144, 72, seed=14)
    tile[:] = tile[:1]
    shade = (np.arange(height // 72) * 37 % 160)[:, None, None, None]
    row = np.tile(tile[:1], (1, width // 144, 1))
    rows = np.clip(row[None].astype(np.int64) - shade, 0, 255).astype(np.uint8)
    return np.repeat(rows[:, 0], 72, axis=0)


# --------------------------------------------------------------------------- writing


def _write_photo(case: _Case, folder: Path) -> dict[str, Any]:
    stored = StoredPhoto(
        pixels=_as_rgb(case.pixels),
        alpha=case.alpha,
        orientation=case.orientation,
        profile="display-p3" if case.is_display_p3 else "srgb",
    )
    file = f"photos/{case.file or case.name}.png"
    profile = display_p3_profile() if case.is_display_p3 else None
    Image.fromarray(case.pixels).save(folder / file, optimize=True, icc_profile=profile)
    expected = _by_pillow(folder / file, case)
    tolerance = _PROFILE_TOLERANCE if case.is_display_p3 else 0
    tolerance += _ALPHA_TOLERANCE if case.alpha != "none" else 0
    return {
        "name": case.name,
        "file": file,
        "alpha": case.alpha,
        "orientation": case.orientation,
        "profile": stored.profile,
        "preprocess": _sizes(case.preprocess),
        "expected": _write_expected(case.name, expected, folder),
        "on_platform": case.on_platform,
        "platform_tolerance": tolerance,
        "catches": _caught(stored, case.preprocess, expected),
    }


def _as_rgb(pixels: Pixels) -> Pixels:
    if pixels.ndim == 2:
        return np.repeat(pixels[..., None], 3, axis=-1)
    if pixels.shape[-1] == 2:
        return pixels[..., [0, 0, 0, 1]]
    return pixels


def _by_pillow(path: Path, case: _Case) -> Pixels:
    """What edgeseed itself makes of the file: the same code as in training and export."""
    if case.alpha == "premultiplied":
        opacity = case.pixels[..., 3:].astype(np.int64)
        photo = Image.fromarray((case.pixels[..., :3] + 255 - opacity).astype(np.uint8))
        return case.preprocess.pixels(photo)
    if case.orientation == 1:
        return case.preprocess.pixels(decode(path))
    with Image.open(path) as image:
        image.load()
        image.getexif()[_ORIENTATION] = case.orientation
        content = io.BytesIO()
        image.save(content, "png", exif=image.getexif())
    return case.preprocess.pixels(decode(content.getvalue()))


def _caught(stored: StoredPhoto, preprocess: Preprocess, expected: Pixels) -> list[Fault]:
    right = expected.astype(np.float32)
    faults: list[Fault] = []
    for fault in FAULTS:
        found = preprocess_photo(stored, preprocess, fault=fault)
        # An app hands over numbers in a row: grey is the same in either order of the axes.
        if not np.array_equal(found.ravel(), right.ravel()):
            faults.append(fault)
    return faults


def _write_expected(name: str, expected: Pixels, folder: Path) -> str:
    path = f"expected/{name}.npy"
    np.save(folder / path, expected)
    return path


def _sizes(preprocess: Preprocess) -> dict[str, Any]:
    return {
        "image_size": preprocess.image_size,
        "resize": preprocess.resize,
        "interpolation": preprocess.interpolation,
        "width": preprocess.size[1],
        "channels": preprocess.channels,
    }


def _write_jpeg(orientation: int, folder: Path) -> dict[str, Any]:
    """Four flat colours, whose edges lie between the blocks of the encoder."""
    quarters = np.array([[[220, 40, 40], [40, 200, 60]], [[50, 60, 220], [230, 220, 60]]], np.uint8)
    image = Image.fromarray(quarters.repeat(32, axis=0).repeat(48, axis=1))
    exif = Image.Exif()
    exif[_ORIENTATION] = orientation
    name = f"exif-{orientation}"
    path = folder / f"files/{name}.jpg"
    image.save(path, quality=95, subsampling=0, exif=exif)
    return {
        "name": name,
        "file": f"files/{name}.jpg",
        "orientation": orientation,
        "preprocess": _sizes(_SIZE),
        "expected": _write_expected(name, _SIZE.pixels(decode(path)), folder),
        "platform_tolerance": _JPEG_TOLERANCE,
    }


_FRAMES: tuple[tuple[Matrix, Range, int], ...] = (
    ("bt601", "full", 0),
    ("bt601", "video", 90),
    ("bt709", "full", 180),
    ("bt709", "video", 270),
)
"""Matrix, range, and by how many degrees the frame is to be turned clockwise to be upright."""
ORIENTATION_OF_ROTATION = {0: 1, 90: 6, 180: 3, 270: 8}


def _write_frame(index: int, folder: Path) -> dict[str, Any]:
    matrix, range_, rotation = _FRAMES[index]
    width, height = 45, 31
    random = np.random.default_rng(100 + index)
    luma = _photo(width, height, seed=20 + index)[..., 0]
    half = ((height + 1) // 2, (width + 1) // 2)
    u, v = random.integers(0, 256, (2, *half), dtype=np.uint8)
    name = f"frame-{matrix}-{range_}-{rotation}"
    (folder / f"frames/{name}.yuv").write_bytes(luma.tobytes() + u.tobytes() + v.tobytes())
    rgb = yuv_to_rgb(luma, u, v, matrix=matrix, range_=range_)
    square = resize_and_crop(upright(rgb, ORIENTATION_OF_ROTATION[rotation]), _SIZE)
    return {
        "name": name,
        "file": f"frames/{name}.yuv",
        "width": width,
        "height": height,
        "matrix": matrix,
        "range": range_,
        "rotation": rotation,
        "preprocess": _sizes(_SIZE),
        "expected": _write_expected(name, np.ascontiguousarray(square.transpose(2, 0, 1)), folder),
    }


def _write_gallery_case(folder: Path) -> dict[str, Any]:
    """Five photos each of three classes, and queries: near, far, between, and of zeros."""
    random = np.random.default_rng(200)
    centers = random.normal(0, 1, (3, 8))
    labels = np.repeat(np.arange(3), 5)
    embeddings = centers[labels] + random.normal(0, 0.4, (15, 8))
    classes = ("plain", 'a "quoted" name', "línea\nπ \U0001f426")
    gallery = make_gallery(
        embeddings, labels, classes=classes, threshold=0.8, student_sha256="0" * 64
    )
    write_gallery(folder / "gallery/gallery.bin", gallery)
    near = centers + random.normal(0, 0.2, (3, 8))
    between = (centers[:1] + centers[1:2]) / 2
    queries = np.concatenate([near, random.normal(0, 1, (3, 8)), between, np.zeros((1, 8))])
    queries = queries.astype(np.float32)
    np.save(folder / "gallery/queries.npy", queries)
    answers = [dataclasses.asdict(classify(gallery, query)) for query in queries]
    return {
        "file": "gallery/gallery.bin",
        "queries": "gallery/queries.npy",
        "classes": list(classes),
        "answers": answers,
    }


def display_p3_profile() -> bytes:
    """An ICC profile of Display P3, version 2: primaries under D50, and sRGB's curve as a table."""
    primaries = (
        (0.51512, 0.2412, -0.00105),
        (0.29198, 0.69225, 0.04189),
        (0.1571, 0.06657, 0.78407),
    )
    white = (0.96420, 1.0, 0.82491)
    curve_values = [round(65535 * srgb_to_linear(step / 1023)) for step in range(1024)]
    curve = b"curv" + bytes(4) + struct.pack(">I1024H", 1024, *curve_values)
    name = b"Display P3\0"
    text = b"desc" + bytes(4) + struct.pack(">I", len(name)) + name + bytes(78)
    parts = {
        b"desc": text,
        b"cprt": b"text" + bytes(4) + b"No rights reserved\0",
        b"wtpt": _xyz(white),
        b"rXYZ": _xyz(primaries[0]),
        b"gXYZ": _xyz(primaries[1]),
        b"bXYZ": _xyz(primaries[2]),
    }
    return _icc(parts, curve=curve)


def _xyz(values: tuple[float, float, float]) -> bytes:
    return b"XYZ " + bytes(4) + struct.pack(">3i", *(round(value * 65536) for value in values))


def _icc(parts: dict[bytes, bytes], *, curve: bytes) -> bytes:
    names = [*parts, b"rTRC", b"gTRC", b"bTRC"]
    position = 128 + 4 + 12 * len(names)
    table, body = struct.pack(">I", len(names)), b""
    places: dict[bytes, tuple[int, int]] = {}
    for name, content in {**parts, b"rTRC": curve}.items():
        places[name] = (position + len(body), len(content))
        body += content + bytes(-len(content) % 4)
    places[b"gTRC"] = places[b"bTRC"] = places[b"rTRC"]
    table += b"".join(struct.pack(">4sII", name, *places[name]) for name in names)
    size = 128 + len(table) + len(body)
    header = struct.pack(
        ">I4sI4s4s4s12s4s",
        size,
        bytes(4),
        0x02100000,
        b"mntr",
        b"RGB ",
        b"XYZ ",
        bytes(12),
        b"acsp",
    )
    header += bytes(68 - len(header)) + struct.pack(">3i", 63190, 65536, 54061)
    return header + bytes(128 - len(header)) + table + body
