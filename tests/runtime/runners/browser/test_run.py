"""The whole path in a real headless Chromium: page, worker, engine, posts, result."""

import contextlib
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import conformance
from support.chromium import (
    CHROMIUM,
    SOFTWARE_WEBGPU,
    WITHOUT_GPU,
    Chromium,
    Page,
    start_chromium,
)

from edgeseed.core.bundle import Bundle, read_bundle, seal_bundle
from edgeseed.core.errors import ArtifactError, ConfigError, GateError, WorkError
from edgeseed.runtime import profile
from edgeseed.runtime.agent.job_file import Job
from edgeseed.runtime.device import Observation
from edgeseed.runtime.devices.browser import BrowserAddress, BrowserDevice, own_address
from edgeseed.runtime.runners.browser import (
    Listening,
    Serving,
    Timeouts,
    measure_in_browser,
    package,
    server,
)
from edgeseed.runtime.runners.browser.package import OrtWeb

from .conftest import make_job

pytestmark = pytest.mark.browser


def opener(chromium: Chromium) -> Callable[[Listening], None]:
    """Opens the link of a run in a tab of a real browser."""

    def open_page(listening: Listening) -> None:
        chromium.open(listening.url)

    return open_page


def browser_device(chromium: Chromium, **address: Any) -> BrowserDevice:
    """A device whose link is opened by a real browser."""
    return BrowserDevice(BrowserAddress(**address), open_page=opener(chromium))


def test_a_bundle_is_profiled_by_a_real_browser(
    chromium: Chromium, ort_web: OrtWeb, bundle: Bundle, instant: str, tmp_path: Path
) -> None:
    device = browser_device(chromium)

    result = profile(bundle.path, device=device, protocol=instant, out=tmp_path / "r.json")

    assert result.engine.name == "onnxruntime-web"
    assert result.engine.version == package.VERSION
    assert result.engine.runner == "browser"
    assert result.device.device == "browser"
    assert result.latency is not None
    assert result.latency.n >= 8
    assert result.golden is not None
    assert max(result.golden.relative_error.values()) < 1e-5
    # Threads are really on.
    settings = result.engine.settings
    assert settings["cross_origin_isolated"] is True
    assert settings["intra_op_threads"] == result.engine.threads == 2
    # The engine was asked for its placement and told it.
    assert (result.placement.requested, result.placement.actual) == ("wasm", "wasm")
    assert result.placement.nodes is not None
    assert result.placement.share == 1
    assert result.accuracy is not None
    assert result.accuracy.n == 12
    assert result.accuracy.top1 is not None
    assert result.cpu_ms is None


@pytest.mark.slow
def test_photos_give_the_hosts_answers(
    chromium: Chromium, ort_web: OrtWeb, bundle: Bundle, instant: str, tmp_path: Path
) -> None:
    here = profile(bundle.path, protocol=instant, out=tmp_path / "host.json")
    there = profile(
        bundle.path, device=browser_device(chromium), protocol=instant, out=tmp_path / "b.json"
    )

    assert here.accuracy is not None
    assert there.accuracy is not None
    assert here.accuracy.top1 == there.accuracy.top1


@pytest.mark.slow
def test_an_int8_model_computes_the_very_same_in_the_browser(
    chromium: Chromium, ort_web: OrtWeb, int8_bundle: Bundle, instant: str, tmp_path: Path
) -> None:
    result = profile(
        int8_bundle.path,
        device=browser_device(chromium),
        protocol=instant,
        out=tmp_path / "r.json",
    )

    assert result.golden is not None
    assert set(result.golden.relative_error.values()) == {0.0}


@pytest.mark.slow
def test_a_model_that_computes_wrong_is_not_timed(
    chromium: Chromium, ort_web: OrtWeb, bundle: Bundle, tmp_path: Path
) -> None:
    golden = bundle.path / "golden" / "model.npz"
    with np.load(golden) as archive:
        wrong = {name: archive[name] * 1.01 for name in archive.files}
    np.savez(golden, **wrong)
    seal_bundle(bundle.path, bundle.manifest)

    with pytest.raises(GateError, match=r"^browser: the model does not give its golden outputs"):
        profile(bundle.path, device=browser_device(chromium), out=tmp_path / "r.json")

    assert not (tmp_path / "r.json").exists()


