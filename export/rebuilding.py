"""An edited graph -> an exported program, without tracing it a second time.

`torch.export` runs a graph operator by operator to get its program, which takes as long as writing
a small student's file. A graph that came out of `torch.export`, and was edited after, knows nearly
all of it already: its operators are pure, and its nodes carry the shapes of their values. Three
things are left. Weights become inputs of the program. Nodes are named by the order they run in. The
shapes of the few nodes that are new are computed.

What comes out is what tracing gives, name by name: tests compare the two. A graph that has more in
it, such as arithmetic on the size of the batch, is not rebuilt.
"""

import contextlib
import operator
import re
from collections.abc import Collection, Iterator
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch._dispatch.python import enable_python_dispatcher
from torch.export import ExportedProgram
from torch.export.graph_signature import (
    ExportGraphSignature,
    InputKind,
    InputSpec,
    OutputKind,
    OutputSpec,
    TensorArgument,
)

_BATCH_SIZE = torch.ops.aten.sym_size.int
_PREFIX = {InputKind.PARAMETER: "p_", InputKind.BUFFER: "b_"}
"""Of a weight's name among a program's inputs."""


def rebuild(
    graph_module: fx.GraphModule, traced: ExportedProgram, *, reshaped: bool = False
) -> ExportedProgram | None:
    """The program of a graph module, as tracing it would give; None where only tracing can tell.

    Args:
        graph_module: Made of a program's by edits that kept its one input and its outputs.
        traced: That program. The new one takes the same batches.
        reshaped: Whether edits may have changed shapes or types of values that nodes had before:
            then those of all nodes are computed.
    """
    weights = {name: (kind, value) for name, kind, value in _weights(graph_module)}
    if not _can_be_rebuilt(graph_module, weights.keys()):
        return None
    try:
        graph, values, names = _with_weights_as_inputs(
            graph_module, weights, traced, reshaped=reshaped
        )
    except (RuntimeError, TypeError, NotImplementedError):
        return None  # an operator whose result can only be had by running it
    inputs = [
        InputSpec(
            weights[target][0],
            TensorArgument(name=name),
            target,
            persistent=True if weights[target][0] is InputKind.BUFFER else None,
        )
        for target, name in names.items()
    ]
    (image,) = graph_module.graph.find_nodes(op="placeholder")
    if traced.range_constraints and str(image.meta["val"].shape[0]).isdigit():
        return None  # asking whether the batch is of some size fixes it to that size
    inputs.append(InputSpec(InputKind.USER_INPUT, TensorArgument(name=values[image].name), None))
    (results,) = graph.output_node().args
    assert isinstance(results, tuple)
    outputs = [
        OutputSpec(OutputKind.USER_OUTPUT, TensorArgument(name=node.name), None)
        for node in results
        if isinstance(node, fx.Node)
    ]
    graph.lint()
    program = ExportedProgram(
        root=nn.Module(),
        graph=graph,
        graph_signature=ExportGraphSignature(inputs, outputs),
        state_dict={name: value for name, (_, value) in weights.items()},
        range_constraints=dict(traced.range_constraints),
        # The module itself; what is within is the graph.
        module_call_graph=traced.module_call_graph[:1],
        example_inputs=traced.example_inputs,
        constants={},
        verifiers=traced.verifiers,
    )
    program.graph_module.meta.update(traced.graph_module.meta)
    return program


def _weights(graph_module: fx.GraphModule) -> Iterator[tuple[str, InputKind, Tensor]]:
    """All of a graph module's, in the order in which a program takes them."""
    for name, parameter in graph_module.named_parameters(remove_duplicate=False):
        yield name, InputKind.PARAMETER, parameter
    for name, buffer in graph_module.named_buffers(remove_duplicate=False):
        yield name, InputKind.BUFFER, buffer


def _can_be_rebuilt(graph_module: fx.GraphModule, weights: Collection[str]) -> bool:
    """Whether all of the graph is operators on tensors, and the batch's size at most once."""
    graph = graph_module.graph
    images = graph.find_nodes(op="placeholder")
    read = [node.target for node in graph.find_nodes(op="get_attr")]
    return (
        len(images) == 1
        # Others are constants: of another kind, with names of their own.
        and set(read) == set(weights) == set(graph_module.state_dict())
        and all(
            node.op != "call_module" and (node.op != "call_function" or _is_plain(node, images[0]))
            for node in graph.nodes
        )
        and len(graph.find_nodes(op="call_function", target=_BATCH_SIZE)) <= 1
    )


