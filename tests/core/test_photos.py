import io
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgeseed.core import photos as photos_module
from edgeseed.core.errors import DataError, UnknownNameError
from edgeseed.core.photos import (
    Mark,
    PhotoSet,
    Shared,
    decode,
    open_photos,
    photos_from_arrays,
    shared_photos,
    sketched_photos,
)


def save(path: Path, image: Image.Image, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)
    return path


def photo(color=(200, 30, 60), size=(12, 8)) -> Image.Image:
    return Image.new("RGB", size, color)


def pixel(image: Image.Image) -> tuple[int, int, int]:
    return image.getpixel((0, 0))  # type: ignore[return-value]  # RGB images give three numbers


# ------------------------------------------------------------------ decoding


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK", "P", "1", "YCbCr", "LA", "RGBA", "PA"])
def test_every_color_mode_becomes_rgb(tmp_path, mode):
    image = photo().convert("L").convert(mode) if mode in ("LA", "PA") else photo().convert(mode)
    path = (
        save(tmp_path / "a.tiff", image)
        if mode != "PA"
        else save(tmp_path / "a.png", image.convert("P"))
    )
    assert decode(path).mode == "RGB"


def test_cmyk_jpeg_keeps_its_color(tmp_path):
    path = save(tmp_path / "a.jpg", photo().convert("CMYK"), quality=100, subsampling=0)
    assert np.abs(np.subtract(pixel(decode(path)), (200, 30, 60))).max() <= 4


def test_transparent_parts_become_white(tmp_path):
    path = save(tmp_path / "a.png", Image.new("RGBA", (4, 4), (10, 20, 30, 0)))
    assert pixel(decode(path)) == (255, 255, 255)


def test_half_transparent_is_blended_over_white(tmp_path):
    path = save(tmp_path / "a.png", Image.new("RGBA", (4, 4), (0, 0, 0, 128)))
    assert abs(pixel(decode(path))[0] - 127) <= 1


def test_palette_with_transparency_is_blended(tmp_path):
    image = photo().convert("P")
    path = save(tmp_path / "a.png", image, transparency=image.getpixel((0, 0)))
    assert pixel(decode(path)) == (255, 255, 255)


@pytest.mark.parametrize(("value", "expected"), [(0, 0), (32768, 128), (65535, 255), (257, 1)])
def test_sixteen_bits_are_scaled_not_clipped(tmp_path, value, expected):
    path = save(tmp_path / "a.png", Image.fromarray(np.full((4, 4), value, np.uint16)))
    assert pixel(decode(path)) == (expected,) * 3


@pytest.mark.parametrize("maximum", [1.0, 255.0])
def test_float_images_are_read_on_either_scale(tmp_path, maximum):
    values = np.array([[0.0, maximum]], np.float32)
    path = save(tmp_path / "a.tiff", Image.fromarray(values))
    assert decode(path).getpixel((1, 0)) == (255, 255, 255)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(tmp_path, orientation):
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


def test_the_first_frame_of_an_animation_is_taken(tmp_path):
    frames = [photo((255, 0, 0)), photo((0, 255, 0))]
    path = save(tmp_path / "a.gif", frames[0], save_all=True, append_images=frames[1:])
    assert pixel(decode(path)) == (255, 0, 0)


def test_bytes_are_read_as_files_are():
    buffer = io.BytesIO()
    photo().save(buffer, "PNG")
    assert pixel(decode(buffer.getvalue())) == (200, 30, 60)


@pytest.mark.parametrize(
    "content", [b"", b"hello", b"\xff\xd8\xff\xe0 not a jpeg", b"\x89PNG\r\n\x1a\n"]
)
def test_what_is_no_image_is_one_clear_error(content):
    with pytest.raises(DataError, match="cannot be read as an image"):
        decode(content)


def test_a_decompression_bomb_is_an_error_not_a_crash(tmp_path, monkeypatch):
    path = save(tmp_path / "a.png", photo(size=(100, 100)))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(DataError, match="exceeds limit"):
        decode(path)


# ------------------------------------------------------------------ folders


def test_a_folder_of_any_nesting_is_read_in_a_fixed_order(tmp_path):
    for name in ("b/2.png", "b/1.png", "a/c/3.jpg", "4.webp"):
        save(tmp_path / name, photo())
    photos = open_photos(tmp_path)
    assert [photos.source.name(index) for index in range(4)] == [
        "4.webp",
        "a/c/3.jpg",
        "b/1.png",
        "b/2.png",
    ]
    assert photos.labels is None