# Starts a browser once more. tests/runtime/test_accuracy.py compares by logits on the host.
@pytest.mark.slow
def test_classes_are_compared_by_their_logits_in_the_browser(
    chromium: Chromium, ort_web: OrtWeb, bundle: Bundle, instant: str, tmp_path: Path
) -> None:
    import onnx
    import onnxruntime
    from onnx import helper, numpy_helper

    model, golden = onnx.load(bundle.path / "model.onnx"), bundle.path / "golden" / "model.npz"
    graph = model.graph
    graph.initializer.append(numpy_helper.from_array(np.array([2], np.int64), "k"))
    graph.node.append(helper.make_node("TopK", ["logits", "k"], ["top2_scores", "places"], axis=1))
    cast = helper.make_node("Cast", ["places"], ["top2_indices"], to=onnx.TensorProto.INT32)
    graph.node.append(cast)
    more = {"top2_scores": onnx.TensorProto.FLOAT, "top2_indices": onnx.TensorProto.INT32}
    for name, kind in more.items():
        graph.output.append(helper.make_tensor_value_info(name, kind, ["batch", 2]))
    onnx.save(model, bundle.path / "model.onnx")
    session = onnxruntime.InferenceSession(bundle.path / "model.onnx")
    names = [output.name for output in session.get_outputs()]
    photos = np.load(bundle.path / "golden" / "inputs.npy").astype(np.float32)
    values = map(np.asarray, session.run(names, {"image": photos}))
    answers: dict[str, Any] = dict(zip(names, values, strict=True))
    np.savez(golden, **answers)
    seal_bundle(bundle.path, bundle.manifest)
    device = browser_device(chromium)

    result = profile(bundle.path, device=device, protocol=instant, out=tmp_path / "r.json")

    assert result.golden is not None
    assert result.golden.relative_error["top2_indices"] == 0

    np.savez(golden, **{**answers, "top2_indices": answers["top2_indices"][:, ::-1]})
    seal_bundle(bundle.path, bundle.manifest)
    with pytest.raises(GateError, match="top2_indices is off by"):
        profile(bundle.path, device=device, protocol=instant, out=tmp_path / "again.json")


@pytest.mark.slow
def test_a_file_that_is_no_model_is_one_line(
    chromium: Chromium, ort_web: OrtWeb, bundle: Bundle, tmp_path: Path
) -> None:
    (bundle.path / "model.onnx").write_bytes(b"not a model")
    seal_bundle(bundle.path, bundle.manifest)

    with pytest.raises(
        WorkError, match=r"browser: onnxruntime-web cannot open model\.onnx on wasm"
    ):
        profile(bundle.path, device=browser_device(chromium), out=tmp_path / "r.json")


@pytest.mark.slow
def test_webgpu_where_there_is_none_says_what_else_there_is(
    chromium: Chromium, ort_web: OrtWeb, bundle: Bundle, tmp_path: Path
) -> None:
    with pytest.raises(WorkError, match=r"offers no WebGPU \(no GPU adapter\); measure with"):
        profile(
            bundle.path,
            device=browser_device(chromium, unit="webgpu"),
            out=tmp_path / "r.json",
        )