def _is_plain(node: fx.Node, image: fx.Node) -> bool:
    if node.target is _BATCH_SIZE:
        return node.args == (image, 0)
    if node.target is operator.getitem:
        return True
    # Numbers are what is computed from sizes.
    return (
        isinstance(node.target, torch._ops.OpOverload)
        and not node.target._schema.is_mutable
        and not isinstance(
            node.meta.get("val"), int | torch.SymInt | torch.SymFloat | torch.SymBool
        )
    )


def _with_weights_as_inputs(
    graph_module: fx.GraphModule,
    weights: dict[str, tuple[InputKind, Tensor]],
    traced: ExportedProgram,
    *,
    reshaped: bool,
) -> tuple[fx.Graph, dict[fx.Node, fx.Node], dict[str, str]]:
    """The program's graph, its nodes by those of the graph module, and inputs by weights' names."""
    graph = fx.Graph()
    values: dict[fx.Node, fx.Node] = {}
    specs = traced.graph_signature.input_specs
    known = {
        spec.target: node.meta["val"]
        for spec, node in zip(specs, traced.graph.find_nodes(op="placeholder"), strict=True)
    }
    (image,) = graph_module.graph.find_nodes(op="placeholder")
    mode = image.meta["val"].fake_mode
    inputs = {}
    for name, (kind, tensor) in weights.items():
        node = graph.placeholder(_PREFIX[kind] + re.sub(r"[^a-zA-Z0-9]", "_", name).lower())
        before = known.get(name)
        node.meta["val"] = (
            before
            if before is not None and _alike(before, tensor) and before.fake_mode is mode
            else mode.from_tensor(tensor, static_shapes=True)
        )
        inputs[name] = node
    values[image] = graph.placeholder(image.name)
    values[image].meta["val"] = image.meta["val"]
    changed: set[fx.Node] = set()
    for node in graph_module.graph.nodes:
        if node.op == "get_attr":
            values[node] = inputs[str(node.target)]
        elif node.op == "call_function":
            values[node] = copy = _copied(graph, node, values)
            if reshaped or "val" not in node.meta or changed.intersection(node.all_input_nodes):
                copy.meta["val"] = value_of(copy, mode)
                if not _alike(copy.meta["val"], node.meta.get("val")):
                    changed.add(node)
        elif node.op == "output":
            graph.output(fx.map_arg(node.args[0], values.__getitem__))
    return graph, values, {name: node.name for name, node in inputs.items()}


def _alike(value: Any, before: Any) -> bool:
    """Whether two tensors, with data or without, have one type and one layout in memory."""
    return (
        isinstance(value, Tensor)
        and isinstance(before, Tensor)
        # As words: to ask whether a size is a number fixes it to that number.
        and str((value.dtype, value.shape, value.stride()))
        == str((before.dtype, before.shape, before.stride()))
    )


def _copied(graph: fx.Graph, node: fx.Node, values: dict[fx.Node, fx.Node]) -> fx.Node:
    """A node in another graph, with the next free name of its operator, as tracing names it."""
    if node.target is operator.getitem:
        name = "getitem"
    elif node.target is _BATCH_SIZE:
        name = "sym_size_int_1"  # tracing asks for it once more, and removes the other
    else:
        name = node.target.overloadpacket.__name__  # type: ignore[union-attr]
    copy = graph.create_node(
        "call_function",
        node.target,
        fx.map_arg(node.args, values.__getitem__),
        fx.map_arg(node.kwargs, values.__getitem__),
        name=name,
    )
    copy.meta = dict(node.meta)
    return copy


def value_of(node: fx.Node, mode: Any) -> Any:
    """What a new node of a program's graph gives, as a tensor without data.

    Args:
        node: An operator; the nodes that it reads have their values in `meta["val"]`.
        mode: The program's `FakeTensorMode`: `fake_mode` of any value in it.
    """

    def given(argument: fx.Node) -> Any:
        return argument.meta["val"]

    # Operators ask about the batch as they choose a kernel. The answers must not become conditions
    # of the program; without Python's own rules they fix the batch at the example's size.
    sizes = mode.shape_env
    free = contextlib.nullcontext() if sizes is None else sizes.suppress_guards()
    with mode, free, enable_python_dispatcher(), torch.no_grad():
        return node.target(  # type: ignore[operator]
            *fx.map_arg(node.args, given), **fx.map_arg(node.kwargs, given)
        )
