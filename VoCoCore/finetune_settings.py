"""Settings of the fine-tuning job, described like those of pre-training (`settings.py`), of which some are shared.

What is left open (None, ``auto``) is filled by the protocol, or for ``auto`` from the cases, the memory and the time
(`training.planning`), before the first step; the run's settings.json then holds all values.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from VoCoCore.fields import Group, setting
from VoCoCore.settings import (
    ENCODER_LIMITS,
    SCRATCH,
    DataSettings,
    PrepareSettings,
    RunSettings,
    UpdateSettings,
)

TASKS = ("segmentation", "classification")
PROTOCOL_NAMES = (
    "auto",
    "btcv",
    "mmwhs",
    "amos",
    "flare22",
    "word",
    "lits",
    "spleen",
    "brats21",
    "ccii",
)


@dataclass(frozen=True)
class LabelledDataSettings(DataSettings):
    """Labelled cases and how they are divided."""

    val_fraction: float = setting(
        0.2, "share of patients to validate on where no split is given", low=0.0, high=0.9
    )
    test_fraction: float = setting(
        0.0, "share of patients kept for the end where no test cases are given", low=0.0, high=0.9
    )
    labels: float | None = setting(
        None,
        "labelled cases to train on: a share below 1, or a number; default: all "
        "(patterns of label files go to 'voco data index --labels')",
        low=0.0,
        high=1e9,
    )
    label_seed: int = setting(0, "seed of the choice of labelled cases", low=0, high=2**63 - 1)
    folds: int = setting(5, "number of folds, with data.fold", low=2, high=100)
    fold: str | None = setting(None, "fold to validate on, from 0, or 'all' for one run each")


@dataclass(frozen=True)
class PatchSettings(Group):
    """The crops that a network is trained on."""

    size: tuple[int, int, int] | None = setting(
        None,
        "size of a crop; a classification sees the whole case at this size",
        unit="voxels",
        low=16,
        high=1024,
    )
    per_case: int | None = setting(
        None, "crops of one case in a step; default: by the memory and the time", low=1, high=64
    )
    positive: float = setting(
        0.75, "share of crops centred on a labelled voxel, the others on the background", low=0.0, high=1.0
    )
    balance: str = setting(
        "classes",
        "which labelled voxel: each class as often as the others, or each voxel",
        choices=("classes", "voxels"),
    )


@dataclass(frozen=True)
class NetworkSettings(Group):
    """The network that is trained."""

    encoder: str | None = setting(
        None, "network; default: that of --init, else unet", choices=tuple(ENCODER_LIMITS)
    )
    feature_size: int | None = setting(
        None,
        "channels of the first feature map; default: that of --init, else by the device",
        low=4,
        high=512,
    )
    deep_supervision: bool = setting(False, "also train the outputs at half and quarter resolution")
    dropout: float = setting(0.0, "dropout before the head of a classification", low=0.0, high=0.9)
    checkpointing: bool = setting(False, "save memory by computing activations twice")
    allow_partial: bool = setting(False, "accept weights that fill less than 90 % of the encoder")


@dataclass(frozen=True)
class LossSettings(Group):
    """What is minimised."""

    kind: str = setting("dice_ce", "loss of a segmentation", choices=("dice_ce", "dice_focal", "tversky_ce"))
    background: bool = setting(False, "count the background in the Dice part")
    gamma: float = setting(2.0, "focal loss: how much easy voxels are left out", low=0.0, high=10.0)
    alpha: float = setting(0.3, "Tversky loss: weight of false positives", low=0.0, high=1.0)
    beta: float = setting(0.7, "Tversky loss: weight of false negatives", low=0.0, high=1.0)
    smoothing: float = setting(0.0, "label smoothing of a classification", low=0.0, high=0.9)
    class_weights: bool = setting(True, "weigh rare classes of a classification more")


@dataclass(frozen=True)
class FinetuneAugmentSettings(Group):
    """Augmentation of crops and their labels; each probability is for a crop alone."""

    flip: tuple[float, float, float] | None = setting(
        None,
        "probabilities of a flip along x, y, z; default: from left to right, unless a label has a side",
        low=0.0,
        high=1.0,
    )
    turn: float = setting(
        0.2, "probability of a turn by 90, 180 or 270 degrees in the xy plane", low=0.0, high=1.0
    )
    rotate: float = setting(0.0, "probability of a rotation by any small angle", low=0.0, high=1.0)
    degrees: float = setting(15.0, "largest angle of a rotation", unit="degrees", low=0.0, high=180.0)
    zoom: float = setting(0.0, "probability of a change of size", low=0.0, high=1.0)
    zoom_range: float = setting(0.2, "largest change of size", low=0.0, high=0.9)
    scale: float = setting(0.1, "probability of a change of contrast", low=0.0, high=1.0)
    scale_range: float = setting(0.1, "largest change of contrast", low=0.0, high=1.0)
    shift: float = setting(0.1, "probability of an intensity shift", low=0.0, high=1.0)
    shift_range: float = setting(0.1, "largest intensity shift", low=0.0, high=1.0)
    gamma: float = setting(0.0, "probability of a change of gamma", low=0.0, high=1.0)
    gamma_range: float = setting(0.3, "largest change of gamma's logarithm", low=0.0, high=2.0)
    noise: float = setting(0.0, "probability of Gaussian noise", low=0.0, high=1.0)
    noise_range: float = setting(0.1, "largest standard deviation of the noise", low=0.0, high=1.0)
    blur: float = setting(0.0, "probability of a Gaussian blur", low=0.0, high=1.0)
    blur_range: float = setting(1.0, "largest width of the blur", unit="voxels", low=0.0, high=5.0)


@dataclass(frozen=True)
class FinetuneOptimSettings(UpdateSettings):
    """Optimiser (AdamW), schedule (linear warm-up, cosine to 0), and what the encoder takes part in."""

    steps: int | None = setting(
        None, "optimiser steps; default: from the epochs, or from run.hours", low=1, high=10**9
    )
    epochs: float | None = setting(None, "passes over the training cases", low=0.001, high=1e6)
    batch: int | None = setting(
        None, "cases per step, over all ranks; default: by the memory and the time", low=1, high=4096
    )
    lr: float | None = setting(
        None, "highest learning rate; default: what suits the network", low=0.0, high=10.0
    )
    weight_decay: float = setting(1e-5, "decoupled weight decay", low=0.0, high=1.0)
    warmup: int | None = setting(None, "warm-up steps; default: optim.warmup_share of all", low=0, high=10**9)
    warmup_share: float = setting(0.05, "warm-up as a share of all steps", low=0.0, high=0.9)
    clip: float | None = setting(1.0, "clip the gradient's norm to this", low=1e-6, high=1e6)
    encoder_lr: float | None = setting(
        None, "the encoder's learning rate as a share of the decoder's; default: chosen", low=0.0, high=100.0
    )
    layer_decay: float = setting(
        1.0, "further factor for each level of the encoder away from its last", low=0.01, high=1.0
    )
    freeze: str = setting(
        "none",
        "what is never trained: the first convolutions, or the whole encoder",
        choices=("none", "stem", "encoder"),
    )
    decoder_first: float = setting(
        0.0, "share of the steps in which the encoder is still left alone", low=0.0, high=0.9
    )
    ema: float = setting(
        0.0, "share of the averaged weights that is kept at each step; 0: no averaging", low=0.0, high=0.99999
    )
    patience: int | None = setting(
        None, "end early after so many looks at the validation cases without a better one", low=1, high=10**6
    )


@dataclass(frozen=True)
class FinetuneRunSettings(RunSettings):
    """How the job runs, how often it writes, and how cases are looked at."""

    hours: float | None = setting(
        None, "time for training where neither steps nor epochs are given", unit="h", low=0.001, high=1e5
    )
    overlap: float = setting(0.5, "overlap of the windows in validation and test", low=0.0, high=0.9)


@dataclass(frozen=True)
class FinetuneSettings(Group):
    """All settings of a fine-tuning job."""

    command = "voco finetune"
    task: str = setting("segmentation", "what is learned", choices=TASKS)
    protocol: str = setting(
        "auto",
        "the values of a published fine-tuning; auto: the usual ones, and others by the cases and the machine",
        choices=PROTOCOL_NAMES,
    )
    init: str = setting(
        SCRATCH, "weights to start from: a run folder, a weights file, or scratch", private=True
    )
    data: LabelledDataSettings = field(default_factory=LabelledDataSettings)
    prepare: PrepareSettings = field(default_factory=PrepareSettings)
    patches: PatchSettings = field(default_factory=PatchSettings)
    model: NetworkSettings = field(default_factory=NetworkSettings)
    loss: LossSettings = field(default_factory=LossSettings)
    augment: FinetuneAugmentSettings = field(default_factory=FinetuneAugmentSettings)
    optim: FinetuneOptimSettings = field(default_factory=FinetuneOptimSettings)
    run: FinetuneRunSettings = field(default_factory=FinetuneRunSettings)
