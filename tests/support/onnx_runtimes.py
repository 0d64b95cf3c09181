"""Tries bundles in many versions of ONNX Runtime, native and for the web, and writes a table.

    PYTHONPATH=tests python -m support.onnx_runtimes FOLDER

FOLDER keeps the versions, which come from PyPI and npm (400 MB), so that a second call is quick.
Each file runs in a process of its own: native versions in this Python, or another that they have a
wheel for, those for the web in node, as WebAssembly. What a cell of the table says is `ok`, or
the first line of the error; `ok` takes outputs like those of the newest native version.
"""

import functools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnxruntime

from edgeseed.core.console import quiet, say
from edgeseed.core.network import build_student, save_student
from edgeseed.core.preprocess import Preprocess
from edgeseed.core.student import Architecture, StudentSpec
from edgeseed.export import export
from edgeseed.export.target import Precision

TABLE = Path(__file__).parents[1] / "export/targets/onnx/runtime_versions.json"
NATIVE = (
    "1.14.1", "1.15.1", "1.16.3", "1.17.3", "1.18.1", "1.19.2", "1.20.1", "1.21.1", "1.22.1",
    "1.23.2", "1.24.4", "1.27.0", "1.32.0",
)  # fmt: skip
WEB = (
    "1.14.0", "1.16.3", "1.17.3", "1.18.0", "1.19.2", "1.20.1", "1.21.0", "1.22.0", "1.23.2",
    "1.24.3", "1.27.0", "1.30.0",
)  # fmt: skip
VARIANTS: dict[str, dict[str, Any]] = {
    "fp32": {}, "fp16": {}, "w8": {},
    "int8 x86": {"scheme": "x86"}, "int8 arm": {"scheme": "arm"},
}  # fmt: skip
"""Of the ONNX target, with the arguments of `export` that they take."""
NETWORKS = ("mobilenetv3_small_050", "test_efficientnet")
"""Hard-swish, hard-sigmoid, ReLU, SiLU and gates: all that int8 has forms of its own for."""
# A photo's largest difference over the largest value of all: fp16 kernels round where others
# compute in float32. In integers a tie may be rounded the other way, and a network that has learnt
# nothing makes much of it (0.26 for one photo of 32): there, three photos of four must be within.
_TOLERANCE = {"fp32": 1e-4, "w8": 1e-4, "fp16": 2e-2, "int8 x86": 1e-2, "int8 arm": 1e-2}
_OF_INTEGERS = 0.75
_SIZE = 64
# By photos in a batch, a runtime keeps its values at other places: 1.17 to 1.19 get fp16 wrong with
# 8 and 32 photos and right with fewer, 1.17 of the web reads beyond its memory.
_BATCHES = (1, 2, 8, 32)
_LIMIT_SECONDS = 120.0

_NATIVE_RUN = """
import json, sys
import numpy, onnxruntime
assert onnxruntime.__version__ == sys.argv[1], onnxruntime.__version__
photos, batches = numpy.load(sys.argv[2]), json.loads(sys.argv[3])
try:
    answer, options = [], onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 4, 1
    providers = ["CPUExecutionProvider"]
    session = onnxruntime.InferenceSession(sys.argv[4], options, providers=providers)
    name = session.get_inputs()[0].name
    for count in batches:
        answer += [v.tolist() for v in session.run(None, {name: photos[:count]})]
except Exception as error:
    answer = str(error).strip().split(chr(10))[0][:200]
print("ANSWER " + json.dumps(answer), flush=True)
"""
_WEB_RUN = """
const fs = require("fs"), ort = require("onnxruntime-web");
const [photos, size, batches, path] = process.argv.slice(2);
ort.env.wasm.numThreads = 1;
ort.env.logLevel = "fatal";
const values = new Float32Array(fs.readFileSync(photos).buffer.slice(0));
(async () => {
  let answer;
  try {
    const session = await ort.InferenceSession.create(
      new Uint8Array(fs.readFileSync(path)), {executionProviders: ["wasm"]});
    const side = Number(size);
    answer = [];
    for (const count of JSON.parse(batches)) {
      const photo = values.slice(0, count * 3 * side * side);
      const image = new ort.Tensor("float32", photo, [count, 3, side, side]);
      const found = await session.run({[session.inputNames[0]]: image});
      for (const name of session.outputNames) answer.push(Array.from(found[name].data));
    }
  } catch (error) {
    answer = String(error && error.message || error).trim().split("\\n")[0].slice(0, 200);
  }
  process.stdout.write("ANSWER " + JSON.stringify(answer) + "\\n", () => process.exit(0));
})();
"""


