"""The server against hand-made requests: what a hostile or broken page could send."""

import contextlib
import http.client
import json
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest

from edgeseed.core.errors import ConfigError, WorkError
from edgeseed.runtime.agent.job_file import Job
from edgeseed.runtime.runners.browser import posts, server
from edgeseed.runtime.runners.browser.server import Listening, Run, Serving, Timeouts, serve
from edgeseed.runtime.runners.browser.work import Work

from .conftest import measurement


class Client:
    """Talks to a server as a page does."""

    def __init__(self, run: Run, listening: Listening) -> None:
        self.run = run
        self.url = listening.url
        self.port = listening.port
        self.session = ""

    def ask(
        self, method: str, path: str, body: bytes | None = None, **headers: str
    ) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            return answer.status, dict(answer.getheaders()), answer.read()
        finally:
            connection.close()

    def start(self) -> dict[str, Any]:
        status, _, body = self.ask("POST", f"/{self.run.token}/start", b"")
        assert status == 200
        answer: dict[str, Any] = json.loads(body)
        self.session = answer["session"]
        return answer

    def post(self, path: str, value: Any) -> tuple[int, str]:
        body = value if isinstance(value, bytes) else json.dumps(value).encode()
        status, _, answer = self.ask("POST", f"{self.session}{path}", body)
        return status, json.loads(answer).get("message", "")

    def events(self) -> list[dict[str, Any]]:
        found = []
        while not self.run.events.empty():
            found.append(self.run.events.get())
        return found

    def error(self) -> str:
        """The one line with which the command would end."""
        messages = [event["message"] for event in self.events() if event["event"] == "error"]
        assert len(messages) == 1
        assert "\n" not in messages[0]
        return str(messages[0])


@pytest.fixture
def client(work: Work, job: Job, tmp_path: Path) -> Iterator[Client]:
    run = Run(work, job)
    with serve(run, Serving(), folder=tmp_path) as listening:
        yield Client(run, listening)


def test_the_link_is_on_loopback_and_holds_the_token(client: Client) -> None:
    parts = urlsplit(client.url)

    assert (parts.scheme, parts.hostname) == ("http", "127.0.0.1")
    assert parts.path == f"/{client.run.token}/"
    assert len(client.run.token) >= 12


@pytest.mark.parametrize("name", ["", "page.mjs", "page.css", "runner.mjs"])
def test_every_answer_isolates_the_page_and_allows_nothing_from_elsewhere(
    client: Client, name: str
) -> None:
    status, headers, body = client.ask("GET", f"/{client.run.token}/{name}")

    assert status == 200
    assert body
    assert headers["Cross-Origin-Opener-Policy"] == "same-origin"
    assert headers["Cross-Origin-Embedder-Policy"] == "require-corp"
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    assert headers["Cache-Control"] == "no-store"
    if name.endswith(".mjs"):
        assert headers["Content-Type"].startswith("text/javascript")


def test_the_page_names_no_address_elsewhere() -> None:
    for name, _ in server.PAGE_FILES.values():
        text = (server.HERE / name).read_text(encoding="utf-8")
        assert "http://" not in text
        assert "https://" not in text


def test_the_files_of_the_work_are_served_as_they_are(client: Client, work: Work) -> None:
    described = client.start()["work"]

    for file in [*described["files"], described["golden"]["inputs"]]:
        status, _, body = client.ask("GET", f"{client.session}{file['url']}")
        assert (status, len(body)) == (200, file["size_bytes"])
    status, _, body = client.ask("GET", f"{client.session}photos?start=1&count=2")
    assert work.pixels is not None
    assert body == work.pixels[1:3].tobytes()


@pytest.mark.parametrize(
    "query", ["", "start=4&count=0", "start=9&count=1", "start=-1&count=1", "start=x"]
)
def test_photos_that_are_not_there_are_refused(client: Client, query: str) -> None:
    client.start()

    assert client.ask("GET", f"{client.session}photos?{query}")[0] == 400


@pytest.mark.parametrize(
    "path",
    ["../../etc/passwd", "bundle/../manifest.json", "%2e%2e/x", "reference/student.safetensors"],
)
def test_nothing_else_on_this_machine_is_served(client: Client, path: str) -> None:
    client.start()

    assert client.ask("GET", f"{client.session}{path}")[0] == 404
    assert client.ask("GET", f"/{client.run.token}/{path}")[0] == 404


