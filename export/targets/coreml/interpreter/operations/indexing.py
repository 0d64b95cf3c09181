"""Gathers, scatters, sorts and one-hot vectors: moves of elements by index."""

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from edgeseed.core.errors import WorkError
from edgeseed.export.targets.coreml.interpreter.operations._arguments import flag, integer

# What a scatter does with an element that is there already; torch's own names for its reductions.
_SCATTER_MODES = {"add": "sum", "mul": "prod", "max": "amax", "min": "amin"}


def _wrapped(indices: Tensor, size: int) -> Tensor:
    """Indices as torch needs them; a negative one counts from the end."""
    places = indices.long()
    return torch.where(places < 0, places + size, places)


def gather(
    x: Tensor,
    indices: Tensor,
    axis: Tensor | None = None,
    batch_dims: Tensor | None = None,
    validate_indices: Tensor | None = None,
) -> Tensor:
    """Slices of x along an axis; the first `batch_dims` axes of x and the indices go together."""
    along, batch = integer(axis, 0) % x.ndim, integer(batch_dims, 0)
    if batch == 0:
        places = _wrapped(indices, x.shape[along])
        taken = x.index_select(along, places.reshape(-1))
        return taken.reshape(x.shape[:along] + indices.shape + x.shape[along + 1 :])
    lead = x.shape[:batch]
    flat_x = x.reshape(-1, *x.shape[batch:])
    flat_indices = indices.reshape(-1, *indices.shape[batch:])
    inner = torch.tensor(along - batch)
    parts = [gather(each, places, inner) for each, places in zip(flat_x, flat_indices, strict=True)]
    stacked = torch.stack(parts)
    return stacked.reshape(lead + stacked.shape[1:])


def gather_along_axis(
    x: Tensor,
    indices: Tensor,
    axis: Tensor | None = None,
    validate_indices: Tensor | None = None,
) -> Tensor:
    """One element of x for each index, along an axis."""
    along = integer(axis, 0)
    return x.gather(along, _wrapped(indices, x.shape[along]))


def gather_nd(
    x: Tensor,
    indices: Tensor,
    batch_dims: Tensor | None = None,
    validate_indices: Tensor | None = None,
) -> Tensor:
    """The slices of x that index vectors, the last axis of `indices`, point at."""
    batch = integer(batch_dims, 0)
    if batch:
        lead = x.shape[:batch]
        flat_x = x.reshape(-1, *x.shape[batch:])
        flat_indices = indices.reshape(-1, *indices.shape[batch:])
        parts = [gather_nd(each, places) for each, places in zip(flat_x, flat_indices, strict=True)]
        stacked = torch.stack(parts)
        return stacked.reshape(lead + stacked.shape[1:])
    depth = indices.shape[-1]
    flat = x.reshape(math.prod(x.shape[:depth]), *x.shape[depth:])
    taken = flat.index_select(0, _row_numbers(indices, x.shape[:depth]).reshape(-1))
    return taken.reshape(indices.shape[:-1] + x.shape[depth:])


def _row_numbers(indices: Tensor, sizes: torch.Size) -> Tensor:
    """Index vectors to the number of a row, once the axes they index are flattened."""
    rows = torch.zeros(indices.shape[:-1], dtype=torch.long)
    for part, size in enumerate(sizes):
        rows = rows * size + _wrapped(indices[..., part], size)
    return rows


def _combine(data: Tensor, axis: int, places: Tensor, updates: Tensor, mode: str) -> Tensor:
    """Combines elements of data, one for each place along an axis, with the updates."""
    if mode == "update":
        return data.scatter(axis, places, updates)
    if mode == "sub":
        mode, updates = "add", -updates
    if mode == "div":
        mode, updates = "mul", 1 / updates
    if mode not in _SCATTER_MODES:
        known = ", ".join(["update", "sub", "div", *_SCATTER_MODES])
        raise WorkError(f"a scatter has the mode {mode}; known: {known}")
    return data.scatter_reduce(axis, places, updates, _SCATTER_MODES[mode])


def _combine_rows(data: Tensor, rows: Tensor, updates: Tensor, mode: str) -> Tensor:
    """Combines whole rows. data: (R, ...), rows: (K,), updates: (K, ...)."""
    places = rows.reshape(-1, *[1] * (data.ndim - 1)).expand(updates.shape)
    return _combine(data, 0, places, updates, mode)


