"""Settings as `edgeseed methods NAME` lists them: all of them, each with its default and help."""

import dataclasses

import pytest

from edgeseed.core.errors import UnknownNameError
from edgeseed.distill.method_listing import list_settings
from edgeseed.distill.methods import METHODS, load_method
from edgeseed.distill.training.settings import build_settings


@pytest.mark.parametrize("name", METHODS.names())
def test_every_setting_is_listed_with_what_it_is(name: str) -> None:
    settings = list_settings(name)
    own = {row.name for row in settings if "." not in row.name}
    assert own == {field.name for field in dataclasses.fields(load_method(name).Config)}
    assert {row.name.partition(".")[0] for row in settings if "." in row.name} == {
        "recipe", "views", "training", "student",
    }  # fmt: skip
    for row in settings:
        if not row.name.startswith("student."):
            assert len(row.help) > 5, row.name


@pytest.mark.parametrize("name", METHODS.names())
def test_what_is_listed_can_be_set(name: str) -> None:
    values = {row.name: row.default for row in list_settings(name)}
    settings = build_settings(
        load_method(name), name=name, options={}, overrides=values, config=None
    )
    assert settings.recipe == load_method(name).RECIPE


def test_an_unknown_method_names_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'seed'"):
        list_settings("sead")