def make_models(folder: Path) -> dict[str, list[Path]]:
    """Files of every variant, of each network; made once."""
    photos = (
        np.random.default_rng(0)
        .integers(0, 256, (max(_BATCHES), 3, _SIZE, _SIZE))
        .astype(np.float32)
    )
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "photos.npy", photos)
    photos.tofile(folder / "photos.bin")
    found: dict[str, list[Path]] = {}
    for name in NETWORKS:
        student = folder / f"{name}.safetensors"
        if not student.exists():
            _save_network(name, student)
        for variant, arguments in VARIANTS.items():
            bundle = folder / f"{name}-{variant.replace(' ', '-')}"
            if not bundle.exists():
                with quiet():
                    export(
                        student, precision=cast(Precision, variant.partition(" ")[0]),
                        calibration="digits", out=bundle, verify=False, speed=False,
                        quantization={"max_float_layers": 0} if arguments else {}, **arguments,
                    )  # fmt: skip
            found.setdefault(variant, []).append(bundle / "model.onnx")
    return found


def _save_network(name: str, path: Path) -> None:
    import torch

    torch.manual_seed(0)
    network = build_student(Architecture(name=name), num_classes=10)
    spec = StudentSpec(
        architecture=Architecture(name=name),
        preprocess=Preprocess(image_size=_SIZE, resize=_SIZE),
        embedding_dim=network.embedding_dim,
        classes=tuple("abcdefghij"),
    )
    save_student(path, network, spec)


def native_python(version: str, folder: Path) -> tuple[Path, Path] | None:
    """A Python that has a wheel of this version, and the folder that holds it; None for neither."""
    target = folder / f"onnxruntime-{version}"
    numpy = "numpy<2" if _number(version) < (1, 19) else "numpy"
    older = shutil.which("python3.10")
    pythons = [Path(sys.executable), *([Path(older)] if older else [])]
    for python in pythons:
        note = target / "python"
        if note.exists():
            return Path(note.read_text()), target
        done = subprocess.run(
            [
                python, "-m", "pip", "install", "--quiet", "--no-deps", "--target", target,
                f"onnxruntime=={version}", numpy, "flatbuffers", "protobuf",
            ],
            capture_output=True, check=False,
        )  # fmt: skip
        if done.returncode == 0:
            note.write_text(str(python))
        else:
            shutil.rmtree(target, ignore_errors=True)
    return None


def web_folder(version: str, folder: Path) -> Path | None:
    """Where npm has put this version; None where there is none."""
    target = folder / f"onnxruntime-web-{version}"
    if not (target / "node_modules/onnxruntime-web").is_dir():
        target.mkdir(parents=True, exist_ok=True)
        (target / "package.json").write_text("{}")
        command = ["npm", "install", "--silent", "--no-audit", "--no-fund", "--ignore-scripts"]
        done = subprocess.run(
            [*command, f"onnxruntime-web@{version}"], cwd=target, capture_output=True, check=False
        )
        if done.returncode:
            shutil.rmtree(target)
            return None
    return target


def answers_of_native(version: str, models: list[Path], folder: Path) -> list[Any] | None:
    """Outputs or an error of each model; None if this version cannot be had."""
    found = native_python(version, folder)
    if found is None:
        return None
    python, target = found
    photos, batches = folder / "models/photos.npy", json.dumps(_BATCHES)
    command = [python, "-c", _NATIVE_RUN, version, photos, batches]
    return _answers(command, models, {"PYTHONPATH": str(target)})


