"""Cut, resize, flip and turn all crops of a batch, on the device that holds the volumes.

On an accelerator every crop is gathered by one index operation and resized by one small matrix per axis (trilinear,
align_corners, no anti-aliasing, as published). Flips are rows of these matrices in reverse, so they cost nothing. On a
processor that would be eight times slower than going from crop to crop, see `crops_host.py`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from VoCoCore.data.augment import as_flips_and_swap, shift_intensities
from VoCoCore.data.crops_host import cut_on_host


def gather_boxes(volumes: Tensor, starts: Tensor, size: Sequence[int]) -> Tensor:
    """Cut equal boxes: ``volumes`` (B, C, X, Y, Z), ``starts`` (B, m, 3) whole numbers -> (B * m, C, *size)."""
    windows = volumes
    for axis, edge in enumerate(size):
        windows = windows.unfold(2 + axis, int(edge), 1)
    batch = torch.arange(len(volumes), device=volumes.device).view(-1, 1)
    x, y, z = starts.unbind(-1)
    # A view with every possible box, indexed once: only the voxels asked for are ever touched.
    cut = windows.permute(0, 2, 3, 4, 1, 5, 6, 7)[batch, x, y, z]
    return cut.flatten(0, 1)


def axis_weights(offset: Tensor, size: Tensor, out: int, length: int, flip: Tensor) -> Tensor:
    """Linear interpolation along one axis as matrices (M, out, length).

    Row o holds the hat function around ``offset + o * (size - 1) / (out - 1)``; ``flip`` (M,) reverses the rows.
    """
    rows = torch.arange(out, device=offset.device, dtype=torch.float32)
    rows = torch.where(flip[:, None], out - 1 - rows, rows)
    at = offset[:, None] + rows * ((size[:, None] - 1) / max(out - 1, 1))
    columns = torch.arange(length, device=offset.device, dtype=torch.float32)
    return (1 - (at[:, :, None] - columns).abs()).clamp_(min=0)


def cut_crops(
    volumes: Tensor,
    starts: Tensor,
    sizes: Tensor,
    out_size: Sequence[int],
    *,
    largest: Sequence[int],
    flips: Tensor | None = None,
    turns: Tensor | None = None,
    shifts: Tensor | None = None,
) -> Tensor:
    """Cut the boxes of a batch and bring them to one size.

    ``volumes`` (B, C, X, Y, Z), uint8 (read as value / 255) or floating; ``starts``, ``sizes`` (B, m, 3) whole voxels;
    ``largest`` (3,) bounds ``sizes`` and is known on the host, so that nothing waits for the device. ``flips``
    (B, m, 3) bool, ``turns`` (B, m) quarter turns and ``shifts`` (B, m) act after resizing, in this order.
    Returns (B * m, C, *out_size) float32.
    """
    count = starts.shape[0] * starts.shape[1]
    flip = (
        torch.zeros(count, 3, dtype=torch.bool, device=starts.device)
        if flips is None
        else flips.flatten(0, 1)
    )
    turn = torch.zeros(count, dtype=torch.long, device=starts.device) if turns is None else turns.flatten()
    flip, swap = as_flips_and_swap(flip, turn)
    if out_size[0] != out_size[1]:
        swap = torch.zeros_like(swap)
    # Mixed precision is for the network: in bfloat16 a resized voxel would keep 8 bits of its value and its place.
    with torch.autocast(volumes.device.type, enabled=False):
        if _on_host(volumes):
            added = None if shifts is None else shifts.flatten().tolist()
            return cut_on_host(volumes, starts, sizes, out_size, flip, swap, added)
        crops = cut_at_once(volumes, starts, sizes, out_size, flip, swap, largest=largest)
    return crops if shifts is None else shift_intensities(crops, shifts.flatten())


def _on_host(volumes: Tensor) -> bool:
    return volumes.device.type == "cpu"


def cut_at_once(
    volumes: Tensor,
    starts: Tensor,
    sizes: Tensor,
    out_size: Sequence[int],
    flips: Tensor,
    swap: Tensor,
    *,
    largest: Sequence[int],
) -> Tensor:
    """The crops of `cut_crops`, but for ``shifts``, by operations on all of them; it waits for no device.

    ``flips`` (B * m, 3) and ``swap`` (B * m,) bool as `as_flips_and_swap` gives them.
    """
    # Sizes may differ by a voxel: take boxes of the largest size that still lie inside, and aim within them. The bounds
    # are plain numbers: made a tensor, they would be sent to the device, which waits for all its work.
    last = [edge - int(box) for edge, box in zip(volumes.shape[2:], largest, strict=True)]
    inside = torch.stack([starts[..., axis].clamp(max=last[axis]) for axis in range(3)], dim=-1)
    offsets, extent = (starts - inside).flatten(0, 1).float(), sizes.flatten(0, 1).float()
    crops = gather_boxes(volumes, inside, largest)
    crops = crops.float().mul_(1 / 255) if crops.dtype == torch.uint8 else crops.float()
    weights = [
        axis_weights(offsets[:, a], extent[:, a], int(out_size[a]), int(largest[a]), flips[:, a])
        for a in range(3)
    ]
    crops = _apply(crops, *weights)
    if out_size[0] == out_size[1]:
        crops = torch.where(swap.view(-1, 1, 1, 1, 1), crops.transpose(2, 3), crops)
    return crops


def _apply(crops: Tensor, wx: Tensor, wy: Tensor, wz: Tensor) -> Tensor:
    """Contract the last three axes of ``crops`` (M, C, rx, ry, rz) with the matrices of its M crops."""
    m, c, _, ry, _ = crops.shape
    crops = torch.matmul(wx.unsqueeze(1), crops.flatten(3))  # (M, C, x, ry * rz)
    crops = torch.matmul(crops.reshape(m, c * wx.shape[1] * ry, -1), wz.transpose(1, 2))  # (M, C * x * ry, z)
    crops = crops.view(m, c * wx.shape[1], ry, -1)
    return torch.matmul(wy.unsqueeze(1), crops).view(m, c, wx.shape[1], wy.shape[1], -1)
