"""A bundle and a device become a result: `profile`, `compare`, and what they are made of."""

from typing import TYPE_CHECKING

from edgeseed.core.lazy import attach

if TYPE_CHECKING:
    from edgeseed.runtime.comparison import compare as compare
    from edgeseed.runtime.profiling import profile as profile
    from edgeseed.runtime.profiling import profile_in_turns as profile_in_turns
    from edgeseed.runtime.ranking import Comparison as Comparison
    from edgeseed.runtime.result import Result as Result
    from edgeseed.runtime.result import read_result as read_result
    from edgeseed.runtime.tensorrt_build import build as build

__getattr__, __all__ = attach(  # pyright: ignore[reportUnsupportedDunderAll]
    __name__,
    {
        "Comparison": ".ranking:Comparison",
        "Result": ".result:Result",
        "build": ".tensorrt_build:build",
        "compare": ".comparison:compare",
        "profile": ".profiling:profile",
        "profile_in_turns": ".profiling:profile_in_turns",
        "read_result": ".result:read_result",
    },
)
