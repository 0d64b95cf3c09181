"""Settings of post-training quantization check themselves."""

import pytest

from edgeseed.core.errors import UnknownNameError
from edgeseed.export.quantize.config import QuantizeConfig
from edgeseed.export.quantize.ranges.observers import METHODS, RETIRED


@pytest.mark.parametrize("calibrator", ["auto", *METHODS])
def test_every_way_of_choosing_ranges_can_be_named(calibrator: str) -> None:
    assert QuantizeConfig(calibrator=calibrator).calibrator == calibrator


@pytest.mark.parametrize("name", RETIRED)
def test_a_calibrator_that_is_gone_says_what_is_used_instead(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert QuantizeConfig(calibrator=name).calibrator == RETIRED[name]
    said = " ".join(capsys.readouterr().err.split())
    assert f"calibrator={name} is no longer there: {RETIRED[name]} is used instead" in said


def test_an_unknown_calibrator_suggests_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'minmax'"):
        QuantizeConfig(calibrator="min_max")


@pytest.mark.parametrize("wrong", [{"recovery_steps": 0}, {"recovery_lr": 0.0}])
def test_settings_of_the_recovery_are_checked_before_any_work(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"must be|at least|above"):
        QuantizeConfig(**wrong)  # type: ignore[arg-type]


def test_the_recovery_learns_as_it_was_told() -> None:
    found = QuantizeConfig(recovery_steps=7, recovery_lr=0.5).recovery
    assert (found.steps, found.lr) == (7, 0.5)
