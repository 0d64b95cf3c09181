"""Measures a bundle in a browser: serves the page, waits, and gives back what it posted."""

import contextlib
import dataclasses
import json
import queue
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeseed.core.bundle import Bundle
from edgeseed.core.console import say, warn
from edgeseed.core.errors import ArtifactError, EdgeseedError, GateError, WorkError
from edgeseed.core.scratch import scratch_folder
from edgeseed.runtime.agent.dispatch import Listener
from edgeseed.runtime.agent.job_file import Job
from edgeseed.runtime.conformance import Stages, read_measurement
from edgeseed.runtime.device import Observation
from edgeseed.runtime.runners.browser.package import find_ort_web
from edgeseed.runtime.runners.browser.server import (
    Listening,
    Posted,
    Run,
    Serving,
    Timeouts,
    check_time,
    serve,
)
from edgeseed.runtime.runners.browser.work import make_work

_POLL_SECONDS = 1.0
# For a slow network and a slow phone: the files arrive, the model is compiled, photos run.
_LOAD_SECONDS = 600.0
_PHOTO_SECONDS = 5.0
_ERRORS: dict[str, type[EdgeseedError]] = {
    "artifact": ArtifactError,
    "golden": GateError,
    "engine": WorkError,
}


def measure_in_browser(
    bundle: Bundle,
    job: Job,
    *,
    pixels: NDArray[np.uint8] | None,
    name: str,
    serving: Serving,
    open_page: Callable[[Listening], None],
    ort_web: str | Path | None = None,
    limits: Timeouts | None = None,
    watch: Callable[[], None] | None = None,
) -> Observation:
    """Serve the page for one run, and wait for what it measures.

    Args:
        bundle: an ONNX bundle.
        job: what to measure; its unit is `wasm` or `webgpu`.
        pixels: (N, 3, H, W) photos to run besides, or None.
        name: the device's name, for messages.
        serving: where to listen.
        open_page: called once the server listens: says the link, or opens it on the device.
        ort_web: a folder with onnxruntime-web; None for the pinned version.
        limits: how long to wait; by default what the protocol and the photos need.
        watch: called about once a second; may raise, such as for a device that was unplugged.

    Raises:
        ArtifactError: If a file arrived changed, or the page's posts are not a measurement.
        GateError: If the model does not give its golden outputs there; nothing was timed then.
        WorkError: If the page was not opened, was closed, fell silent, or its engine failed.
    """
    package = find_ort_web(ort_web, unit=job.unit)
    title = f"{bundle.manifest.name}, {bundle.manifest.precision}"
    work = make_work(bundle, job, pixels=pixels, ort_web=package, title=title)
    run = Run(work, job)
    limits = limits or _limits(job, 0 if pixels is None else len(pixels))
    with (
        scratch_folder() as folder,
        serve(run, serving, folder=folder) as listening,
    ):
        open_page(listening)
        posted, stages = _wait(run, job, name=name, limits=limits, watch=watch or (lambda: None))
    outputs = None if pixels is None else posted.outputs
    measurement = read_measurement(posted.measurement, what=f"{name}: the page's measurement")
    measurement = dataclasses.replace(measurement, request=job.request())
    return Observation(measurement=measurement, outputs=outputs, stages=stages)


def _limits(job: Job, num_photos: int) -> Timeouts:
    run = _LOAD_SECONDS + 2 * job.max_seconds + num_photos * _PHOTO_SECONDS
    return Timeouts(run=run)


def _wait(
    run: Run, job: Job, *, name: str, limits: Timeouts, watch: Callable[[], None]
) -> tuple[Posted, Stages]:
    num_photos = 0 if run.work.pixels is None else len(run.work.pixels)
    hidden = False
    with _named(name), Listener(job, name, num_photos=num_photos) as listen:
        while True:
            try:
                event = run.events.get(timeout=_POLL_SECONDS)
            except queue.Empty:
                check_time(run, limits)
                watch()
                continue
            match event["event"]:
                case "posted":
                    posted: Posted = event["posted"]
                    if hidden:
                        posted.measurement["limitations"].append(
                            "the page was in the background for a while, where browsers slow "
                            "it down"
                        )
                    listen.stages.end()
                    return posted, listen.stages
                case "error":
                    raise _ERRORS.get(event["kind"], WorkError)(event["message"])
                case "warning":
                    warn(f"{name}: {event['message']}")
                case "started":
                    say(f"{name}: opened by {event['by']}")
                case "hidden":
                    hidden = True
                    warn(f"{name}: the page is in the background; bring it to the front")
                case _:
                    listen(json.dumps(event))
            _check(run, limits, watch)


def _check(run: Run, limits: Timeouts, watch: Callable[[], None]) -> None:
    check_time(run, limits)
    watch()


@contextlib.contextmanager
def _named(name: str) -> Any:
    """Put the device's name in front of an error's message."""
    try:
        yield
    except EdgeseedError as error:
        raise type(error)(f"{name}: {error}") from error
