"""`edgeseed embed`: what is printed of a module."""

from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner

from edgeseed.cli._main import cli


def test_the_module_is_named_with_what_goes_into_the_app(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[dict[str, Any]] = []

    def embed(**options: Any) -> Any:
        calls.append(options)
        return SimpleNamespace(
            module="birds-web", platform="web", name="birds", target="onnx", precision="int8",
            num_files=40, assets_bytes=1_700_000,
        )  # fmt: skip

    monkeypatch.setattr("edgeseed.export.embed", embed)
    printed = CliRunner().invoke(cli, ["embed", "b", "--platform", "web", "--out", "birds-web"])
    assert calls == [{"bundle": "b", "platform": "web", "out": "birds-web", "name": None}]
    assert printed.output == (
        "birds-web: web module birds, onnx int8, 40 files; 1.70 MB of it go into the app\n"
        "read birds-web/README.md, and run its self-test in the app\n"
    )
