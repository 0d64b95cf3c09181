"""A real headless Chromium, driven over its debugging pipe: no driver and no library needed."""

import base64
import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
WITHOUT_GPU = ("--disable-gpu",)
SOFTWARE_WEBGPU = (
    "--enable-unsafe-webgpu",
    "--enable-features=Vulkan",
    "--use-vulkan=swiftshader",
    "--use-webgpu-adapter=swiftshader",
    "--ignore-gpu-blocklist",
)
_QUIET = (
    "--headless=new",
    # A container runs as root, where the sandbox does not start; the pages are our own.
    "--no-sandbox",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
_ANSWER_SECONDS = 60.0
# Chromium reads from descriptor 3 and writes to 4.
_RENUMBER = """
import fcntl, os, sys
pipes = [fcntl.fcntl(int(text), fcntl.F_DUPFD, 10) for text in sys.argv[1:3]]
os.dup2(pipes[0], 3)
os.dup2(pipes[1], 4)
os.execv(sys.argv[3], sys.argv[3:])
"""


class Page:
    """One tab."""

    def __init__(self, browser: "Chromium", target: str) -> None:
        self._browser = browser
        self._target = target
        attached = browser.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        self.call("Page.enable")
        self.call("Runtime.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Call a method of the debugging protocol in this tab."""
        answer: dict[str, Any] = self._browser.call(method, session=self._session, **parameters)
        return answer

    def evaluate(self, expression: str) -> Any:
        """The value of an expression; a promise is waited for."""
        answer = self.call(
            "Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True
        )
        if "exceptionDetails" in answer:
            details = answer["exceptionDetails"]
            raise RuntimeError(details.get("exception", {}).get("description", details["text"]))
        return answer["result"].get("value")

    def wait_for(self, expression: str, *, seconds: float = 60.0) -> Any:
        """The value of an expression once it is true."""
        deadline = time.monotonic() + seconds
        while not (value := self._try(expression)):
            if time.monotonic() > deadline:
                text = self.evaluate("document.body?.innerText")
                raise TimeoutError(f"{expression} did not become true; the page says: {text}")
            time.sleep(0.1)
        return value

    def _try(self, expression: str) -> Any:
        try:
            return self.evaluate(expression)
        except RuntimeError as error:
            if "context" in str(error):  # the page is being replaced by the next one
                return None
            raise

    def resize(self, width: int, height: int, *, dark: bool = False) -> None:
        """Set the size of the view, in CSS pixels."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=height, deviceScaleFactor=2, mobile=False,
        )  # fmt: skip
        self.call("Emulation.setScrollbarsHidden", hidden=True)
        features = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.call("Emulation.setEmulatedMedia", features=features)

    def screenshot(self, path: Path) -> None:
        """Write what the tab shows, as PNG."""
        answer = self.call("Page.captureScreenshot", format="png")
        path.write_bytes(base64.b64decode(answer["data"]))

    def reload(self) -> None:
        """Load the page again."""
        self.call("Page.reload")

    def close(self) -> None:
        """Close the tab."""
        self._browser.call("Target.closeTarget", targetId=self._target)


class Chromium:
    """A browser process with a profile of its own; `start_chromium` makes and ends it."""

    def __init__(self, commands: int, answers: int) -> None:
        self._commands = commands
        self._answers = answers
        self._buffer = b""
        self._number = 0

    def open(self, url: str) -> Page:
        """Open a tab."""
        return Page(self, self.call("Target.createTarget", url=url)["targetId"])

    def call(self, method: str, *, session: str | None = None, **parameters: Any) -> Any:
        """Call a method of the debugging protocol; events that come meanwhile are passed over."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if session is not None:
            message["sessionId"] = session
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._read()
            if answer.get("id") == self._number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']['message']}")
                return answer["result"]

    def _read(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            if not select.select([self._answers], [], [], _ANSWER_SECONDS)[0]:
                raise TimeoutError("Chromium does not answer")
            chunk = os.read(self._answers, 1 << 16)
            if not chunk:
                raise ConnectionError("Chromium ended")
            self._buffer += chunk
        text, _, self._buffer = self._buffer.partition(b"\0")
        message: dict[str, Any] = json.loads(text)
        return message


@contextlib.contextmanager
def start_chromium(*flags: str) -> Iterator[Chromium]:
    """A browser for as long as the block lasts; `flags` such as `*WITHOUT_GPU`."""
    assert CHROMIUM is not None
    commands_read, commands = os.pipe()
    answers, answers_write = os.pipe()
    with tempfile.TemporaryDirectory(prefix="chromium-", ignore_cleanup_errors=True) as profile:
        command: Sequence[str] = (
            CHROMIUM, *_QUIET, *flags, "--remote-debugging-pipe", f"--user-data-dir={profile}",
            "about:blank",
        )  # fmt: skip
        process = subprocess.Popen(
            [
                sys.executable,
                "-S",
                "-c",
                _RENUMBER,
                str(commands_read),
                str(answers_write),
                *command,
            ],
            pass_fds=(commands_read, answers_write),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            # A group of its own, so that all of its processes can be ended together.
            start_new_session=True,
        )
        os.close(commands_read)
        os.close(answers_write)
        try:
            yield Chromium(commands, answers)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            os.close(commands)
            os.close(answers)
