"""Student network -> the one exported program that every target starts from.

The program takes photos as they are and does the rest itself, so that an app cannot get it wrong:

```text
image      (N, C, H, W) float32, values 0..255; RGB, grey, or RGB and a fourth channel
embedding  (N, D) float32
logits     (N, C) float32, where the student has a head
```

What happens to the graph on the way, and how exact it is:

* `((image / 255) - mean) / std` becomes one subtraction and one multiplication.
* Every batch norm that follows a convolution is folded into it, in float64, rounded once. timm
  writes "batch norm, then activation" as one module, `BatchNormAct2d`, whose forward asks
  `self.training`; tools that trace modules in training mode bake in batch statistics and are wrong
  by factors. Here the network is traced to ATen operators in evaluation mode, where it *is* a batch
  norm and an activation, and a batch norm that is still in training mode is an error.
* Blocks that train with parallel branches are the one convolution that they are equal to, by timm's
  `reparameterize_model`, in float64.
* What depends on constants alone, such as a table of positions resized to the photo, is computed.
* Dropout is gone, in-place operators are replaced by their pure twins, constants nobody reads are
  removed.
"""

import copy
import math
import operator
import warnings
from collections.abc import Sequence
from typing import Any, cast

import torch
from timm.utils.model import reparameterize_model
from torch import Tensor, fx, nn
from torch.export import Dim, ExportedProgram

from edgeseed.core.errors import UsageError, WorkError
from edgeseed.core.network import StudentNetwork
from edgeseed.core.preprocess import Preprocess
from edgeseed.export.call import Batch
from edgeseed.export.rebuilding import rebuild, value_of

INPUT_NAME = "image"
# A batch of one would be specialised by torch.export: a dimension of size 1 broadcasts, others do
# not.
_EXAMPLE_BATCH = 2

_aten = torch.ops.aten

LAYER_OPERATORS = (_aten.conv2d.default, _aten.linear.default)
"""What has a weight, and a bias."""


class DeployableStudent(nn.Module):
    """A student together with the arithmetic of its preprocessing.

    Args:
        network: The student; it is used in evaluation mode.
        preprocess: Where mean and std come from.
    """

    offset: Tensor
    factor: Tensor

    def __init__(self, network: StudentNetwork, preprocess: Preprocess) -> None:
        super().__init__()
        self.network = network.eval()
        mean = torch.tensor(preprocess.mean, dtype=torch.float64).view(1, -1, 1, 1)
        std = torch.tensor(preprocess.std, dtype=torch.float64).view(1, -1, 1, 1)
        self.register_buffer("offset", (mean * 255).float())
        self.register_buffer("factor", (1 / (std * 255)).float())

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """(N, C, H, W) pixels 0..255 -> (embedding,) or (embedding, logits)."""
        embedding, logits = self.network((image - self.offset) * self.factor)
        return (embedding,) if logits is None else (embedding, logits)


def build_program(
    network: StudentNetwork, preprocess: Preprocess, *, batch: Batch = "dynamic"
) -> ExportedProgram:
    """Exports a student, its normalisation inside and its batch norms folded.

    Blocks that train with parallel branches (RepVGG, MobileOne, FastViT, RepViT) become the one
    convolution that they are equal to.

    Args:
        network: The student, with its weights.
        preprocess: The student's own preprocessing; its shape is the program's C, H and W.
        batch: `"dynamic"`, or the one batch size the program will take.

    Raises:
        UsageError: If `batch` is neither `"dynamic"` nor a positive number.
        WorkError: If the network still normalises with the statistics of the batch.
    """
    example = example_input(preprocess.shape, batch=batch)
    was_training = network.training
    merged = _merge_branches(network.eval())
    program = _trace_folded(DeployableStudent(merged, preprocess), example, batch)
    network.train(was_training)
    return program


_MERGING = ("fuse", "reparameterize", "switch_to_deploy")
"""Methods by which timm's blocks turn into what they are at inference."""


def _merge_branches(network: StudentNetwork) -> StudentNetwork:
    """The network, or a copy whose blocks of several branches are one layer each."""
    if not any(hasattr(module, name) for module in network.modules() for name in _MERGING):
        return network
    # A copy: the gates compare the file with the unmerged network. In float64: sums of branches are
    # rounded once.
    merged = copy.deepcopy(network).double()
    reparameterize_model(merged, inplace=True)
    return merged.float()


