"""Serves one measurement to one browser, and ends by itself.

```text
GET  /TOKEN/                 the page; the token is good for one start
POST /TOKEN/start            claims the run -> {"session": "/SECRET/", "work": ...}
GET  /SECRET/bundle/...      the model, golden photos, onnxruntime-web, photos?start=&count=
POST /SECRET/events          stages, progress, errors; every 2 s also when there is nothing new
POST /SECRET/outputs/NAME    the model's answers to all photos, raw float32
POST /SECRET/measurement     what was measured: the run is over
POST /SECRET/leave           the page is going away
```

Whatever else is asked gets 404 and one line. Bodies have limits that are checked before they are
read. Every answer carries the headers of a cross-origin isolated page, without which a browser
gives neither threads nor a fine clock.
"""

import contextlib
import hmac
import http.server
import json
import queue
import re
import secrets
import socketserver
import ssl
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import parse_qs, urlsplit

import numpy as np
from numpy.typing import NDArray

from edgeseed.core.errors import ArtifactError, ConfigError, WorkError
from edgeseed.runtime.agent.job_file import Job
from edgeseed.runtime.runners.browser import posts
from edgeseed.runtime.runners.browser.certificate import make_certificate
from edgeseed.runtime.runners.browser.work import Work

HERE = Path(__file__).parent
PAGE_FILES = {
    "": ("index.html", "text/html; charset=utf-8"),
    "page.css": ("page.css", "text/css; charset=utf-8"),
    "page.mjs": ("page.mjs", "text/javascript; charset=utf-8"),
    "runner.mjs": ("runner.mjs", "text/javascript; charset=utf-8"),
}
_CONTENT_TYPES = {".mjs": "text/javascript; charset=utf-8", ".wasm": "application/wasm"}
_HEADERS = {
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cross-Origin-Resource-Policy": "same-origin",
    # Nothing from elsewhere can be loaded, whatever the engine's scripts try.
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self' 'wasm-unsafe-eval' blob:; worker-src 'self' blob:; "
        "connect-src 'self'; style-src 'self'; img-src 'self' data:; base-uri 'none'; "
        "form-action 'none'; frame-ancestors 'none'"
    ),
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}
# Without letters that are read for others: the link may have to be typed. 60 bits.
_TOKEN_LETTERS = "abcdefghjkmnpqrstuvwxyz23456789"
_TOKEN_LENGTH = 12
_MAX_WRONG_LINKS = 100
_REQUEST_SECONDS = 30
_CHUNK = 1 << 20


@dataclass(frozen=True, kw_only=True, slots=True)
class Serving:
    """Where the server listens.

    Attributes:
        host: address in the URL; 127.0.0.1 or this machine's address in the local network.
        https: whether to serve https, with a certificate made on the spot.
        port: 0 for any that is free.
    """

    host: str = "127.0.0.1"
    https: bool = False
    port: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Timeouts:
    """How long to wait, in seconds.

    Attributes:
        open: until somebody opens the page.
        silence: for a page that says nothing. Browsers let a page in the background speak about
            once a minute.
        run: for the whole run, once it began.
    """

    open: float = 300
    silence: float = 90
    run: float = 3600


@dataclass(frozen=True, kw_only=True, slots=True)
class Posted:
    """What the page posted in the end."""

    measurement: dict[str, Any]
    outputs: dict[str, NDArray[np.float32]]


