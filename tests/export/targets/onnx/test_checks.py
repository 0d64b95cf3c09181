"""What an ONNX file and its manifest say of each other."""

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper
from support.manifests import some_manifest

from edgeseed.core.bundle import Manifest
from edgeseed.export.file_metadata import file_metadata
from edgeseed.export.targets.onnx.checks import check_file

RUNTIME = {"onnxruntime": "1.15"}
MANIFEST = some_manifest()


def model() -> ModelProto:
    """One node, with all that the manifest says."""
    tensor = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Add", ["image", "w"], ["embedding"], name="add")], MANIFEST.name,
        [tensor("image", TensorProto.FLOAT, [1])], [tensor("embedding", TensorProto.FLOAT, [1])],
        [numpy_helper.from_array(np.ones(1, np.float32), "w")],
    )  # fmt: skip
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    wanted = file_metadata(
        MANIFEST.preprocess, precision=MANIFEST.precision, classes=MANIFEST.classes
    )
    helper.set_model_props(made, dict(wanted))
    return made


def findings(made: ModelProto, manifest: Manifest = MANIFEST) -> list[str]:
    return [str(each) for each in check_file(made, manifest, minimum_runtime=RUNTIME)]


def test_a_file_as_the_export_writes_it_has_no_finding() -> None:
    assert findings(model()) == []


def foreign_operator(made: ModelProto) -> None:
    made.graph.node[0].domain = "com.microsoft"
    made.opset_import.append(helper.make_opsetid("com.microsoft", 1))


def weight_elsewhere(made: ModelProto) -> None:
    made.graph.initializer[0].external_data.add(key="location", value="w.bin")


def unread_weight(made: ModelProto) -> None:
    made.graph.initializer.append(numpy_helper.from_array(np.ones(1, np.float32), "w2"))


def unread_node(made: ModelProto) -> None:
    made.graph.node.append(helper.make_node("Relu", ["image"], ["nobody"], name="relu"))


def own_function(made: ModelProto) -> None:
    made.functions.add(name="mine", domain="")


FAULTS: list[tuple[Callable[[ModelProto], None], str]] = [
    (foreign_operator, "com.microsoft: is a domain of operators that a stock runtime does not"),
    (weight_elsewhere, "w: lies in another file"),
    (unread_weight, "w2: is a weight that nothing reads"),
    (unread_node, "relu: computes what nothing reads"),
    (own_function, "mine: is a function of the file's own"),
    (lambda m: setattr(m, "ir_version", 9), "IR version: is 9, the manifest says 8"),
    (lambda m: setattr(m.opset_import[0], "version", 17), "opset: is 17, the manifest says 18"),
    (lambda m: setattr(m.graph, "name", "other"), "graph name: is 'other', the manifest's is"),
    (lambda m: setattr(m, "doc_string", "hello"), "documentation: is in the file"),
]


@pytest.mark.parametrize(("plant", "finding"), FAULTS)
def test_what_should_not_be_there_is_named(
    plant: Callable[[ModelProto], None], finding: str
) -> None:
    made = model()
    plant(made)
    found = findings(made)
    assert len(found) == 1, found
    assert found[0].startswith(finding)


def test_metadata_that_was_edited_is_named() -> None:
    made = model()
    made.metadata_props[0].value = "something else"
    (found,) = findings(made)
    assert made.metadata_props[0].key in found


def test_a_runtime_that_is_too_old_is_named() -> None:
    other = dataclasses.replace(MANIFEST, minimum_runtime={"onnxruntime": "1.10"})
    (found,) = findings(model(), other)
    assert found.startswith("minimum runtime: is {'onnxruntime': '1.15'}, the manifest says")
