"""What travels to the agent, and comes back as what was asked."""

import json
from pathlib import Path

import pytest

from edgeseed.runtime.agent.job_file import BuildJob, Job

JOB = Job(
    engine="core_ml", model="m", unit="cpu", threads=2, protocol="quick", min_runs=1,
    min_seconds=2.0, max_seconds=3.0, golden_tolerance=0.1, files={"a": "b"}, bundle_digest="d",
)  # fmt: skip


def test_a_job_survives_the_way_to_the_device(tmp_path: Path) -> None:
    JOB.write(tmp_path / "job.json")
    assert Job.read(tmp_path / "job.json") == JOB


def test_a_build_job_survives_it_too(tmp_path: Path) -> None:
    BuildJob(files={"a": "b"}).write(tmp_path / "job.json")
    assert BuildJob.read(tmp_path / "job.json") == BuildJob(files={"a": "b"})


@pytest.mark.parametrize("kind", [Job, BuildJob])
def test_a_job_of_another_version_is_refused(tmp_path: Path, kind: type[Job | BuildJob]) -> None:
    (tmp_path / "job.json").write_text(json.dumps({"schema_version": 2, "files": {}}))
    with pytest.raises(ValueError, match="the job has schema 2, this agent reads 1"):
        kind.read(tmp_path / "job.json")


def test_a_measurement_keeps_what_was_asked() -> None:
    request = JOB.request()
    # As the result names it, not as its file is called.
    assert request.engine == "core-ml"
    assert (request.bundle_digest, request.threads, request.protocol) == ("d", 2, "quick")
    assert (request.min_runs, request.min_seconds, request.max_seconds) == (1, 2.0, 3.0)
