"""`apple` where it is no Mac; on a Mac it is the host."""

import platform
from pathlib import Path

import pytest

from edgeseed import profiles
from edgeseed.core.bundle import Bundle
from edgeseed.core.errors import ConfigError, WorkError
from edgeseed.runtime import profile
from edgeseed.runtime.devices import open_device
from edgeseed.runtime.engines.coreml import CoreMLEngine


@pytest.mark.skipif(platform.system() == "Darwin", reason="this is a Mac")
def test_elsewhere_it_says_where_to_run_and_how_an_iphone_is_measured(
    bundle: Bundle, tmp_path: Path
) -> None:
    with pytest.raises(WorkError, match=r"is a Mac, and this is .*give its file by --measurement"):
        profile(bundle.path, device="apple", out=tmp_path / "r.json")


def test_a_mac_runs_core_ml_bundles_without_a_profile_of_another_device() -> None:
    # It was "profile host runs no coreml bundle", on a Mac as well.
    mac, host = open_device("apple"), profiles.load("host")

    assert mac.engine_for(host, "coreml").name == "coreml"
    assert mac.engine_for(host, "coreml").unit in CoreMLEngine.units
    assert mac.engine_for(profiles.load("iphone-16"), "coreml").unit == "neural-engine"
    assert mac.engine_for(host, "onnx") == host.engine_for("onnx")
    with pytest.raises(ConfigError, match="or name another --profile or --device"):
        open_device("host").engine_for(host, "coreml")


def test_it_takes_no_address() -> None:
    with pytest.raises(ConfigError, match="for an iPhone run the Swift package's benchmark"):
        open_device("apple:iphone")
