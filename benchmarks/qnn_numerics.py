"""Answers of `--scheme qnn` and `qnn-w8a16` on the simulator of Qualcomm's NPU.

    python benchmarks/qnn_numerics.py FOLDER --student NAME=FILE... --photos PHOTOS
    python benchmarks/qnn_numerics.py FOLDER --train efficientnet_b0=SECONDS --photos PHOTOS

`PHOTOS` has `train/` and `test/` with a folder a class. For each student and scheme the script
exports a bundle, computes the test photos in the float student, in ONNX Runtime on this CPU
(operator by operator, nothing fused) and on the simulated NPU, and compares the three.

Then it asks where the NPU and the CPU part. Every stored tensor is made an output. For each
operator the CPU computes what the NPU's own inputs give, so that errors of operators before do not
count. The difference is told in steps of the stored integers. `distance_it_makes` is what one kind
of operator does to the embedding (one minus the cosine): the CPU computes the graph once more, and
adds to the outputs of that kind what the NPU's differed by.

`--train` makes a student first: timm's architecture from random weights, `SECONDS` of AdamW on the
training photos with their labels. Its accuracy is low, but its ranges and decisions are those of a
trained network. It needs `onnxruntime-qnn` (pip install 'edgeseed[qnn]').
"""

import argparse
import shutil
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import torch
from onnx import helper, numpy_helper
from PIL import Image
from torch.nn import functional

from edgeseed.core.agreement import cosines, photo_rms
from edgeseed.core.bundle import read_bundle
from edgeseed.core.environment import environment
from edgeseed.core.files import write_json
from edgeseed.core.network import build_student, load_student, save_student
from edgeseed.core.preprocess import Preprocess
from edgeseed.core.student import Architecture, StudentSpec
from edgeseed.export import export
from edgeseed.export.proof.reference import Outputs, reference_outputs
from edgeseed.export.targets.onnx.npu import INSTALL, is_available
from edgeseed.export.targets.onnx.npu_worker import (
    HTP_ARCHITECTURE,
    SOC_MODEL,
    open_session,
    run,
    session_options,
)

Pixels = npt.NDArray[np.uint8]
SCHEMES = ("qnn", "qnn-w8a16", "fp32")
# The ranges that `auto` tries first, so that a slow machine need not try them all.
CALIBRATORS = {"qnn": "fisher", "qnn-w8a16": "minmax"}
IMAGE_SIZE = 64
NUM_CALIBRATION = 192


