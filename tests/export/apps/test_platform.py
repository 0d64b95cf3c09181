"""What every app platform keeps to, and how platforms are found."""

from pathlib import Path

import pytest

from edgeseed.core.bundle import read_bundle
from edgeseed.core.errors import UnknownNameError
from edgeseed.export.apps.contents import ModelFacts, model_facts
from edgeseed.export.apps.platform import PLATFORMS, Platform
from edgeseed.export.targets import TARGETS

APPS = Path(__file__).parents[3] / "export/apps"


@pytest.fixture(params=PLATFORMS.names())
def platform(request: pytest.FixtureRequest) -> Platform:
    found: Platform = PLATFORMS.load(request.param)
    return found


@pytest.fixture
def facts(made_fp32: Path) -> ModelFacts:
    return model_facts(read_bundle(made_fp32), module="birds")


def test_platforms_are_the_folders_and_no_file_beside_them() -> None:
    folders = {path.parent.name for path in APPS.glob("*/__init__.py")}
    assert set(PLATFORMS.names()) == folders
    assert {"android", "ios", "web"} <= folders
    with pytest.raises(UnknownNameError, match="did you mean 'ios'"):
        PLATFORMS.load("iso")
    with pytest.raises(UnknownNameError):
        PLATFORMS.load("contents")


def test_every_platform_says_what_it_runs(platform: Platform) -> None:
    assert platform.name in PLATFORMS.names()
    assert platform.targets
    assert set(platform.targets) <= set(TARGETS.names())
    assert platform.template.is_dir()
    assert not Path(platform.assets).is_absolute()


def test_templates_exist_and_constants_lie_inside_the_module(
    platform: Platform, facts: ModelFacts
) -> None:
    assert platform.template in platform.templates(facts)
    assert all(folder.is_dir() for folder in platform.templates(facts))
    constants = platform.constants(facts)
    assert constants
    for path, text in constants.items():
        assert ".." not in Path(path).parts
        assert not Path(path).is_absolute()
        assert text.endswith("\n")


def test_the_readme_speaks_of_the_module(platform: Platform, facts: ModelFacts) -> None:
    assert "birds" in platform.readme(facts).lower()
