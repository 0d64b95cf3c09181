"""Arm's numbers under emulation, where a userland is at hand; the script itself anywhere."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "benchmarks" / "arm_numerics.py"


@pytest.mark.skipif(shutil.which("debootstrap") is not None, reason="debootstrap is here")
def test_what_is_missing_is_named(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, SCRIPT, tmp_path, "--userland", tmp_path / "arm"],
        capture_output=True, text=True, check=False, cwd=ROOT,
    )  # fmt: skip

    assert done.returncode != 0
    assert "apt-get install qemu-user-static debootstrap" in done.stderr


@pytest.mark.slow
@pytest.mark.skipif(
    "EDGESEED_ARM64_USERLAND" not in os.environ or "EDGESEED_ARM64_BUNDLE" not in os.environ,
    reason="EDGESEED_ARM64_USERLAND and EDGESEED_ARM64_BUNDLE name no userland and bundle",
)
def test_an_arm_processor_gives_the_answers_of_this_one(tmp_path: Path) -> None:
    out = tmp_path / "arm.json"
    command = [sys.executable, str(SCRIPT), os.environ["EDGESEED_ARM64_BUNDLE"], "--photos", "32"]
    command += ["--userland", os.environ["EDGESEED_ARM64_USERLAND"], "--out", str(out)]

    subprocess.run(command, check=True, cwd=ROOT)

    import json

    row = json.loads(out.read_text())["rows"][0]
    assert row["arm"].startswith("aarch64")
    assert row["agreement_with_x86"] >= 0.98
    for values in row["golden"]["outputs"].values():
        assert values["relative_error"] <= 5e-2