def read_photos(
    folder: Path, preprocess: Preprocess, *, most: int
) -> tuple[Pixels, Any, list[str]]:
    """Photos, an equal number of each class, with their labels and the classes' names."""
    classes = sorted(each.name for each in folder.iterdir() if each.is_dir())
    pixels, labels = [], []
    for label, name in enumerate(classes):
        files = sorted((folder / name).iterdir())
        for file in files[:: max(1, len(files) * len(classes) // most)][: most // len(classes)]:
            with Image.open(file) as photo:
                pixels.append(preprocess.pixels(photo.convert("RGB")))
            labels.append(label)
    return np.stack(pixels), np.array(labels), classes


def train(name: str, seconds: float, photos: Path, path: Path) -> None:
    """Saves a classifier trained for a fixed time on 20,000 of the training photos."""
    torch.manual_seed(0)
    preprocess = Preprocess(image_size=IMAGE_SIZE, resize=IMAGE_SIZE)
    pixels, labels, classes = read_photos(photos / "train", preprocess, most=20_000)
    network = build_student(Architecture(name=name), num_classes=len(classes))
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3, weight_decay=0.01)
    mean = torch.tensor(preprocess.mean).view(1, 3, 1, 1) * 255
    std = torch.tensor(preprocess.std).view(1, 3, 1, 1) * 255
    network.train().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    generator = torch.Generator().manual_seed(0)
    start, seen = time.monotonic(), 0
    while (share := (time.monotonic() - start) / seconds) < 1:
        for group in optimizer.param_groups:
            group["lr"] = 2e-3 * min(1.0, seen / 6400 + 0.05) * (1 - share)
        chosen = torch.randint(len(pixels), (64,), generator=generator).numpy()
        batch = (torch.from_numpy(pixels[chosen]).float() - mean) / std
        if seen // 64 % 2:
            batch = batch.flip(3)
        logits = network(batch.to(memory_format=torch.channels_last)).logits
        optimizer.zero_grad()
        functional.cross_entropy(logits, torch.from_numpy(labels[chosen])).backward()
        optimizer.step()
        seen += 64
    spec = StudentSpec(
        architecture=Architecture(name=name), preprocess=preprocess,
        embedding_dim=network.embedding_dim, classes=tuple(classes),
    )  # fmt: skip
    save_student(path, network.eval(), spec)
    print(f"trained {name} on {seen} photos in {seconds:.0f} s")


def bundle_of(student: Path, scheme: str, photos: Path, folder: Path) -> Path:
    """The bundle of a student in one scheme, or of `fp32`; made once."""
    out = folder / f"{student.stem}-{scheme}"
    if not out.exists():
        integers: dict[str, Any] = {}
        if scheme != "fp32":
            integers = {
                "scheme": scheme, "calibration_count": NUM_CALIBRATION,
                "quantization": {"calibrator": CALIBRATORS[scheme]},
            }  # fmt: skip
        export(
            student, precision="int8" if integers else "fp32", calibration=photos / "train",
            out=out, verify=False, speed=False, **integers,
        )  # fmt: skip
    return out


def compare(found: Outputs, reference: Outputs) -> dict[str, float]:
    """Agreement of the decisions, and cosines of the embeddings."""
    near = cosines(found["embedding"], reference["embedding"])
    same = found["logits"].argmax(1) == reference["logits"].argmax(1)
    return {
        "agreement": float(same.mean()),
        "mean_cosine": float(near.mean()),
        "low_cosine": float(np.percentile(near, 5)),
        "logits_rms": photo_rms(found["logits"], reference["logits"]),
    }


def on_cpu(content: bytes, feeds: dict[str, Any]) -> dict[str, Any]:
    """Outputs of a model by ONNX Runtime on the CPU, operator by operator."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level, options.intra_op_num_threads = 3, 1
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, feeds), strict=True))


def npu_session(path: Path) -> Any:
    """A model on the simulated NPU."""
    return open_session(str(path), session_options())


class Operators:
    """A plain QDQ model taken apart: each operator with the tensors that it reads and stores.

    Args:
        model: The whole model.

    Attributes:
        steps: Kind, names of the tensors read, name of the tensor stored; in order.
        scales: Scale of each stored tensor.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = model
        self.constants = {item.name: item for item in model.graph.initializer}
        makers = {name: node for node in model.graph.node for name in node.output}
        self.scales: dict[str, float] = {}
        self.steps: list[tuple[str, list[str], str]] = []
        self._models: dict[str, bytes] = {}
        for store in model.graph.node:
            if store.op_type != "QuantizeLinear":
                continue
            self.scales[store.output[0]] = float(numpy_helper.to_array(self._of(store, 1)))
            operator = makers.get(store.input[0])
            if operator is None:
                continue  # the photo
            nodes, read = [], []
            for name in operator.input:
                reading = makers.get(name)
                if reading is not None and reading.input[0] in self.constants:
                    nodes.append(reading)
                elif reading is not None:
                    read.append((reading.input[0], name))
            self._models[store.output[0]] = self._alone([*nodes, operator], store, read)
            stored = [tensor for tensor, _ in read]
            self.steps.append((operator.op_type, stored, store.output[0]))

    def _of(self, node: onnx.NodeProto, index: int) -> onnx.TensorProto:
        return self.constants[node.input[index]]

    def _alone(
        self, nodes: list[onnx.NodeProto], store: onnx.NodeProto, read: list[tuple[str, str]]
    ) -> bytes:
        """A model of one operator: from real numbers to the stored integers, read again."""
        back = helper.make_node("DequantizeLinear", [store.output[0], *store.input[1:]], ["out"])
        nodes = [*nodes, store, back]
        named = {name for node in nodes for name in node.input}
        inputs = dict.fromkeys(name for _, name in read)
        graph = helper.make_graph(
            nodes, "one",
            [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in inputs],
            [helper.make_tensor_value_info("out", onnx.TensorProto.FLOAT, None)],
            [item for name, item in self.constants.items() if name in named],
        )  # fmt: skip
        alone = helper.make_model(
            graph, opset_imports=self.model.opset_import, ir_version=self.model.ir_version
        )
        return bytes(alone.SerializeToString())

    def compute(self, stored: str, inputs: Sequence[Any]) -> Any:
        """What the CPU stores for one operator, as real numbers."""
        content = self._models[stored]
        names = [item.name for item in onnx.load_from_string(content).graph.input]
        return on_cpu(content, dict(zip(names, inputs, strict=True)))["out"]


def readings(model: onnx.ModelProto) -> dict[str, str]:
    """Stored tensor -> the real numbers that it is read as."""
    stored = {node.output[0] for node in model.graph.node if node.op_type == "QuantizeLinear"}
    outputs: dict[str, str] = {}
    for node in model.graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0] in stored:
            outputs.setdefault(node.input[0], node.output[0])
    return outputs


