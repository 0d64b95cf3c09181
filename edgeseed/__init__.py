"""edgeseed: from unlabelled photos and a big teacher to a small model, proven on your device."""

import os
from pathlib import Path
from typing import Any

# ONNX Runtime 1.29 and newer reports usage from Linux unless told not to before its import.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

# In a checkout the stages lie beside this folder: `distill/` is `edgeseed.distill`. Python run in
# the checkout's root finds this folder before an installed package, so it must find them as well.
_ROOT = Path(__file__).resolve().parent.parent
if (_ROOT / "pyproject.toml").is_file() and (_ROOT / "distill" / "method.py").is_file():
    __path__.append(str(_ROOT))


def __getattr__(name: str) -> Any:
    # importlib.metadata costs a tenth of the time that `edgeseed --help` may take.
    if name == "__version__":
        from edgeseed.core.environment import edgeseed_version

        return edgeseed_version()
    raise AttributeError(f"module 'edgeseed' has no attribute {name!r}")