class Visit:
    """A run in a thread of its own, so that a test can do things to the page meanwhile."""

    def __init__(self, bundle: Bundle, chromium: Chromium, **changes: Any) -> None:
        self.error: BaseException | None = None
        self.observation: Observation | None = None
        self.page: Page | None = None
        self.url = ""
        self._chromium = chromium
        listens = threading.Event()

        def open_page(listening: Listening) -> None:
            self.url = listening.url
            listens.set()

        def run() -> None:
            try:
                self.observation = measure_in_browser(
                    bundle, make_job(bundle, **changes), pixels=None, name="browser",
                    serving=Serving(), open_page=open_page, limits=Timeouts(silence=5),
                )  # fmt: skip
            except BaseException as error:
                self.error = error

        self._thread = threading.Thread(target=run)
        self._thread.start()
        assert listens.wait(60)

    def open(self) -> Page:
        self.page = self._chromium.open(self.url)
        return self.page

    def wait_until_measuring(self) -> Page:
        page = self.page or self.open()
        page.wait_for("document.querySelector('[data-stage=measure].now') !== null")
        return page

    def end(self) -> str:
        """The one line with which the command ended."""
        self._thread.join(60)
        assert not self._thread.is_alive()
        assert isinstance(self.error, WorkError), self.error
        assert "\n" not in str(self.error)
        return str(self.error)


LONG = {"min_seconds": 60, "max_seconds": 90}


@pytest.mark.slow
def test_a_page_that_is_closed_in_mid_run_ends_it(
    chromium: Chromium, ort_web: OrtWeb, bundle: Bundle
) -> None:
    visit = Visit(bundle, chromium, **LONG)

    visit.wait_until_measuring().close()

    assert "browser: the page was closed or reloaded" in visit.end()


# Starts a browser once more. A page that goes away in mid-run is in test_server.py.
@pytest.mark.slow
def test_a_page_that_is_reloaded_in_mid_run_ends_it_and_says_so(
    chromium: Chromium, ort_web: OrtWeb, bundle: Bundle
) -> None:
    visit = Visit(bundle, chromium, **LONG)

    visit.wait_until_measuring().reload()

    assert "browser: the page was closed or reloaded" in visit.end()


@pytest.mark.slow
def test_a_link_that_is_opened_twice_says_so_in_the_second_page(
    chromium: Chromium, ort_web: OrtWeb, bundle: Bundle
) -> None:
    visit = Visit(bundle, chromium, **LONG)
    first = visit.wait_until_measuring()

    second = chromium.open(visit.url)

    second.wait_for("document.querySelector('#lead.bad') !== null")
    assert "This link was used already" in second.evaluate("document.body.innerText")
    first.close()
    visit.end()


@pytest.mark.slow
def test_a_browser_that_is_killed_ends_the_run(
    chromium: Chromium, ort_web: OrtWeb, bundle: Bundle
) -> None:
    visit = Visit(bundle, chromium, **LONG)
    visit.wait_until_measuring()

    with contextlib.suppress(ConnectionError):
        chromium.call("Browser.crash")

    assert "browser: the page has said nothing for 5 s" in visit.end()


@pytest.mark.slow
def test_the_page_shows_how_far_it_is_and_what_came_out(
    chromium: Chromium, ort_web: OrtWeb, bundle: Bundle
) -> None:
    pages: list[Page] = []
    job = make_job(bundle)

    observation = measure_in_browser(
        bundle, job, pixels=None, name="browser", serving=Serving(),
        open_page=lambda listening: pages.append(chromium.open(listening.url)),
    )  # fmt: skip

    page = pages[0]
    page.wait_for("document.querySelector('#lead').textContent.startsWith('Done')")
    text = page.evaluate("document.body.innerText")
    assert f"n = {len(observation.measurement.samples_ns)}" in text
    assert "onnxruntime-web" in text


def network_address() -> str:
    try:
        return own_address()
    except ConfigError as error:
        pytest.skip(f"this machine has no network address: {error}")


@pytest.mark.slow
def test_over_plain_http_in_the_network_page_and_result_say_what_is_missing(
    chromium: Chromium, ort_web: OrtWeb, slow_bundle: Bundle
) -> None:
    pages: list[Page] = []

    observation = measure_in_browser(
        slow_bundle, make_job(slow_bundle), pixels=None, name="browser",
        serving=Serving(host=network_address()),
        open_page=lambda listening: pages.append(chromium.open(listening.url)),
    )  # fmt: skip

    limitations = " ".join(observation.measurement.limitations)
    assert "one thread instead of 2: threads need a cross-origin isolated page" in limitations
    assert "the files' digests were not checked in the browser" in limitations
    settings = observation.measurement.settings
    assert settings["intra_op_threads"] == 1
    assert settings["secure_context"] is False
    # Chrome's clock outside of isolated pages.
    assert settings["clock_step_ns"] >= 50_000
    pages[0].wait_for("document.querySelector('#lead').textContent.startsWith('Done')")
    assert "a secure context (https)" in pages[0].evaluate("document.body.innerText")


