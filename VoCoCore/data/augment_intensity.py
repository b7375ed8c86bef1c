"""Blur, gamma, scale, shift and noise for whole batches of crops."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

# A blur of fewer voxels is none.
SHARP = 1e-3
# Standard deviations at which a Gaussian has fallen below float32's precision.
FAR = 6.0


def augment_intensity(
    images: Tensor,
    *,
    scale: Tensor,
    shift: Tensor,
    gamma: Tensor | None,
    noise: Tensor | None,
    seeds: Sequence[int],
    blur: Tensor | None,
    at_once: bool | None = None,
) -> Tensor:
    """Blur each crop, then x -> max(x, 0)^gamma, then x -> scale x + shift, then add normal noise.

    ``images`` (M, C, X, Y, Z) in [0, 1]; the others (M,), the same for all channels of a crop: ``blur`` the Gaussian's
    standard deviation in voxels (0: none; at the border its weights are scaled to sum 1), ``gamma`` above 0 (1: values
    stay as they are, also below 0), ``noise`` the standard deviation of noise (0: none); None in place of any of these
    three: no crop has it. The noise of a crop follows from its own number in ``seeds`` (M whole numbers); every kind of
    device has its own noise.

    ``at_once`` treats all crops together, so that nothing waits for an accelerator (the default there); otherwise only
    crops with something to do cost anything. Returns a new float32 tensor.
    """
    at_once = images.device.type != "cpu" if at_once is None else at_once
    images = images.float()
    if at_once:
        out = images
        if blur is not None:
            out = torch.where(_wide(blur >= SHARP), blurred(out, blur), out)
        if gamma is not None:
            out = torch.where(_wide(gamma != 1), raised(out, gamma), out)
        out = out * _wide(scale) + _wide(shift)
        if noise is not None:
            grain = torch.stack([_normal(crop, seed) for crop, seed in zip(images, seeds, strict=True)])
            out.addcmul_(grain, _wide(noise))
        return out
    out = torch.empty_like(images)
    for m, seed in enumerate(seeds):
        one = slice(m, m + 1)
        crop = images[one]
        if blur is not None and blur[m] >= SHARP:
            crop = blurred(crop, blur[one])
        if gamma is not None and gamma[m] != 1:
            crop = raised(crop, gamma[one])
        torch.mul(crop, scale[m], out=out[one])
        out[m] += shift[m]
        if noise is not None and noise[m] > 0:
            out[m].addcmul_(_normal(images[m], seed), noise[m])
    return out


def _wide(values: Tensor) -> Tensor:
    return values.view(-1, 1, 1, 1, 1)


def _normal(like: Tensor, seed: int) -> Tensor:
    generator = torch.Generator(like.device).manual_seed(seed % 2**63)
    return torch.randn(like.shape, generator=generator, device=like.device)


def raised(images: Tensor, gamma: Tensor) -> Tensor:
    """max(x, 0)^gamma: ``images`` (M, C, X, Y, Z), ``gamma`` (M,) above 0."""
    # Through the logarithm: several times as quick as pow, and exact at 0.
    return images.clamp(min=0).log_().mul_(_wide(gamma)).exp_()


def blurred(images: Tensor, sigma: Tensor) -> Tensor:
    """Gaussian blur: ``images`` (M, C, X, Y, Z) float32, ``sigma`` (M,) voxels, 0 leaves a crop as it is."""
    m, c, x, y, z = images.shape
    with torch.autocast(images.device.type, enabled=False):
        # A matrix for each axis, as the crops of pre-training are resized: on one core quicker than a convolution.
        out = torch.matmul(_gaussians(sigma, x).unsqueeze(1), images.flatten(3)).view(m, c * x, y, z)
        out = torch.matmul(_gaussians(sigma, y).unsqueeze(1), out).view(m, c * x * y, z)
        return torch.matmul(out, _gaussians(sigma, z).transpose(1, 2)).view(m, c, x, y, z)


def _gaussians(sigma: Tensor, length: int) -> Tensor:
    """Weights of the voxels of an axis (columns) for each of its voxels (rows): (M, length, length)."""
    at = torch.arange(length, device=sigma.device, dtype=torch.float32)
    steps = (at[:, None] - at) / sigma.float().clamp(min=SHARP).view(-1, 1, 1)
    weights = torch.exp(-steps.square() / 2)
    # What cannot matter is nothing: numbers near the smallest float make a product fifty times as slow.
    weights = torch.where(steps.abs() < FAR, weights, 0.0)
    return weights / weights.sum(-1, keepdim=True)
