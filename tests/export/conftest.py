"""The tiny student's bundles, made once and copied for each test that damages one."""

import functools
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from support.export import (
    CLASSES,
    save_tiny_student,
    tinted_photo,
    tiny_preprocess,
    tiny_student,
)
from support.memo import (
    CONVERT,
    conformance_set_of,
    remember_conformance_set,
    remember_conversions,
    remember_operators,
    remember_programs,
)
from support.shared import make_once

from edgeseed.core.network import StudentNetwork
from edgeseed.export import export


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    # The suite runs beside others: more threads would only wait for each other.
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def network() -> StudentNetwork:
    return tiny_student()


@pytest.fixture(autouse=True, scope="session")
def memo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as monkeypatch:
        remember_conformance_set(monkeypatch, tmp_path_factory)
        remember_conversions(monkeypatch, tmp_path_factory)
        remember_programs(monkeypatch)
        remember_operators(monkeypatch)
        yield


@pytest.fixture(scope="session")
def conformance_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `write_conformance_set` writes, once for all workers."""
    return conformance_set_of(tmp_path_factory)


@pytest.fixture
def convert_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests that ask whether a second conversion gives the same."""
    monkeypatch.setattr("edgeseed.export.targets.onnx.target._convert", CONVERT)


MakeOnce = Callable[[str, Callable[[Path], object]], Path]


@pytest.fixture(scope="session")
def once(tmp_path_factory: pytest.TempPathFactory) -> MakeOnce:
    """What is made once for all workers; see `support.shared.make_once`."""
    return functools.partial(make_once, tmp_path_factory)


@pytest.fixture(scope="session")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("export")


@pytest.fixture(scope="session")
def photos(once: MakeOnce) -> Path:
    """Class folders with 16 photos each, of other seeds than the head was fitted on."""
    return once("photos", lambda root: save_photos(root, range(100, 116)))


@pytest.fixture(scope="session")
def many_photos(once: MakeOnce) -> Path:
    """48 of each class, where one decision of the proof must not be three points."""
    return once("many_photos", lambda root: save_photos(root, range(300, 348)))


def save_photos(root: Path, seeds: range) -> None:
    for kind in CLASSES:
        (root / kind).mkdir(parents=True)
        for seed in seeds:
            tinted_photo(kind, seed).save(root / kind / f"{seed}.png")


@pytest.fixture(scope="session")
def student(once: MakeOnce, network: StudentNetwork) -> Path:
    return once("student.safetensors", lambda path: save_tiny_student(path, network))


# Bundles that several files of tests look at. They copy those that they change.


@pytest.fixture(scope="session")
def made_fp32(once: MakeOnce, student: Path, photos: Path) -> Path:
    return once("fp32", lambda out: export(student, precision="fp32", calibration=photos, out=out))


@pytest.fixture(scope="session")
def made_litert(once: MakeOnce, student: Path, photos: Path) -> Path:
    return once(
        "litert",
        lambda out: export(student, target="litert", calibration=photos, out=out, speed=False),
    )


@pytest.fixture(scope="session")
def litert_of(
    once: MakeOnce, student: Path, photos: Path, made_litert: Path
) -> Callable[[str], Path]:
    """The LiteRT bundle of a precision."""

    def make(precision: str) -> Path:
        if precision == "fp32":
            return made_litert
        return once(
            f"litert-{precision}",
            lambda out: export(
                student, target="litert", precision=precision, calibration=photos, out=out,
                speed=False, min_agreement=0.9 if precision in ("w8", "int8") else None,
                quantization={"max_float_layers": 0, "calibrator": "minmax"}
                if precision == "int8" else {},
            ),
        )  # fmt: skip

    return make


@pytest.fixture(scope="session")
def made_fp16(once: MakeOnce, student: Path, photos: Path) -> Path:
    return once("fp16", lambda out: export(student, precision="fp16", calibration=photos, out=out))


@pytest.fixture(scope="session")
def made_w8(once: MakeOnce, student: Path, photos: Path) -> Path:
    return once(
        "w8",
        lambda out: export(
            student, precision="w8", calibration=photos, out=out, min_agreement=0.95
        ),  # as `made_int8`
    )


@pytest.fixture(scope="session")
def made_int8(once: MakeOnce, student: Path, photos: Path) -> Path:
    return once(
        "int8",
        lambda out: export(
            student,
            precision="int8",
            calibration=photos,
            out=out,
            min_agreement=0.95,  # one of 32 photos is 3 points
            quantization={"max_float_layers": 0},
        ),
    )


@pytest.fixture(scope="session")
def made_coreml(once: MakeOnce, student: Path, photos: Path) -> Path:
    """In float16."""
    pytest.importorskip("coremltools", reason="needs coremltools")
    return once(
        "coreml",
        lambda out: export(student, target="coreml", precision="fp16", calibration=photos, out=out),
    )


@pytest.fixture(scope="session")
def made_tensorrt(once: MakeOnce, student: Path, photos: Path) -> Path:
    """In float16."""
    return once(
        "tensorrt",
        lambda out: export(
            student, target="tensorrt", precision="fp16", calibration=photos, out=out
        ),
    )


@pytest.fixture(scope="session")
def made_int8_coreml(once: MakeOnce, student: Path, photos: Path) -> Path:
    pytest.importorskip("coremltools")
    return once(
        "coreml-int8",
        lambda out: export(
            student,
            target="coreml",
            precision="int8",
            calibration=photos,
            out=out,
            # One of its 32 photos may fall to the other side.
            min_agreement=0.95,
            quantization={"max_float_layers": 0, "calibrator": "minmax"},
        ),
    )


@pytest.fixture(scope="session")
def added_of(once: MakeOnce, student: Path, photos: Path) -> Callable[[str, str], Path]:
    """The bundle of a target and precision with probabilities and the three best classes."""

    def make(target: str, precision: str) -> Path:
        if target == "litert":
            pytest.importorskip("ai_edge_litert", reason="needs ai-edge-litert")
        integers = {"max_float_layers": 0, "calibrator": "minmax"} if precision == "int8" else {}
        return once(
            f"added-{target}-{precision}",
            lambda out: export(
                student, target=target, precision=precision, calibration=photos, out=out,
                add_outputs=["probabilities", "top3"], speed=False, quantization=integers,
                min_agreement=0.9 if precision in ("w8", "int8") else None,
            ),
        )  # fmt: skip

    return make


@pytest.fixture(scope="session")
def pixels() -> npt.NDArray[np.uint8]:
    """(40, 3, 32, 32) photos that no student was trained on."""
    photos = [tinted_photo(kind, seed) for seed in range(200, 210) for kind in CLASSES]
    return np.stack([tiny_preprocess().pixels(photo) for photo in photos])


@pytest.fixture
def fp32_bundle(made_fp32: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(made_fp32, tmp_path / "fp32"))


@pytest.fixture
def int8_bundle(made_int8: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(made_int8, tmp_path / "int8"))
