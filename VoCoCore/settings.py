"""Settings of the pre-training job: dataclasses whose fields carry their help, unit, range and choices.

The same metadata checks files, builds the command line's options and the forms in Slicer. A setting's full name is
dotted, ``crops.counts``. `presets.resolve_pretrain` fills them from preset and recipe; see `fields.py` for the checks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import prod

from VoCoCore.fields import Group, setting

RECIPES = ("paper", "v1", "v2")
SCRATCH = "scratch"
PRESETS = ("tiny", "base", "large", "huge")
# Smallest edge of an input, and what it must be a multiple of.
ENCODER_LIMITS = {"swin_unetr": (64, 32), "unetr": (32, 16), "unet": (32, 16)}
# Their lowest map must hold more than one voxel, so that one longer edge is enough: the others may be one step long.
THIN_INPUTS = ("unet",)
# What the feature size must be a multiple of: attention heads share the channels evenly.
FEATURE_MULTIPLES = {"swin_unetr": 12, "unetr": 4, "unet": 1}

# Their lowest map, one voxel to each step of the input, is normed by itself. A norm over fewer than FEW_VOXELS takes
# away most of what they show; over two it leaves nothing but signs, and no gradient.
NORMED = ("swin_unetr", "unet")
FEW_VOXELS = 8

BODY_PARTS = ("auto", "abdomen", "abdomen_without_label", "chest", "headneck")


def suits(encoder: str, size: Sequence[int]) -> bool:
    """Whether ``encoder`` takes inputs of ``size`` (3,) voxels."""
    low, step = ENCODER_LIMITS[encoder]
    least = step if encoder in THIN_INPUTS and max(size) >= low else low
    return all(edge >= least and edge % step == 0 for edge in size)


def normed_voxels(encoder: str, size: Sequence[int]) -> int:
    """Voxels of the lowest map that ``encoder`` norms by itself, for inputs of ``size`` (3,), or all."""
    step = ENCODER_LIMITS[encoder][1] if encoder in NORMED else 1
    return prod(edge // step for edge in size)


def needed_size(encoder: str) -> str:
    """The sizes that ``encoder`` takes, in words."""
    low, step = ENCODER_LIMITS[encoder]
    words = f"multiples of {step}, at least {low}"
    return f"{words} (one such edge is enough)" if encoder in THIN_INPUTS else words


@dataclass(frozen=True)
class DataSettings(Group):
    """Where the cases come from and how they are divided."""

    source: str = setting(
        "", "folder, dataset.json, CSV, JSON list, DICOM folder or index.json", private=True
    )
    store: str | None = setting(
        None, "folder of the prepared volumes; default: the user's cache", private=True
    )
    body_part: str | None = setting(None, "body part of cases whose list does not say it", choices=BODY_PARTS)
    val_fraction: float = setting(
        0.1, "share of patients held out where no split is given", low=0.0, high=0.9
    )
    split_seed: int = setting(0, "seed of the split by patient", low=0, high=2**63 - 1)
    limit: int | None = setting(None, "use at most this many cases", low=1)
    skip_bad: bool = setting(False, "go on without cases that cannot be used")
    workers: int | None = setting(
        None, "processes that read; default: chosen for this machine", low=0, high=256
    )


@dataclass(frozen=True)
class PrepareSettings(Group):
    """How a volume is turned into what the network sees; values end in [0, 1]."""

    intensity: str = setting(
        "auto", "intensity rule; auto decides from the values", choices=("auto", "ct", "mr", "none")
    )
    window: tuple[float, float] | None = setting(
        None, "CT window that becomes [0, 1]", unit="HU", low=-1e6, high=1e6
    )
    percentiles: tuple[float, float] = setting(
        (0.5, 99.5), "MR percentiles that become [0, 1]", unit="%", low=0, high=100
    )
    by_body_part: bool = setting(
        False, "take spacing, window and resizing from the body part, as recipe v2 does"
    )
    spacing: tuple[float, float, float] | None = setting(
        None, "resample to this voxel size first", unit="mm", low=0.05, high=1000
    )
    foreground: float = setting(0.3, "keep the box of values above this, after the window", low=0.0, high=1.0)
    fit: str = setting(
        "resize",
        "bring the volume to crops.volume_size (of a classification: to patches.size) by resizing, or by padding",
        choices=("resize", "pad"),
    )


@dataclass(frozen=True)
class CropSettings(Group):
    """Base crops, random crops and the cubes that the network sees."""

    counts: tuple[int, int, int] = setting((4, 4, 1), "base crops along x, y, z", low=1, high=16)
    base_size: tuple[int, int, int] = setting(
        (96, 96, 96), "size of a base crop", unit="voxels", low=1, high=2**18
    )
    volume_size: tuple[int, int, int] | None = setting(
        None,
        "size of the volume that the grid divides; default: counts times base_size",
        unit="voxels",
        low=1,
        high=2**18,
    )
    random_size: tuple[int, int, int] | None = setting(
        None, "size of a random crop; default: that of a base crop", unit="voxels", low=1, high=2**18
    )
    random_crops: int = setting(2, "random crops per volume", low=1, high=64)
    input_size: tuple[int, int, int] | None = setting(
        None,
        "crops are resized to this; default: the preset's, at least the encoder's minimum",
        unit="voxels",
        low=16,
        high=1024,
    )


@dataclass(frozen=True)
class ModelSettings(Group):
    """The encoder that is trained."""

    encoder: str = setting("swin_unetr", "network", choices=tuple(ENCODER_LIMITS))
    feature_size: int = setting(48, "channels of the first feature map", low=4, high=512)
    projector_width: int = setting(2048, "channels of the projected crops", low=8, high=16384)
    projector_layers: int = setting(
        3, "linear layers of the projector (pretext.pooling before)", low=1, high=8
    )
    checkpointing: bool = setting(False, "save memory by computing activations twice")


@dataclass(frozen=True)
class PretextSettings(Group):
    """The equations of VoCo; every knob of the paper's ablations is one option."""

    similarity: str = setting("cos", "Eq. 1: cosine, or its positive part", choices=("cos", "relu_cos"))
    teacher: str = setting(
        "none", "what a moving-average teacher covers", choices=("none", "network", "projector")
    )
    momentum: float = setting(0.9, "share of the teacher that is kept at each step", low=0.0, high=1.0)
    both_directions: bool = setting(False, "average student-to-teacher and teacher-to-student logits")
    detach: bool = setting(True, "no gradient to the base crops in the prediction loss")
    prediction: str = setting("paper", "prediction loss", choices=RECIPES)
    prediction_weight: float = setting(1.0, "weight of the prediction loss", low=0.0, high=1e6)
    inter_volume: bool = setting(False, "also predict against the next volume's base crops (needs a teacher)")
    regularisation: str = setting("abs", "Eq. 5, or squared positive cosines", choices=("abs", "squared"))
    lambda_: float = setting(
        1.0, "weight of the regularisation (Eq. 7); 0 switches it off", low=0.0, high=1e6, name="lambda"
    )
    pooling: str = setting("after", "pool before or after the projector", choices=("before", "after"))
    epsilon: float = setting(1e-3, "-log(u) goes on linearly below this u", low=1e-9, high=0.5)
    drop_crops: float = setting(0.0, "share of crops whose embedding is set to zero", low=0.0, high=0.9)
    shuffle_labels: bool = setting(False, "control: give each random crop the label of another place")


