"""What a board's own tools say; their lines are answered by a table."""

from collections.abc import Callable
from pathlib import Path

import pytest

from edgeseed.runtime import state as module
from edgeseed.runtime.measurement import DeviceState
from edgeseed.runtime.state import POWER_MODE, THROTTLED, read_state


def tools(**answers: str) -> Callable[..., str | None]:
    """By the name of the program, or by program and argument."""

    def run(*command: str) -> str | None:
        return answers.get("_".join(command).replace("-", ""), answers.get(command[0]))

    return run


def test_a_machine_without_such_tools_has_no_state(tmp_path: Path) -> None:
    assert read_state(root=tmp_path, run=tools()) is None


def test_a_jetson_tells_mode_clocks_and_release(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/nv_tegra_release").write_text("# R36 (release), REVISION: 4.3, GCID: 38968081")
    answers = tools(
        nvpmodel="NV Power Mode: 15W\n0\n",
        jetson_clocks="GPU MinFreq=306000000 MaxFreq=624750000 CurrentFreq=306000000\n",
    )
    state = read_state(root=tmp_path, run=answers)
    assert state == DeviceState({POWER_MODE: "15W", "GPU clock": "not pinned", "L4T": "36.4.3"})


def test_clocks_that_cannot_move_are_pinned(tmp_path: Path) -> None:
    answers = tools(jetson_clocks="GPU MinFreq=624750000 MaxFreq=624750000 CurrentFreq=624750000")
    state = read_state(root=tmp_path, run=answers)
    assert state is not None
    assert state.facts == {"GPU clock": "pinned"}


def throttled(bits: str, before: str | None = None) -> list[str]:
    earlier = None if before is None else DeviceState({THROTTLED: before})
    state = read_state(
        earlier, root=Path("/nowhere"), run=tools(vcgencmd_get_throttled=f"throttled={bits}\n")
    )
    assert state is not None
    return [line.partition(" (")[0] for line in state.throttling]


@pytest.mark.parametrize(
    ("bits", "expected"),
    [
        ("0x0", []),
        ("0x1", ["under-voltage now"]),
        ("0x6", ["the CPU's clock is capped now", "throttled now"]),
        ("0x8", ["the soft temperature limit is active now"]),
        # Since boot, which may be days ago.
        ("0xf0000", []),
    ],
)
def test_each_bit_of_a_raspberry_pi_is_a_limit(bits: str, expected: list[str]) -> None:
    assert throttled(bits) == expected


def test_what_came_into_force_during_the_run_is_told_though_it_is_over() -> None:
    assert throttled("0x40000", before="0x0") == ["throttled during the run"]
    assert throttled("0x40000", before="0x40000") == []
    assert throttled("0x40004", before="0x40000") == ["throttled now"]


def test_a_raspberry_pi_tells_its_volts() -> None:
    answers = tools(vcgencmd_get_throttled="throttled=0x0", vcgencmd_measure_volts="volt=0.8640V")
    state = read_state(root=Path("/nowhere"), run=answers)
    assert state is not None
    assert state.facts["core volts"] == "0.8640"


@pytest.mark.parametrize(
    "script", ["echo NV Power Mode: 15W; exit 1", "sleep 5; echo NV Power Mode: 15W"]
)
def test_a_tool_that_fails_or_hangs_gives_no_fact(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str
) -> None:
    program = tmp_path / "nvpmodel"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setattr(module, "_TOOL_SECONDS", 0.2)
    assert read_state(root=tmp_path) is None
    program.write_text("#!/bin/sh\necho NV Power Mode: 15W\n")
    monkeypatch.setattr(module, "_TOOL_SECONDS", 10)
    state = read_state(root=tmp_path)
    assert state is not None
    assert state.facts == {POWER_MODE: "15W"}