def _trace_folded(student: DeployableStudent, example: Tensor, batch: Batch) -> ExportedProgram:
    """The student's program with its batch norms folded."""
    traced = trace(student, example, batch=batch)
    folded = float_graph(traced)
    # Arithmetic on sizes needs a second trace, which takes as long as the first.
    return rebuild(folded, traced) or trace(folded, example, batch=batch)


def example_input(shape: int | Sequence[int], *, batch: Batch) -> Tensor:
    """An input to trace with.

    Args:
        shape: (C, H, W) of a photo, or the side of a square of three channels.
        batch: As `build_program` takes it.
    """
    shape = (3, shape, shape) if isinstance(shape, int) else shape
    if batch != "dynamic" and batch < 1:
        raise UsageError(f"batch is {batch!r}; it must be 'dynamic' or a whole number from 1")
    size = _EXAMPLE_BATCH if batch == "dynamic" else batch
    return torch.zeros(size, *shape)


def trace(module: nn.Module, example: Tensor, *, batch: Batch) -> ExportedProgram:
    """`torch.export` of a module with one input, `image`, whose batch is free or fixed."""
    shapes = {INPUT_NAME: {0: Dim("batch", min=1)}} if batch == "dynamic" else None
    with torch.no_grad(), warnings.catch_warnings():
        # LeViT keeps its attention's biases in a cache; torch puts back what was there before.
        warnings.filterwarnings("ignore", message="The tensor attribute", category=UserWarning)
        return torch.export.export(module, (example,), dynamic_shapes=shapes, strict=False)


def output_names(program: ExportedProgram) -> tuple[str, ...]:
    """What the program's outputs mean, in order."""
    return ("embedding", "logits")[: len(program.graph_signature.user_outputs)]


def float_graph(program: ExportedProgram) -> fx.GraphModule:
    """The program as a graph module that may be edited: pure operators, batch norms folded."""
    graph_module = _plain_graph(program)
    if not _make_pure(graph_module):
        graph_module = _plain_graph(program.run_decompositions({}))
    _remove_dropout(graph_module)
    # Before batch norms: one that standardises a convolution's weights (NF-Nets) is in training
    # mode, which `_fold_batch_norms` refuses. Computed here, it is gone.
    fold_constants(graph_module)
    _fold_batch_norms(graph_module)
    _keep_pooled_axes(graph_module)
    _write_folds_as_convolutions(graph_module)
    _take_addcmul_apart(graph_module)
    return tidy(graph_module)


def _plain_graph(program: ExportedProgram) -> fx.GraphModule:
    """The program as a graph without blocks: what ran outside of autocast stands where it ran."""
    graph_module = program.module(check_guards=False)
    assert isinstance(graph_module, fx.GraphModule)
    graph = graph_module.graph
    for node in list(graph.nodes):
        # torch.export keeps `with torch.autocast(..., enabled=False):` as a block of its own. All
        # is float32 here, so that it changes nothing.
        if str(node.target) != "wrap_with_autocast" or node.args[2]:
            continue
        body = getattr(graph_module, node.args[4].target)
        values = dict(zip(body.graph.find_nodes(op="placeholder"), node.args[5:], strict=True))
        with graph.inserting_before(node):
            results = graph.graph_copy(body.graph, values)
        assert isinstance(results, Sequence)
        for user in list(node.users):
            position = user.args[1]
            assert isinstance(position, int)
            user.replace_all_uses_with(results[position])
            graph.erase_node(user)
        graph.erase_node(node)
    return graph_module


def copy_graph(graph_module: fx.GraphModule) -> fx.GraphModule:
    """A copy that may be edited, with the same tensors, whose nodes keep their names."""
    copied = fx.Graph()
    values: dict[fx.Node, fx.Node] = {}
    copied.output(copied.graph_copy(graph_module.graph, values))
    # graph_copy may rename; layers are known by their names.
    for old, new in values.items():
        new.name = old.name
        new.meta = dict(old.meta)
    return fx.GraphModule(graph_module, copied)


def tidy(graph_module: fx.GraphModule) -> fx.GraphModule:
    """Removes what nobody reads, and compiles the graph anew."""
    graph_module.graph.eliminate_dead_code()
    graph_module.delete_all_unused_submodules()
    used = {str(node.target) for node in graph_module.graph.nodes if node.op == "get_attr"}
    for name in [*dict(graph_module.named_parameters()), *dict(graph_module.named_buffers())]:
        if name not in used:
            _delete_attribute(graph_module, name)
    graph_module.graph.lint()
    graph_module.recompile()
    return graph_module


