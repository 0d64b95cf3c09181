import time

import pytest

from edgeseed.export.speed import compare_speed


def test_a_model_of_half_the_work_is_twice_as_fast() -> None:
    def work(rounds: int) -> None:
        end = time.thread_time() + rounds * 1e-4
        while time.thread_time() < end:
            pass

    speeds = compare_speed(
        {"float": lambda: work(4), "int8": lambda: work(2)}, baseline="float", seconds=0.1
    )
    assert 1.4 < speeds["int8"].speedup < 2.8
    assert speeds["float"].speedup == 1
    assert speeds["int8"].p10_ms <= speeds["int8"].median_ms <= speeds["int8"].p90_ms


def test_models_take_turns_and_another_begins_each_round() -> None:
    order: list[str] = []
    runs = {name: (lambda name=name: order.append(name)) for name in "abc"}
    speeds = compare_speed(runs, baseline="a", seconds=0.0)
    warm_up = 9
    assert "".join(order[warm_up : warm_up + 9]) == "abcbcacab"
    assert all(speed.n == 10 for speed in speeds.values())
    assert len(order) == warm_up + 30


def test_a_machine_that_lets_models_wait_is_said_to_be_busy(
    capsys: pytest.CaptureFixture[str],
) -> None:
    # Who sleeps uses no processor, as who waits for one.
    compare_speed(
        {"fp32": lambda: time.sleep(1e-3), "int8": lambda: time.sleep(1e-3)},
        baseline="fp32",
        seconds=0.0,
    )
    said = " ".join(capsys.readouterr().err.split())
    assert "while fp32 and int8 were timed this machine was busy" in said
    assert "edgeseed profile" in said
