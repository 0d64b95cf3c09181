"""What no linter sees: that every folder lands in the wheel, and that stages stay apart."""

import ast
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from setuptools.glob import glob

ROOT = Path(__file__).parents[1]
SOURCES = {
    "edgeseed": ROOT / "edgeseed",
    "edgeseed.distill": ROOT / "distill",
    "edgeseed.export": ROOT / "export",
    "edgeseed.runtime": ROOT / "runtime",
    "edgeseed.profiles": ROOT / "profiles",
}
STAGES = ("distill", "export", "runtime")
# What a part may import of the others. The command, and what it runs, stand on top.
ALLOWED: dict[str, set[str]] = {
    "core": set(),
    "profiles": {"core"},
    **{stage: {"core", "profiles"} for stage in STAGES},
}


def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def packages_on_disk() -> set[str]:
    found = set()
    for package, folder in SOURCES.items():
        for file in folder.rglob("__init__.py"):
            parts = file.parent.relative_to(folder).parts
            found.add(".".join((package, *parts)))
    return found


def test_every_package_is_listed_so_that_none_vanishes_from_the_wheel() -> None:
    assert set(project()["tool"]["setuptools"]["packages"]) == packages_on_disk()


def test_every_folder_with_python_files_is_a_package() -> None:
    for folder in SOURCES.values():
        for file in folder.rglob("*.py"):
            assert (file.parent / "__init__.py").exists(), f"{file.parent} has no __init__.py"


def test_every_kind_of_data_file_is_shipped() -> None:
    patterns = project()["tool"]["setuptools"]["package-data"]["*"]
    shipped = {pattern.removeprefix("*") for pattern in patterns} | {".py"}
    for folder in SOURCES.values():
        for file in folder.rglob("*"):
            in_template = folder.name == "export" and any(
                part.partition("_")[0] == "template" for part in file.parts
            )
            if in_template or "__pycache__" in file.parts or file.name == "py.typed":
                continue
            if file.is_file():
                assert file.suffix in shipped, f"{file} would not be in the wheel"


def test_every_file_of_an_app_template_is_shipped() -> None:
    # These folders are no packages, so that the patterns above do not reach them.
    patterns = project()["tool"]["setuptools"]["package-data"]["edgeseed.export.apps"]
    root = ROOT / "export/apps"
    shipped = {
        Path(found) for pattern in patterns for found in glob(str(root / pattern), recursive=True)
    }
    templates = {file for file in root.glob("*/template*/**/*") if file.is_file()}
    assert templates
    assert templates <= shipped


def test_type_checkers_see_every_package() -> None:
    links = {path.name for path in (ROOT / ".typing/edgeseed").iterdir()}
    tops = {path.name for path in (ROOT / "edgeseed").iterdir() if path.name != "__pycache__"}
    assert links == tops | set(STAGES) | {"profiles"}


def imported_modules(path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: import by the full name"
            names.add(node.module or "")
    return names


@pytest.mark.parametrize("part", sorted(ALLOWED))
def test_a_part_imports_only_what_lies_below_it(part: str) -> None:
    folder = ROOT / "edgeseed/core" if part == "core" else SOURCES[f"edgeseed.{part}"]
    for path in folder.rglob("*.py"):
        for name in imported_modules(path):
            if name.startswith("edgeseed."):
                other = name.split(".")[1]
                assert other == part or other in ALLOWED[part], f"{path} imports {name}"


def test_the_readme_and_ci_run_the_same_test_command() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    found = re.search(r"^command='(.*)'$", (ROOT / ".ci/run").read_text(encoding="utf-8"), re.M)
    assert found is not None
    assert f"\n{found[1]}\n" in readme


# What a person does in a checkout: its folder edgeseed/ comes before an installed package.
FROM_CHECKOUT = {
    "tests": ["-m", "pytest", "--collect-only", "-q", "-n", "0", "tests/core/test_names.py"],
    "command": ["-m", "edgeseed", "--version"],
    "stages": [
        "-c",
        "import edgeseed.distill, edgeseed.export, edgeseed.runtime, edgeseed.profiles",
    ],
}


@pytest.mark.parametrize("way", FROM_CHECKOUT)
@pytest.mark.parametrize("installed", [pytest.param(True, marks=pytest.mark.slow), False])
def test_it_works_from_the_checkout(tmp_path: Path, way: str, installed: bool) -> None:
    # A shadow of the installed package, found after the checkout: it must not be needed or used.
    shadow = tmp_path / "site"
    if installed:
        (shadow / "edgeseed").mkdir(parents=True)
        (shadow / "edgeseed/__init__.py").write_text("raise AssertionError('the wrong edgeseed')")
        (shadow / "edgeseed-0.0.1.dist-info").mkdir()
        metadata = "Metadata-Version: 2.1\nName: edgeseed\nVersion: 0.0.1\n"
        (shadow / "edgeseed-0.0.1.dist-info/METADATA").write_text(metadata)
    done = subprocess.run(
        [sys.executable, *FROM_CHECKOUT[way]], cwd=ROOT, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(shadow)}, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    if way == "command":
        assert done.stdout.strip() == f"edgeseed {project()['project']['version']}"