def test_a_wrong_token_is_refused_and_told_once(client: Client) -> None:
    for token in ("wrong", "", "w" * 12, client.run.token[:-1]):
        status, _, body = client.ask("GET", f"/{token}/")
        assert status == 404
        assert "not the link of a run" in json.loads(body)["message"]

    assert [event["message"] for event in client.events()] == [
        "127.0.0.1 asked for a link that is not this run's; refused"
    ]


def test_guessing_tokens_ends_the_run(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "_MAX_WRONG_LINKS", 5)

    for number in range(5):
        client.ask("POST", f"/guess{number}/start", b"")

    assert "somebody is guessing" in client.error()


def test_a_token_is_good_for_one_start(client: Client) -> None:
    client.start()

    status, _, body = client.ask("POST", f"/{client.run.token}/start", b"")

    assert status == 409
    assert "good for one run" in json.loads(body)["message"]
    warnings = [event for event in client.events() if event["event"] == "warning"]
    assert [event["message"] for event in warnings] == [
        "the link was opened once more, by 127.0.0.1; it is good for one run"
    ]


def test_a_page_elsewhere_whose_name_points_here_is_refused(client: Client) -> None:
    status, _, _ = client.ask("GET", f"/{client.run.token}/", Host="attacker.example")

    assert status == 421


def test_events_reach_whoever_waits(client: Client) -> None:
    client.start()
    events = [
        {"event": "stage", "name": "load"},
        {"event": "progress", "stage": "measure", "runs": 3, "seconds": 1.5},
        {"event": "hidden"},
    ]

    assert client.post("events", events) == (200, "")
    assert client.events()[1:] == events


@pytest.mark.parametrize(
    "body",
    [
        b"", b"\xff", b"{}", b"[1]", b"NaN", b"[" * 50_000, b'[{"event": "stage"}]',
        b'[{"event": "stage", "name": "rm -rf"}]', b'[{"event": ["stage"]}]',
        b'[{"event": "progress", "stage": "measure", "runs": 1, "seconds": "x"}]',
        b'[{"event": "error", "kind": 3, "message": "x"}]',
    ],
)  # fmt: skip
def test_a_malformed_post_ends_the_run_with_one_line(client: Client, body: bytes) -> None:
    client.start()

    status, message = client.post("events", body)

    assert status == 400
    assert message == client.error()
    assert message.startswith("the page")


def test_an_oversized_post_is_not_even_read(client: Client) -> None:
    client.start()
    path = f"{client.session}events"

    status, headers, body = client.ask("POST", path, b"", **{"Content-Length": "99999999"})

    assert status == 413
    assert headers["Connection"] == "close"
    assert "99,999,999 bytes where at most 65,536 are taken" in json.loads(body)["message"]
    assert "99,999,999" in client.error()


def test_a_post_without_a_length_is_refused(client: Client) -> None:
    client.start()
    connection = http.client.HTTPConnection("127.0.0.1", client.port, timeout=10)
    with contextlib.closing(connection):
        connection.putrequest("POST", f"{client.session}events")
        connection.endheaders()
        assert connection.getresponse().status == 411


def post_all(client: Client, values: dict[str, Any]) -> tuple[int, str]:
    for name, size in (("embedding", 8), ("logits", 3)):
        outputs = np.full((5, size), 0.5, np.float32)
        assert client.post(f"outputs/{name}", outputs.tobytes())[0] == 200
    return client.post("measurement", values)


def test_a_measurement_and_its_outputs_come_back(client: Client) -> None:
    client.start()

    assert post_all(client, measurement()) == (200, "")

    posted = client.events()[-1]["posted"]
    assert posted.measurement["samples_ns"] == [1_000_000] * 20
    assert posted.outputs["embedding"].shape == (5, 8)
    assert posted.outputs["logits"].shape == (5, 3)


def test_what_comes_after_the_measurement_changes_nothing(client: Client) -> None:
    client.start()
    post_all(client, measurement())
    client.events()

    client.post("leave", b"")
    client.post("measurement", measurement(engine_version="evil"))

    assert client.events() == []


def test_outputs_that_are_missing_are_named(client: Client) -> None:
    client.start()

    status, message = client.post("measurement", measurement())

    assert (status, message) == (400, "the page posted no embedding, logits of the photos")


