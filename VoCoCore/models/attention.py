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
# Products are quick where a head has so many channels, and where rows of numbers begin at multiples of so many: what
# lacks is filled up. 343 keys, and heads of 4 channels, are neither. A card's quick kernels take no others.
_CHANNELS, _ROW = 16, 8
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
        for kinds, crops in _pieces(q, mask):
            # Detached: a mask that asks for a gradient would keep torch from its fused kernel.
            added = _added(bias.detach(), mask, kinds).to(q.dtype)
            for crop in crops:
                place = (crop, kinds)
                queries, keys, values = (
                    _filled(q, mask, place),
                    *(_filled(x, mask, place, _ROW) for x in (k, v)),
                )
                found = F.scaled_dot_product_attention(queries, keys, values, attn_mask=added, scale=1.0)
                _put(out, mask, place, found)
        ctx.save_for_backward(q, k, v, bias, mask)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, bias, mask = ctx.saved_tensors
        dq, dk, dv = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
        dbias = torch.zeros_like(bias)
        for kinds, crops in _pieces(q, mask):
            added = _added(bias, mask, kinds).to(q.dtype)  # rounded as in the forward pass
            for crop in crops:
                place = (crop, kinds)
                queries, grad = (_filled(x, mask, place) for x in (q, grads[0]))
                keys, values = (_filled(x, mask, place, _ROW) for x in (k, v))
                weights = _scores(queries, keys, added).softmax(-1)
                _put(dv, mask, place, weights.mT @ grad)
                d_scores = torch._softmax_backward_data(grad @ values.mT, weights, -1, weights.dtype)
                _add_up(d_scores, dbias)
                _put(dq, mask, place, d_scores @ keys)
                _put(dk, mask, place, d_scores.mT @ queries)
        return dq, dk, dv, dbias, None


@torch.compiler.disable  # traced, the loop over pieces would be unrolled into thousands of nodes
def _attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, mask: Tensor | None) -> Tensor:
    return _Attention.apply(q, k, v, bias, mask)


def _pieces(q: Tensor, mask: Tensor | None) -> Iterator[tuple[slice, list[slice]]]:
    """Kinds of windows that go together, and of each of these the crops: what is added to their scores is the same."""
    windows, heads, tokens, _ = q.shape
    # On an accelerator softmax is in float32, whatever it is given.
    bytes_each = q.element_size() if q.device.type == "cpu" else 4
    step = max(1, _budget(q.device.type) // (heads * tokens * tokens * bytes_each))
    kinds = 1 if mask is None else len(mask)
    crops = max(1, step // kinds)  # all kinds of several crops, or some kinds of one
    for start in range(0, kinds, step):
        some = slice(start, min(start + step, kinds))
        yield some, [slice(crop, crop + crops) for crop in range(0, windows // kinds, crops)]


def _by_kind(x: Tensor, mask: Tensor | None) -> Tensor:
    """Windows (crops x kinds, heads, N, D) seen as (crops, kinds, heads, N, D)."""
    return x.unflatten(0, (-1, 1 if mask is None else len(mask)))


def _piece(x: Tensor, mask: Tensor | None, place: tuple[slice, slice]) -> Tensor:
    """Some kinds of windows of some crops: (crops, kinds x heads, N, D)."""
    return _by_kind(x, mask)[place].flatten(1, 2)


def _filled(x: Tensor, mask: Tensor | None, place: tuple[slice, slice], tokens: int = 1) -> Tensor:
    """The same with zeros, up to `_CHANNELS` channels or a multiple of `_ROW`, and to a multiple of ``tokens``."""
    channels = x.shape[-1]
    lacking = max(_CHANNELS - channels, -channels % _ROW), -x.shape[-2] % tokens
    piece = _piece(x, mask, place)
    return F.pad(piece, (0, lacking[0], 0, lacking[1])) if any(lacking) else piece


def _put(x: Tensor, mask: Tensor | None, place: tuple[slice, slice], piece: Tensor) -> None:
    """Write what was made of a piece where it was taken from; what was filled up is left out."""
    into = _by_kind(x, mask)[place]
    into.copy_(piece[..., : x.shape[-2], : x.shape[-1]].unflatten(1, into.shape[1:3]))


def _added(bias: Tensor, mask: Tensor | None, kinds: slice) -> Tensor:
    """What is added to the scores of some kinds of windows, in each crop the same: (1, kinds x heads, N, N or more).

    Keys that were filled up get minus infinity, and so no weight.
    """
    added = bias[None] if mask is None else (bias + mask[kinds].unsqueeze(1)).flatten(0, 1)[None]
    lacking = -added.shape[-1] % _ROW
    return F.pad(added, (0, lacking), value=-torch.inf) if lacking else added


def _scores(queries: Tensor, keys: Tensor, added: Tensor) -> Tensor:
    """q k^T + added of a piece: (crops, kinds x heads, N, N or more), rounded once."""
    scores = added.expand(len(queries), -1, -1, -1).clone(memory_format=torch.contiguous_format)
    scores.flatten(0, 1).baddbmm_(queries.flatten(0, 1), keys.flatten(0, 1).mT)
    return scores


def _add_up(d_scores: Tensor, dbias: Tensor) -> None:
    """Add gradients (crops, kinds x heads, N, N or more) of scores to that of the bias (heads, N, N)."""
    each = d_scores.unflatten(1, (-1, len(dbias)))[..., : dbias.shape[-1]].flatten(0, 1)
    if d_scores.device.type == "cpu":  # few windows, all in the cache
        for one in each:
            dbias += one
    else:
        dbias += each.sum(0, dtype=dbias.dtype)
