"""Shapes, slices, joins and other moves of elements, and tensors made from nothing."""

import math
from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from edgeseed.core.errors import WorkError
from edgeseed.export.targets.coreml.interpreter.operations._arguments import (
    flag,
    flags,
    integer,
    integers,
    integers_or,
    shape_tensor,
)


def reshape(x: Tensor, shape: Tensor) -> Tensor:
    """The same elements in another shape; 0 keeps an axis of x, -1 is what is left.

    From iOS 17 on a 0 may stand in a shape of another rank than x's: it then counts from the last
    axis, as if x's shape were aligned to the right.
    """
    sizes = integers(shape)
    from_right = list(reversed(x.shape))
    for axis, size in enumerate(sizes):
        if size == 0:
            place = len(sizes) - 1 - axis
            sizes[axis] = from_right[place] if place < x.ndim else 1
    return x.reshape(sizes)


def reshape_like(
    x: Tensor,
    ref_tensors: Sequence[Tensor],
    begins: Sequence[Tensor],
    ends: Sequence[Tensor],
    end_masks: Sequence[Tensor],
) -> Tensor:
    """X in the shape that parts of other tensors' shapes make together."""
    sizes: list[int] = []
    for reference, begin, end, mask in zip(ref_tensors, begins, ends, end_masks, strict=True):
        sizes += reference.shape[int(begin) : None if flag(mask) else int(end)]
    return x.reshape(sizes)


def flatten2d(x: Tensor, axis: Tensor | None = None) -> Tensor:
    """Two axes: all before `axis`, and all from it on."""
    split_at = integer(axis, 1)
    split_at = split_at + x.ndim if split_at < 0 else split_at
    return x.reshape(math.prod(x.shape[:split_at]), math.prod(x.shape[split_at:]))


def expand_dims(x: Tensor, axes: Tensor) -> Tensor:
    """New axes of size 1, at these places of the result."""
    places = integers(axes)
    rank = x.ndim + len(places)
    for place in sorted(place % rank for place in places):
        x = x.unsqueeze(place)
    return x


def squeeze(x: Tensor, axes: Tensor | None = None) -> Tensor:
    """Without these axes where they are of size 1; without all of size 1 where none is named."""
    return x.squeeze() if axes is None else x.squeeze(tuple(integers(axes)))


def transpose(x: Tensor, perm: Tensor) -> Tensor:
    """The axes in another order."""
    return x.permute(integers(perm))


def shape(x: Tensor) -> Tensor:
    """The sizes of x, as a vector of int32."""
    return shape_tensor(x.shape)


def slice_by_index(
    x: Tensor,
    begin: Tensor,
    end: Tensor,
    stride: Tensor | None = None,
    begin_mask: Tensor | None = None,
    end_mask: Tensor | None = None,
    squeeze_mask: Tensor | None = None,
) -> Tensor:
    """x[begin:end:stride] axis by axis; a mask leaves a bound open, or takes one element."""
    taken = flags(squeeze_mask, x.ndim)
    frame = zip(
        integers(begin),
        integers(end),
        integers_or(stride, [1] * x.ndim),
        flags(begin_mask, x.ndim),
        flags(end_mask, x.ndim),
        taken,
        strict=True,
    )
    for axis, (start, stop, step, open_start, open_stop, single) in enumerate(frame):
        if single:
            # `or None`: of the last element, -1, the end would be 0, and nothing would be taken.
            positions = range(x.shape[axis])[start : start + 1 or None]
        else:
            bounds = slice(None if open_start else start, None if open_stop else stop, step)
            positions = range(x.shape[axis])[bounds]
        x = _take(x, axis, positions)
    return x.squeeze(tuple(axis for axis, single in enumerate(taken) if single))


def _take(x: Tensor, axis: int, positions: range) -> Tensor:
    """The elements at evenly spaced places; torch itself cannot step backwards."""
    if positions == range(x.shape[axis]):
        return x
    if positions.step == 1:
        return x.narrow(axis, positions.start, len(positions))
    return x.index_select(axis, torch.tensor(positions))


def slice_by_size(x: Tensor, begin: Tensor, size: Tensor) -> Tensor:
    """`size` elements from `begin` on, axis by axis; -1 takes all that follow."""
    for axis, (start, count) in enumerate(zip(integers(begin), integers(size), strict=True)):
        first = start % x.shape[axis] if x.shape[axis] else 0
        x = x.narrow(axis, first, x.shape[axis] - first if count == -1 else count)
    return x


def slice_update(
    x: Tensor,
    update: Tensor,
    begin: Tensor,
    end: Tensor,
    stride: Tensor | None = None,
    begin_mask: Tensor | None = None,
    end_mask: Tensor | None = None,
    squeeze_mask: Tensor | None = None,
) -> Tensor:
    """X with the part that `slice_by_index` would give replaced by `update`."""
    places = torch.arange(x.numel()).reshape(x.shape)
    chosen = slice_by_index(places, begin, end, stride, begin_mask, end_mask, squeeze_mask)
    flat = x.reshape(-1).index_copy(0, chosen.reshape(-1), update.reshape(-1))
    return flat.reshape(x.shape)


