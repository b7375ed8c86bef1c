"""Flips, quarter turns and affine maps for whole batches of crops with their labels."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from VoCoCore.data.augment import as_flips_and_swap

# The label of a voxel that came from outside its crop: no loss counts it.
OUTSIDE = -1


def augment_space(
    images: Tensor,
    labels: Tensor,
    *,
    flips: Tensor,
    turns: Tensor,
    matrix: Tensor,
    warped: Tensor | None,
    at_once: bool | None = None,
) -> tuple[Tensor, Tensor]:
    """Flip, then turn, then warp each crop and its labels alike.

    ``images`` (M, C, X, Y, Z) float32; ``labels`` (M, X, Y, Z) signed whole numbers below 2^24. ``flips`` (M, 3) bool;
    ``turns`` (M,) quarter turns in the xy plane as numpy.rot90 turns (where X and Y differ, an odd one is done as the
    half turn below it); ``matrix`` (M, 3, 3) takes offsets of output voxels from the crop's centre to those of the
    input, in voxels, and is used where ``warped`` (M,) bool holds (None: nowhere). Images are interpolated linearly and
    go on beyond the border with its value; labels are taken from the nearest voxel and are -1 outside.

    ``at_once`` treats all crops together, so that nothing waits for an accelerator (the default there); otherwise only
    crops with something to do cost anything. Returns new tensors of the same shapes and kinds.
    """
    at_once = images.device.type != "cpu" if at_once is None else at_once
    if images.shape[2] != images.shape[3]:
        turns = turns - turns % 2
    flips, swap = as_flips_and_swap(flips, turns)
    if at_once:
        images, labels = (_oriented(x, flips, swap) for x in (images, labels.unsqueeze(1)))
        if warped is None:
            return images, labels.squeeze(1)
        moved, kinds = _warp(images, labels, matrix.float())
        which = warped.view(-1, 1, 1, 1, 1)
        return torch.where(which, moved, images), torch.where(which, kinds, labels).squeeze(1)
    images, labels = (_oriented_singly(x, flips, swap) for x in (images, labels.unsqueeze(1)))
    for m in () if warped is None else warped.nonzero().flatten().tolist():
        one = slice(m, m + 1)
        images[one], labels[one] = _warp(images[one], labels[one], matrix[one].float())
    return images, labels.squeeze(1)


def _oriented_singly(crops: Tensor, flips: Tensor, swap: Tensor) -> Tensor:
    """Crops (M, C, X, Y, Z), flipped, then with x and y exchanged."""
    out = torch.empty_like(crops)
    for crop, new, flip, exchanged in zip(crops, out, flips.tolist(), swap.tolist(), strict=True):
        axes = [axis for axis, flipped in enumerate(flip, start=1) if flipped]
        crop = crop.flip(axes) if axes else crop
        new.copy_(crop.transpose(1, 2) if exchanged else crop)
    return out


def _oriented(crops: Tensor, flips: Tensor, swap: Tensor) -> Tensor:
    """The same by one index operation on all crops."""
    places = []
    for axis, length in enumerate(crops.shape[2:]):
        at = torch.arange(length, device=crops.device)
        at = torch.where(flips[:, axis, None], length - 1 - at, at)  # (M, length)
        view = [len(crops), 1, 1, 1, 1]
        view[2 + axis] = length
        places.append(at.view(view))
    x, y, z = places
    if crops.shape[2] == crops.shape[3]:
        across = swap.view(-1, 1, 1, 1, 1)
        x, y = torch.where(across, x.transpose(2, 3), x), torch.where(across, y.transpose(2, 3), y)
    crop = torch.arange(len(crops), device=crops.device).view(-1, 1, 1, 1, 1)
    channel = torch.arange(crops.shape[1], device=crops.device).view(-1, 1, 1, 1)
    return crops[crop, channel, x, y, z]


def _warp(images: Tensor, labels: Tensor, matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Images (M, C, X, Y, Z) and labels (M, 1, X, Y, Z) as seen through the affine maps (M, 3, 3)."""
    with torch.autocast(images.device.type, enabled=False):
        grid = _grid(matrix, images.shape[2:])
        options = {"align_corners": True}
        moved = F.grid_sample(images, grid, mode="bilinear", padding_mode="border", **options)
        if images.device.type == "mps":  # whose grid_sample knows no nearest voxel in 3D before PyTorch 2.12
            return moved, nearest(labels, grid)
        # Numbers start at OUTSIDE, so that the zeros beyond the border become it.
        above = labels.to(images.dtype) - OUTSIDE
        kinds = F.grid_sample(above, grid, mode="nearest", padding_mode="zeros", **options)
        return moved, (kinds + OUTSIDE).to(labels.dtype)


def nearest(labels: Tensor, grid: Tensor) -> Tensor:
    """Labels (M, 1, X, Y, Z) of the voxels nearest to ``grid`` (M, X, Y, Z, 3), as grid_sample finds them."""
    inside, places = torch.ones_like(grid[..., 0], dtype=torch.bool), []
    for axis, length in enumerate(labels.shape[2:]):
        at = ((grid[..., 2 - axis] + 1) / 2 * (length - 1)).round()
        inside &= (at >= 0) & (at < length)
        places.append(at.clamp(0, length - 1).long())
    crop = torch.arange(len(labels), device=labels.device).view(-1, 1, 1, 1)
    return torch.where(inside, labels[crop, 0, places[0], places[1], places[2]], OUTSIDE).unsqueeze(1)


def _grid(matrix: Tensor, shape: torch.Size) -> Tensor:
    """Where grid_sample reads: (M, X, Y, Z, 3), last axis first, -1 and 1 are the centres of the border voxels."""
    # Divided by plain numbers, row by row: as a tensor they would be sent to the device, which waits for all its work.
    rows = [row / max((length - 1) / 2, 0.5) for row, length in zip(matrix.unbind(1), shape, strict=True)]
    scaled, grid = torch.stack(rows, dim=1), matrix.new_zeros(())
    for axis, length in enumerate(shape):
        offset = torch.arange(length, device=matrix.device, dtype=matrix.dtype) - (length - 1) / 2
        part = scaled[:, :, axis]  # (M, 3): the input's axes
        view = [len(matrix), 1, 1, 1, 3]
        view[1 + axis] = length
        grid = grid + (offset[:, None] * part.flip(1)[:, None]).view(view)
    return grid
