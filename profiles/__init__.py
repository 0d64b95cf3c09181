"""Facts about devices, one .toml each: `load("raspberry-pi-5")`, `names()`."""

from edgeseed.profiles.schema import EngineFacts, Profile, PublishedLatency, load, names

__all__ = ["EngineFacts", "Profile", "PublishedLatency", "load", "names"]
