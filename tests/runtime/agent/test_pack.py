"""The archive, and that everything in it is Python 3.8."""

import ast
import zipfile
from pathlib import Path

import pytest

from edgeseed.runtime.agent._pack import (
    DEVICE_FILES,
    MAIN,
    RUNTIME,
    START,
    engine_files,
    pack_agent,
)

SOURCES = [MAIN, *DEVICE_FILES, *engine_files()]
AVAILABLE = {"numpy", "onnxruntime", "tensorrt", "coremltools", "PIL", "edgeseed", "resource"}
NEWER_METHODS = {"removeprefix", "removesuffix", "is_relative_to", "with_stem", "bit_count", "UTC"}
NEWER_ARGUMENTS = {"zip": {"strict"}, "dataclass": {"slots", "kw_only"}, "open": {"missing_ok"}}
GENERICS = {"list", "dict", "tuple", "set", "frozenset", "type"}


def test_the_same_sources_give_the_same_bytes(tmp_path: Path) -> None:
    pack_agent(tmp_path / "a.pyz", engine="onnxruntime")
    pack_agent(tmp_path / "b.pyz", engine="onnxruntime")

    assert (tmp_path / "a.pyz").read_bytes() == (tmp_path / "b.pyz").read_bytes()


@pytest.mark.parametrize("engine", engine_files())
def test_the_archive_holds_the_very_files_of_the_package(engine: str, tmp_path: Path) -> None:
    pack_agent(tmp_path / "agent.pyz", engine=Path(engine).stem)

    with zipfile.ZipFile(tmp_path / "agent.pyz") as archive:
        others = {f"edgeseed/runtime/{name}" for name in engine_files() if name != engine}
        assert others.isdisjoint(archive.namelist())
        for name in (MAIN, *DEVICE_FILES, engine):
            assert archive.read(f"edgeseed/runtime/{name}") == (RUNTIME / name).read_bytes()
        assert archive.read("edgeseed/__init__.py") == b""


def test_what_starts_the_agent_can_be_read_by_a_python_that_is_too_old() -> None:
    tree = ast.parse(START, feature_version=(3, 4))

    assert not any(isinstance(node, ast.JoinedStr | ast.AnnAssign) for node in ast.walk(tree))
    imported = [name for node in tree.body for name in _imported(node)]
    assert imported == ["json", "sys", "edgeseed.runtime.agent.__main__"]


@pytest.mark.parametrize("engine", engine_files())
def test_the_archive_is_small_enough_to_copy_over_any_cable(engine: str, tmp_path: Path) -> None:
    pack_agent(tmp_path / "agent.pyz", engine=Path(engine).stem)

    assert (tmp_path / "agent.pyz").stat().st_size < 50_000


@pytest.mark.parametrize("name", SOURCES)
def test_a_device_file_is_python_3_8(name: str) -> None:
    source = (RUNTIME / name).read_text(encoding="utf-8")
    tree = ast.parse(source, feature_version=(3, 8))

    problems = [problem for node in _executed(tree) for problem in _newer_than_3_8(node)]

    assert problems == []
    assert "from __future__ import annotations" in source or name.endswith("__init__.py")


@pytest.mark.parametrize("name", SOURCES)
def test_a_device_file_imports_only_what_a_device_has(name: str) -> None:
    tree = ast.parse((RUNTIME / name).read_text(encoding="utf-8"))
    inside = {f"edgeseed.runtime.{Path(file).stem}" for file in DEVICE_FILES}
    inside |= {"edgeseed.runtime", "edgeseed.runtime.agent", "edgeseed.runtime.engines"}
    inside |= {"edgeseed.core.agreement"}
    inside |= {
        f"edgeseed.runtime.{Path(file).with_suffix('').as_posix().replace('/', '.')}"
        for file in SOURCES
    }

    for node in _executed(tree):
        for module in _imported(node):
            top = module.partition(".")[0]
            assert top in AVAILABLE or _is_standard(top), f"{name} imports {module}"
            assert top != "edgeseed" or module in inside, f"{name} imports {module}"


def _is_standard(module: str) -> bool:
    import sys

    return module in sys.stdlib_module_names and module not in {"tomllib"}


def _imported(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    return [node.module or ""] if isinstance(node, ast.ImportFrom) else []


def _executed(tree: ast.AST) -> list[ast.AST]:
    """Every node that Python evaluates: not annotations, and not `if TYPE_CHECKING:`."""
    found: list[ast.AST] = []
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop()
        found.append(node)
        for field, value in ast.iter_fields(node):
            if field in ("annotation", "returns"):
                continue
            children = value if isinstance(value, list) else [value]
            waiting += [
                child
                for child in children
                if isinstance(child, ast.AST) and not _is_type_checking(child)
            ]
    return found


def _is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"


def _newer_than_3_8(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Attribute) and node.attr in NEWER_METHODS:
        return [f"line {node.lineno}: .{node.attr}"]
    if isinstance(node, ast.Subscript) and ast.unparse(node.value) in GENERICS:
        return [f"line {node.lineno}: {ast.unparse(node)}"]
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
        return [f"line {node.lineno}: {ast.unparse(node)}"]
    if isinstance(node, ast.Call):
        newer = NEWER_ARGUMENTS.get(ast.unparse(node.func), set())
        return [f"line {node.lineno}: {k.arg}=" for k in node.keywords if k.arg in newer]
    return []
