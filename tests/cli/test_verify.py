"""`edgeseed verify`: of bundles and of apps' modules."""

import json
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner

from edgeseed import export
from edgeseed.cli._main import cli, main
from edgeseed.core.bundle import GateResult
from edgeseed.core.errors import GateError


@pytest.mark.parametrize("extra", [(), ("--json",)])
def test_verify_shows_all_gates_also_when_one_fails(
    extra: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    gates = (
        GateResult(name="student", value=0, limit=0, passed=True, unit="problems", n=1),
        GateResult(name="lint", value=2, limit=0, passed=False, unit="problems", n=1),
    )
    result = export.VerifyResult(
        bundle="b", target="onnx", precision="int8", runner="onnxruntime CPU", gates=gates
    )

    def fail(bundle: str, **_: Any) -> None:
        raise GateError("gate lint failed: two layers are float", result=result)

    monkeypatch.setattr("edgeseed.export.verify", fail)
    with pytest.raises(SystemExit) as caught:
        main(["verify", "b", *extra])
    assert caught.value.code == 1
    output = capsys.readouterr()
    assert output.err == "edgeseed: error: gate lint failed: two layers are float\n"
    if extra:
        value = json.loads(output.out)
        assert [gate["passed"] for gate in value["gates"]] == [True, False]
        assert value["failed"] == "gate lint failed: two layers are float"
    else:
        lines = output.out.splitlines()
        assert any("lint" in line and "FAIL" in line for line in lines), lines
        assert any("student" in line and "ok" in line for line in lines), lines


def test_limits_of_the_caller_reach_verify(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[dict[str, Any]] = []

    def note(bundle: str, **given: Any) -> None:
        calls.append(given)
        raise GateError("gate lint failed")

    monkeypatch.setattr("edgeseed.export.verify", note)
    CliRunner().invoke(
        cli, ["verify", "b", "--against", "s", "--min-agreement", "0.9", "--max-drop", "2"]
    )
    assert calls == [{"data": None, "against": "s", "min_agreement": 0.9, "max_drop": 2.0}]


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str | None]]:
    """Every path is an app's module; holds what was verified."""
    calls: list[tuple[str, str | None]] = []

    def verify_module(path: str, *, bundle: str | None) -> Any:
        calls.append((path, bundle))
        return SimpleNamespace(
            checked={"model": 1, "source": 4}, edited=("README.md",), module=path,
            platform="web", name="birds", bundle_digest="0123456789abcdef0123",
        )  # fmt: skip

    monkeypatch.setattr("edgeseed.export.apps.run.is_module", lambda path: True)
    monkeypatch.setattr("edgeseed.export.verify_module", verify_module)
    return calls


def test_an_apps_module_is_checked_against_its_bundle(
    module: list[tuple[str, str | None]],
) -> None:
    result = CliRunner().invoke(cli, ["verify", "birds", "--bundle", "b"])
    assert module == [("birds", "b")]
    assert result.output == (
        "birds: web module birds of model 0123456789abcdef...\n"
        "  ok    unchanged: 1 model, 4 source\nedited since: README.md\n"
    )


@pytest.mark.parametrize("option", ["--data", "--against", "--min-agreement", "--max-drop"])
def test_what_belongs_to_bundles_is_refused_for_a_module(
    module: list[tuple[str, str | None]], option: str
) -> None:
    result = CliRunner().invoke(cli, ["verify", "birds", option, "1"])
    assert result.exit_code == 2
    assert f"is an app's module: it takes --bundle, not {option}" in result.output
    assert module == []


def test_what_belongs_to_modules_is_refused_for_a_bundle() -> None:
    result = CliRunner().invoke(cli, ["verify", "nowhere", "--bundle", "b"])
    assert result.exit_code == 2
    assert "--bundle belongs to a module; nowhere is none" in result.output
