"""What the log of experiments names still exists."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
_NAMED = re.compile(r"`((?:\w+/)*test_\w+\.py)(?:::(test_\w+))?`")


def missing(text: str) -> list[str]:
    """Tests that a text names, below `tests/` or `tests/export/`, and that are not there."""
    found = []
    for path, name in _NAMED.findall(text):
        files = [ROOT / folder / path for folder in (".", "tests", "tests/export")]
        written = [file.read_text(encoding="utf-8") for file in files if file.is_file()]
        if not any(f"def {name}(" in each if name else True for each in written):
            found.append(f"{path}::{name}" if name else path)
    return found


def test_tests_that_the_log_names_exist() -> None:
    # The table of wrong numbers named a file whose tests had moved on.
    pages = [ROOT / "benchmarks/LOG.md", *sorted((ROOT / "benchmarks/log").glob("*.md"))]
    texts = {page.name: page.read_text(encoding="utf-8") for page in pages}
    assert sum(len(_NAMED.findall(text)) for text in texts.values()) > 40
    assert {name: missing(text) for name, text in texts.items() if missing(text)} == {}


def test_a_test_that_is_gone_is_found() -> None:
    text = "`core/test_pretrained.py::test_gone`, `core/test_gone.py`, `core/test_pretrained.py`"
    assert missing(text) == ["core/test_pretrained.py::test_gone", "core/test_gone.py"]
