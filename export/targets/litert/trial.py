"""Loads and runs a LiteRT file in a process of its own, before this one takes it.

LiteRT trusts what it reads. Most broken files make it raise, but some end the whole process: a
scale that is almost zero aborts it, a shape that is too large takes all memory. In a child either
is one clear line, as it is on a device.
"""

import signal
import subprocess
import sys
from pathlib import Path

from edgeseed.core.errors import ArtifactError
from edgeseed.export.targets.litert.trial_child import REFUSED

_MOST_SECONDS = 120.0
# Of address space, beside eight times the file. A student of 6 MB takes 0.3 GiB.
_MOST_GIB = 8


def try_model(content: bytes, *, source: Path, seconds: float = _MOST_SECONDS) -> None:
    """Runs a grey photo through a file, in a child process.

    Args:
        content: The file's.
        source: Where it is from, for the message.
        seconds: How long it may take.

    Raises:
        ArtifactError: If LiteRT refuses the file, ends its process, wants more than 8 GiB, or does
            not come to an end.
    """
    child = Path(__file__).with_name("trial_child.py")
    memory = (_MOST_GIB << 30) + 8 * len(content)
    try:
        done = subprocess.run(
            # -P: modules of this folder are not to stand in for those that LiteRT imports.
            [sys.executable, "-P", str(child), str(memory)],
            input=content, capture_output=True, timeout=seconds, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise _refusal(source, f"it does not end within {seconds:.0f} s") from error
    if done.returncode != 0:
        raise _refusal(source, _reason(done))


def _reason(done: subprocess.CompletedProcess[bytes]) -> str:
    if done.returncode in {-number for number in signal.Signals}:
        return f"LiteRT's process is ended by {signal.Signals(-done.returncode).name}"
    stream = done.stdout if done.returncode == REFUSED else done.stderr
    lines = stream.decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else f"LiteRT's process ends with code {done.returncode}"


def _refusal(source: Path, reason: str) -> ArtifactError:
    return ArtifactError(
        f"{source} is not a model that LiteRT can load and run ({reason}); it may be truncated or "
        "changed, or need a newer runtime: see minimum_runtime in the manifest"
    )