class Run:
    """One run, from a link that waits to a measurement or an error; shared by all requests.

    Args:
        work: what the page gets.
        job: what it is held to.
    """

    def __init__(self, work: Work, job: Job) -> None:
        self.work = work
        self.token = "".join(secrets.choice(_TOKEN_LETTERS) for _ in range(_TOKEN_LENGTH))
        self.session = secrets.token_urlsafe(24)
        self.events: queue.Queue[dict[str, Any]] = queue.Queue()
        """What the page and the server have to say, for whoever waits."""
        self._job = job
        self._lock = threading.Lock()
        self._outputs: dict[str, NDArray[np.float32]] = {}
        self._started_at: float | None = None
        self._heard_at = time.monotonic()
        self._over = False
        self._wrong_links = 0

    def silence(self) -> tuple[float | None, float]:
        """Seconds since the run began (None: it did not), and since the page was heard."""
        now = time.monotonic()
        began = self._started_at
        return (None if began is None else now - began), now - self._heard_at

    def start(self, who: str) -> dict[str, Any] | None:
        """Claim the run; None if it was claimed before."""
        with self._lock:
            if self._started_at is not None:
                self._warn(f"the link was opened once more, by {who}; it is good for one run")
                return None
            self._started_at = self._heard_at = time.monotonic()
        self.events.put({"event": "started", "by": who})
        return {"session": f"/{self.session}/", "work": self.work.description}

    def heard(self) -> None:
        """The page is alive."""
        self._heard_at = time.monotonic()

    def add_events(self, body: bytes) -> None:
        """Hand the page's events on."""
        for event in posts.read_events(body):
            self.events.put(event)

    def add_output(self, name: str, body: bytes) -> None:
        """Keep one output of the photos."""
        n = 0 if self.work.pixels is None else len(self.work.pixels)
        self._outputs[name] = posts.read_output(body, n=n, shape=self.work.outputs[name])

    def finish(self, body: bytes) -> None:
        """Keep the measurement; the run is over."""
        measurement = posts.read_measurement(body, job=self._job, outputs=self.work.outputs)
        missing = (
            set(self.work.outputs) - set(self._outputs) if self.work.pixels is not None else ()
        )
        if missing:
            raise ArtifactError(f"the page posted no {', '.join(sorted(missing))} of the photos")
        with self._lock:
            if not self._over:
                self._over = True
                posted = Posted(measurement=measurement, outputs=dict(self._outputs))
                self.events.put({"event": "posted", "posted": posted})

    def fail(self, message: str) -> None:
        """End the run with an error."""
        with self._lock:
            if not self._over:
                self._over = True
                self.events.put({"event": "error", "kind": "page", "message": message})

    def leave(self) -> None:
        """The page says that it goes away."""
        self.fail(
            "the page was closed or reloaded before the measurement was done; run the command "
            "again and keep the page open and in front"
        )

    def wrong_link(self, who: str) -> None:
        """Somebody asked for something that is not there."""
        with self._lock:
            self._wrong_links += 1
            count = self._wrong_links
        if count == 1:
            self._warn(f"{who} asked for a link that is not this run's; refused")
        if count >= _MAX_WRONG_LINKS:
            self.fail(
                f"{count} requests for links that are not this run's: somebody is guessing; "
                "run the command again"
            )

    def _warn(self, message: str) -> None:
        self.events.put({"event": "warning", "message": message})


