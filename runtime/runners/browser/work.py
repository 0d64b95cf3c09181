"""What the page is given: a job, and the bundle's files as plain bytes that JavaScript can read."""

import hashlib
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeseed.core.bundle import Bundle
from edgeseed.core.errors import ConfigError
from edgeseed.runtime.agent.job_file import Job
from edgeseed.runtime.latency import WarmUp
from edgeseed.runtime.runners.browser.package import FILES, OrtWeb

GOLDEN_INPUTS = "golden/inputs.npy"
GOLDEN_OUTPUTS = "golden/model.npz"
FLOAT_BYTES = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class Work:
    """One measurement as the page gets it.

    Attributes:
        description: JSON that runner.mjs reads.
        files: what may be fetched, by path below the session's folder: a file or bytes.
        pixels: (N, 3, H, W) photos to run, or None.
        outputs: values of each of the model's outputs for one photo, by name.
    """

    description: dict[str, Any]
    files: dict[str, Path | bytes]
    pixels: NDArray[np.uint8] | None
    outputs: dict[str, tuple[int, ...]] = field(default_factory=dict)


def make_work(
    bundle: Bundle, job: Job, *, pixels: NDArray[np.uint8] | None, ort_web: OrtWeb, title: str
) -> Work:
    """Lay out what the page fetches.

    Raises:
        ConfigError: If the bundle's model cannot be run in a browser.
    """
    if bundle.manifest.target != "onnx":
        raise ConfigError(
            f"{bundle.path.name} is a {bundle.manifest.target} bundle; a browser runs onnx: "
            "export with --target onnx"
        )
    files: dict[str, Path | bytes] = {}
    model_files = [
        _model_file(bundle, name, files) for name in job.files if name.startswith(job.model)
    ]
    golden, outputs = _golden(bundle, files)
    for name in FILES[job.unit]:
        files[f"ort/{name}"] = ort_web.folder / name
    photos = None
    if pixels is not None:
        sizes = [{"name": name, "size": math.prod(shape)} for name, shape in outputs.items()]
        photos = {
            "n": len(pixels), "shape": pixels.shape[1:], "url": "photos", "outputs": sizes,
        }  # fmt: skip
    description = {
        "title": title,
        "job": {**_without_files(job), "warm_up": asdict(WarmUp())},
        "engine": {
            "version": ort_web.version,
            "module": f"ort/{FILES[job.unit][0]}",
            "folder": "ort/",
        },
        "files": model_files,
        "golden": golden,
        "photos": photos,
    }
    return Work(description=description, files=files, pixels=pixels, outputs=outputs)


def _without_files(job: Job) -> dict[str, Any]:
    return {name: value for name, value in asdict(job).items() if name != "files"}


def _model_file(bundle: Bundle, name: str, files: dict[str, Path | bytes]) -> dict[str, Any]:
    files[f"bundle/{name}"] = bundle.path / name
    entry = bundle.manifest.files[name]
    return {
        "name": name,
        "url": f"bundle/{name}",
        "sha256": entry.sha256,
        "size_bytes": entry.size_bytes,
    }


def _golden(
    bundle: Bundle, files: dict[str, Path | bytes]
) -> tuple[dict[str, Any], dict[str, tuple[int, ...]]]:
    """The golden photos and outputs as raw little-endian float32: JavaScript reads no npz."""
    inputs = np.load(bundle.path / GOLDEN_INPUTS)
    with np.load(bundle.path / GOLDEN_OUTPUTS) as archive:
        expected = {name: archive[name] for name in sorted(archive.files)}
    described = {
        "inputs": _tensor("golden/inputs", "golden photos", inputs, files),
        "outputs": [
            _tensor(f"golden/outputs/{number}", name, values, files)
            for number, (name, values) in enumerate(expected.items())
        ],
    }
    return described, {name: values.shape[1:] for name, values in expected.items()}


def _tensor(
    url: str, name: str, values: NDArray[Any], files: dict[str, Path | bytes]
) -> dict[str, Any]:
    content = np.ascontiguousarray(values, dtype="<f4").tobytes()
    files[url] = content
    return {
        "name": name,
        "url": url,
        "shape": values.shape,
        "sha256": hashlib.sha256(content).hexdigest(),
        "size_bytes": len(content),
    }
