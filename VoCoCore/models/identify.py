"""What network a file's tensors belong to, told from their names and shapes alone."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from VoCoCore.models.published import Shape, bare, canonical, likely_encoder
from VoCoCore.models.weight_files import WeightFile

ENCODER, NETWORK, CLASSIFIER, TRANSFORMER, OTHER = (
    "encoder",
    "network",
    "classifier",
    "transformer",
    "other",
)
# The last convolution of a whole segmentation network, and how a name of its decoder begins.
_WHOLE = {
    "swin_unetr": ("out.conv.conv.weight", "decoder5."),
    "unetr": ("out.conv.conv.weight", "decoder5."),
    "unet": ("output_block.conv.conv.weight", "upsamples."),
}
_NOUNS = {
    ENCODER: "the encoder",
    NETWORK: "a whole segmentation network",
    CLASSIFIER: "a classification network",
    TRANSFORMER: "the transformer alone",
}


@dataclass(frozen=True)
class Identity:
    """``words``: for people; ``kind``: one of the words above; ``encoder``: as `Encoder.description`, empty for a
    network that is none of ours; ``outputs``: of a whole network or a classifier.
    """

    words: str
    kind: str = OTHER
    encoder: Mapping[str, str] | None = None
    outputs: int | None = None


def source_of(file: WeightFile) -> dict[str, str]:
    """Description of the encoder in a file: as recorded, else as its names and shapes suggest; empty if unknown."""
    if "encoder" in file.metadata:
        keys = ("encoder", "in_channels", "feature_size", "input_size")
        return {key: file.metadata[key] for key in keys if key in file.metadata}
    return likely_encoder(_shapes(file))


def identify(file: WeightFile) -> Identity:
    """What a file holds. Never raises: what is not known is said to be unknown."""
    encoder = source_of(file)
    if not encoder:
        return Identity(_stranger(_shapes(file)))
    shapes = {canonical(name): shape for name, shape in _shapes(file).items()}
    kind, outputs = _kind(encoder["encoder"], shapes)
    channels = encoder.get("in_channels", "1")
    words = (
        f"{_NOUNS[kind]} of {encoder['encoder']}, feature size {encoder.get('feature_size', '?')}, "
        f"{channels} input channel{'s' * (channels != '1')}"
    )
    if encoder["encoder"] == "swin_unetr" and not any(
        name.startswith("swinViT.layers1c.") for name in shapes
    ):
        words += ", version 1 (without the convolution before each stage that version 2 has)"
    return Identity(f"{words}, {outputs} outputs" if outputs else words, kind, encoder, outputs)


def _shapes(file: WeightFile) -> dict[str, Shape]:
    return {name: tuple(tensor.shape) for name, tensor in file.tensors.items()}


def _kind(encoder: str, shapes: Mapping[str, Shape]) -> tuple[str, int | None]:
    last, decoder = _WHOLE.get(encoder, ("", ""))
    if last in shapes and any(name.startswith(decoder) for name in shapes):
        return NETWORK, shapes[last][0]
    if len(shapes.get("head.weight", ())) == 2:
        return CLASSIFIER, shapes["head.weight"][0]
    beside = ("encoder1.", "encoder10.")  # the second one alone where the first was not trained
    alone = encoder == "swin_unetr" and not any(name.startswith(beside) for name in shapes)
    return (TRANSFORMER if alone else ENCODER), None


def _stranger(shapes: Mapping[str, Shape]) -> str:
    """Words for a network that is none of ours."""
    shapes = {bare(name): shape for name, shape in shapes.items()}
    if stages := _stages(shapes):
        residual = any(".blocks." in name for name in shapes)
        name = "ResidualEncoderUNet" if residual else "PlainConvUNet"
        widths = ", ".join(str(width) for _, width in sorted(stages.items()))
        return f"nnU-Net's {name} with {len(stages)} stages of {widths} channels"
    for sign, words in _STRANGERS:
        if any(re.search(sign, name) for name in shapes):
            return words
    return "no network that is known here"


def _stages(shapes: Mapping[str, Shape]) -> dict[int, int]:
    """Channels of each stage of an nnU-Net encoder."""
    stages: dict[int, int] = {}
    for name, shape in shapes.items():
        if (match := re.match(r"encoder\.stages\.(\d+)\..*\.conv\.weight$", name)) and len(shape) > 2:
            stages[int(match[1])] = shape[0]
    return stages


_STRANGERS = (
    (r"^conv_blocks_context\.", "nnU-Net's first U-Net (Generic_UNet)"),
    (r"^(proj_head\.|head\.)?layer1\.0\.(weight|bias)$", "a projection head alone"),
    (r"^convInit\.", "MONAI's SegResNet"),
    (r"^conv_0\.conv_0\.", "MONAI's BasicUNet"),
    (r"^(model|submodule|\d)\.\d.*\.unit0\.conv\.", "MONAI's UNet"),
    (r"^layer1\.0\.conv1\.weight$", "a ResNet"),
    (r"^blocks\.0\.attn\.|^cls_token$", "a vision transformer alone"),
)
