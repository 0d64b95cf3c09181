import numpy as np
import numpy.typing as npt
import pytest
import torch
from support.export import tiny_preprocess, tiny_student

from edgeseed.core.errors import UsageError
from edgeseed.export.program import build_program, float_graph, output_names
from edgeseed.export.proof.reference import reference_outputs

Pixels = npt.NDArray[np.uint8]


@pytest.mark.parametrize("name", ["test_efficientnet", "test_resnet", "test_vit", "lcnet_035"])
def test_the_program_is_the_student_at_any_batch(name: str, pixels: Pixels) -> None:
    size = {"img_size": 32} if name == "test_vit" else {}
    network = tiny_student(name, trained=False, **size)
    program = build_program(network, tiny_preprocess())
    assert output_names(program) == ("embedding", "logits")
    module = program.module()
    for count in (1, 2, 7):
        truth = reference_outputs(network, tiny_preprocess(), pixels[:count])
        with torch.no_grad():
            found = module(torch.from_numpy(pixels[:count]).float())
        for value, name in zip(found, output_names(program), strict=True):
            error = np.abs(value.numpy() - truth[name]).max()
            assert error < 1e-4 * np.abs(truth[name]).max()


def test_a_student_without_a_head_has_one_output() -> None:
    program = build_program(tiny_student(head=False), tiny_preprocess())
    assert output_names(program) == ("embedding",)


def test_batch_norm_dropout_and_in_place_operators_are_gone() -> None:
    program = build_program(tiny_student(trained=False, drop_rate=0.2), tiny_preprocess())
    targets = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    assert not [name for name in targets if "batch_norm" in name or "dropout" in name]
    assert not [name for name in targets if name.split(".")[1].endswith("_")]


def test_what_depends_on_constants_alone_is_computed_once(pixels: Pixels) -> None:
    """A table of positions resized to the photo: neither Core ML nor ONNX has that resize."""
    program = build_program(tiny_student("test_vit", trained=False, img_size=32), tiny_preprocess())
    nodes = [node for node in program.graph.nodes if node.op == "call_function"]
    assert not [node.name for node in nodes if "bicubic" in node.name]


def test_exporting_leaves_the_network_as_it_was() -> None:
    network = tiny_student(trained=False).train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    build_program(network, tiny_preprocess())
    assert network.training
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())


def test_a_fixed_batch_is_fixed(pixels: Pixels) -> None:
    module = build_program(tiny_student(trained=False), tiny_preprocess(), batch=1).module()
    assert module(torch.from_numpy(pixels[:1]).float())[0].shape[0] == 1
    with pytest.raises((AssertionError, RuntimeError)):
        module(torch.from_numpy(pixels[:2]).float())


def test_a_batch_of_zero_is_refused() -> None:
    with pytest.raises(UsageError, match="batch is 0"):
        build_program(tiny_student(trained=False), tiny_preprocess(), batch=0)


def test_layers_keep_their_names_when_the_program_is_taken_apart() -> None:
    program = build_program(tiny_student(trained=False), tiny_preprocess())
    names = [node.name for node in program.graph.nodes if "conv2d" in node.name]
    again = [node.name for node in float_graph(program).graph.nodes if "conv2d" in node.name]
    assert names
    assert names == again
