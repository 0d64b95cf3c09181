"""docs/finding-your-way.md sends nobody to a place that has moved."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs/finding-your-way.md").read_text(encoding="utf-8")
ROWS = re.findall(r"^\| (.*\?) \| (.*) \| (.*) \|$", PAGE, re.MULTILINE)


@pytest.mark.parametrize(("question", "route", "answer"), ROWS)
def test_each_route_ends_where_the_answer_is(question: str, route: str, answer: str) -> None:
    quoted = re.findall(r"`([^`]+)`", f"{route} {answer}")
    files = [ROOT / name for name in quoted if name.endswith((".py", ".toml")) and "/" in name]
    assert files, question
    text = "".join(file.read_text(encoding="utf-8") for file in files)
    for name in quoted:
        if "." not in name and "/" not in name:
            assert f"def {name}(" in text, f"{name} is in none of {files}"
        elif re.fullmatch(r"\w+\._?\w+", name) and not name.endswith(".py"):
            owner, _, method = name.partition(".")
            assert f"class {owner}(" in text
            assert f"def {method}(" in text


def test_four_questions_are_answered() -> None:
    assert len(ROWS) == 4
    folders = re.findall(r"→ `([^`]+/)`", PAGE)
    assert all(list(ROOT.glob(f"**/{folder}")) for folder in folders)