def scatter(
    data: Tensor,
    indices: Tensor,
    updates: Tensor,
    axis: Tensor | None = None,
    mode: str = "add",
    validate_indices: Tensor | None = None,
) -> Tensor:
    """Slices of data along an axis replaced by, or combined with, the updates."""
    along = integer(axis, 0)
    rows = data.movedim(along, 0)
    places = _wrapped(indices, rows.shape[0])
    return _combine_rows(rows, places, updates.movedim(along, 0), mode).movedim(0, along)


def scatter_along_axis(
    data: Tensor,
    indices: Tensor,
    updates: Tensor,
    axis: Tensor | None = None,
    mode: str = "add",
    validate_indices: Tensor | None = None,
) -> Tensor:
    """One element of data for each index, along an axis."""
    along = integer(axis, 0)
    return _combine(data, along, _wrapped(indices, data.shape[along]), updates, mode)


def scatter_nd(
    data: Tensor,
    indices: Tensor,
    updates: Tensor,
    mode: str = "add",
    validate_indices: Tensor | None = None,
) -> Tensor:
    """The slices that index vectors point at replaced by, or combined with, the updates."""
    depth = indices.shape[-1]
    rows = _row_numbers(indices, data.shape[:depth]).reshape(-1)
    inner = data.shape[depth:]
    flat = data.reshape(math.prod(data.shape[:depth]), *inner)
    return _combine_rows(flat, rows, updates.reshape(-1, *inner), mode).reshape(data.shape)


def non_zero(x: Tensor) -> Tensor:
    """The index vector of each element that is not zero."""
    return torch.nonzero(x)


def one_hot(
    indices: Tensor,
    one_hot_vector_size: Tensor,
    axis: Tensor | None = None,
    on_value: Tensor | None = None,
    off_value: Tensor | None = None,
) -> Tensor:
    """A new axis that is `on_value` at each index and `off_value` elsewhere."""
    along = integer(axis, -1)
    along = along + indices.ndim + 1 if along < 0 else along
    classes = torch.arange(int(one_hot_vector_size))
    shape = [1] * (indices.ndim + 1)
    shape[along] = -1
    hot = indices.long().unsqueeze(along) == classes.reshape(shape)
    on = torch.tensor(1) if on_value is None else on_value
    off = torch.tensor(0) if off_value is None else off_value
    return torch.where(hot, on, off)


def argsort(x: Tensor, axis: Tensor | None = None, ascending: Tensor | None = None) -> Tensor:
    """The indices that sort x along an axis, the largest first unless asked otherwise."""
    return torch.argsort(x, dim=integer(axis, -1), descending=not flag(ascending), stable=True)


def topk(
    x: Tensor,
    k: Tensor | None = None,
    axis: Tensor | None = None,
    ascending: Tensor | None = None,
    sort: Tensor | None = None,
    return_indices: Tensor | None = None,
    output_indices_dtype: str = "int32",
) -> tuple[Tensor, ...]:
    """The k largest elements along an axis (the smallest if ascending), and where they are."""
    along = integer(axis, -1)
    count = integer(k, 1)
    values, places = torch.topk(
        x, x.shape[along] if count == -1 else count, dim=along, largest=not flag(ascending)
    )
    return (values, places) if flag(return_indices, default=True) else (values,)


def classify(probabilities: Tensor, classes: tuple[str, ...]) -> tuple[Tensor, Tensor]:
    """The number of the likeliest class, and the probabilities.

    Core ML itself gives the class's text and a dictionary; those are made where the numbers leave
    the program, because text cannot be computed for a batch.
    """
    flat = probabilities.reshape(-1)
    if flat.numel() != len(classes):
        raise WorkError(f"{flat.numel()} probabilities for {len(classes)} classes")
    return flat.argmax(), flat


OPERATIONS: Mapping[str, Callable[..., Tensor | tuple[Tensor, ...]]] = {
    "argsort": argsort,
    "classify": classify,
    "gather": gather,
    "gather_along_axis": gather_along_axis,
    "gather_nd": gather_nd,
    "non_zero": non_zero,
    "one_hot": one_hot,
    "scatter": scatter,
    "scatter_along_axis": scatter_along_axis,
    "scatter_nd": scatter_nd,
    "topk": topk,
}