class _RequestError(Exception):
    def __init__(self, status: HTTPStatus, message: str) -> None:
        super().__init__(message)
        self.status = status


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "edgeseed", ""
    timeout = _REQUEST_SECONDS
    run: ClassVar[Run]
    hosts: ClassVar[tuple[str, ...]] = ()

    def do_GET(self) -> None:
        """The page before the start, the work's files after it."""
        self._answer(self._get)

    def do_POST(self) -> None:
        """What the page has to say."""
        self._answer(self._post)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: the terminal belongs to the measurement."""

    def _answer(self, method: Any) -> None:
        try:
            if self.headers.get("Host") not in self.hosts:
                # A page elsewhere whose name was bound to this address (DNS rebinding).
                raise _RequestError(HTTPStatus.MISDIRECTED_REQUEST, "this server has another name")
            url = urlsplit(self.path)
            secret, _, rest = url.path.removeprefix("/").partition("/")
            method(secret, rest, url)
        except _RequestError as refusal:
            self._send_json(refusal.status, {"message": str(refusal)})
        except (ConnectionError, TimeoutError, ssl.SSLError):
            self.close_connection = True

    # ------------------------------------------------------------------------------------- reading

    def _get(self, secret: str, rest: str, url: Any) -> None:
        if hmac.compare_digest(secret, self.run.token):
            if url.path == f"/{secret}":
                self._send(HTTPStatus.PERMANENT_REDIRECT, b"", Location=f"/{secret}/")
            elif rest in PAGE_FILES:
                name, content_type = PAGE_FILES[rest]
                self._send_file(HERE / name, content_type)
            else:
                raise _RequestError(HTTPStatus.NOT_FOUND, f"there is no {rest[:80]}")
        elif hmac.compare_digest(secret, self.run.session):
            self._get_work(rest, url)
        else:
            raise self._wrong_link()

    def _get_work(self, rest: str, url: Any) -> None:
        self.run.heard()
        content = self.run.work.files.get(rest)
        if rest == "photos" and self.run.work.pixels is not None:
            self._send(HTTPStatus.OK, self._photos(url.query))
        elif isinstance(content, Path):
            suffix = _CONTENT_TYPES.get(content.suffix, "application/octet-stream")
            self._send_file(content, suffix)
        elif content is not None:
            self._send(HTTPStatus.OK, content)
        else:
            raise _RequestError(HTTPStatus.NOT_FOUND, f"there is no {rest[:80]}")

    def _photos(self, query: str) -> bytes:
        pixels = self.run.work.pixels
        assert pixels is not None
        values = parse_qs(query)
        try:
            start, count = int(values["start"][0]), int(values["count"][0])
        except (KeyError, ValueError):
            start, count = -1, 0
        if not (0 <= start < len(pixels) and 0 < count <= 256):
            raise _RequestError(HTTPStatus.BAD_REQUEST, "start and count name no photos")
        return pixels[start : start + count].tobytes()

    def _wrong_link(self) -> _RequestError:
        self.run.wrong_link(self.client_address[0])
        return _RequestError(
            HTTPStatus.NOT_FOUND,
            "This is not the link of a run that waits. Copy it from the terminal once more.",
        )

    # ------------------------------------------------------------------------------------- writing

    def _post(self, secret: str, rest: str, url: Any) -> None:
        if hmac.compare_digest(secret, self.run.token) and rest == "start":
            self._body(limit=0)
            answer = self.run.start(self.client_address[0])
            if answer is None:
                raise _RequestError(
                    HTTPStatus.CONFLICT,
                    "This link was used already: it is good for one run. Run the command again "
                    "for a new one.",
                )
            self._send_json(HTTPStatus.OK, answer)
        elif hmac.compare_digest(secret, self.run.session):
            self._post_work(rest)
        else:
            raise self._wrong_link()

    def _post_work(self, rest: str) -> None:
        self.run.heard()
        name = rest.removeprefix("outputs/")
        try:
            if rest == "events":
                self.run.add_events(self._body(limit=posts.EVENTS_BYTES))
            elif rest == "leave":
                self._body(limit=0)
                self.run.leave()
            elif rest == "measurement":
                self.run.finish(self._body(limit=posts.MEASUREMENT_BYTES))
            elif rest != name and name in self.run.work.outputs:
                n = 0 if self.run.work.pixels is None else len(self.run.work.pixels)
                size = posts.output_bytes(n, self.run.work.outputs[name])
                self.run.add_output(name, self._body(limit=size))
            else:
                raise _RequestError(HTTPStatus.NOT_FOUND, f"there is no {rest[:80]}")
        except ArtifactError as error:
            self.run.fail(str(error))
            raise _RequestError(HTTPStatus.BAD_REQUEST, str(error)) from error
        self._send_json(HTTPStatus.OK, {})

    def _body(self, *, limit: int) -> bytes:
        length = self.headers.get("Content-Length", "")
        if not re.fullmatch(r"\d{1,15}", length):
            self.close_connection = True
            raise _RequestError(HTTPStatus.LENGTH_REQUIRED, "a post needs a Content-Length")
        if int(length) > limit:
            # Not read, so the connection cannot go on.
            self.close_connection = True
            message = f"the page posted {int(length):,} bytes where at most {limit:,} are taken"
            self.run.fail(message)
            raise _RequestError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, message)
        return self.rfile.read(int(length))

    def _send_json(self, status: HTTPStatus, values: dict[str, Any]) -> None:
        self._send(status, json.dumps(values).encode(), content_type="application/json")

    def _send(
        self,
        status: HTTPStatus,
        content: bytes,
        content_type: str = "application/octet-stream",
        **headers: str,
    ) -> None:
        self._send_headers(status, len(content), content_type, **headers)
        self.wfile.write(content)

    def _send_file(self, path: Path, content_type: str) -> None:
        with path.open("rb") as file:
            self._send_headers(HTTPStatus.OK, path.stat().st_size, content_type)
            while chunk := file.read(_CHUNK):
                self.wfile.write(chunk)
                self.run.heard()

    def _send_headers(
        self, status: HTTPStatus, length: int, content_type: str, **headers: str
    ) -> None:
        self.send_response(status)
        for name, value in {**_HEADERS, **headers}.items():
            self.send_header(name, value)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(length))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()


class _Server(socketserver.ThreadingMixIn, http.server.HTTPServer):
    daemon_threads = True
    # A browser that keeps its connection open must not keep the command from ending.
    block_on_close = False

    def __init__(self, address: tuple[str, int], handler: Any, context: ssl.SSLContext | None):
        self._context = context
        super().__init__(address, handler)

    def finish_request(self, request: Any, client_address: Any) -> None:
        # The handshake belongs to the request's own thread: a client that says nothing would
        # else keep all others waiting.
        if self._context is None:
            super().finish_request(request, client_address)
            return
        request.settimeout(_REQUEST_SECONDS)
        with self._context.wrap_socket(request, server_side=True) as secured:
            super().finish_request(secured, client_address)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hung up, or that speaks no TLS, is no news."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Listening:
    """A server that runs: the link to open, and the certificate's fingerprint with https."""

    url: str
    port: int
    fingerprint: str | None