def constant(graph_module: fx.GraphModule, node: fx.Node) -> Tensor:
    """The tensor behind a `get_attr` node."""
    value: Any = graph_module
    for part in str(node.target).split("."):
        value = getattr(value, part)
    assert isinstance(value, Tensor)
    return value.detach()


def module_name(node: fx.Node) -> str:
    """The network's own name of the module that a node belongs to, such as `blocks.2.0.conv_pw`.

    Empty for what no module of the network computes, such as the photo's normalisation.
    """
    stack = node.meta.get("nn_module_stack") or {}
    name = str(next(reversed(stack.values()))[0]) if stack else ""
    parts = name.split(".")
    # `network` is the student in `DeployableStudent`, `backbone` the timm network in the student.
    for prefix in ("network", "backbone"):
        if parts[:1] == [prefix]:
            del parts[0]
    return ".".join(parts)


def input_of(node: fx.Node, index: int = 0) -> fx.Node:
    """The node at one place among a node's arguments, which is known to be a node."""
    value = node.args[index]
    assert isinstance(value, fx.Node)
    return value


def is_constant(node: Any) -> bool:
    """Whether a node is a stored tensor."""
    return isinstance(node, fx.Node) and node.op == "get_attr"


def new_constant(
    graph_module: fx.GraphModule, value: Tensor, *, name: str, before: fx.Node
) -> fx.Node:
    """Stores a tensor in the graph module, as a buffer, and gives the node that reads it."""
    unique, number = name, 1
    while hasattr(graph_module, unique):
        unique, number = f"{name}_{number}", number + 1
    graph_module.register_buffer(unique, value)
    with graph_module.graph.inserting_before(before):
        return graph_module.graph.get_attr(unique)


def _delete_attribute(module: nn.Module, name: str) -> None:
    *path, last = name.split(".")
    for part in path:
        module = getattr(module, part)
    delattr(module, last)


def _make_pure(graph_module: fx.GraphModule) -> bool:
    """Turns `relu_` into `relu`, and so on; False where that takes a real alias analysis.

    torch's own functionalisation (`run_decompositions({})`) is exact too, but takes seconds; in the
    networks we know every in-place operator is the only reader of a fresh tensor.
    """
    for node in graph_module.graph.nodes:
        twin = _pure_twin(node)
        if twin is None:
            continue
        source = node.args[0]
        if len(source.users) > 1 or source.op != "call_function" or _is_view(source):
            return False
        node.target = twin
    return True


def _pure_twin(node: fx.Node) -> Any:
    if not isinstance(node.target, torch._ops.OpOverload):
        return None
    if not node.target._schema.is_mutable:
        return None
    packet = node.target.overloadpacket.__name__.rstrip("_")
    return getattr(getattr(_aten, packet), node.target._overloadname)


def _is_view(node: fx.Node) -> bool:
    target = node.target
    return isinstance(target, torch._ops.OpOverload) and any(
        result.alias_info is not None and not result.alias_info.is_write
        for result in target._schema.returns
    )


def _remove_dropout(graph_module: fx.GraphModule) -> None:
    for node in list(graph_module.graph.nodes):
        if node.target in (_aten.dropout.default, _aten.alias.default, _aten.detach_.default):
            node.replace_all_uses_with(node.args[0])
            # It draws random numbers, so dead-code elimination would leave it.
            graph_module.graph.erase_node(node)


_MAKERS = (
    _aten.zeros, _aten.ones, _aten.full, _aten.arange, _aten.linspace, _aten.eye,
    _aten.scalar_tensor,
)  # fmt: skip
"""Operators that read no tensor, and give the same one every time."""


def fold_constants(graph_module: fx.GraphModule) -> None:
    """Computes what depends on constants alone; stored integers and their scales stay apart.

    Formats lack what networks compute on their own weights: antialiased bicubic resizing.
    """
    for node in list(graph_module.graph.nodes):
        _move_behind_expand(graph_module, node)
        sources = node.all_input_nodes
        if not isinstance(node.target, torch._ops.OpOverload):
            continue
        if node.target.namespace == "quantized_decomposed":
            continue
        if not sources and node.target.overloadpacket not in _MAKERS:
            continue
        if not all(is_constant(source) for source in sources):
            continue

        def value_of(source: fx.Node) -> Any:
            return constant(graph_module, source)

        arguments = fx.map_arg(node.args, value_of)
        value = node.target(*arguments, **fx.map_arg(node.kwargs, value_of))
        if isinstance(value, Tensor):
            _replace_by_constant(graph_module, node, value)
        elif all(user.target is operator.getitem for user in node.users):
            # An operator of several results, such as a batch norm of weights after decomposition.
            for user in list(node.users):
                _replace_by_constant(graph_module, user, value[user.args[1]])
            graph_module.graph.erase_node(node)


