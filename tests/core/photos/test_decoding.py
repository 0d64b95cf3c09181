import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edgeseed.core.errors import DataError
from edgeseed.core.photos import (
    decode,
    decoding,
    open_photos,
)


def save(path: Path, image: Image.Image, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)
    return path


def photo(
    color: tuple[int, int, int] = (200, 30, 60), size: tuple[int, int] = (12, 8)
) -> Image.Image:
    return Image.new("RGB", size, color)


def pixel(image: Image.Image) -> tuple[int, int, int]:
    return image.getpixel((0, 0))  # type: ignore[return-value]  # RGB images give three numbers


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK", "P", "1", "YCbCr", "LA", "RGBA", "PA"])
def test_every_color_mode_becomes_rgb(tmp_path: Path, mode: str) -> None:
    image = photo().convert("L").convert(mode) if mode in ("LA", "PA") else photo().convert(mode)
    path = (
        save(tmp_path / "a.tiff", image)
        if mode != "PA"
        else save(tmp_path / "a.png", image.convert("P"))
    )
    assert decode(path).mode == "RGB"


def test_cmyk_jpeg_keeps_its_color(tmp_path: Path) -> None:
    path = save(tmp_path / "a.jpg", photo().convert("CMYK"), quality=100, subsampling=0)
    assert np.abs(np.subtract(pixel(decode(path)), (200, 30, 60))).max() <= 4


def test_transparent_parts_become_white(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", Image.new("RGBA", (4, 4), (10, 20, 30, 0)))
    assert pixel(decode(path)) == (255, 255, 255)


def test_half_transparent_is_blended_over_white(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", Image.new("RGBA", (4, 4), (0, 0, 0, 128)))
    assert abs(pixel(decode(path))[0] - 127) <= 1


def test_palette_with_transparency_is_blended(tmp_path: Path) -> None:
    image = photo().convert("P")
    path = save(tmp_path / "a.png", image, transparency=image.getpixel((0, 0)))
    assert pixel(decode(path)) == (255, 255, 255)


@pytest.mark.parametrize(("value", "expected"), [(0, 0), (32768, 128), (65535, 255), (257, 1)])
def test_sixteen_bits_are_scaled_not_clipped(tmp_path: Path, value: int, expected: int) -> None:
    path = save(tmp_path / "a.png", Image.fromarray(np.full((4, 4), value, np.uint16)))
    assert pixel(decode(path)) == (expected,) * 3


@pytest.mark.parametrize("maximum", [1.0, 255.0])
def test_float_images_are_read_on_either_scale(tmp_path: Path, maximum: float) -> None:
    values = np.array([[0.0, maximum]], np.float32)
    path = save(tmp_path / "a.tiff", Image.fromarray(values))
    assert decode(path).getpixel((1, 0)) == (255, 255, 255)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(tmp_path: Path, orientation: int) -> None:
    image = photo((0, 0, 0), size=(16, 8))
    image.paste((255, 255, 255), (0, 0, 8, 8))  # the left half is white
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = save(tmp_path / "a.jpg", image, exif=exif, quality=95)
    turned = decode(path)
    assert turned.size == ((16, 8) if orientation <= 4 else (8, 16))
    # Where the white half lies once the photo is upright, from the EXIF specification.
    side = {
        1: "left",
        2: "right",
        3: "right",
        4: "left",
        5: "top",
        6: "top",
        7: "bottom",
        8: "bottom",
    }
    width, height = turned.size
    at = {"left": (1, height // 2), "right": (width - 2, height // 2),
          "top": (width // 2, 1), "bottom": (width // 2, height - 2)}  # fmt: skip
    brightness = {name: sum(turned.getpixel(spot)) for name, spot in at.items()}  # type: ignore[arg-type]
    assert brightness[side[orientation]] > 700


def test_the_first_frame_of_an_animation_is_taken(tmp_path: Path) -> None:
    frames = [photo((255, 0, 0)), photo((0, 255, 0))]
    path = save(tmp_path / "a.gif", frames[0], save_all=True, append_images=frames[1:])
    assert pixel(decode(path)) == (255, 0, 0)


def test_bytes_are_read_as_files_are() -> None:
    buffer = io.BytesIO()
    photo().save(buffer, "PNG")
    assert pixel(decode(buffer.getvalue())) == (200, 30, 60)


@pytest.mark.parametrize(
    "content", [b"", b"hello", b"\xff\xd8\xff\xe0 not a jpeg", b"\x89PNG\r\n\x1a\n"]
)
def test_what_is_no_image_is_one_clear_error(content: bytes) -> None:
    with pytest.raises(DataError, match="cannot be read as an image"):
        decode(content)


def test_a_decompression_bomb_is_an_error_not_a_crash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save(tmp_path / "a.png", photo(size=(100, 100)))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(DataError, match="exceeds limit"):
        decode(path)


def _gradient(width: int, height: int) -> Image.Image:
    y, x = np.mgrid[:height, :width]
    pixels = np.stack([x * 255 / width, y * 255 / height, (x + y) % 64], axis=2)
    return Image.fromarray(pixels.astype(np.uint8))


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "b.jpg"])
def test_what_is_small_or_no_jpeg_is_drafted_as_it_is(tmp_path: Path, name: str) -> None:
    _gradient(600 if name == "a.png" else 60, 40).save(tmp_path / name)
    photos = open_photos(tmp_path)
    draft = photos.draft(0, 32)
    assert np.array_equal(np.asarray(draft.image), np.asarray(photos.image(0)))


# ------------------------------------------------------------------ float photos


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([0.2, np.nan], "it holds NaN or infinite values"),
        ([0.2, np.inf], "it holds NaN or infinite values"),
        ([-30.0, 1800.0], "its values go from -30 to 1800"),
        ([-0.5, 0.5], "its values go from -0.5 to 0.5"),
    ],
)
def test_float_photos_that_fit_no_range_are_refused(
    tmp_path: Path, values: list[float], message: str
) -> None:
    # One NaN made a photo black, and heights from -30 to 1800 were clipped white.
    path = save(tmp_path / "a.tiff", Image.fromarray(np.full((4, 2), values, np.float32)))
    with pytest.raises(DataError, match=message):
        decode(path)


def test_the_range_that_is_assumed_of_float_photos_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    decoding._say_float_range.cache_clear()
    path = save(tmp_path / "a.tiff", Image.fromarray(np.full((4, 2), 0.5, np.float32)))
    decode(path)
    decode(path)
    assert capsys.readouterr().err.count("float photos are read as 0 to 1") == 1
