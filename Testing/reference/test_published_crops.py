"""Cut and resized crops (set I) against the published transforms, augmentation off."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from VoCoCore.data.crops import cut_crops
from VoCoCore.geometry import Box, Grid


def cut(volume, starts, size, out):
    """Crops (m, *out) of one volume (X, Y, Z) from first voxels (m, 3)."""
    starts = torch.as_tensor(np.asarray(starts))[None]
    sizes = torch.tensor(size).expand_as(starts)
    crops = cut_crops(torch.tensor(volume)[None, None], starts, sizes, out, largest=size)
    return crops[:, 0].numpy()


def published_volume():
    x, y, z = np.meshgrid(np.arange(384), np.arange(384), np.arange(96), indexing="ij", sparse=True)
    return (((7 * x + 13 * y + 29 * z + (x * y) % 17) % 251) / 251).astype(np.float32)


@pytest.mark.parametrize(("recipe", "cells", "roi", "out"), [("v1", 4, 6, 4), ("v2", 3, 6, 6)])
def test_small(shared_data, recipe, cells, roi, out):
    for path in sorted((shared_data / "reference").glob(f"*_{recipe}.npz")):
        arrays = np.load(path, allow_pickle=False)
        for prefix in (k.removesuffix(".vol_u8") for k in arrays.files if k.endswith("small.vol_u8")):
            grid = Grid((cells * roi, cells * roi, roi), (cells, cells, 1))
            suffix = "" if recipe == "v1" else "_u8"
            scale = 1 if recipe == "v1" else 255
            volume, centres = arrays[prefix + ".vol_u8"], arrays[prefix + ".random_centres"]
            starts = np.concatenate([centres - roi // 2, np.zeros((len(centres), 1), int)], axis=1)
            for name, first in (("base", grid.starts_and_sizes[0]), ("random", starts)):
                ours = cut(volume, first, (roi,) * 3, (out,) * 3) * scale
                np.testing.assert_allclose(
                    ours, arrays[f"{prefix}.{name}_crops{suffix}"], rtol=0, atol=2e-6 * scale
                )
            ours = [grid.overlap_labels(Box(tuple(start), (roi,) * 3)) for start in starts]
            np.testing.assert_allclose(ours, arrays[prefix + ".random_y"], atol=1e-12)


def test_full_size(shared_data):
    for path in sorted((shared_data / "reference").glob("*_v1.npz")):
        arrays = np.load(path, allow_pickle=False)
        prefixes = [
            k.removesuffix(".random_centres") for k in arrays.files if k.endswith("full.random_centres")
        ]
        volume = published_volume() if prefixes else None
        for prefix in prefixes:
            centres = arrays[prefix + ".random_centres"]
            starts = np.concatenate([centres - 48, np.zeros((len(centres), 1), int)], axis=1)
            bases = Grid((384, 384, 96), (4, 4, 1)).starts_and_sizes[0]
            for name, first in (("base", bases), ("random", starts)):
                ours = cut(volume, first, (96,) * 3, (64,) * 3)[:, ::21, ::21, ::21]
                np.testing.assert_allclose(
                    ours, arrays[f"{prefix}.{name}_crops_strided21"], rtol=0, atol=2e-6
                )