def _replace_by_constant(graph_module: fx.GraphModule, node: fx.Node, value: Tensor) -> None:
    # A clone: a view would keep the tensor that it looks into.
    folded = new_constant(graph_module, value.clone(), name=f"{node.name}_value", before=node)
    node.replace_all_uses_with(folded)
    # Some operators count as having effects, and dead-code elimination would leave them: a batch
    # norm that standardises the weights of a convolution is in training mode, and was refused.
    graph_module.graph.erase_node(node)


def _move_behind_expand(graph_module: fx.GraphModule, node: fx.Node) -> None:
    """`linear(expand(constant))` -> `expand(linear(constant))`, which can be folded.

    The query of an attention pool is the same for every photo. Core ML, whose batch is fixed,
    computes its layer while converting; the layer was then missing from a count of integer layers.
    """
    if node.target is not _aten.linear.default:
        return
    expand = input_of(node)
    if expand.target is not _aten.expand.default or not is_constant(expand.args[0]):
        return
    sizes = cast("list[Any]", expand.args[1])
    source = constant(graph_module, input_of(expand))
    if len(sizes) != source.ndim or sizes[-1] not in (-1, source.shape[-1]):
        return
    with graph_module.graph.inserting_before(node):
        layer = graph_module.graph.call_function(
            _aten.linear.default, (expand.args[0], *node.args[1:])
        )
        arguments = [constant(graph_module, each) for each in layer.all_input_nodes]
        folded = _aten.linear.default(*arguments)
        value = new_constant(graph_module, folded.clone(), name=f"{node.name}_value", before=node)
        again = graph_module.graph.call_function(_aten.expand.default, (value, [*sizes[:-1], -1]))
    node.replace_all_uses_with(again)
    graph_module.graph.erase_node(layer)
    graph_module.graph.erase_node(node)


def _keep_pooled_axes(graph_module: fx.GraphModule) -> None:
    """A mean over height and width keeps both as ones, and a `flatten` drops them. Exact.

    So it is a pooling, which formats have integer kernels for; ONNX Runtime has none for a mean
    that drops its axes.
    """
    for node in list(graph_module.graph.nodes):
        if node.target is not _aten.mean.dim or not _drops_pooled_axes(node):
            continue
        pooled = node.meta["val"]
        node.args = (*node.args[:2], True)
        node.meta["val"] = pooled[:, :, None, None]
        with graph_module.graph.inserting_after(node):
            flat = graph_module.graph.call_function(_aten.flatten.using_ints, (node, 1))
        flat.meta["val"] = pooled
        node.replace_all_uses_with(flat, delete_user_cb=lambda user, flat=flat: user is not flat)


def _drops_pooled_axes(node: fx.Node) -> bool:
    image = input_of(node).meta.get("val")
    axes: Any = node.args[1]
    if not isinstance(image, Tensor) or image.dim() != 4 or not axes:
        return False
    keeps = len(node.args) > 2 and node.args[2]
    return not keeps and sorted(axis % 4 for axis in axes) == [2, 3]


