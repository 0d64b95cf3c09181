import functools
import json

import pytest
from support.export import tiny_preprocess

from edgeseed.core.preprocess import Preprocess, normalization
from edgeseed.export.file_metadata import compare_metadata, file_metadata
from edgeseed.export.targets.litert.checks import metadata_of


@pytest.mark.parametrize(
    ("channels", "colours"), [(1, "grey"), (3, "RGB"), (4, "RGB and a fourth channel")]
)
def test_the_input_is_described_in_the_students_colours(channels: int, colours: str) -> None:
    # A LiteRT file of a grey student said that it takes RGB.
    preprocess = Preprocess(image_size=8, resize=8, **normalization(channels))
    of_litert = functools.partial(metadata_of, input_type="uint8")
    for describe in (file_metadata, of_litert):
        texts = describe(preprocess, precision="int8", classes=None)
        assert texts["edgeseed.input"].startswith(f"{colours} ")
        assert json.loads(texts["edgeseed.preprocess"]) == preprocess.to_dict()
        assert "edgeseed.labels" not in texts


def test_labels_keep_their_letters() -> None:
    texts = file_metadata(tiny_preprocess(), precision="fp32", classes=("café", "bee"))
    assert texts["edgeseed.labels"] == '["café", "bee"]'


def test_each_difference_is_one_finding_and_long_texts_are_cut() -> None:
    wanted = {"same": "a", "lost": "b", "other": "x" * 100}
    found = {"same": "a", "other": "y" * 100, "more": "c"}
    said = {each.where: each.problem for each in compare_metadata(found, wanted)}
    assert said == {
        "metadata lost": "is missing, the manifest gives 'b'",
        "metadata more": "is 'c', the manifest gives missing",
        "metadata other": f"is '{'y' * 57}...', the manifest gives '{'x' * 57}...'",
    }
