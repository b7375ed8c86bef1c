"""The three encoders, and the one function that builds them.

Their blocks are MONAI's, under MONAI's names, so that published weights fit and a fine-tuned network can be
handed back. Only the encoding half is built: the decoders belong to fine-tuning.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch.nn.functional as F
from monai.networks.blocks import UnetrBasicBlock, UnetrPrUpBlock
from monai.networks.blocks.dynunet_block import UnetBasicBlock
from monai.networks.nets import DynUNet, ViT
from monai.networks.nets.swin_unetr import SwinTransformer
from torch import Tensor, nn

from VoCoCore.errors import SettingsError, nearest
from VoCoCore.models.attention import save_attention_memory
from VoCoCore.models.interface import Encoder, Size
from VoCoCore.models.published import POSITION_TABLE
from VoCoCore.settings import needed_size, suits


class SwinUnetrEncoder(Encoder):
    """Encoder of MONAI's Swin-UNETR v2, the published backbone.

    Patch 2, window 7, depths 2 2 2 2, heads 3 6 12 24. Five maps with C, C, 2C, 4C, 16C channels; keys
    ``swinViT.*`` and ``encoder1|2|3|4|10.*``.
    """

    name = "swin_unetr"
    strides = (1, 2, 4, 8, 32)
    feature_multiple = 12
    stem = (
        "swinViT.patch_embed.proj.weight",
        "encoder1.layer.conv1.conv.weight",
        "encoder1.layer.conv3.conv.weight",
    )
    beside = ("encoder1", "encoder2", "encoder3", "encoder4")

    def __init__(self, in_channels: int, feature_size: int, input_size: Size, checkpointing: bool) -> None:
        super().__init__(in_channels, feature_size, input_size, checkpointing)
        c = feature_size
        self.channels = (c, c, 2 * c, 4 * c, 16 * c)
        self.swinViT = SwinTransformer(
            in_chans=in_channels,
            embed_dim=c,
            window_size=(7, 7, 7),
            patch_size=(2, 2, 2),
            depths=(2, 2, 2, 2),
            num_heads=(3, 6, 12, 24),
            use_v2=True,
            use_checkpoint=checkpointing,
        )
        save_attention_memory(self.swinViT)
        self.encoder1 = _residual_block(in_channels, c)
        self.encoder2 = _residual_block(c, c)
        self.encoder3 = _residual_block(2 * c, 2 * c)
        self.encoder4 = _residual_block(4 * c, 4 * c)
        self.encoder10 = _residual_block(16 * c, 16 * c)

    def pyramid(self, x: Tensor) -> list[Tensor]:
        """The five maps, and before the last one the fourth state as it is: stride 16, 8C channels."""
        return self(x, between=True)

    def forward(self, x: Tensor, between: bool = False) -> list[Tensor]:
        hidden = self.swinViT(x, True)  # five normalised states, strides 2 to 32
        blocks = (self.encoder1, self.encoder2, self.encoder3, self.encoder4, self.encoder10)
        inputs = (x, hidden[0], hidden[1], hidden[2], hidden[4])
        pairs = list(zip(blocks, inputs, strict=True))
        maps = [self._run(block, part) for block, part in (pairs[-1:] if self.last_only else pairs)]
        return [*maps[:-1], hidden[3], maps[-1]] if between else maps


class UnetrEncoder(Encoder):
    """Encoder of MONAI's UNETR: a vision transformer with patches of 16, its states at four resolutions.

    Width 16C, 12 layers, heads of 64 channels: feature size 48 is ViT-B (768 wide, 12 heads), 12 is ViT-Ti
    (192, 3). Five maps with C, 2C, 4C, 8C, 16C channels; keys ``vit.*`` and ``encoder1|2|3|4.*``. A network
    takes crops of one size, that of its position table.
    """

    name = "unetr"
    strides = (1, 2, 4, 8, 16)
    feature_multiple = 4
    stem = (
        "vit.patch_embedding.patch_embeddings.weight",
        "encoder1.layer.conv1.conv.weight",
        "encoder1.layer.conv3.conv.weight",
    )
    beside = ("encoder1", "encoder2", "encoder3", "encoder4")
    patch = 16

    def __init__(self, in_channels: int, feature_size: int, input_size: Size, checkpointing: bool) -> None:
        super().__init__(in_channels, feature_size, input_size, checkpointing)
        c, width = feature_size, 16 * feature_size
        self.channels = (c, 2 * c, 4 * c, 8 * c, width)
        self.grid = tuple(edge // self.patch for edge in input_size)
        self.vit = ViT(
            in_channels=in_channels,
            img_size=input_size,
            patch_size=(self.patch,) * 3,
            hidden_size=width,
            mlp_dim=4 * width,
            num_layers=12,
            num_heads=width // 64,
        )
        for block in self.vit.blocks:
            # MONAI keeps these for a cross-attention that is not there; DDP would wait for their gradient.
            block.norm_cross_attn.requires_grad_(False)
        self.encoder1 = _residual_block(in_channels, c)
        self.encoder2 = _upward_block(width, 2 * c, steps=2)
        self.encoder3 = _upward_block(width, 4 * c, steps=1)
        self.encoder4 = _upward_block(width, 8 * c, steps=0)

    def forward(self, x: Tensor) -> list[Tensor]:
        if tuple(edge // self.patch for edge in x.shape[2:]) != self.grid:
            raise SettingsError(
                f"this unetr takes crops of {self.input_size} voxels, not {tuple(x.shape[2:])}",
                "build it for the other size; its weights are interpolated when they are loaded",
            )
        tokens = self.vit.patch_embedding(x)
        states = []
        for block in self.vit.blocks:
            tokens = self._run(block, tokens)
            states.append(tokens)
        upper = [] if self.last_only else self._upper_maps(x, states)
        return [*upper, self._as_map(self.vit.norm(tokens))]

    def _upper_maps(self, x: Tensor, states: Sequence[Tensor]) -> list[Tensor]:
        blocks = (self.encoder2, self.encoder3, self.encoder4)
        middle = [self._run(b, self._as_map(states[i])) for b, i in zip(blocks, (3, 6, 9), strict=True)]
        return [self._run(self.encoder1, x), *middle]

    def _as_map(self, tokens: Tensor) -> Tensor:
        # Sizes are asked of the shape: an exported program then takes any number of crops.
        return tokens.transpose(1, 2).reshape(tokens.shape[0], tokens.shape[2], *self.grid)

    def adapt(self, name: str, tensor: Tensor, source: Mapping[str, str]) -> tuple[Tensor, str]:
        if name != POSITION_TABLE or tensor.ndim != 3:
            return super().adapt(name, tensor, source)
        old = _token_grid(tensor.shape[1], source.get("input_size", ""), self.grid)
        if old in (None, self.grid):
            return tensor, ""
        table = tensor.transpose(1, 2).reshape(1, -1, *old).float()
        table = F.interpolate(table, size=self.grid, mode="trilinear", align_corners=False)
        text = " x ".join(map(str, old)) + " to " + " x ".join(map(str, self.grid))
        return table.flatten(2).transpose(1, 2), f"{name}: interpolated from {text} patches"


class UnetEncoder(Encoder):
    """Encoder of a 3D U-Net: the blocks of MONAI's DynUNet, its form of nnU-Net's network.

    Twice (3^3 convolution, instance norm, leaky ReLU) at each of five levels, halved by strided
    convolutions. Five maps with C, 2C, 4C, 8C, 16C channels; keys ``input_block.*``, ``downsamples.*``,
    ``bottleneck.*``.
    """

    name = "unet"
    strides = (1, 2, 4, 8, 16)
    stem = ("input_block.conv1.conv.weight",)

    def __init__(self, in_channels: int, feature_size: int, input_size: Size, checkpointing: bool) -> None:
        super().__init__(in_channels, feature_size, input_size, checkpointing)
        self.channels = tuple(feature_size * factor for factor in (1, 2, 4, 8, 16))
        c = self.channels
        self.input_block = _plain_block(in_channels, c[0], stride=1)
        self.downsamples = nn.ModuleList(_plain_block(c[i], c[i + 1], stride=2) for i in range(3))
        self.bottleneck = _plain_block(c[3], c[4], stride=2)
        self.apply(DynUNet.initialize_weights)

    def forward(self, x: Tensor) -> list[Tensor]:
        maps = []
        for block in (self.input_block, *self.downsamples, self.bottleneck):
            x = self._run(block, x)
            maps.append(x)
        return maps[-1:] if self.last_only else maps


ENCODERS: dict[str, type[Encoder]] = {
    "swin_unetr": SwinUnetrEncoder,
    "unetr": UnetrEncoder,
    "unet": UnetEncoder,
}


def build_encoder(
    name: str,
    in_channels: int = 1,
    feature_size: int = 48,
    input_size: int | Sequence[int] = (64, 64, 64),
    checkpointing: bool = False,
    last_only: bool = False,
) -> Encoder:
    """A new encoder with random weights (torch's current generator).

    ``input_size`` is that of the crops in voxels; ``checkpointing`` computes activations again for the
    backward pass instead of keeping them, with equal gradients; ``last_only`` computes and trains nothing but what the
    last map needs. Raises SettingsError for a name or a size that cannot be.
    """
    if name not in ENCODERS:
        known = "one of " + ", ".join(ENCODERS)
        raise SettingsError(f"there is no encoder '{name}'.{nearest(name, ENCODERS)}", known)
    if in_channels < 1:
        raise SettingsError(f"an encoder needs at least one input channel, not {in_channels}")
    kind = ENCODERS[name]
    _check_feature_size(kind, feature_size)
    encoder = kind(in_channels, feature_size, _checked_size(name, input_size), checkpointing)
    if last_only:
        encoder.keep_to_last()
    return encoder


def _checked_size(name: str, input_size: int | Sequence[int]) -> Size:
    edges = [input_size] * 3 if isinstance(input_size, int) else list(input_size)
    if len(edges) != 3 or not suits(name, edges):
        raise SettingsError(
            f"an input of {' x '.join(map(str, edges))} voxels does not suit {name}",
            f"it needs three {needed_size(name)}",
        )
    return edges[0], edges[1], edges[2]


def _check_feature_size(kind: type[Encoder], feature_size: int) -> None:
    step = kind.feature_multiple
    if feature_size < 1 or feature_size % step:
        below = max(feature_size // step, 1) * step
        raise SettingsError(
            f"a feature size of {feature_size} does not suit {kind.name}",
            f"it needs a multiple of {step}, for example {below} or {below + step}",
        )


def _residual_block(in_channels: int, out_channels: int) -> nn.Module:
    return UnetrBasicBlock(
        spatial_dims=3,
        in_channels=in_channels,
        out_channels=out_channels,
        kernel_size=3,
        stride=1,
        norm_name="instance",
        res_block=True,
    )


def _upward_block(in_channels: int, out_channels: int, steps: int) -> nn.Module:
    return UnetrPrUpBlock(
        spatial_dims=3,
        in_channels=in_channels,
        out_channels=out_channels,
        num_layer=steps,
        kernel_size=3,
        stride=1,
        upsample_kernel_size=2,
        norm_name="instance",
        conv_block=True,
        res_block=True,
    )


def _plain_block(in_channels: int, out_channels: int, stride: int) -> nn.Module:
    norm = ("INSTANCE", {"affine": True})
    return UnetBasicBlock(3, in_channels, out_channels, kernel_size=3, stride=stride, norm_name=norm)


def _token_grid(tokens: int, input_size: str, own: tuple[int, ...]) -> tuple[int, ...] | None:
    """Patches along each axis of a position table: as recorded, else our own, else a cube, else None."""
    recorded = tuple(
        int(edge) // UnetrEncoder.patch for edge in input_size.split(",") if edge.strip().isdigit()
    )
    edge = round(tokens ** (1 / 3))
    candidates = (recorded, own, (edge, edge, edge))
    return next(
        (grid for grid in candidates if len(grid) == 3 and grid[0] * grid[1] * grid[2] == tokens), None
    )
