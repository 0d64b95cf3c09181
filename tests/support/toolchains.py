"""Kotlin and Swift, where this machine has them: tests that need one skip with what is missing."""

import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

_COMPILER_JARS = (
    "kotlin-compiler", "kotlin-stdlib", "kotlin-script-runtime", "kotlin-reflect",
    "kotlinx-coroutines-core-jvm", "annotations-13.0",
)  # fmt: skip
_JUNIT = (Path("/usr/share/java/junit4.jar"), Path("/usr/share/java/hamcrest-core.jar"))


class Kotlin:
    """A Kotlin compiler and a JVM."""

    def __init__(self) -> None:
        home = os.environ.get("EDGESEED_KOTLIN")
        if not home or not shutil.which("java"):
            pytest.skip("no Kotlin compiler and Java: sh tests/toolchains/kotlin.sh DIR")
        if not all(jar.exists() for jar in _JUNIT):
            pytest.skip("JUnit 4 is not installed: apt install junit4")
        self._jars = Path(home) / "lib"
        self.libraries = (self._jars / "kotlin-stdlib.jar", *_JUNIT)

    def compile(
        self, sources: Sequence[Path], out: Path, *, classpath: Sequence[Path] = ()
    ) -> None:
        """Compiles to a jar or a folder; warnings are errors."""
        compiler = ":".join(str(self._jars / f"{name}.jar") for name in _COMPILER_JARS)
        path = ":".join(map(str, (*self.libraries, *classpath)))
        run(
            "java", "-Xmx1g", "-cp", compiler, "org.jetbrains.kotlin.cli.jvm.K2JVMCompiler",
            "-no-stdlib", "-no-reflect", "-Werror", "-jvm-target", "17", "-cp", path,
            "-d", str(out), *map(str, sources),
        )  # fmt: skip

    def run(self, name: str, *arguments: str, classpath: Sequence[Path], **properties: str) -> str:
        """Runs a class; returns what it printed."""
        path = ":".join(map(str, (*self.libraries, *classpath)))
        settings = [f"-Dedgeseed.{key}={value}" for key, value in properties.items()]
        return run("java", *settings, "-cp", path, name, *arguments)


class Swift:
    """A Swift toolchain: of the PATH, or of a Debian 13 in a folder."""

    def __init__(self, scratch: Path) -> None:
        chroot = os.environ.get("EDGESEED_SWIFT_CHROOT")
        self._root = Path(chroot) if chroot else None
        if self._root is None and not shutil.which("swift"):
            pytest.skip("no Swift toolchain: sh tests/toolchains/swift.sh DIR, or install swift")
        # A chroot sees only what lies in it.
        self.scratch = scratch if self._root is None else self._root / "tmp" / scratch.name
        self.scratch.mkdir(parents=True, exist_ok=True)

    def run(self, folder: Path, command: str) -> str:
        """Runs a shell command in a folder below `scratch`; returns what it printed."""
        if self._root is None:
            return run("sh", "-c", command, cwd=folder)
        inside = f"/{folder.relative_to(self._root)}"
        path = "PATH=$PATH:/usr/libexec/swift/bin"
        return run("chroot", str(self._root), "sh", "-c", f"{path}; cd {inside} && {command}")


def run(*command: str, cwd: Path | None = None) -> str:
    """Runs a command; a failure shows what it printed."""
    done = subprocess.run(
        command, cwd=cwd, capture_output=True, text=True, check=False, errors="replace"
    )
    output = done.stdout + done.stderr
    assert done.returncode == 0, output[-6000:]
    return output


def write_stubs(text: Path, folder: Path) -> list[Path]:
    """Java files out of one text: `=== path` and then its content."""
    written = []
    for part in re.split(r"^=== ", text.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]:
        name, _, content = part.partition("\n")
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")
        written.append(path)
    return written
