"""An ONNX file as ONNX Runtime computes it: small graphs, made by hand."""

import dataclasses
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper
from support.manifests import some_manifest

from edgeseed.core.errors import ArtifactError
from edgeseed.export.targets.onnx.model import (
    OnnxModel,
    channel_axis,
    open_onnx,
    optimised_graph,
    stored_scales,
)

Pixels = npt.NDArray[np.uint8]


def network(*, batch: int | str = "batch", extra: bool = False) -> ModelProto:
    """image (B, 3, 4, 4) -> its mean over the photo as embedding (B, 3)."""
    tensor = helper.make_tensor_value_info
    nodes = [
        helper.make_node("GlobalAveragePool", ["image"], ["pooled"], name="pool"),
        helper.make_node("Flatten", ["pooled"], ["embedding"], name="flat"),
    ]
    outputs = [tensor("embedding", TensorProto.FLOAT, [batch, 3])]
    if extra:
        nodes.append(helper.make_node("Cast", ["embedding"], ["counts"], to=TensorProto.INT32))
        outputs.append(tensor("counts", TensorProto.INT32, [batch, 3]))
    graph = helper.make_graph(
        nodes, "g", [tensor("image", TensorProto.FLOAT, [batch, 3, 4, 4])], outputs
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


@pytest.fixture
def pixels() -> Pixels:
    return np.random.default_rng(0).integers(0, 256, (37, 3, 4, 4)).astype(np.uint8)


def saved(folder: Path, model: ModelProto) -> Path:
    onnx.save(model, folder / "model.onnx")
    return folder / "model.onnx"


@pytest.mark.parametrize("batch", ["batch", 1, 8])
def test_any_number_of_photos_is_answered_whatever_the_files_batch(
    tmp_path: Path, pixels: Pixels, batch: int | str
) -> None:
    model = OnnxModel(saved(tmp_path, network(batch=batch)), batch=batch)
    found = model.infer(pixels)
    assert set(found) == {"embedding"}
    np.testing.assert_allclose(found["embedding"], pixels.mean(axis=(2, 3)), rtol=1e-5)


def test_added_outputs_have_the_types_that_an_app_reads(tmp_path: Path, pixels: Pixels) -> None:
    model = OnnxModel(saved(tmp_path, network(extra=True)), batch="batch")
    assert set(model.infer(pixels)) == {"embedding"}
    answer = model.answer(pixels)
    assert answer["counts"].dtype == np.int32
    np.testing.assert_array_equal(answer["counts"], answer["embedding"].astype(np.int32))


def test_values_inside_are_given_by_name_and_unknown_ones_are_left_out(
    tmp_path: Path, pixels: Pixels
) -> None:
    model = OnnxModel(saved(tmp_path, network()), batch="batch")
    found = model.layers(pixels[:2], ["pooled", "nowhere"])
    assert set(found) == {"pooled"}
    assert found["pooled"].shape == (2, 3, 1, 1)


def test_only_what_an_app_would_run_is_timed(tmp_path: Path) -> None:
    path = saved(tmp_path, network())
    assert OnnxModel(path, batch="batch").single_run() is None
    run = OnnxModel(path, batch="batch", is_engine=True).single_run()
    assert run is not None
    (embedding,) = cast(Any, run())
    np.testing.assert_array_equal(embedding, [[128.0, 128.0, 128.0]])


@pytest.mark.parametrize("content", [b"", b"no model", network().SerializeToString()[:50]])
def test_a_file_that_is_no_model_is_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.onnx").write_bytes(content)
    with pytest.raises(
        ArtifactError, match=r"is not a model that ONNX Runtime .* can load"
    ) as caught:
        OnnxModel(tmp_path / "model.onnx", batch="batch")
    assert "\n" not in str(caught.value)


def test_a_model_that_loads_and_does_not_run_is_one_line(tmp_path: Path, pixels: Pixels) -> None:
    model = OnnxModel(saved(tmp_path, network()), batch="batch")
    with pytest.raises(ArtifactError, match=r"loads in ONNX Runtime .* and does not run"):
        model.infer(pixels[:, :2])


def test_inputs_and_outputs_are_those_of_the_manifest(tmp_path: Path) -> None:
    saved(tmp_path, network())
    manifest = some_manifest()
    image, embedding = manifest.inputs[0], manifest.outputs[0]
    own = dataclasses.replace(
        manifest,
        inputs=(dataclasses.replace(image, shape=("batch", 3, 4, 4)),),
        outputs=(dataclasses.replace(embedding, shape=("batch", 3)),),
    )
    open_onnx(tmp_path, own)
    with pytest.raises(ArtifactError, match=r"its inputs are .* the manifest says"):
        open_onnx(tmp_path, manifest)
    with pytest.raises(ArtifactError, match=r"its outputs are .* the manifest says"):
        open_onnx(tmp_path, dataclasses.replace(own, outputs=manifest.outputs))


def test_the_graph_that_runs_is_the_optimised_one(tmp_path: Path) -> None:
    model = network()
    model.graph.node.insert(0, helper.make_node("Identity", ["image"], ["same"]))
    model.graph.node[1].input[0] = "same"
    kinds = [node.op_type for node in optimised_graph(saved(tmp_path, model)).node]
    assert "Identity" not in kinds
    assert "GlobalAveragePool" in kinds


@pytest.mark.parametrize(("axis", "rank", "expected"), [(None, 4, 1), (0, 4, 0), (-1, 4, 3)])
def test_the_axis_of_scales_is_onnxs(axis: int | None, rank: int, expected: int) -> None:
    attributes = {} if axis is None else {"axis": axis}
    node = helper.make_node("DequantizeLinear", ["w", "s"], ["d"])
    node.attribute.extend(helper.make_attribute(*item) for item in attributes.items())
    assert channel_axis(node, rank) == expected


def test_scales_of_stored_activations_are_found() -> None:
    graph = helper.make_graph(
        [
            helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
            helper.make_node("QuantizeLinear", ["q", "computed", "z"], ["q2"]),
        ],
        "g", [], [],
        [numpy_helper.from_array(np.array(0.5, np.float32), "s")],
    )  # fmt: skip
    assert stored_scales(graph) == [0.5]