@pytest.mark.slow
def test_a_model_that_is_faster_than_the_clock_is_not_measured(
    chromium: Chromium, ort_web: OrtWeb, bundle: Bundle, tmp_path: Path
) -> None:
    device = browser_device(chromium, lan=True, host=network_address(), scheme="http")

    with pytest.raises(WorkError, match=r"clock ticks every 0\.1 ms, too coarse.*over https"):
        profile(bundle.path, device=device, out=tmp_path / "r.json")


@pytest.mark.slow
def test_over_https_in_the_network_threads_are_on(
    ort_web: OrtWeb, bundle: Bundle, instant: str, tmp_path: Path
) -> None:
    pytest.importorskip("cryptography")
    if CHROMIUM is None:
        pytest.skip("there is no Chromium here")
    # What a user does who goes on after the warning.
    with start_chromium(*WITHOUT_GPU, "--ignore-certificate-errors") as chromium:
        device = browser_device(chromium, lan=True, host=network_address())
        result = profile(bundle.path, device=device, protocol=instant, out=tmp_path / "r.json")

    assert result.engine.settings["cross_origin_isolated"] is True
    assert result.engine.settings["intra_op_threads"] == 2
    assert result.device.device == "browser?lan=1"
    assert not any("thread" in reason.message for reason in result.reasons)


@pytest.mark.slow
def test_webgpu_names_the_operators_that_ran_elsewhere(
    ort_web: OrtWeb, int8_bundle: Bundle
) -> None:
    if CHROMIUM is None:
        pytest.skip("there is no Chromium here")
    job = make_job(int8_bundle, unit="webgpu", min_runs=1, max_seconds=1, golden_tolerance=5e-2)
    with start_chromium(*SOFTWARE_WEBGPU) as chromium:
        observation = measure_in_browser(
            int8_bundle, job, pixels=None, name="browser", serving=Serving(),
            open_page=opener(chromium),
        )  # fmt: skip

    placement = observation.measurement.placement
    assert placement.requested == "webgpu"
    assert (placement.nodes or {}).get("webgpu", 0) > 0
    assert any("in software" in text for text in observation.measurement.limitations)
    if placement.share is not None and placement.share < 1:
        limitations = " ".join(observation.measurement.limitations)
        assert "nodes that did not run on webgpu" in limitations


@pytest.mark.slow
def test_the_page_asks_nobody_but_this_server(
    chromium: Chromium, ort_web: OrtWeb, bundle: Bundle
) -> None:
    visit = Visit(bundle, chromium, **LONG)
    page = visit.wait_until_measuring()

    names = page.evaluate("performance.getEntriesByType('resource').map(entry => entry.name)")
    origin = page.evaluate("location.origin")
    blocked = page.evaluate("fetch('https://example.com/').then(() => false, () => true)")

    assert names
    assert all(name.startswith(origin) for name in names)
    assert blocked
    page.close()
    visit.end()


# ------------------------------------------------------------- the rules that every runner keeps


def measured_by(chromium: Chromium) -> conformance.Measure:
    """The runner in a real browser, as the conformance test calls it."""
    return lambda bundle, job: measure_in_browser(
        bundle, job, pixels=None, name="browser", serving=Serving(),
        open_page=opener(chromium),
    )  # fmt: skip


def browser_job(bundle: Bundle) -> Job:
    return conformance.job_for(bundle, engine="onnxruntime_web", unit="wasm")


@pytest.mark.slow
def test_the_runner_keeps_the_protocol(chromium: Chromium, ort_web: OrtWeb, bundle: Bundle) -> None:
    seen = conformance.hold(measured_by(chromium), bundle, browser_job(bundle))

    assert seen.measurement.runner == "browser"
    assert seen.stages is not None
    assert seen.stages.names.index("golden") < seen.stages.names.index("warm-up")


