"""Networks by the name and the arguments of timm."""

import pytest

from edgeseed.core.errors import (
    ConfigError,
    UnknownNameError,
)
from edgeseed.core.network import build_student
from edgeseed.core.student import Architecture


def test_an_unknown_architecture_gets_the_nearest() -> None:
    with pytest.raises(
        UnknownNameError, match="unknown student 'mobilenetv3_larg_100'; did you mean"
    ):
        build_student(Architecture(name="mobilenetv3_larg_100"))


def test_arguments_that_a_model_does_not_take_are_an_error() -> None:
    with pytest.raises(ConfigError, match="cannot be built"):
        build_student(Architecture(name="test_efficientnet", kwargs={"no_such": 1}))
