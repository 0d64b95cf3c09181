"""What holds every runner to docs/measurement.md: one model, run as it should be and broken.

A runner under test is a function that measures a bundle and gives back an `Observation`, or raises.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from edgeseed.core.bundle import Bundle
from edgeseed.core.errors import GateError
from edgeseed.runtime.agent.job_file import Job
from edgeseed.runtime.conformance import check_conformance, read_measurement
from edgeseed.runtime.device import Observation

Measure = Callable[[Bundle, Job], Observation]


def job_for(bundle: Bundle, *, engine: str, unit: str, min_seconds: float = 1.0) -> Job:
    """A short job for a bundle of `write_bundle`."""
    return Job(
        engine=engine,
        model=bundle.manifest.model,
        unit=unit,
        threads=1,
        protocol="conformance",
        min_runs=20,
        min_seconds=min_seconds,
        max_seconds=30.0,
        golden_tolerance=1e-3,
        files={n: e.sha256 for n, e in bundle.manifest.files.items() if e.role == "ship"},
        bundle_digest=bundle.digest,
    )


def hold(measure: Measure, bundle: Bundle, job: Job) -> Observation:
    """Measure, and hold what came back to every rule that can be checked from outside."""
    seen = measure(bundle, job)
    found = seen.measurement
    # What it wrote survives its own schema.
    assert read_measurement(found.to_dict(), what="the measurement") == found
    check_conformance(found, stages=seen.stages, what="the runner")
    assert found.placement.requested == job.unit
    if found.samples_ns:
        met = len(found.samples_ns) >= job.min_runs and found.elapsed_ns >= job.min_seconds * 1e9
        assert met or found.elapsed_ns >= job.max_seconds * 1e9
        # Programs of others warm up for a fixed number of runs, and say so by `steady: null`.
        fixed = found.warm_up.steady is None
        assert fixed or found.warm_up.runs >= 10 or found.warm_up.seconds >= 1
    if found.request is not None:
        assert found.request == job.request()
    return seen


def plant_wrong_golden_outputs(bundle: Bundle) -> Path:
    """Change the golden outputs and seal them in again: whoever times the model now, is wrong."""
    from edgeseed.core.bundle import seal_bundle

    path = bundle.path / "golden" / "model.npz"
    with np.load(path) as archive:
        values = {name: archive[name] * 1.5 for name in archive.files}
    np.savez(path, **values)
    seal_bundle(bundle.path, bundle.manifest)
    return path


def refuses_a_wrong_model(measure: Measure, bundle: Bundle, job: Job) -> bool:
    """Whether a runner gives no times for a model whose golden outputs are not the bundle's."""
    try:
        measure(bundle, job)
    except GateError as error:
        return "golden" in str(error)
    return False