def _write_folds_as_convolutions(graph_module: fx.GraphModule) -> None:
    """`fold` (col2im), the sum of overlapping windows, as a transposed convolution. Exact.

    Core ML, LiteRT and TensorRT have no such operator. Each channel is a photo of its own there,
    with a channel for each place of the window, and the kernel puts each place where it belongs.
    """
    graph = graph_module.graph
    for node in graph.find_nodes(op="call_function", target=_aten.col2im.default):
        columns: Any
        columns, size, kernel, dilation, padding, stride = node.args
        windows = columns.meta["val"]
        reaches = [apart * (width - 1) + 1 for apart, width in zip(dilation, kernel, strict=True)]
        spare = [
            whole + 2 * pad - reach
            for whole, pad, reach in zip(size, padding, reaches, strict=True)
        ]
        if windows.dim() != 3 or not all(isinstance(each, int) for each in size):
            continue
        places = math.prod(kernel)
        counts = [each // step + 1 for each, step in zip(spare, stride, strict=True)]
        # Rows and columns that no whole window reaches.
        left = [each % step for each, step in zip(spare, stride, strict=True)]
        channels = windows.shape[1] // places
        shapes = ((-1, places, *counts), (-1, channels, *size))
        ones = torch.eye(places).view(places, 1, *kernel)
        weight = new_constant(graph_module, ones, name=f"{node.name}_places", before=node)
        mode = node.meta["val"].fake_mode
        with graph.inserting_before(node):
            alone = graph.call_function(_aten.reshape.default, (columns, list(shapes[0])))
            summed = graph.call_function(
                _aten.conv_transpose2d.input,
                (alone, weight, None, stride, padding, left, 1, dilation),
            )
            result = graph.call_function(_aten.reshape.default, (summed, list(shapes[1])))
        with mode:
            weight.meta["val"] = mode.from_tensor(ones, static_shapes=True)
            alone.meta["val"] = windows.reshape(shapes[0])
            summed.meta["val"] = node.meta["val"].reshape(-1, 1, *size)
            result.meta["val"] = node.meta["val"]
        node.replace_all_uses_with(result)
        graph.erase_node(node)


def _take_addcmul_apart(graph_module: fx.GraphModule) -> None:
    """`addcmul` as a product and a sum, which every format has."""
    graph = graph_module.graph
    for node in graph.find_nodes(op="call_function", target=_aten.addcmul.default):
        added, left, right = node.args
        share, mode = node.kwargs.get("value", 1), node.meta["val"].fake_mode
        for source in node.all_input_nodes:
            if "val" not in source.meta:  # a constant that was computed just now
                value = constant(graph_module, source)
                source.meta["val"] = mode.from_tensor(value, static_shapes=True)

        def emit(target: Any, *inputs: Any, mode: Any = mode) -> fx.Node:
            made = graph.call_function(target, inputs)
            made.meta["val"] = value_of(made, mode)
            return made

        with graph.inserting_before(node):
            product = emit(_aten.mul.Tensor, left, right)
            if share != 1:
                product = emit(_aten.mul.Tensor, product, share)
            result = emit(_aten.add.Tensor, added, product)
        node.replace_all_uses_with(result)
        graph.erase_node(node)


_BATCH_NORM_TRAINING_ARGUMENT = 5


def _fold_batch_norms(graph_module: fx.GraphModule) -> None:
    for node in list(graph_module.graph.nodes):
        if node.target is _aten.batch_norm.default:
            if node.args[_BATCH_NORM_TRAINING_ARGUMENT]:
                raise WorkError(
                    f"{node.name} normalises with the statistics of the batch (training mode); "
                    "an exported model must use its running statistics: call .eval() on the network"
                )
            _fold_one(graph_module, node, float(node.args[7]), result=node)
        elif node.target is _aten._native_batch_norm_legit_no_training.default:
            (result,) = [user for user in node.users if user.target is operator.getitem]
            _fold_one(graph_module, node, float(node.args[6]), result=result)


def _fold_one(
    graph_module: fx.GraphModule, node: fx.Node, epsilon: float, *, result: fx.Node
) -> None:
    """Folds `gamma * (x - mean) / sqrt(var + eps) + beta` into the convolution in front, if any."""
    conv = input_of(node)
    weight, bias, mean, var = (
        constant(graph_module, item) if isinstance(item, fx.Node) else None
        for item in node.args[1:5]
    )
    if mean is None or var is None:
        return
    if conv.target is not _aten.conv2d.default or len(conv.users) > 1:
        return
    if not is_constant(conv.args[1]):
        return
    weight_node = input_of(conv, 1)
    kernel = constant(graph_module, weight_node).double()
    gain = (1.0 if weight is None else weight.double()) / torch.sqrt(var.double() + epsilon)
    shift = (0.0 if bias is None else bias.double()) - mean.double() * gain
    old_bias = conv.args[2] if len(conv.args) > 2 else None
    if isinstance(old_bias, fx.Node):
        shift = shift + constant(graph_module, old_bias).double() * gain
    new_kernel = (kernel * gain.view(-1, 1, 1, 1)).float()
    stem = str(weight_node.target).removesuffix(".weight").replace(".", "_")
    arguments = list(conv.args)
    arguments[1] = new_constant(graph_module, new_kernel, name=f"{stem}_weight", before=conv)
    # A slice: without a bias there is no third argument to replace.
    arguments[2:3] = [new_constant(graph_module, shift.float(), name=f"{stem}_bias", before=conv)]
    conv.args = tuple(arguments)
    result.replace_all_uses_with(conv)