def test_outputs_of_another_size_are_refused(client: Client) -> None:
    client.start()

    assert client.post("outputs/embedding", b"1234")[0] == 400
    assert "4 bytes as an output of 5 photos, 160 were expected" in client.error()


def test_outputs_that_the_model_does_not_have_are_refused(client: Client) -> None:
    client.start()

    assert client.post("outputs/scores", b"1234")[0] == 404


def test_a_page_that_leaves_ends_the_run(client: Client) -> None:
    client.start()

    client.post("leave", b"")

    assert "closed or reloaded before the measurement was done" in client.error()


def test_a_link_that_nobody_opens_ends_the_run(work: Work, job: Job) -> None:
    with pytest.raises(WorkError, match="nobody opened the page within 0 s"):
        server.check_time(Run(work, job), Timeouts(open=0))


def test_a_page_that_falls_silent_ends_the_run(work: Work, job: Job) -> None:
    run = Run(work, job)
    run.start("1.2.3.4")

    server.check_time(run, Timeouts(open=0))
    with pytest.raises(WorkError, match="has said nothing for 0 s: its tab was closed"):
        server.check_time(run, Timeouts(silence=0))


def test_a_run_that_does_not_end_is_ended(work: Work, job: Job) -> None:
    run = Run(work, job)
    run.start("1.2.3.4")

    with pytest.raises(WorkError, match="did not end within 0 s"):
        server.check_time(run, Timeouts(run=0))


def test_the_server_ends_with_its_block(work: Work, job: Job, tmp_path: Path) -> None:
    with serve(Run(work, job), Serving(), folder=tmp_path) as listening:
        port = listening.port

    with pytest.raises(ConnectionRefusedError):
        http.client.HTTPConnection("127.0.0.1", port, timeout=2).request("GET", "/")


def test_an_address_that_is_not_this_machines_says_how_to_name_one(
    work: Work, job: Job, tmp_path: Path
) -> None:
    with (
        pytest.raises(ConfigError, match=r"cannot listen on 203\.0\.113\.9.*browser\?host="),
        serve(Run(work, job), Serving(host="203.0.113.9"), folder=tmp_path),
    ):
        pass


def test_https_has_a_certificate_for_this_address_and_says_its_fingerprint(
    work: Work, job: Job, tmp_path: Path
) -> None:
    pytest.importorskip("cryptography")
    import hashlib

    run = Run(work, job)
    with serve(run, Serving(https=True), folder=tmp_path) as listening:
        context = ssl.create_default_context(cafile=str(tmp_path / "server.pem"))
        connection = http.client.HTTPSConnection("127.0.0.1", listening.port, context=context)
        with contextlib.closing(connection):
            connection.request("GET", f"/{run.token}/")
            assert connection.getresponse().status == 200
            certificate = connection.sock.getpeercert(binary_form=True)

    assert listening.url.startswith("https://127.0.0.1:")
    assert certificate is not None
    digest = hashlib.sha256(certificate).digest()
    assert listening.fingerprint == digest.hex(":").upper()
    assert (tmp_path / "server.pem").stat().st_mode & 0o077 == 0


def test_plain_http_to_an_https_server_stops_nobody_else(
    work: Work, job: Job, tmp_path: Path
) -> None:
    pytest.importorskip("cryptography")
    run = Run(work, job)
    with serve(run, Serving(https=True), folder=tmp_path) as listening:
        plain = http.client.HTTPConnection("127.0.0.1", listening.port, timeout=5)
        with contextlib.closing(plain), contextlib.suppress(OSError, http.client.HTTPException):
            plain.request("GET", "/")
            plain.getresponse()
        context = ssl.create_default_context(cafile=str(tmp_path / "server.pem"))
        connection = http.client.HTTPSConnection("127.0.0.1", listening.port, context=context)
        with contextlib.closing(connection):
            connection.request("GET", f"/{run.token}/")
            assert connection.getresponse().status == 200


def test_limits_of_posts_hold_a_long_run() -> None:
    samples = json.dumps([100_000] * 100_000, separators=(",", ":"))

    # Ten minutes of a model that takes 0.1 ms.
    assert len(samples) * 60 < posts.MEASUREMENT_BYTES