def with_outputs(model: onnx.ModelProto, names: Iterable[str]) -> onnx.ModelProto:
    """The model with some of its values as outputs, besides its own."""
    told = onnx.ModelProto()
    told.CopyFrom(model)
    known = {item.name for item in model.graph.output}
    told.graph.output.extend(
        helper.make_empty_tensor_value_info(name) for name in names if name not in known
    )
    return told


def npu_values(model: onnx.ModelProto, pixels: Pixels, scratch: Path) -> dict[str, Any]:
    """Every stored tensor of the simulated NPU, as real numbers."""
    outputs = readings(model)
    # In one session: others fuse other operators, and their tensors do not belong together.
    onnx.save(with_outputs(model, outputs.values()), scratch)
    found = run(npu_session(scratch), pixels, seconds=1e9)
    return {tensor: found[name] for tensor, name in outputs.items()}


def evidence(path: Path, pixels: Pixels, scratch: Path) -> dict[str, Any]:
    """Where the NPU and the CPU part, by the kind of operator."""
    model = onnx.load(path)
    operators = Operators(model)
    npu = npu_values(model, pixels, scratch)
    photo = next(node.output[0] for node in model.graph.node if node.op_type == "QuantizeLinear")
    own: dict[str, Any] = {}
    by_kind: dict[str, list[Any]] = defaultdict(list)
    for kind, read, stored in operators.steps:
        cpu = operators.compute(stored, [npu[name] for name in read])
        own[stored] = (npu[stored] - cpu) / operators.scales[stored]
        by_kind[kind].append(np.rint(own[stored]).ravel())
    rows = {}
    for kind, parts in by_kind.items():
        steps = np.concatenate(parts)
        rows[kind] = {
            "operators": len(parts),
            "equal": float(np.mean(steps == 0)),
            "within_one_step": float(np.mean(np.abs(steps) <= 1)),
            "mean_steps": float(steps.mean()),
            "rms_steps": float(np.sqrt(np.mean(steps**2))),
            "largest_steps": float(np.abs(steps).max()),
        }
    plain = _replay(operators, npu[photo], own, photo, kinds=())
    last = _stored_of(model, "embedding")
    for kind in rows:
        changed = _replay(operators, npu[photo], own, photo, kinds=(kind,))
        rows[kind]["distance_it_makes"] = _distance(changed[last], plain[last])
    everything = _replay(operators, npu[photo], own, photo, kinds=tuple(rows))
    return {
        "photos": len(pixels),
        "kinds": rows,
        "distance_of_all_kinds": _distance(everything[last], plain[last]),
        "distance_of_the_npu": _distance(npu[last], plain[last]),
        "distance_of_the_npu_without_the_outputs": _distance(
            run(npu_session(path), pixels, seconds=1e9)["embedding"], plain[last]
        ),
        "along_the_network": [
            {"tensor": stored, "kind": kind, "distance": _distance(npu[stored], plain[stored])}
            for kind, _, stored in operators.steps
        ],
    }


