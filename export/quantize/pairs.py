"""Weights that x86 CPUs without VNNI can multiply in pairs: no pair sums to more than 16 bits hold.

Without VNNI, the instruction for bytes (`vpmaddubsw`) multiplies two unsigned activations by two
signed weights and adds the two products in 16 bits. What does not fit is cut off at 32767 without a
word, and the layer's output is wrong. Activations go up to 255, so the sum always fits if the
positive weights of a pair come to at most 128, and the negative ones to at least -128:

```text
255 * 128 = 32640 <= 32767        255 * 129 = 32895 > 32767
```

Two weights of unlike sign take from each other and always fit. So this asks far less than seven
bits for every weight (`reduce_range` of ONNX Runtime's own tool): only a channel that has such a
pair is changed.

Pairs are neighbours in the order in which the kernel reads a row of weights: for each tap of the
window all input channels, so the weights (0, 1), (2, 3) and so on of `(kh, kw, I / groups)`.
Depthwise layers have a kernel of their own, which adds in 32 bits, and have no pairs.
"""

import torch
from torch import Tensor, fx

from edgeseed.export.quantize.graph.channels import num_groups
from edgeseed.export.quantize.scheme import Scheme

_aten = torch.ops.aten


def pair_limit_of(node: fx.Node, weight: Tensor, scheme: Scheme) -> int:
    """What the weights of one sign in a pair may come to for this layer; 0 for anything.

    Args:
        node: A convolution or linear layer.
        weight: (O, I / groups, ...) its weights.
        scheme: Whose integers.
    """
    is_depthwise = (
        node.target is _aten.conv2d.default and num_groups(node) == len(weight) > 1
    ) and weight.shape[1] == 1
    return 0 if is_depthwise else scheme.pair_limit


def limit_pairs(positions: Tensor, limit: int) -> Tensor:
    """The nearest weights whose pairs fit.

    Args:
        positions: (O, I, ...) weights in steps of their grid, whole numbers or not.
        limit: What two weights of one sign may come to; 0 changes nothing.

    Returns:
        The same shape and type. What a pair has too much is taken from both alike; of whole numbers
        the larger gives the odd one, so that they stay whole.
    """
    if limit == 0:
        return positions
    # Bytes could not hold the sums.
    real = positions if positions.is_floating_point() else positions.double()
    first, second = _in_pairs(real).unbind(dim=2)
    share = _sum_of_one_sign(first, second).sub(limit).clamp_min(0) / 2
    from_first = from_second = share
    if bool((real == real.round()).all()):
        is_first = first.abs() >= second.abs()
        from_first = torch.where(is_first, share.ceil(), share.floor())
        from_second = torch.where(is_first, share.floor(), share.ceil())
    fitted = [first - first.sign() * from_first, second - second.sign() * from_second]
    return _from_pairs(torch.stack(fitted, dim=2), positions).to(positions.dtype)


def count_overfull(integers: Tensor, limit: int) -> int:
    """How many pairs of (O, I, ...) integers of one sign come to more than the limit."""
    first, second = _in_pairs(integers.long()).unbind(dim=2)
    return int((_sum_of_one_sign(first, second) > limit).sum())


def partners(shape: torch.Size) -> Tensor:
    """For each of the weights (I, ...) of a row, flattened: the place of the other of its pair.

    Args:
        shape: Of the weight, (O, I, ...).

    Returns:
        (D,) places in the flattened row, -1 for one that is alone.
    """
    count = shape[1:].numel()
    rows = torch.arange(count).view(1, *shape[1:])
    order = _in_kernel_order(rows)[0]
    # 0 and 1, 2 and 3, ...: neighbours differ in the last bit.
    other = torch.arange(count) ^ 1
    alone = other >= count
    found = torch.empty_like(order)
    found[order] = torch.where(alone, -1, order[other.clamp(max=count - 1)])
    return found


def _sum_of_one_sign(first: Tensor, second: Tensor) -> Tensor:
    """The greater of the sums of what is positive and of what is negative, as a positive number."""
    positive = first.clamp_min(0) + second.clamp_min(0)
    negative = first.clamp_max(0) + second.clamp_max(0)
    return torch.maximum(positive, -negative)


def _in_kernel_order(weights: Tensor) -> Tensor:
    """(O, I, kh, kw) -> (O, kh * kw * I)."""
    return weights.flatten(2).transpose(1, 2).flatten(1) if weights.dim() > 2 else weights


def _in_pairs(weights: Tensor) -> Tensor:
    """(O, I, ...) -> (O, pairs, 2), with a zero behind an odd row."""
    rows = _in_kernel_order(weights)
    padded = torch.nn.functional.pad(rows, (0, rows.shape[1] % 2))
    return padded.view(len(rows), -1, 2)


def _from_pairs(pairs: Tensor, like: Tensor) -> Tensor:
    rows = pairs.flatten(1)[:, : like[0].numel()]
    if like.dim() == 2:
        return rows
    return rows.view(len(rows), -1, like.shape[1]).transpose(1, 2).reshape(like.shape)
