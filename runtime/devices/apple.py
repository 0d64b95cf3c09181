"""This Mac, with Core ML: `apple`. An iPhone's numbers come by a file of its own benchmark.

The Swift package that `edgeseed embed --platform ios` writes has a benchmark that runs on a
connected iPhone and writes `measurement.json`; `edgeseed profile BUNDLE --measurement FILE` reads
it. Not run on a real Mac or iPhone.
"""

import platform
from collections.abc import Callable
from pathlib import Path
from typing import Self

from edgeseed.core.errors import ConfigError, WorkError
from edgeseed.profiles import EngineFacts, Profile
from edgeseed.runtime.device import Ended
from edgeseed.runtime.devices.host import HostDevice
from edgeseed.runtime.engines.coreml import CoreMLEngine


class AppleDevice(HostDevice):
    """Runs the agent here, where here is a Mac."""

    kind = "apple"

    @classmethod
    def from_address(cls, address: str) -> Self:
        """A Mac has no address."""
        if address:
            raise ConfigError(
                f"--device apple is this Mac and takes no address, found {address!r}; for an "
                "iPhone run the Swift package's benchmark, and give its file by --measurement"
            )
        return cls()

    def engine_for(self, profile: Profile, target: str) -> EngineFacts:
        """Core ML with all units of the Mac, where the profile is of no other device."""
        known = [engine.target for engine in profile.engines]
        if target in CoreMLEngine.targets and target not in known and profile.form_factor == "any":
            precisions = ("fp16", "w8", "int8", "fp32")
            return EngineFacts(
                name=CoreMLEngine.name, target=target, unit="all", precisions=precisions
            )
        return super().engine_for(profile, target)

    def run_agent(self, work: Path, *, on_line: Callable[[str], None]) -> Ended:
        """Run the agent, on macOS.

        Raises:
            WorkError: If this is no Mac.
        """
        if platform.system() != "Darwin":
            raise WorkError(
                f"--device apple is a Mac, and this is {platform.system()}: run edgeseed there; "
                "for an iPhone run the Swift package's benchmark, and give its file by "
                "--measurement"
            )
        return super().run_agent(work, on_line=on_line)


DEVICE = AppleDevice
