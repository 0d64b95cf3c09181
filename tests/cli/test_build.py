"""`edgeseed build`: where it builds, and what is printed of the engine."""

from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner

from edgeseed.cli._main import cli


@pytest.mark.parametrize(
    ("words", "device"), [([], "host"), (["--device", "ssh:nvidia@jetson"], "ssh:nvidia@jetson")]
)
def test_the_engine_is_named_with_the_gpu_that_it_is_for(
    monkeypatch: pytest.MonkeyPatch, words: list[str], device: str
) -> None:
    calls: list[tuple[str, str]] = []

    def build(bundle: str, *, device: str) -> Any:
        calls.append((bundle, device))
        record = SimpleNamespace(
            size_bytes=2_000_000, seconds=61.4, gpu="Orin", compute_capability="8.7",
            tensorrt="10.3.0",
        )  # fmt: skip
        return SimpleNamespace(engine="b/engines/x.engine", record=record)

    monkeypatch.setattr("edgeseed.runtime.build", build)
    printed = CliRunner().invoke(cli, ["build", "b", *words])
    assert printed.exit_code == 0
    assert calls == [("b", device)]
    assert printed.stdout == (
        "b/engines/x.engine: 2.00 MB, built in 61 s for Orin (compute capability 8.7), "
        "TensorRT 10.3.0\n"
    )
