import dataclasses
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeseed.core.errors import ArtifactError, SchemaVersionError, UsageError
from edgeseed.export.apps.gallery import (
    Gallery,
    classify,
    make_gallery,
    read_gallery,
    unit,
    write_gallery,
)


def some_gallery(classes: tuple[str, ...] = ("cat", "dog"), seed: int = 0) -> Gallery:
    random = np.random.default_rng(seed)
    labels = np.arange(10) % len(classes)
    embeddings = random.normal(size=(len(classes), 6))[labels] * 3 + random.normal(size=(10, 6))
    return make_gallery(
        embeddings, labels, classes=classes, threshold=0.5, student_sha256="ab" * 32
    )


def test_a_gallery_is_read_as_it_was_written(tmp_path: Path) -> None:
    written = some_gallery()
    write_gallery(tmp_path / "g.bin", written)
    read = read_gallery(tmp_path / "g.bin")
    for field in dataclasses.fields(read):
        ours, theirs = getattr(read, field.name), getattr(written, field.name)
        assert np.array_equal(ours, theirs), field.name


@pytest.mark.slow
@settings(max_examples=50, deadline=None)
@given(names=st.lists(st.text(max_size=12), min_size=2, max_size=4, unique=True))
def test_any_class_name_survives(
    names: list[str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("names") / "g.bin"
    write_gallery(path, some_gallery(classes=tuple(names)))
    assert read_gallery(path).classes == tuple(names)


def test_the_nearest_entries_vote() -> None:
    gallery = some_gallery()
    for embedding, index in zip(gallery.embeddings, gallery.class_indices, strict=True):
        answer = classify(gallery, embedding * 7)
        assert answer.index == index
        assert answer.similarity == pytest.approx(1)
        assert answer.recognised


def test_votes_are_those_of_the_formula() -> None:
    gallery = some_gallery()
    query = np.random.default_rng(1).normal(size=6)
    cosines = [float(np.dot(unit(query), entry)) for entry in gallery.embeddings]
    order = sorted(range(len(cosines)), key=lambda i: -cosines[i])[: gallery.k]
    votes = {0: 0.0, 1: 0.0}
    for i in order:
        votes[int(gallery.class_indices[i])] += np.exp(cosines[i] / gallery.temperature)
    answer = classify(gallery, query)
    assert answer.index == max(votes, key=votes.__getitem__)
    assert answer.share == pytest.approx(votes[answer.index] / sum(votes.values()))


def test_a_query_of_zeros_is_not_recognised() -> None:
    assert classify(some_gallery(), np.zeros(6)).index is None


@pytest.mark.parametrize("length", [0, 7, 11, 30, -1, -4])
def test_a_gallery_that_is_not_whole_is_refused(tmp_path: Path, length: int) -> None:
    path = tmp_path / "g.bin"
    write_gallery(path, some_gallery())
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(ArtifactError, match=r"g\.bin"):
        read_gallery(path)


def test_a_newer_gallery_names_what_reads_it(tmp_path: Path) -> None:
    path = tmp_path / "g.bin"
    write_gallery(path, some_gallery())
    content = path.read_bytes().replace(b'"schema_version": 1', b'"schema_version": 9')
    path.write_bytes(content)
    with pytest.raises(SchemaVersionError, match="pip install --upgrade"):
        read_gallery(path)


def test_a_missing_gallery_says_what_was_expected(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="edgeseed gallery"):
        read_gallery(tmp_path / "none.bin")