@dataclass(frozen=True)
class AugmentSettings(Group):
    """Per-crop augmentation, base crops included; labels stay."""

    flip: float = setting(0.2, "probability of a flip, each axis alone", low=0.0, high=1.0)
    turn: float = setting(
        0.2, "probability of a turn by 90, 180 or 270 degrees in the xy plane", low=0.0, high=1.0
    )
    shift: float = setting(0.1, "probability of an intensity shift", low=0.0, high=1.0)
    shift_range: float = setting(0.1, "largest intensity shift", low=0.0, high=1.0)


@dataclass(frozen=True)
class UpdateSettings(Group):
    """Optimiser (AdamW) and schedule (linear warm-up, cosine to 0) of any job."""

    accumulate: int = setting(1, "batches added up for one optimiser step", low=1, high=4096)
    lr: float | None = setting(None, "highest learning rate", low=0.0, high=10.0)
    weight_decay: float = setting(0.01, "decoupled weight decay", low=0.0, high=1.0)
    amsgrad: bool = setting(False, "AMSGrad variant")
    warmup: int | None = setting(
        None, "warm-up steps; default: 5000, at most a twentieth of all steps", low=0, high=10**9
    )
    clip: float | None = setting(None, "clip the gradient's norm to this", low=1e-6, high=1e6)


@dataclass(frozen=True)
class OptimSettings(UpdateSettings):
    """Optimiser and schedule of pre-training."""

    lr: float = setting(1e-4, "highest learning rate", low=0.0, high=10.0)
    steps: int = setting(250_000, "optimiser steps", low=1, high=10**9)
    batch: int = setting(2, "volumes per step, over all ranks", low=1, high=4096)


@dataclass(frozen=True)
class RunSettings(Group):
    """How the job runs: device, precision, and how often it writes."""

    seed: int = setting(0, "seed of weights, sampling and augmentation", low=0, high=2**63 - 1)
    device: str = setting("auto", "device", choices=("auto", "cpu", "cuda", "mps"))
    precision: str = setting(
        "auto",
        "auto: bf16 where the GPU or processor multiplies it natively, else fp32",
        choices=("auto", "fp32", "bf16", "fp16"),
    )
    compile: bool = setting(False, "compile the encoder (slower start, faster steps)")
    threads: int | None = setting(
        None, "CPU threads of the network; default: torch's choice", low=1, high=1024
    )
    log_every: int = setting(10, "read counters and write metrics every so many steps", low=1)
    validate_every: int | None = setting(None, "held-out diagnostics; default: a tenth of the steps", low=1)
    checkpoint_every: int | None = setting(None, "default: a tenth of the steps, at most 1000", low=1)


@dataclass(frozen=True)
class PretrainRunSettings(RunSettings):
    """How the job runs, and how often it looks at held-out volumes."""

    validation_rounds: int = setting(4, "times that each held-out volume is sampled", low=1, high=1000)


@dataclass(frozen=True)
class PretrainSettings(Group):
    """All settings of a pre-training job."""

    recipe: str = setting("v1", "form of the method", choices=RECIPES)
    preset: str = setting("base", "size of everything", choices=PRESETS)
    init: str = setting(
        SCRATCH, "weights to start from: a run folder, a weights file, or scratch", private=True
    )
    data: DataSettings = field(default_factory=DataSettings)
    prepare: PrepareSettings = field(default_factory=PrepareSettings)
    crops: CropSettings = field(default_factory=CropSettings)
    model: ModelSettings = field(default_factory=ModelSettings)
    pretext: PretextSettings = field(default_factory=PretextSettings)
    augment: AugmentSettings = field(default_factory=AugmentSettings)
    optim: OptimSettings = field(default_factory=OptimSettings)
    run: PretrainRunSettings = field(default_factory=PretrainRunSettings)
