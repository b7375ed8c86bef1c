"""From settings to a task around its encoder: the one place that knows the tasks by name."""

from __future__ import annotations

from functools import partial
from typing import Any

from VoCoCore.models.encoders import build_encoder
from VoCoCore.pretext.voco import MakeEncoder, VoCo
from VoCoCore.settings import PretrainSettings

TASKS = {"voco": VoCo}


def encoder_factory(settings: PretrainSettings, channels: int) -> MakeEncoder:
    """What builds a new encoder, with random weights, for images of ``channels`` channels.

    It keeps its activations also with model.checkpointing: then the task does crops again as a whole (`parts.py`).
    Where pooling comes after the projector, that takes the last map alone.
    """
    model, size = settings.model, settings.crops.input_size
    assert size
    last_only = settings.pretext.pooling == "after"
    return partial(build_encoder, model.encoder, channels, model.feature_size, size, last_only=last_only)


def build_task(settings: PretrainSettings, make_encoder: MakeEncoder) -> Any:
    """The task that ``settings`` ask for, around encoders that ``make_encoder`` builds."""
    return TASKS["voco"](settings, make_encoder)
