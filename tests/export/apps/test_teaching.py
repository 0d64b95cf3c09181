import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from edgeseed.cli._main import cli
from edgeseed.core.errors import DataError, UsageError
from edgeseed.export import export, gallery
from edgeseed.export.apps.gallery import read_gallery
from edgeseed.export.apps.teaching import choose_threshold


def test_the_threshold_tells_known_photos_from_unknown_ones() -> None:
    known, unknown = np.array([0.9, 0.8, 0.7, 0.6]), np.array([0.5, 0.3, 0.2, 0.1])
    threshold = choose_threshold(known, unknown)
    assert 0.5 < threshold < 0.6


def test_the_threshold_is_the_best_of_all() -> None:
    random = np.random.default_rng(0)
    known, unknown = random.normal(0.7, 0.2, 50), random.normal(0.4, 0.2, 50)

    def score(border: float) -> float:
        return float((known >= border).mean() + (unknown < border).mean())

    chosen = choose_threshold(known, unknown)
    assert score(chosen) == max(score(border) for border in np.linspace(-1, 2, 3001))


def test_a_gallery_of_a_student_recognises_photos_that_are_not_in_it(
    student: Path, photos: Path, tmp_path: Path
) -> None:
    result = gallery(student, data=photos, out=tmp_path / "g.bin")
    made = read_gallery(tmp_path / "g.bin")
    assert made.embeddings.shape == (20, result.embedding_dim)
    assert np.allclose(np.linalg.norm(made.embeddings, axis=1), 1, atol=1e-6)
    assert made.classes == ("blue", "green", "plain", "red")
    assert made.threshold == result.threshold
    assert result.num_held_out == 44
    assert result.accuracy > 0.6
    # Chance would be one half of each.
    assert result.accepted + result.unknown_rejected > 1


def test_a_bundle_gives_the_embeddings_that_its_app_will_see(
    student: Path, photos: Path, tmp_path: Path
) -> None:
    export(student, target="onnx", precision="fp32", out=tmp_path / "bundle")
    gallery(tmp_path / "bundle", data=photos, out=tmp_path / "bundle.bin")
    gallery(student, data=photos, out=tmp_path / "student.bin")
    ours, theirs = read_gallery(tmp_path / "bundle.bin"), read_gallery(tmp_path / "student.bin")
    assert ours.student_sha256 == theirs.student_sha256
    assert np.allclose(ours.embeddings, theirs.embeddings, atol=1e-3)


def test_a_class_with_too_few_photos_is_named(student: Path, photos: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="class 'blue' has 16 photos; 20 for the gallery"):
        gallery(student, data=photos, out=tmp_path / "g.bin", per_class=20)
    with pytest.raises(DataError, match=r"or give --per-class 14$"):
        gallery(student, data=photos, out=tmp_path / "g.bin", per_class=20)
    assert not (tmp_path / "g.bin").exists()


def test_what_is_neither_student_nor_bundle_is_refused(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no bundle"):
        gallery(tmp_path, data=photos, out=tmp_path / "g.bin")


def test_the_command_prints_what_it_measured(student: Path, photos: Path, tmp_path: Path) -> None:
    arguments = ["gallery", str(student), "--data", str(photos), "--out", str(tmp_path / "g.bin")]
    result = CliRunner().invoke(cli, [*arguments, "--json"])
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["num_entries"] == 20