def answers_of_web(version: str, models: list[Path], folder: Path) -> list[Any] | None:
    """The same of the WebAssembly build, in node."""
    target = web_folder(version, folder)
    if target is None:
        return None
    script = target / "run.cjs"
    script.write_text(_WEB_RUN)
    command = ["node", script, folder / "models/photos.bin", _SIZE, json.dumps(_BATCHES)]
    return _answers(command, models, {})


def _answers(
    command: Sequence[Any], models: Iterable[Path], environment: Mapping[str, str]
) -> list[Any]:
    # A process each: what a crash leaves is of no use to whoever comes next.
    return [_answer([*command, model], environment) for model in models]


def _answer(command: Sequence[Any], environment: Mapping[str, str]) -> Any:
    try:
        done = subprocess.run(
            list(map(str, command)), capture_output=True, text=True, check=False,
            timeout=_LIMIT_SECONDS, env={**os.environ, **environment},
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return f"no end after {_LIMIT_SECONDS:.0f} s"
    for line in done.stdout.splitlines():
        if line.startswith("ANSWER "):
            return json.loads(line[7:])
    ended = (done.stderr.strip().splitlines() or ["no output"])[-1][:200]
    return f"ended with {done.returncode}: {ended}"


def cell(answer: Any, truth: Any, variant: str) -> str:
    """`ok`, or what is wrong."""
    if isinstance(answer, str):
        return answer
    errors = []
    for found, expected in zip(answer, truth, strict=True):
        wanted = np.asarray(expected, np.float64)
        # JSON of node has null for NaN, and no shape.
        values = np.asarray(found, np.float64).reshape(wanted.shape)
        photos = np.abs(values - wanted).max(axis=1) / np.abs(wanted).max()
        share = _OF_INTEGERS if variant.startswith("int8") else 1.0
        errors.append(float(np.quantile(photos, share, method="lower")))
        if not np.isfinite(photos).all():
            return "not a number"
    return "ok" if max(errors) <= _TOLERANCE[variant] else f"off by {max(errors):.2g}"


def try_version(kind: str, version: str, folder: Path) -> dict[str, str] | None:
    """By variant, what this version makes of its files; None if it cannot be had."""
    models = make_models(folder / "models")
    paths = [path for variant in models.values() for path in variant]
    run = answers_of_native if kind == "native" else answers_of_web
    answers = run(version, paths, folder)
    truths = _truths(tuple(paths), folder)
    if answers is None or truths is None:
        return None
    rows: dict[str, str] = {}
    values = iter(zip(answers, truths, strict=True))
    for variant, files in models.items():
        cells = [cell(*next(values), variant) for _ in files]
        rows[variant] = next((item for item in cells if item != "ok"), "ok")
    return rows


@functools.cache
def _truths(models: tuple[Path, ...], folder: Path) -> list[Any] | None:
    """Outputs of the newest native version."""
    return answers_of_native(onnxruntime.__version__, list(models), folder)


def first_version(table: Mapping[str, Mapping[str, str]], variant: str) -> str:
    """The oldest version from which on every one that was tried runs a variant."""
    versions = sorted(table, key=_number, reverse=True)
    running: Iterator[str] = iter(versions)
    first = ""
    for version in running:
        if table[version][variant] != "ok":
            break
        first = version
    return first


def _number(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))


def main() -> None:
    folder = Path(sys.argv[1]).resolve()
    table: dict[str, dict[str, dict[str, str]]] = {"native": {}, "web": {}}
    for kind, versions in (("native", NATIVE), ("web", WEB)):
        for version in versions:
            rows = try_version(kind, version, folder)
            say(f"{kind} {version}: {'cannot be had' if rows is None else rows}")
            if rows is not None:
                table[kind][version] = rows
    TABLE.write_text(json.dumps(table, indent=1) + "\n")


if __name__ == "__main__":
    main()
