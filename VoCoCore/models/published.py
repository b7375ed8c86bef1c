"""Names of tensors in published checkpoints, and what they say about the network behind them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

Shape = tuple[int, ...]

# What wrappers, DDP and torch.compile put before a name; and of a student and a teacher, which one it is.
_WRAPPERS = r"module|_orig_mod|model|net|network|backbone|student|teacher"
_WRAPPER = re.compile(rf"({_WRAPPERS})\.")
# Our own networks put these before the published names of their two halves.
_PREFIX = re.compile(rf"({_WRAPPERS}|encoder|decoder)\.")
# MONAI's Swin-UNETR pre-training calls the transformer swin_vit, or saves it alone with other names inside.
_RENAMES = (
    (re.compile(r"^swin_vit\."), "swinViT."),
    (re.compile(r"^(?=patch_embed\.|layers[1-4]c?\.)"), "swinViT."),
    (re.compile(r"\.mlp\.fc([12])\."), r".mlp.linear\1."),
)
# MONAI's DynUNet keeps each of its blocks a second time under these names, and nnU-Net's blocks do likewise.
_ALIAS = re.compile(r"(^|\.)(skip_layers|all_modules)\.|(^|\.)decoder\.encoder\.")


def canonical(name: str) -> str:
    """A tensor's name without the prefixes of wrappers, in MONAI's spelling."""
    while match := _PREFIX.match(name):
        name = name[match.end() :]
    for pattern, replacement in _RENAMES:
        name = pattern.sub(replacement, name)
    return name


def bare(name: str) -> str:
    """A tensor's name without the prefixes of wrappers, as its own network spells it."""
    while match := _WRAPPER.match(name):
        name = name[match.end() :]
    return name


def is_alias(name: str) -> bool:
    """Whether a name is a second one, by which some networks list the same tensor again."""
    return _ALIAS.search(name) is not None


def without_teacher(names: Iterable[str]) -> tuple[list[str], str]:
    """Leave out a teacher's names where there are a student's; returns the rest, and what was done."""
    names = list(names)
    student, teacher = ({n for n in names if role in n.split(".")[:-1]} for role in ("student", "teacher"))
    if not teacher:
        return names, "took the student's weights" if student else ""
    if not student:
        return names, "took the teacher's weights: there are none of a student"
    return [n for n in names if n not in teacher], "took the student's weights and left the teacher's"


def likely_encoder(shapes: Mapping[str, Shape]) -> dict[str, str]:
    """The encoder that tensors seem to belong to, as `Encoder.description` puts it; empty if unknown."""
    shapes = {canonical(name): tuple(shape) for name, shape in shapes.items()}
    for encoder, (name, per_feature) in _SIGNS.items():
        shape = shapes.get(name, ())
        if len(shape) == 5:
            channels, features = shape[1], shape[0] // per_feature
            facts = {"encoder": encoder, "in_channels": str(channels), "feature_size": str(features)}
            return facts | _cube(shapes.get(POSITION_TABLE, ()))
    return {}


def _cube(table: Shape) -> dict[str, str]:
    """The size of the crops that a position table (1, patches, width) is for, where they may be cubes."""
    edge = round(table[1] ** (1 / 3)) if len(table) == 3 else 0
    return {"input_size": ",".join([str(16 * edge)] * 3)} if edge and edge**3 == table[1] else {}


POSITION_TABLE = "vit.patch_embedding.position_embeddings"
# For each encoder the first convolution of the input, and its output channels per feature.
_SIGNS = {
    "swin_unetr": ("swinViT.patch_embed.proj.weight", 1),
    "unetr": ("vit.patch_embedding.patch_embeddings.weight", 16),
    "unet": ("input_block.conv1.conv.weight", 1),
}
