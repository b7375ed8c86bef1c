"""What is said before a pre-training that runs, but may teach nothing."""

from __future__ import annotations

from collections.abc import Iterator

from VoCoCore.settings import FEW_VOXELS, PretrainSettings, normed_voxels


def warnings_of(settings: PretrainSettings) -> Iterator[tuple[str, str]]:
    """Messages, each with what to do, for ``settings`` (complete, see `presets.resolve_pretrain`)."""
    encoder, size = settings.model.encoder, settings.crops.input_size or ()
    if (left := normed_voxels(encoder, size)) < FEW_VOXELS:
        yield (
            f"crops of {' x '.join(map(str, size))} voxels leave {left} in the lowest map of {encoder}, "
            "whose norm then hides most of what they show: the network may learn nothing",
            f"let crops.input_size leave {FEW_VOXELS} or more: fewer base crops (crops.counts), a larger "
            "crops.volume_size, or resized crops",
        )
