"""A fine-tuned segmentation network as a MONAI bundle: a folder that monai.bundle and its programs understand."""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from VoCoCore import __version__
from VoCoCore.data.intensity import CT_WINDOW
from VoCoCore.data.plan import BODY_RULES, planned_body_part
from VoCoCore.errors import SettingsError
from VoCoCore.models.card import ModelCard
from VoCoCore.settings import PrepareSettings

METADATA, INFERENCE, MODEL = "configs/metadata.json", "configs/inference.json", "models/model.pt"
_SCHEMA = (
    "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/meta_schema_20240725.json"
)
_OVERLAP = 0.5
_FILL = "to be filled in"
Config = dict[str, Any]


def bundle_configs(card: ModelCard, network: Mapping[str, Any], intensity: str = "") -> dict[str, Config]:
    """The bundle's two JSON files by their place in it; ``network``: see `monai_names.monai_network`.

    ``intensity`` (ct, mr or none) is asked for only where the card leaves the rule to each image. Raises SettingsError
    where it is missing, or for a network that is no segmentation.
    """
    if card.task != "segmentation":
        raise SettingsError(
            f"a bundle is made of a segmentation network, this one is for {card.task}",
            "use --format torchscript, torch-export or onnx",
        )
    prepare = PrepareSettings.from_dict(card.prepare)
    kind = prepare.intensity if prepare.intensity != "auto" else intensity
    if not kind:
        raise SettingsError(
            "the network takes CT and MR, each image by its values; a bundle needs one rule",
            "add --intensity ct, mr or none",
        )
    return {METADATA: _metadata(card, kind), INFERENCE: _inference(card, network, prepare, kind)}


def write_configs(folder: Path, configs: Mapping[str, Config]) -> None:
    """Write the JSON files below ``folder``, which is made."""
    for place, content in configs.items():
        (folder / place).parent.mkdir(parents=True, exist_ok=True)
        (folder / place).write_text(json.dumps(content, indent=4) + "\n", encoding="utf-8")


def preprocessing(card: ModelCard, prepare: PrepareSettings, kind: str) -> list[Config]:
    """MONAI's transforms for what preparing does: axes to RAS, spacing, values to [0, 1]."""
    rule = BODY_RULES.get(planned_body_part(prepare, card.body_part) or "")
    spacing = prepare.spacing or (rule.spacing if rule else None)
    low, high = prepare.window or (rule.window if rule else CT_WINDOW)
    steps = [
        _transform("LoadImaged"),
        _transform("EnsureChannelFirstd"),
        _transform("Orientationd", axcodes="RAS"),
    ]
    if kind != "ct":  # percentiles are those of the image as it was, and only afterwards cut off
        first, last = prepare.percentiles if kind == "mr" else (0, 100)
        scale: Config = {
            "lower": first,
            "upper": last,
            "b_min": 0.0,
            "b_max": 1.0,
            "clip": False,
            "channel_wise": True,
        }
        steps.append(_transform("ScaleIntensityRangePercentilesd", **scale))
        low, high = 0.0, 1.0
    if spacing:
        steps.append(_transform("Spacingd", pixdim=list(spacing), mode="bilinear", padding_mode="border"))
    window: Config = {"a_min": low, "a_max": high, "b_min": 0.0, "b_max": 1.0, "clip": True}
    return [*steps, _transform("ScaleIntensityRanged", **window)]


def _postprocessing(card: ModelCard) -> list[Config]:
    softmax = card.activation == "softmax"
    chosen: Config = {"argmax": True} if softmax else {"threshold": 0.5}
    inverse: Config = {
        "transform": "@preprocessing",
        "orig_keys": "image",
        "nearest_interp": False,
        "to_tensor": True,
    }
    steps = [
        _transform("Activationsd", "pred", **{card.activation: True}),
        _transform("Invertd", "pred", **inverse),
        _transform("AsDiscreted", "pred", **chosen),
    ]
    values = list(card.written_values())
    if softmax and values != list(range(len(values))):
        labels: Config = {"orig_labels": list(range(len(values))), "target_labels": values}
        steps.append(_transform("MapLabelValued", "pred", **labels))
    return [*steps, _transform("SaveImaged", "pred", output_dir="@output_dir", separate_folder=False)]


