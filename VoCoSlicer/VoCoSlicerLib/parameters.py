"""The parameter node: every choice that belongs to the scene, saved and loaded with it.

What belongs to the machine (which Python runs the jobs) is in the application's settings instead. Cases and
settings changed by hand are read and written by `choices`.
"""

from __future__ import annotations

from typing import Annotated

import slicer
from slicer.parameterNodeWrapper import WithinRange, parameterNodeWrapper


@parameterNodeWrapper
class VoCoParameterNode:
    """Choices of a scene. Names of files and folders are text; "" means that the default is taken.

    ``folders``, ``pretrainSettings`` and ``finetuneSettings`` are JSON (see `choices`). Recipe, preset, encoder,
    counts, crop sizes, seeds and steps are among the settings of the job that they belong to.
    """

    # Volumes
    groupChannels: bool = False
    folders: str = "[]"

    # Crop preview
    previewVolume: slicer.vtkMRMLScalarVolumeNode
    previewOn: bool = False
    previewPrepared: bool = False
    previewHeat: bool = False
    previewOpacity: Annotated[float, WithinRange(0, 1)] = 0.4
    previewSample: int = 0
    previewRun: str = ""

    # Pre-training and fine-tuning
    pretrainSettings: str = "{}"
    pretrainRun: str = ""
    finetuneSettings: str = "{}"
    finetuneRun: str = ""

    # Prediction
    model: str = ""
    mirror: bool = False
    largest: bool = False
    probabilities: bool = False
    device: str = "auto"
    predictions: str = ""

    # Jobs
    selectedRun: str = ""