def _stored_of(model: onnx.ModelProto, output: str) -> str:
    """The stored tensor that an output is read from."""
    makers = {name: node for node in model.graph.node for name in node.output}
    return str(makers[output].input[0])


def _replay(
    operators: Operators, photo: Any, own: dict[str, Any], image: str, *, kinds: Sequence[str]
) -> dict[str, Any]:
    """The CPU's tensors, with the NPU's own errors added behind operators of some kinds."""
    values = {image: photo}
    for kind, read, stored in operators.steps:
        values[stored] = operators.compute(stored, [values[name] for name in read])
        if kind in kinds:
            values[stored] = values[stored] + own[stored] * operators.scales[stored]
    return values


def _distance(found: Any, reference: Any) -> float:
    """One minus the mean cosine, photo by photo."""
    rows = [each.reshape(len(each), -1) for each in (found, reference)]
    return float(1 - cosines(*rows).mean())


def measure(
    student: Path, scheme: str, photos: Path, folder: Path, *, count: int
) -> dict[str, Any]:
    """One row: a student in one scheme."""
    network, spec = load_student(student)
    pixels, labels, _ = read_photos(photos / "test", spec.preprocess, most=count)
    bundle = read_bundle(bundle_of(student, scheme, photos, folder))
    path = bundle.path / bundle.manifest.model
    reference = reference_outputs(network, spec.preprocess, pixels)
    cpu = on_cpu(path.read_bytes(), {"image": pixels.astype(np.float32)})
    start = time.monotonic()
    session = npu_session(path)
    opened = time.monotonic() - start
    npu = run(session, pixels, seconds=1e9)
    row = {
        "student": student.stem, "scheme": scheme, "photos": len(pixels),
        "accuracy": {
            name: float((outputs["logits"].argmax(1) == labels).mean())
            for name, outputs in (("float", reference), ("cpu", cpu), ("npu", npu))
        },
        "cpu_to_float": compare(cpu, reference),
        "npu_to_float": compare(npu, reference),
        "npu_to_cpu": compare(npu, cpu),
        "session_s": opened,
    }  # fmt: skip
    if bundle.manifest.quantization is not None:
        row["calibrator"] = bundle.manifest.quantization.calibrator
        row["evidence"] = evidence(path, pixels[:: len(pixels) // 4][:4], folder / "told.onnx")
    print({name: row[name] for name in row if name != "evidence"}, flush=True)
    return row


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--student", action="append", default=[], metavar="NAME=FILE")
    parser.add_argument("--train", action="append", default=[], metavar="ARCHITECTURE=SECONDS")
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--count", type=int, default=200, help="test photos")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/qnn_numerics.json"))
    arguments = parser.parse_args()
    if not is_available():
        raise SystemExit(f"onnxruntime-qnn is not installed; {INSTALL}")
    arguments.folder.mkdir(parents=True, exist_ok=True)
    for text in arguments.student:
        name, _, file = text.partition("=")
        shutil.copy(file, arguments.folder / f"{name}.safetensors")
    for text in arguments.train:
        name, _, seconds = text.partition("=")
        path = arguments.folder / f"{name}.safetensors"
        if not path.exists():
            train(name, float(seconds), arguments.photos, path)
    facts = {
        "simulator": f"onnxruntime-qnn {metadata.version('onnxruntime-qnn')}",
        "htp_architecture": HTP_ARCHITECTURE,
        "soc_model": SOC_MODEL,
        "calibration_photos": NUM_CALIBRATION,
        "environment": environment(),
    }
    rows: list[dict[str, Any]] = []
    students = arguments.folder.glob("*.safetensors")
    for student in sorted(students, key=lambda file: file.stat().st_size):
        for scheme in SCHEMES:
            count = arguments.count
            rows.append(measure(student, scheme, arguments.photos, arguments.folder, count=count))
            # After each: the simulator takes minutes a row.
            write_json(arguments.out, {**facts, "rows": rows})


if __name__ == "__main__":
    main()
