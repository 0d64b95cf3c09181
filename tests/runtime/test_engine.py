"""What an engine says of where a model runs, and of a package that is missing or broken."""

import json
import sys
from pathlib import Path

import pytest

from edgeseed.runtime.engine import Engine, EngineError, Placement, import_engine
from edgeseed.runtime.engines import ENGINES

PACKAGES = {"onnxruntime": "onnxruntime", "litert": "ai_edge_litert"}


@pytest.mark.parametrize(
    ("nodes", "share"),
    [({"gpu": 3, "cpu": 1}, 0.75), ({"cpu": 4}, 0.0), ({"gpu": 2}, 1.0), ({}, None), (None, None)],
)
def test_the_share_on_the_requested_unit_is_counted(
    nodes: dict[str, int] | None, share: float | None
) -> None:
    placement = Placement(requested="gpu", actual="gpu", nodes=nodes)
    assert placement.share == share
    assert json.loads(json.dumps(placement.to_dict()))["share"] == share


def test_an_engine_that_does_not_tell_has_no_layer_times() -> None:
    assert Engine.time_layers(None, unit="cpu", threads=1, feeds={}, runs=1) is None  # type: ignore[arg-type]


def test_an_engine_has_to_open_run_and_close() -> None:
    assert Engine.__abstractmethods__ == {"version", "open", "infer", "close"}


def install(folder: Path, package: str, content: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package that is found before any other of its name."""
    (folder / package).mkdir()
    (folder / package / "__init__.py").write_text(content)
    (folder / package / "interpreter.py").write_text("import _a_library_that_is_gone")
    for name in [name for name in sys.modules if name.partition(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(folder)


def test_a_package_that_is_not_there_is_said_to_be_missing() -> None:
    with pytest.raises(EngineError, match=r"^Nothing is not installed .* pip install not-there$"):
        import_engine("not_there", title="Nothing", package="not-there")
    with pytest.raises(EngineError, match="is not installed"):
        import_engine("not_there.inside", title="Nothing", package="not-there")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("import _a_library_that_is_gone", "No module named '_a_library_that_is_gone'"),
        ("raise OSError('libfoo.so: cannot open shared object file')", "libfoo.so"),
        ("raise ImportError('undefined\\nsymbol')", "undefined symbol"),
    ],
)
@pytest.mark.parametrize("engine", PACKAGES)
def test_a_package_that_is_broken_is_not_said_to_be_missing(
    engine: str, content: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, PACKAGES[engine], content, monkeypatch)
    with pytest.raises(
        EngineError, match=rf"installed for this Python and cannot be imported \(.*{reason}.*"
        r"\); install it anew there: python3 -m pip install --force-reinstall",
    ) as caught:  # fmt: skip
        ENGINES.load(engine).version()
    assert "\n" not in str(caught.value)


def test_a_part_of_a_package_that_is_broken_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, "ai_edge_litert", "", monkeypatch)
    with pytest.raises(EngineError, match=r"LiteRT is installed .*_a_library_that_is_gone"):
        ENGINES.load("litert").version()