def test_class_folders_are_labels(tmp_path):
    for name in ("dog/1.png", "cat/1.png", "cat/x/2.png"):
        save(tmp_path / name, photo())
    photos = open_photos(tmp_path, labels=True)
    assert photos.classes == ("cat", "dog")
    assert photos.labels is not None
    assert photos.labels.tolist() == [0, 0, 1]
    assert open_photos(tmp_path, labels=False).labels is None


def test_labels_that_are_not_there_are_an_error(tmp_path):
    save(tmp_path / "1.png", photo())
    with pytest.raises(DataError, match=r"lie in no class folder.*CLASS/photo\.jpg"):
        open_photos(tmp_path, labels=True)


def test_one_class_folder_is_no_labelling(tmp_path):
    save(tmp_path / "cat/1.png", photo())
    with pytest.raises(DataError, match="one class folder, cat"):
        open_photos(tmp_path, labels=True)


def test_hidden_files_and_sidecars_are_passed_over(tmp_path):
    save(tmp_path / "1.png", photo())
    for name in (".DS_Store", "labels.csv", ".git/config", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    assert len(open_photos(tmp_path)) == 1


def test_an_image_without_a_suffix_is_a_photo(tmp_path):
    save(tmp_path / "1", photo(), format="PNG")
    assert len(open_photos(tmp_path)) == 1


def test_link_loops_end(tmp_path):
    save(tmp_path / "a/1.png", photo())
    (tmp_path / "a/loop").symlink_to(tmp_path)
    assert len(open_photos(tmp_path)) == 1


def test_a_few_broken_files_are_skipped_counted_and_listed(tmp_path, capsys):
    whole = save(tmp_path / "00.jpg", photo(size=(64, 64)))
    for index in range(1, 30):
        (tmp_path / f"{index:02}.jpg").write_bytes(whole.read_bytes())
    (tmp_path / "truncated.jpg").write_bytes(whole.read_bytes()[:-200])
    (tmp_path / "text.jpg").write_text("not an image at all")
    photos = open_photos(tmp_path)
    assert len(photos) == 30
    assert {item.path for item in photos.skipped} == {"truncated.jpg", "text.jpg"}
    message = capsys.readouterr().err
    assert "2 of 32 files skipped" in message
    assert "text.jpg: not an image" in message


def test_more_than_a_tenth_broken_is_an_error(tmp_path):
    for index in range(8):
        save(tmp_path / f"{index}.png", photo())
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nrest")
    with pytest.raises(DataError, match=r"1 of 9 files.*more than 10%.*broken\.png"):
        open_photos(tmp_path)


def test_a_truncated_png_is_found_without_its_end_marker(tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    whole = save(tmp_path / "a.png", Image.fromarray(noise)).read_bytes()
    for index in range(10):
        (tmp_path / f"{index}.png").write_bytes(whole)
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    assert [item.path for item in open_photos(tmp_path).skipped] == ["cut.png"]


def test_heic_says_what_to_do(tmp_path):
    (tmp_path / "a.heic").write_bytes(b"\0\0\0\x18ftypheic" + b"\0" * 100)
    with pytest.raises(DataError, match="convert it to JPEG"):
        open_photos(tmp_path)


@pytest.mark.parametrize("content", [{}, {"readme.txt": "x"}])
def test_a_folder_without_photos_is_an_error(tmp_path, content):
    for name, text in content.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match="no image at all"):
        open_photos(tmp_path)


def test_a_file_given_as_a_folder_is_an_error(tmp_path):
    path = save(tmp_path / "a.png", photo())
    with pytest.raises(DataError, match="is a file; give the folder"):
        open_photos(path)


def test_a_missing_folder_is_an_error(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        open_photos(tmp_path / "nowhere")


def test_a_name_that_is_nearly_right_gets_the_nearest():
    with pytest.raises(UnknownNameError, match="did you mean 'digits'"):
        open_photos("digit")


def test_too_few_photos_is_an_error(tmp_path):
    save(tmp_path / "a.png", photo())
    with pytest.raises(DataError, match="holds 1 photos, at least 5"):
        open_photos(tmp_path, min_count=5)


def test_a_file_that_goes_away_is_named(tmp_path):
    path = save(tmp_path / "a.png", photo())
    photos = open_photos(tmp_path)
    path.unlink()
    with pytest.raises(DataError, match=r"a\.png"):
        photos.image(0)


def test_strange_file_names_survive(tmp_path):
    for name in ("ä b.png", "new\nline.png", "#%?.png"):
        save(tmp_path / name, photo())
    photos = pickle.loads(pickle.dumps(open_photos(tmp_path)))
    assert [photos.image(index).size for index in range(3)] == [(12, 8)] * 3


def test_fingerprint_follows_the_content_not_the_place(tmp_path):
    for root in ("one", "two"):
        save(tmp_path / root / "x/a.png", photo())
    one, two = open_photos(tmp_path / "one"), open_photos(tmp_path / "two")
    assert one.fingerprint == two.fingerprint
    save(tmp_path / "two/x/b.png", photo())
    assert open_photos(tmp_path / "two").fingerprint != one.fingerprint


# ------------------------------------------------------------------ sets


def test_subset_keeps_photos_and_labels_together():
    pixels = np.arange(5 * 4, dtype=np.uint8).reshape(5, 2, 2)
    photos = photos_from_arrays(pixels, np.arange(5), name="five").subset([4, 1]).subset([1])
    assert photos.labels is not None
    assert photos.labels.tolist() == [1]
    assert photos.image(0).getpixel((0, 0)) == (4, 4, 4)


def test_digits_have_a_train_and_a_test_split_that_share_no_scan():
    train = open_photos("digits")
    test = train.test()
    assert test is not None
    assert (len(train), len(test)) == (1347, 450)
    assert test.fingerprint == open_photos("digits:test").fingerprint
    assert train.image(0).size == (8, 8)
    assert train.classes == tuple("0123456789")


def write_idx(path: Path, array: np.ndarray) -> None:
    header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
    path.write_bytes(header + array.astype(np.uint8).tobytes())


def test_fashion_mnist_is_read_from_idx_files(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (6, 28, 28), np.uint8)
    for stem in ("train", "t10k"):
        write_idx(tmp_path / f"{stem}-images-idx3-ubyte", pixels)
        write_idx(tmp_path / f"{stem}-labels-idx1-ubyte", np.arange(6))
    photos = open_photos(f"fashion-mnist={tmp_path}")
    assert np.array_equal(np.asarray(photos.image(3))[..., 0], pixels[3])
    assert photos.labels is not None
    assert photos.labels.tolist() == list(range(6))
    test = photos.test()
    assert test is not None
    assert len(test) == 6


def test_fashion_mnist_that_is_missing_says_where_to_get_it(tmp_path):
    with pytest.raises(DataError, match="apt install dataset-fashion-mnist"):
        open_photos(f"fashion-mnist={tmp_path}")


def test_a_truncated_idx_file_is_named(tmp_path):
    write_idx(tmp_path / "train-images-idx3-ubyte", np.zeros((6, 28, 28)))
    path = tmp_path / "train-images-idx3-ubyte"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DataError, match="not a whole IDX file"):
        open_photos(f"fashion-mnist={tmp_path}")


# ------------------------------------------------------------------ drafts


def _gradient(width: int, height: int) -> Image.Image:
    y, x = np.mgrid[:height, :width]
    pixels = np.stack([x * 255 / width, y * 255 / height, (x + y) % 64], axis=2)
    return Image.fromarray(pixels.astype(np.uint8))


def test_a_draft_of_a_large_jpeg_is_smaller_and_looks_the_same(tmp_path):
    _gradient(1200, 900).save(tmp_path / "a.jpg", quality=95)
    photos = open_photos(tmp_path)
    draft, whole = photos.draft(0, 100), photos.image(0)
    assert draft.size == whole.size == (1200, 900)
    assert draft.image.size == (150, 113)
    small = [np.asarray(image.resize((50, 50))).astype(int) for image in (draft.image, whole)]
    assert np.abs(small[0] - small[1]).mean() < 2


def test_no_side_of_a_draft_is_below_what_was_asked_for(tmp_path):
    _gradient(1600, 210).save(tmp_path / "a.jpg")
    assert open_photos(tmp_path).draft(0, 100).image.size == (800, 105)


def test_a_photo_is_never_a_draft(tmp_path):
    # Evaluation, calibration and export must see the pixels that an app sees.
    _gradient(1200, 900).save(tmp_path / "a.jpg")
    photos = open_photos(tmp_path)
    photos.draft(0, 32)
    assert photos.image(0).size == (1200, 900)
    with Image.open(tmp_path / "a.jpg") as image:
        assert np.array_equal(np.asarray(photos.image(0)), np.asarray(image))


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "b.jpg"])
def test_what_is_small_or_no_jpeg_is_drafted_as_it_is(tmp_path, name):
    _gradient(600 if name == "a.png" else 60, 40).save(tmp_path / name)
    photos = open_photos(tmp_path)
    draft = photos.draft(0, 32)
    assert np.array_equal(np.asarray(draft.image), np.asarray(photos.image(0)))


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_a_draft_is_upright_and_so_is_its_size(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x112] = orientation
    _gradient(800, 400).save(tmp_path / "a.jpg", exif=exif)
    photos = open_photos(tmp_path)
    draft, whole = photos.draft(0, 60), photos.image(0)
    assert draft.size == whole.size
    assert draft.image.size == (whole.width // 4, whole.height // 4)


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_grey_and_cmyk_are_drafted_as_rgb(tmp_path, mode):
    _gradient(800, 400).convert(mode).save(tmp_path / "a.jpg")
    draft = open_photos(tmp_path).draft(0, 60)
    assert (draft.image.mode, draft.image.size) == ("RGB", (200, 100))


# ------------------------------------------------------------------ photos of two sets


def test_copies_are_found_under_any_name_and_neighbours_are_not(tmp_path):
    rng = np.random.default_rng(0)
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    for index in range(6):
        # As large as a photo, and all of one size: BMP does not compress.
        pixels = rng.integers(0, 255, (128, 128, 3), np.uint8)
        copied = save(tmp_path / "one" / f"{index}.bmp", Image.fromarray(pixels)).read_bytes()
        if index < 4:
            (tmp_path / "two" / f"copy-{index}.bmp").write_bytes(copied)
        else:
            (tmp_path / "two" / f"other-{index}.bmp").write_bytes(copied[:54] + copied[:53:-1])
    one, two = open_photos(tmp_path / "one"), open_photos(tmp_path / "two")
    assert shared_photos(two, one) == Shared(4, 6)
    assert shared_photos(one, one) == Shared(6, 6)
    assert shared_photos(two.subset([4, 5]), one) == Shared(0, 2)
    digits = open_photos("digits")
    assert shared_photos(digits, one) == Shared(0, len(digits))
    # The same without the other set.
    assert sketched_photos(two, [one.sketch]) == Shared(4, 6)
    assert sketched_photos(two.subset([4, 5]), [one.sketch]) == Shared(0, 2)
    assert sketched_photos(digits, [one.sketch]) == Shared(0, len(digits))


@pytest.mark.parametrize("one_size", [False, True])
def test_a_sketch_tells_which_share_of_other_photos_is_known(monkeypatch, *, one_size):
    monkeypatch.setattr(photos_module, "_SKETCHED", 64)
    rng = np.random.default_rng(0)
    sizes = [4 if one_size else int(rng.integers(1, 40)) for _ in range(800)]
    source = _Bytes([rng.bytes(size * 16) for size in sizes])
    everything = PhotoSet(
        name="all", source=source, indices=np.arange(800), fingerprint="all"
    )  # fmt: skip
    learnt = everything.subset(rng.permutation(600))
    sketch = learnt.sketch
    assert len(sketch) == 64 * 16
    assert sketch == learnt.subset(rng.permutation(600)).sketch
    new = everything.subset(np.arange(600, 800))
    found = sketched_photos(new, [sketch])
    assert found.count == 0
    assert found.num_compared > 5
    # A third of these is new; of a sample of some tens, give or take a seventh.
    mixed = sketched_photos(everything.subset(rng.permutation(np.r_[200:800])), [sketch])
    assert mixed.count / mixed.num_compared == pytest.approx(2 / 3, abs=0.15)
    assert mixed.num_compared > 30
    assert sketched_photos(learnt, [sketch]) == Shared(64, 64)


def test_several_sketches_know_what_any_of_them_knows():
    digits = open_photos("digits")
    halves = [digits.subset(np.arange(0, 300)), digits.subset(np.arange(300, 450))]
    sketches = [half.sketch for half in halves]
    assert sketched_photos(digits.subset(np.arange(600)), sketches) == Shared(450, 600)
    assert sketched_photos(digits, []) == Shared(0, 0)


def test_a_set_whose_files_went_away_is_described_without_a_sketch(tmp_path):
    for index in range(3):
        save(tmp_path / f"{index}.png", photo(size=(8 + index, 8)))
    opened = open_photos(tmp_path)
    (tmp_path / "1.png").unlink()
    assert opened.description.keys() == {"name", "fingerprint", "num_photos"}


class _Bytes:
    """Photos that are only bytes."""

    def __init__(self, contents):
        self.contents = contents

    def mark(self, index):
        return Mark(len(self.contents[index]), lambda: self.contents[index])
