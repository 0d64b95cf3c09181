"""Packs the agent into one file, `agent.pyz`, out of the very files that the host uses.

The archive mirrors the package (`edgeseed/runtime/latency.py` and so on), so that one import line
is right in both places; on the device its `edgeseed` holds these few files and nothing else.
"""

import zipfile
from pathlib import Path

from edgeseed import core

RUNTIME = Path(__file__).parent.parent
MAIN = "agent/__main__.py"
DEVICE_FILES = (
    "agent/_build.py",
    "agent/job_file.py",
    "cuda.py",
    "engine.py",
    "latency.py",
    "machine.py",
    "measurement.py",
    "power.py",
    "state.py",
    "tegrastats.py",
    "tensorrt_engines.py",
    "thermals.py",
)
"""Files that every agent holds, below runtime/. With MAIN and the engines they stay Python 3.8."""
CORE = Path(core.__file__).parent
CORE_FILES = ("agreement.py",)
"""The same of edgeseed/core: golden outputs are compared by the measure of the export's gate."""

START = """\
# Any Python can read this, so that one that is too old, or has no numpy, can be told so.
import json
import sys


def refuse(message):
    print(json.dumps({"event": "error", "kind": "engine", "message": message}))
    sys.exit(1)


found = ".".join(str(part) for part in sys.version_info[:3])
if sys.version_info < (3, 8):
    refuse(
        "the agent needs Python 3.8 or newer, and %s is %s; name a newer one: over ssh "
        "?python=PATH, else run edgeseed itself with it" % (sys.executable, found)
    )
try:
    import numpy
except ImportError as error:
    refuse(
        "numpy cannot be imported by %s (%s); install it there, `%s -m pip install numpy`, or over "
        "ssh name another Python with ?python=PATH, or add ?install=venv"
        % (sys.executable, error, sys.executable)
    )

from edgeseed.runtime.agent.__main__ import main

sys.exit(main(sys.argv[1:]))
"""
"""The archive's `__main__.py`; the agent itself is imported once it can run."""
# The first day that a zip can name: entries with today's would make other bytes tomorrow.
_EARLIEST = (1980, 1, 1, 0, 0, 0)


def engine_files() -> tuple[str, ...]:
    """Every engine, below runtime/."""
    files = (RUNTIME / "engines").glob("*.py")
    return tuple(sorted(f"engines/{file.name}" for file in files if file.name != "__init__.py"))


def pack_agent(destination: Path, *, engine: str | None) -> None:
    """Write the agent; the same sources give the same bytes.

    Args:
        destination: the file.
        engine: the one that the job asks for, as in `Job.engine`; None where nothing is run.
    """
    wanted = [name for name in engine_files() if Path(name).stem == engine]
    sources = sorted({MAIN, *DEVICE_FILES, *wanted})
    packages = ["", *sorted({f"{Path(name).parent.as_posix()}/" for name in sources} - {"./"})]
    with zipfile.ZipFile(destination, "w", zipfile.ZIP_DEFLATED) as archive:
        _add(archive, "__main__.py", START.encode())
        _add(archive, "edgeseed/__init__.py", b"")
        _add(archive, "edgeseed/core/__init__.py", b"")
        for name in CORE_FILES:
            _add(archive, f"edgeseed/core/{name}", (CORE / name).read_bytes())
        for package in packages:
            _add(archive, f"edgeseed/runtime/{package}__init__.py", b"")
        for name in sources:
            _add(archive, f"edgeseed/runtime/{name}", (RUNTIME / name).read_bytes())


def _add(archive: zipfile.ZipFile, name: str, content: bytes) -> None:
    archive.writestr(zipfile.ZipInfo(name, date_time=_EARLIEST), content, zipfile.ZIP_DEFLATED)