def _inference(card: ModelCard, network: Mapping[str, Any], prepare: PrepareSettings, kind: str) -> Config:
    return {
        "imports": ["$import glob"],
        "bundle_root": ".",
        "dataset_dir": "$@bundle_root + '/images'",
        "output_dir": "$@bundle_root + '/predictions'",
        "checkpoint": f"$@bundle_root + '/{MODEL}'",
        "datalist": _datalist(card.in_channels),
        "device": "$torch.device('cuda:0' if torch.cuda.is_available() else 'cpu')",
        "network_def": dict(network),
        "network": "$@network_def.to(@device)",
        "preprocessing": {"_target_": "Compose", "transforms": preprocessing(card, prepare, kind)},
        "dataset": {
            "_target_": "Dataset",
            "data": "$[{'image': image} for image in @datalist]",
            "transform": "@preprocessing",
        },
        "dataloader": {"_target_": "DataLoader", "dataset": "@dataset", "batch_size": 1, "num_workers": 0},
        "inferer": {
            "_target_": "SlidingWindowInferer",
            "roi_size": list(card.window),
            "sw_batch_size": 1,
            "overlap": _OVERLAP,
            "mode": "gaussian",
        },
        "postprocessing": {"_target_": "Compose", "transforms": _postprocessing(card)},
        "handlers": [
            {
                "_target_": "CheckpointLoader",
                "load_path": "@checkpoint",
                "load_dict": {"model": "@network"},
                "map_location": "@device",
            }
        ],
        "evaluator": {
            "_target_": "SupervisedEvaluator",
            "device": "@device",
            "val_data_loader": "@dataloader",
            "network": "@network",
            "inferer": "@inferer",
            "postprocessing": "@postprocessing",
            "val_handlers": "@handlers",
        },
        "run": ["$@evaluator.run()"],
    }


def _datalist(channels: int) -> str:
    if channels == 1:
        return "$sorted(glob.glob(@dataset_dir + '/*.nii.gz'))"
    # As nnU-Net names them: case_0000.nii.gz, case_0001.nii.gz and so on, one file a channel.
    return (
        f"$[[first[:-11] + '%04d.nii.gz' % c for c in range({channels})] "
        "for first in sorted(glob.glob(@dataset_dir + '/*_0000.nii.gz'))]"
    )


def _metadata(card: ModelCard, kind: str) -> Config:
    names = {str(number): kind_.name for number, kind_ in enumerate(card.classes)}
    versions = {name: importlib.metadata.version(name) for name in ("torch", "numpy", "monai")}
    modality = {"ct": "CT", "mr": "MR"}.get(kind, "n/a")
    image = {
        "type": "image",
        "format": "hounsfield" if kind == "ct" else "magnitude",
        "modality": modality,
        "num_channels": card.in_channels,
        "spatial_shape": list(card.window),
        "dtype": "float32",
        "value_range": [0, 1],
        "is_patch_data": True,
        "channel_def": {str(number): name for number, name in enumerate(card.channels)},
    }
    outputs = {
        "type": "image",
        "format": "segmentation",
        "num_channels": card.outputs,
        "spatial_shape": list(card.window),
        "dtype": "float32",
        "value_range": [],
        "is_patch_data": True,
        "channel_def": names,
    }
    return {
        "schema": _SCHEMA,
        "version": "0.1.0",
        "changelog": {"0.1.0": f"exported by VoCoCore {__version__}"},
        "monai_version": versions["monai"],
        "pytorch_version": versions["torch"].partition("+")[0],
        "numpy_version": versions["numpy"],
        "required_packages_version": {"nibabel": "5.3.0", "pytorch-ignite": "0.4.11", "einops": "0.8.0"},
        "name": f"{card.encoder} of VoCoCore",
        "task": "segmentation",
        "description": f"Segmentation of {', '.join(list(names.values())[:30])}",
        "authors": _FILL,
        "copyright": _FILL,
        "intended_use": "research; no medical device",
        "network_data_format": {"inputs": {"image": image}, "outputs": {"pred": outputs}},
    }


def _transform(name: str, keys: str = "image", **arguments: Any) -> Config:
    return {"_target_": name, "keys": keys, **arguments}
