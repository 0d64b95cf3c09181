"""Counts what makes the code hard to enter, by plain `ast`, and fails where a count grows.

A limit is today's number or lower: lower it with each change that brings the number down.
`python tests/test_structure.py` prints all of them.
"""

import ast
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("edgeseed", "distill", "export", "runtime", "profiles")

# To reach: 0, 0, 0, under 10 and 0.
LIMITS: dict[str, float] = {
    "imports of underscored modules from another folder": 0,
    "circles of files": 0,
    "class names that mean two things": 0,
    "string-key reads of manifest and measurement": 5,
    "files without a test of their own name": 9,
    "functions and classes that nothing but tests uses": 0,
    "private functions with exactly one caller, in percent": 70.0,
    "README words": 1000,
    "README lines": 150,
}
# Here more is better.
LEAST: dict[str, float] = {"comments per 100 lines": 1.7}


@cache
def modules() -> dict[str, Path]:
    """Full module name -> file, of all that is shipped."""
    found = {}
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            parts = parts if parts[0] == "edgeseed" else ("edgeseed", *parts)
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def _statements(node: ast.AST) -> Iterator[ast.AST]:
    """All nodes that run; not the imports that only type checkers see."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test):
            continue
        yield child
        yield from _statements(child)


@cache
def imports() -> dict[str, frozenset[str]]:
    """Module -> modules of ours that it imports when it runs."""
    found = {}
    for name, path in modules().items():
        targets = set()
        for node in _statements(tree(path)):
            if isinstance(node, ast.Import):
                targets |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                for alias in node.names:
                    whole = f"{node.module}.{alias.name}"
                    targets.add(whole if whole in modules() else node.module)
        found[name] = frozenset(target for target in targets if target in modules())
    return found


def package_of(name: str) -> str:
    path = modules()[name]
    return name if path.name == "__init__.py" else name.rpartition(".")[0]


def underscored_imports() -> list[str]:
    """Imports of a module that a reader may skip, from outside its folder."""
    return [
        f"{name} imports {target}"
        for name, targets in imports().items()
        for target in targets
        if target.rpartition(".")[2].startswith("_")
        and package_of(name) != target.rpartition(".")[0]
    ]


def circles() -> list[list[str]]:
    """Groups of files that import each other, by Tarjan's strongly connected components."""
    graph = imports()
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found = []

    def visit(name: str) -> None:
        index[name] = low[name] = len(index)
        stack.append(name)
        for target in graph[name]:
            if target not in index:
                visit(target)
                low[name] = min(low[name], low[target])
            elif target in stack:
                low[name] = min(low[name], index[target])
        if low[name] == index[name]:
            group = stack[stack.index(name) :]
            del stack[stack.index(name) :]
            if len(group) > 1:
                found.append(sorted(group))

    for name in graph:
        if name not in index:
            visit(name)
    return found


def repeated_classes() -> dict[str, list[str]]:
    """Class names that several files define, but for a plug-in's own config or target."""
    places = defaultdict(list)
    for name, path in modules().items():
        for node in tree(path).body:
            if isinstance(node, ast.ClassDef):
                places[node.name.lstrip("_")].append(name)
    return {name: found for name, found in sorted(places.items()) if len(found) > 1}


# What the code calls a manifest, a measurement, or a part of one.
_RECORDS = re.compile(
    r"^(\w+\.)*(manifest|measurement|measured|record|selection|speed|row|close)(\.\w+)*(\[.*\])?$"
    r"|\.(quantization|selection|speed|provenance)(\[.*\])?$"
)


_OTHER_RECORDS = ("edgeseed.distill.training.", "edgeseed.export.targets.coreml.interpreter.")


def string_key_reads() -> list[str]:
    """`manifest.x["key"]` and `measurement.get("key")` where a typed record could be read.

    Not in files that make a record of JSON: `from_dict` reads keys once, and says what lacks. Nor
    of metrics.jsonl, whose names differ by method; nor of the manifest inside a Core ML package,
    whose form is Apple's.
    """
    found = []
    for name, path in modules().items():
        if name.startswith(_OTHER_RECORDS):
            continue
        readers = {
            id(inner)
            for node in ast.walk(tree(path))
            if isinstance(node, ast.FunctionDef) and node.name.startswith(("from_dict", "_read"))
            for inner in ast.walk(node)
        }
        for node in ast.walk(tree(path)):
            key, owner = _string_key(node)
            if key is None or owner is None or id(node) in readers:
                continue
            if _RECORDS.search(ast.unparse(owner)):
                found.append(f"{name}:{node.lineno} {ast.unparse(node)}")  # type: ignore[attr-defined]
    return found


def _string_key(node: ast.AST) -> tuple[str | None, ast.expr | None]:
    if isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Load):
        if isinstance(node.slice, ast.Constant) and isinstance(node.slice.value, str):
            return node.slice.value, node.value
    elif (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == "get"
        and node.args
        and isinstance(node.args[0], ast.Constant)
        and isinstance(node.args[0].value, str)
    ):
        return node.args[0].value, node.func.value
    return None, None


