"""Window attention that never holds the attention matrices of a whole batch.

At 64^3 voxels the first Swin stage has 125 windows of 343 tokens per crop: 176 MB for one copy of its
attention matrices, and the plain formula keeps several per block. Here a few windows at a time are
computed, while they fit the cache, and once more in the backward pass. Values and gradients are those of
the plain formula.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from monai.networks.nets.swin_unetr import WindowAttention
from torch import Tensor, nn

_CACHE_BYTES = 4 << 20  # of attention matrices at a time on a CPU
_DEVICE_BYTES = 512 << 20  # on an accelerator, where few large pieces are faster
_COPIES = 4  # that the backward pass makes of a piece: scores, weights and the gradients of both


def save_attention_memory(module: nn.Module) -> None:
    """Let every window attention inside ``module`` compute in pieces; weights and names stay as they are."""
    for part in module.modules():
        if isinstance(part, WindowAttention):
            part.__class__ = ChunkedWindowAttention


def held_by_pieces(device_type: str) -> int:
    """Bytes of attention matrices that a Swin transformer holds at most on a kind of device, however many crops."""
    return _COPIES * _budget(device_type)


def _budget(device_type: str) -> int:
    # Tensors without values stand for those of a processor: what a piece holds is then little beside a crop.
    return _CACHE_BYTES if device_type in ("cpu", "meta") else _DEVICE_BYTES


def use_plain_attention(module: nn.Module) -> None:
    """Undo `save_attention_memory`: programs made from a network are read by others, in the plain formula."""
    for part in module.modules():
        if type(part) is ChunkedWindowAttention:
            part.__class__ = WindowAttention  # type: ignore[assignment]


class ChunkedWindowAttention(WindowAttention):
    """MONAI's window attention without dropout; tokens (windows, N, C), shift mask (kinds, N, N) or None."""

    relative_position_index: Tensor

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        windows, tokens, channels = x.shape
        qkv = self.qkv(x).reshape(windows, tokens, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4).contiguous()
        index = self.relative_position_index[:tokens, :tokens].reshape(-1)
        bias = self.relative_position_bias_table[index].reshape(tokens, tokens, -1).permute(2, 0, 1)
        out = _attend(qkv[0] * self.scale, qkv[1], qkv[2], bias.contiguous(), mask)
        return self.proj(out.transpose(1, 2).reshape(windows, tokens, channels))


class _Attention(torch.autograd.Function):
    """softmax(q k^T + bias + mask) v, one piece after the other.

    q (already scaled), k and v are (windows, heads, N, D), bias is (heads, N, N), mask as above: window w
    takes mask[w % kinds].
    """

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, bias: Tensor, mask: Tensor | None) -> Tensor:
        out = torch.empty_like(v)
        for i in _pieces(q):
            # Detached: a mask that asks for a gradient would keep torch from its fused kernel.
            added = _added(bias.detach(), mask, i, len(q[i])).to(q.dtype)
            out[i] = F.scaled_dot_product_attention(q[i], k[i], v[i], attn_mask=added, scale=1.0)
        ctx.save_for_backward(q, k, v, bias, mask, out)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, bias, mask, out = ctx.saved_tensors
        # What softmax takes off each row of its gradient: sum(weights * d_weights) = sum(out * grad).
        taken_off = (out * grads[0]).sum(-1, keepdim=True)
        dq, dk, dv = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
        dbias = torch.zeros_like(bias)
        for i in _pieces(q):
            grad = grads[0][i]
            scores = q[i] @ k[i].mT
            weights = (scores + _added(bias, mask, i, len(scores))).softmax(-1).to(scores.dtype)
            dv[i] = weights.mT @ grad
            d_scores = (grad @ v[i].mT).sub_(taken_off[i]).mul_(weights)
            dbias += d_scores.sum(0, dtype=dbias.dtype)
            dq[i] = d_scores @ k[i]
            dk[i] = d_scores.mT @ q[i]
        return dq, dk, dv, dbias, None


@torch.compiler.disable  # traced, the loop over pieces would be unrolled into thousands of nodes
def _attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, mask: Tensor | None) -> Tensor:
    return _Attention.apply(q, k, v, bias, mask)


def _pieces(q: Tensor) -> Iterator[slice]:
    windows, heads, tokens, _ = q.shape
    step = max(1, _budget(q.device.type) // (heads * tokens * tokens * q.element_size()))
    return (slice(start, start + step) for start in range(0, windows, step))


def _added(bias: Tensor, mask: Tensor | None, piece: slice, count: int) -> Tensor:
    """What is added to the scores of a piece of ``count`` windows: (count, heads, N, N)."""
    if mask is None:
        return bias.expand(count, -1, -1, -1)
    kinds = torch.arange(piece.start, piece.start + count, device=mask.device) % len(mask)
    return bias + mask[kinds].unsqueeze(1)
