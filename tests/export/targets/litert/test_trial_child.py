"""The process that tries a LiteRT file: light to start, and one line where LiteRT refuses."""

import subprocess
import sys

import pytest

from edgeseed.export.targets.litert import trial_child

pytest.importorskip("ai_edge_litert", reason="needs ai-edge-litert: pip install edgeseed[litert]")

NO_LIMIT = "-1"


def run(content: bytes, *options: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, *options, str(trial_child.__file__), NO_LIMIT],
        input=content, capture_output=True, check=False,
    )  # fmt: skip


def test_what_is_no_model_is_refused_in_one_line() -> None:
    ended = run(b"no model at all")
    assert ended.returncode == trial_child.REFUSED
    assert len(ended.stdout.decode().splitlines()) == 1


def test_it_imports_neither_torch_nor_edgeseed() -> None:
    # Every file that is opened starts one: with torch it would take seconds.
    ended = run(b"no model at all", "-X", "importtime")
    imported = {
        line.rpartition("|")[2].strip().partition(".")[0]
        for line in ended.stderr.decode(errors="replace").splitlines()
        if line.startswith("import time:")
    }
    assert "numpy" in imported
    assert not imported & {"torch", "timm", "edgeseed"}