@pytest.mark.slow
def test_the_runner_times_no_model_that_computes_wrong(
    chromium: Chromium, ort_web: OrtWeb, bundle: Bundle
) -> None:
    conformance.plant_wrong_golden_outputs(bundle)
    wrong = read_bundle(bundle.path)

    assert conformance.refuses_a_wrong_model(measured_by(chromium), wrong, browser_job(wrong))


def plant_in_runner(
    change: Callable[[str], str], folder: Path, monkeypatch: pytest.MonkeyPatch,
    *, file: str = "runner.mjs",
) -> None:  # fmt: skip
    """Serve a runner.mjs, or another of the page's files, with a fault in it."""
    here = folder / "page"
    here.mkdir()
    for name, _ in server.PAGE_FILES.values():
        text = (server.HERE / name).read_text(encoding="utf-8")
        changed = change(text) if name == file else text
        (here / name).write_text(changed, encoding="utf-8")
    monkeypatch.setattr(server, "HERE", here)


def replaced(old: str, new: str) -> Callable[[str], str]:
    def change(text: str) -> str:
        assert old in text
        return text.replace(old, new)

    return change


_POST = "const response = await fetch(new URL(path, session), {"
SLOWLY = replaced(_POST, f"await new Promise((go) => setTimeout(go, 300));\n  {_POST}")


# As above.
@pytest.mark.slow
def test_an_error_is_told_also_while_another_event_is_on_its_way(
    chromium: Chromium, ort_web: OrtWeb, bundle: Bundle, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    # The page took itself for ended before the error's turn came: the command waited for 90 s and
    # said that the tab was closed.
    plant_in_runner(SLOWLY, tmp_path, monkeypatch, file="page.mjs")
    conformance.plant_wrong_golden_outputs(bundle)
    wrong = read_bundle(bundle.path)
    assert conformance.refuses_a_wrong_model(measured_by(chromium), wrong, browser_job(wrong))


# Starts a browser once more. Errors that a page posts are in test_server.py.
@pytest.mark.slow
def test_a_worker_that_does_not_start_is_told(
    chromium: Chromium, ort_web: OrtWeb, bundle: Bundle, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    plant_in_runner(lambda text: "this is no program;" + text, tmp_path, monkeypatch)
    with pytest.raises(WorkError, match=r"SyntaxError|could not start"):
        measured_by(chromium)(bundle, browser_job(bundle))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            replaced(
                "samples.push(after - before)",
                "(self.runs = (self.runs ?? -1) + 1) % 10 || samples.push(after - before)",
            ),
            "samples were dropped",
        ),
        (replaced("const NS_PER_MS = 1e6", "const NS_PER_MS = 1e3"), "the timed runs took 0.00"),
        (
            replaced("const NS_PER_MS = 1e6", "const NS_PER_MS = 1e9"),
            r"the timed runs took 1[.\d]*e\+03",
        ),
    ],
    ids=["drops-samples", "microseconds", "picoseconds"],
)
def test_a_runner_with_a_planted_fault_does_not_hold(
    change: Callable[[str], str], message: str, chromium: Chromium, ort_web: OrtWeb,
    slow_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    plant_in_runner(change, tmp_path, monkeypatch)

    with pytest.raises(ArtifactError, match=message):
        conformance.hold(measured_by(chromium), slow_bundle, browser_job(slow_bundle))


@pytest.mark.slow
def test_a_runner_that_times_before_the_golden_photos_is_refused(
    chromium: Chromium, ort_web: OrtWeb, bundle: Bundle, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    conformance.plant_wrong_golden_outputs(bundle)
    ignores = replaced("if (!(errors[worst] <= tolerance))", "if (false)")
    plant_in_runner(ignores, tmp_path, monkeypatch)
    wrong = read_bundle(bundle.path)

    with pytest.raises(WorkError, match=r"it timed a model whose golden .* is off by"):
        measured_by(chromium)(wrong, browser_job(wrong))