def files_without_own_test() -> list[str]:
    """Files `a/b.py` without `tests/a/test_b.py`. Packages are their modules."""
    return [
        f"{path.relative_to(ROOT)} has no {test.relative_to(ROOT)}"
        for path in modules().values()
        if path.name != "__init__.py" and not (test := own_test(path)).is_file()
    ]


def own_test(path: Path) -> Path:
    parts = path.relative_to(ROOT).parts
    parts = parts[1:] if parts[0] == "edgeseed" else parts
    return ROOT.joinpath("tests", *parts[:-1], f"test_{path.stem.strip('_')}.py")


def single_caller_share() -> float:
    """Of functions and methods whose name starts with `_`, those that one place names."""
    num_private = num_single = 0
    for path in modules().values():
        private = [
            node.name
            for node in ast.walk(tree(path))
            if isinstance(node, ast.FunctionDef)
            and node.name.startswith("_")
            and not node.name.startswith("__")
        ]
        named = Counter(
            node.id if isinstance(node, ast.Name) else node.attr
            for node in ast.walk(tree(path))
            if isinstance(node, ast.Name | ast.Attribute)
        )
        num_private += len(private)
        num_single += sum(named[name] == 1 for name in private)
    return 100 * num_single / num_private


def comment_share() -> float:
    """Lines that are a comment, of 100 lines that are code or comment."""
    lines = [
        line.strip()
        for path in modules().values()
        for line in path.read_text(encoding="utf-8").splitlines()
        if line.strip()
    ]
    return 100 * sum(line.startswith("#") for line in lines) / len(lines)


CALLED_BY_OTHERS = {
    "get_command",  # click
    "do_GET", "do_POST", "log_message", "handle_error",  # http.server
    "fold_padding",  # coremltools, by its decorator
}  # fmt: skip
FOR_USERS = {
    "read_gallery",  # what an app does with a gallery, in Python
    "schema_text",  # writes runtime's JSON schema again
    "model_path",  # of the bundle that a user has read
}


def unused() -> list[str]:
    """Functions, methods and classes whose name stands nowhere but where they are defined."""
    texts = [path.read_text(encoding="utf-8") for path in modules().values()]
    others = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*.html")]
    for place in ("benchmarks/*.py", "docs/*.md", "pyproject.toml", "README.md"):
        others += ROOT.glob(place)
    texts += [path.read_text(encoding="utf-8") for path in others]
    words = Counter(word for text in texts for word in re.findall(r"[A-Za-z_]\w*", text))
    kinds = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
    return [
        f"{name}: {node.name}"
        for name, path in modules().items()
        for node in ast.walk(tree(path))
        if isinstance(node, kinds)
        and not node.name.startswith("__")
        and node.name not in CALLED_BY_OTHERS | FOR_USERS
        and words[node.name] == 1
    ]


def readme_words() -> tuple[int, int]:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    return len(text.split()), len(text.splitlines())


MEASURES: dict[str, Callable[[], float]] = {
    "imports of underscored modules from another folder": lambda: len(underscored_imports()),
    "circles of files": lambda: len(circles()),
    "class names that mean two things": lambda: len(repeated_classes()),
    "string-key reads of manifest and measurement": lambda: len(string_key_reads()),
    "files without a test of their own name": lambda: len(files_without_own_test()),
    "functions and classes that nothing but tests uses": lambda: len(unused()),
    "private functions with exactly one caller, in percent": lambda: round(
        single_caller_share(), 1
    ),
    "comments per 100 lines": lambda: round(comment_share(), 1),
    "README words": lambda: readme_words()[0],
    "README lines": lambda: readme_words()[1],
}
DETAILS: dict[str, Callable[[], Collection[object]]] = {
    "imports of underscored modules from another folder": underscored_imports,
    "circles of files": circles,
    "class names that mean two things": repeated_classes,
    "string-key reads of manifest and measurement": string_key_reads,
    "files without a test of their own name": files_without_own_test,
    "functions and classes that nothing but tests uses": unused,
}


def test_what_makes_code_hard_to_enter_does_not_grow() -> None:
    # In one test: each needs the whole tree parsed.
    found = {what: MEASURES[what]() for what in LIMITS}
    grown = {what: number for what, number in found.items() if number > LIMITS[what]}
    assert not grown, [DETAILS[what]() for what in grown if what in DETAILS]


@pytest.mark.parametrize("what", LEAST)
def test_what_helps_a_reader_does_not_shrink(what: str) -> None:
    assert MEASURES[what]() >= LEAST[what]


if __name__ == "__main__":
    for what, measure in MEASURES.items():
        number = measure()
        limit = LIMITS.get(what, LEAST.get(what))
        print(f"{number:>8}  {what} ({'at least' if what in LEAST else 'at most'} {limit})")
    for line in underscored_imports() + string_key_reads() + files_without_own_test():
        print("   ", line)
    print("   ", circles())
    for name, places in repeated_classes().items():
        print("   ", name, places)
