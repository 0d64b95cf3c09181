"""Bundles as the export really makes them, through the whole runtime."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgeseed.core.bundle import read_bundle, seal_bundle
from edgeseed.core.errors import GateError
from edgeseed.runtime import compare, profile
from edgeseed.runtime.accuracy import float_outputs

ARCHITECTURE = "test_efficientnet"
SIZE = 32


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import torch

    from edgeseed.core.network import build_student, save_student
    from edgeseed.core.preprocess import Preprocess
    from edgeseed.core.student import Architecture, StudentSpec

    torch.manual_seed(0)
    architecture = Architecture(name=ARCHITECTURE)
    network = build_student(architecture, num_classes=2).eval()
    spec = StudentSpec(
        architecture=architecture,
        preprocess=Preprocess(image_size=SIZE, resize=SIZE),
        embedding_dim=network.embedding_dim,
        classes=("a", "b"),
    )
    path = tmp_path_factory.mktemp("student") / "student.safetensors"
    save_student(path, network, spec)
    return path


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        (root / name).mkdir()
        for index in range(30):
            pixels = rng.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / name / f"{index}.png")
    return root


@pytest.mark.slow
def test_an_exported_bundle_is_profiled_and_agrees_with_its_student(
    student: Path, photos: Path, instant: str, tmp_path: Path
) -> None:
    from edgeseed.export import export

    export(student, calibration=photos, out=tmp_path / "fp32", seed=0)

    result = profile(tmp_path / "fp32", protocol=instant, data=photos, out=tmp_path / "r.json")

    assert result.golden is not None
    assert max(result.golden.relative_error.values()) < 1e-3
    assert result.accuracy is not None
    assert result.accuracy.n == 60
    assert result.accuracy.agreement is not None
    assert result.accuracy.agreement.value == 1
    assert result.accuracy.cosine == pytest.approx(1, abs=1e-5)
    assert result.accuracy.top1 == result.accuracy.float_top1
    assert compare([tmp_path / "r.json"], html=tmp_path / "page.html").groups[0].rows
    assert float_outputs(read_bundle(tmp_path / "fp32"), np.zeros((2, 3, SIZE, SIZE), np.uint8))


@pytest.mark.slow
@pytest.mark.parametrize("target", ["onnx", "litert"])
def test_outputs_that_were_added_are_checked_where_it_runs(
    student: Path, instant: str, tmp_path: Path, target: str
) -> None:
    from edgeseed.export import export

    if target == "litert":
        pytest.importorskip("ai_edge_litert", reason="needs ai-edge-litert")
    bundle = tmp_path / "bundle"
    export(student, target=target, out=bundle, add_outputs=["probabilities", "top2"])

    result = profile(bundle, protocol=instant, out=tmp_path / "r.json")

    added = {"probabilities", "top2_probabilities", "top2_indices"}
    assert result.golden is not None
    assert added < set(result.golden.relative_error)
    assert max(result.golden.relative_error.values()) < 1e-3

    with np.load(bundle / "golden/model.npz") as archive:
        golden = dict(archive)
    golden["top2_indices"] = golden["top2_indices"][:, ::-1]
    np.savez(bundle / "golden/model.npz", **golden)
    seal_bundle(bundle, read_bundle(bundle, check=False).manifest)
    with pytest.raises(GateError, match="top2_indices is off by"):
        profile(bundle, protocol=instant, out=tmp_path / "again.json")
