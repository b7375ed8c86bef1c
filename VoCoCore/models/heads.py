"""What follows the encoder in the pretext task: pooling, and projectors to where crops are compared."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from VoCoCore.errors import SettingsError


def pool_maps(maps: Sequence[Tensor]) -> Tensor:
    """Global means of all maps side by side: a list of (N, C_i, X_i, Y_i, Z_i) becomes (N, sum of C_i).

    At least float32: a mean over 64^3 voxels has more digits than half precision keeps.
    """
    return torch.cat(
        [m.mean((2, 3, 4), dtype=torch.promote_types(m.dtype, torch.float32)) for m in maps], dim=1
    )


class Projector(nn.Module):
    """Linear layers with batch norm and ReLU between them, on pooled features (N, in) -> (N, out).

    Keys ``layer1.0.weight`` and so on, as published. The norm has no weights and keeps no statistics: in
    training and in evaluation it uses the crops at hand, so it cannot project a single one (SettingsError).
    """

    def __init__(
        self,
        in_features: int,
        width: int,
        out_features: int | None = None,
        layers: int = 3,
        norm: bool = True,
    ) -> None:
        super().__init__()
        if layers < 1:
            raise SettingsError(f"a projector needs at least one layer, not {layers}")
        self.norm = norm and layers > 1
        widths = [in_features, *[width] * (layers - 1), out_features or width]
        for i in range(1, layers + 1):
            parts: list[nn.Module] = [nn.Linear(widths[i - 1], widths[i])]
            if i < layers:
                parts += [nn.BatchNorm1d(widths[i], affine=False, track_running_stats=False)] if norm else []
                parts += [nn.ReLU()]
            self.add_module(f"layer{i}", nn.Sequential(*parts))

    def forward(self, features: Tensor) -> Tensor:
        if self.norm and len(features) < 2:
            raise SettingsError(
                "the projector compares the crops of a batch and cannot project a single one",
                "give it two crops or more, or build it without its norm",
            )
        for layer in self.children():
            features = layer(features)
        return features


class MapProjector(nn.Module):
    """Linear, ReLU, Linear at each voxel of one map, then their mean: (N, C, X, Y, Z) -> (N, out)."""

    def __init__(self, in_features: int, width: int, out_features: int | None = None) -> None:
        super().__init__()
        self.layer1 = nn.Sequential(nn.Linear(in_features, width), nn.ReLU())
        self.layer2 = nn.Linear(width, out_features or width)

    def forward(self, features: Tensor) -> Tensor:
        # The second layer is linear, so the mean may come before it: the same result for less work.
        return self.layer2(self.layer1(features.flatten(2).transpose(1, 2)).mean(1))
