"""Names that break lists are refused."""

import pytest

from edgeseed.core.errors import DataError
from edgeseed.core.names import check_class_names, split_names


@pytest.mark.parametrize("name", ["a\nb", "a\u2028b", "a\x85b", "a\x1bb", " ", "a\r"])
def test_class_names_that_break_lists_are_refused(name: str) -> None:
    with pytest.raises(DataError, match=r"line break or control character|empty name"):
        check_class_names(["cat", name], source="photos")


def test_class_names_that_are_equal_are_refused() -> None:
    with pytest.raises(DataError, match="two classes are named 'cat'"):
        check_class_names(["cat", "dog", "cat "], source="photos")


def test_a_comma_at_the_end_of_a_list_changes_nothing() -> None:
    assert split_names("onnx") == split_names("onnx,") == split_names(" onnx ,, ") == ["onnx"]
    assert split_names("a, b") == ["a", "b"]
    assert split_names(" , ") == []