def concat(values: Sequence[Tensor], axis: Tensor, interleave: Tensor | None = None) -> Tensor:
    """Joined along an axis, one after the other or taking one element of each in turn."""
    along = int(axis)
    if not flag(interleave):
        return torch.cat(list(values), dim=along)
    along %= values[0].ndim
    return torch.stack(list(values), dim=along + 1).flatten(along, along + 1)


def stack(values: Sequence[Tensor], axis: Tensor) -> Tensor:
    """Joined along a new axis."""
    return torch.stack(list(values), dim=int(axis))


def split(
    x: Tensor,
    axis: Tensor,
    num_splits: Tensor | None = None,
    split_sizes: Tensor | None = None,
) -> tuple[Tensor, ...]:
    """Parts along an axis, of the given sizes or all alike."""
    along = int(axis)
    if split_sizes is not None:
        return torch.split(x, integers(split_sizes), dim=along)
    return torch.split(x, x.shape[along] // integer(num_splits, 1), dim=along)


def tile(x: Tensor, reps: Tensor) -> Tensor:
    """X repeated along each axis."""
    return x.repeat(integers(reps))


def pad(
    x: Tensor, pad: Tensor, mode: str = "constant", constant_val: Tensor | None = None
) -> Tensor:
    """Elements put before and after the last axes: a constant, the mirror image or the edge."""
    amounts = integers(pad)
    if mode == "constant":
        value = 0.0 if constant_val is None else constant_val.item()
        before_after = list(zip(amounts[::2], amounts[1::2], strict=True))
        flat = [amount for pair in reversed(before_after) for amount in pair]
        return F.pad(x, flat, value=value)
    if mode not in {"reflect", "replicate"}:
        raise WorkError(f"pad has the mode {mode}; known: constant, reflect, replicate")
    first = x.ndim - len(amounts) // 2
    for offset, (before, after) in enumerate(zip(amounts[::2], amounts[1::2], strict=True)):
        axis = first + offset
        x = x.index_select(axis, _mirrored(x.shape[axis], before, after, mode=mode))
    return x


def _mirrored(size: int, before: int, after: int, *, mode: str) -> Tensor:
    """Which element each place of a padded axis shows."""
    places = torch.arange(-before, size + after)
    if mode == "replicate":
        return places.clamp(0, size - 1)
    places = places.abs()
    return torch.where(places >= size, 2 * (size - 1) - places, places)


def reverse(x: Tensor, axes: Tensor | None = None) -> Tensor:
    """Back to front along these axes, along all where none is named."""
    return x.flip(integers_or(axes, range(x.ndim)))


def reverse_sequence(
    x: Tensor, lengths: Tensor, seq_axis: Tensor | None = None, batch_axis: Tensor | None = None
) -> Tensor:
    """For each entry b of a batch, its first `lengths[b]` elements back to front."""
    sequence, batch = integer(seq_axis, 0) % x.ndim, integer(batch_axis, 0) % x.ndim
    moved = x.movedim((batch, sequence), (0, 1))
    places = torch.arange(moved.shape[1]).expand(moved.shape[0], -1)
    count = lengths.long().unsqueeze(1)
    places = torch.where(places < count, count - 1 - places, places)
    places = places.reshape(places.shape + (1,) * (moved.ndim - 2)).expand(moved.shape)
    return moved.gather(1, places).movedim((0, 1), (batch, sequence))


def sliding_windows(x: Tensor, axis: Tensor, size: Tensor, stride: Tensor | None = None) -> Tensor:
    """All windows of a size along an axis; the elements of a window lie on a new axis after it."""
    along = int(axis) % x.ndim
    return x.unfold(along, int(size), integer(stride, 1)).movedim(-1, along + 1)


def depth_to_space(x: Tensor, block_size: Tensor) -> Tensor:
    """Channels to blocks of pixels; the place in the block is the channel's slowest part.

    (B, b * b * C, H, W) -> (B, C, H * b, W * b), TensorFlow's order of channels.
    """
    batch, channels, height, width = x.shape
    block = int(block_size)
    blocks = x.reshape(batch, block, block, channels // block**2, height, width)
    pixels = blocks.permute(0, 3, 4, 1, 5, 2)
    return pixels.reshape(batch, channels // block**2, height * block, width * block)


def space_to_depth(x: Tensor, block_size: Tensor) -> Tensor:
    """Blocks of pixels to channels: the inverse of `depth_to_space`."""
    batch, channels, height, width = x.shape
    block = int(block_size)
    pixels = x.reshape(batch, channels, height // block, block, width // block, block)
    blocks = pixels.permute(0, 3, 5, 1, 2, 4)
    return blocks.reshape(batch, channels * block**2, height // block, width // block)


def pixel_shuffle(x: Tensor, upscale_factor: Tensor) -> Tensor:
    """Channels to blocks of pixels, PyTorch's order: the place in the block is the fastest part."""
    return F.pixel_shuffle(x, int(upscale_factor))


def pixel_unshuffle(x: Tensor, downscale_factor: Tensor) -> Tensor:
    """Blocks of pixels to channels, PyTorch's order."""
    return F.pixel_unshuffle(x, int(downscale_factor))


def space_to_batch(x: Tensor, block_shape: Tensor, paddings: Tensor) -> Tensor:
    """Each place in a block becomes an image of its own; the place is the slowest part."""
    (top, bottom), (left, right) = paddings.tolist()
    rows, columns = integers(block_shape)
    padded = F.pad(x, [left, right, top, bottom])
    batch, channels, height, width = padded.shape
    pixels = padded.reshape(batch, channels, height // rows, rows, width // columns, columns)
    images = pixels.permute(3, 5, 0, 1, 2, 4)
    return images.reshape(batch * rows * columns, channels, height // rows, width // columns)


def batch_to_space(x: Tensor, block_shape: Tensor, crops: Tensor) -> Tensor:
    """The inverse of `space_to_batch`, cropped afterwards."""
    (top, bottom), (left, right) = crops.tolist()
    rows, columns = integers(block_shape)
    batch, channels, height, width = x.shape
    images = x.reshape(rows, columns, batch // (rows * columns), channels, height, width)
    pixels = images.permute(2, 3, 4, 0, 5, 1)
    whole = pixels.reshape(-1, channels, height * rows, width * columns)
    return whole[:, :, top : height * rows - bottom, left : width * columns - right]


def crop(x: Tensor, crop_height: Tensor, crop_width: Tensor) -> Tensor:
    """Without this many rows at the top and bottom, and columns at the left and right."""
    (top, bottom), (left, right) = integers(crop_height), integers(crop_width)
    return x[..., top : x.shape[-2] - bottom, left : x.shape[-1] - right]


def band_part(x: Tensor, lower: Tensor | None = None, upper: Tensor | None = None) -> Tensor:
    """The matrices of the last two axes, zero outside a diagonal band; -1 keeps a side whole."""
    below, above = integer(lower, -1), integer(upper, -1)
    rows = torch.arange(x.shape[-2]).unsqueeze(1)
    columns = torch.arange(x.shape[-1]).unsqueeze(0)
    kept = torch.ones(x.shape[-2:], dtype=torch.bool)
    if below >= 0:
        kept = kept & (rows - columns <= below)
    if above >= 0:
        kept = kept & (columns - rows <= above)
    return torch.where(kept, x, torch.zeros_like(x))


def fill(shape: Tensor, value: Tensor | None = None) -> Tensor:
    """A tensor of one value, 0 where none is given."""
    content = torch.tensor(0.0) if value is None else value
    return content.expand(integers(shape))


def fill_like(ref_tensor: Tensor, value: Tensor | None = None) -> Tensor:
    """A tensor of one value in the shape of another."""
    return fill(shape_tensor(ref_tensor.shape), value)


def range_1d(end: Tensor, start: Tensor, step: Tensor) -> Tensor:
    """Start, start + step, ... up to but without `end`."""
    return torch.arange(start.item(), end.item(), step.item(), dtype=start.dtype)


def cumsum(
    x: Tensor,
    axis: Tensor | None = None,
    exclusive: Tensor | None = None,
    reverse: Tensor | None = None,
) -> Tensor:
    """Running sums along an axis, with or without the element itself, from either end."""
    along = integer(axis, 0)
    source = x.flip(along) if flag(reverse) else x
    total = source.cumsum(along)
    total = total - source if flag(exclusive) else total
    return total.flip(along) if flag(reverse) else total


OPERATIONS: Mapping[str, Callable[..., Tensor | tuple[Tensor, ...]]] = {
    "band_part": band_part,
    "batch_to_space": batch_to_space,
    "concat": concat,
    "crop": crop,
    "cumsum": cumsum,
    "depth_to_space": depth_to_space,
    "expand_dims": expand_dims,
    "fill": fill,
    "fill_like": fill_like,
    "flatten2d": flatten2d,
    "pad": pad,
    "pixel_shuffle": pixel_shuffle,
    "pixel_unshuffle": pixel_unshuffle,
    "range_1d": range_1d,
    "reshape": reshape,
    "reshape_like": reshape_like,
    "reverse": reverse,
    "reverse_sequence": reverse_sequence,
    "shape": shape,
    "slice_by_index": slice_by_index,
    "slice_by_size": slice_by_size,
    "slice_update": slice_update,
    "sliding_windows": sliding_windows,
    "space_to_batch": space_to_batch,
    "space_to_depth": space_to_depth,
    "split": split,
    "squeeze": squeeze,
    "stack": stack,
    "tile": tile,
    "transpose": transpose,
}