@contextlib.contextmanager
def serve(run: Run, serving: Serving, *, folder: Path) -> Iterator[Listening]:
    """Serve `run` for as long as the block lasts.

    Args:
        run: what to serve.
        serving: where.
        folder: where the certificate may be written.

    Raises:
        ConfigError: If the address cannot be listened on.
    """
    certificate = make_certificate(serving.host, folder) if serving.https else None
    context = None
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate.path)
    handler = type("Handler", (_Handler,), {"run": run})
    try:
        server = _Server((serving.host, serving.port), handler, context)
    except OSError as error:
        raise ConfigError(
            f"cannot listen on {serving.host} port {serving.port} ({error.strerror or error}); "
            "name this machine's own: --device 'browser?host=ADDRESS' --lan"
        ) from error
    port = int(server.server_address[1])
    names = {serving.host, "localhost"} if serving.host == "127.0.0.1" else {serving.host}
    handler.hosts = tuple(f"{name}:{port}" for name in names)  # type: ignore[attr-defined]  # made above
    thread = threading.Thread(
        target=server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True
    )
    thread.start()
    try:
        scheme = "https" if serving.https else "http"
        yield Listening(
            url=f"{scheme}://{serving.host}:{port}/{run.token}/",
            port=port,
            fingerprint=None if certificate is None else certificate.fingerprint,
        )
    finally:
        server.shutdown()
        server.server_close()
        thread.join(timeout=5)


def check_time(run: Run, limits: Timeouts) -> None:
    """Raise if the run took too long.

    Raises:
        WorkError: If nobody opened the page, it fell silent, or it does not come to an end.
    """
    began, silent = run.silence()
    if began is None:
        if silent > limits.open:
            raise WorkError(
                f"nobody opened the page within {limits.open:g} s; open the link on the device, or "
                "give more time: --device 'browser?wait=SECONDS'"
            )
    elif silent > limits.silence:
        raise WorkError(
            f"the page has said nothing for {limits.silence:g} s: its tab was closed, the device "
            "went to sleep or lost the network; run again and keep the page open and in front"
        )
    elif began > limits.run:
        raise WorkError(
            f"the run did not end within {limits.run:g} s; take a shorter --protocol or "
            "fewer photos"
        )
