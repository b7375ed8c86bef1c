"""Weights and fine-tuned networks for other programs, each with a page that says what it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from VoCoCore.errors import SettingsError
from VoCoCore.models.card import ModelCard
from VoCoCore.models.convert import matched
from VoCoCore.models.export_bundle import METADATA, MODEL, bundle_configs, write_configs
from VoCoCore.models.export_formats import FORMATS
from VoCoCore.models.export_programs import INPUT, OUTPUT, write_program
from VoCoCore.models.model_files import load_model, model_tensors
from VoCoCore.models.model_text import Page, write_page
from VoCoCore.models.monai_names import call_text, monai_network, published_tensors, with_second_names
from VoCoCore.models.outputs import check_output, replacing
from VoCoCore.models.weight_files import read_weight_file
from VoCoCore.models.weights import write_tensors
from VoCoCore.runs.describe import describe
from VoCoCore.runs.directory import is_run
from VoCoCore.runs.weights import weights_file

BUNDLE_PAGE = "docs/README.md"


@dataclass(frozen=True)
class Exported:
    """What was written: the file or folder, its page, and what to say of it."""

    path: Path
    page: Path
    said: str


@dataclass(frozen=True)
class Wish:
    """What to export. ``intensity``: the rule of a bundle (ct, mr, none) where the network's card leaves it open."""

    source: Path
    output: Path
    form: str
    encoder_only: bool = False
    intensity: str = ""
    overwrite: bool = False


def export_weights(wish: Wish) -> Exported:
    """Write what ``wish.source`` (all that `runs.weights.weights_file` takes) holds in another form.

    Raises DataError where the source does not hold what the form needs, SettingsError for a form or an output that
    cannot be, EnvironmentFault for the disk or a missing package.
    """
    form, path = FORMATS[wish.form], weights_file(wish.source)
    if wish.encoder_only and form.network:
        raise SettingsError(f"--encoder-only does not go with --format {wish.form}", "use --format torch")
    check_output(wish.output, form.endings, path, wish.overwrite, METADATA)
    page = wish.output / BUNDLE_PAGE
    if form.endings:
        page = wish.output.with_name(f"{wish.output.name}.md")
        check_output(page, (".md",), path, wish.overwrite)
    return _network(wish, path, page) if form.network else _tensors(wish, path, page)


def _tensors(wish: Wish, path: Path, page: Path) -> Exported:
    file = read_weight_file(path)
    tensors, coverage, facts = matched(file, {})
    ours = {name: tensor for name, tensor in tensors.items() if not wish.encoder_only or _of_encoder(name)}
    published = published_tensors(ours)
    whole = any(name.startswith("decoder.") for name in ours)
    if wish.form == "torch":
        _save(with_second_names(published) if whole else published, wish.output)
    else:
        write_tensors(published, wish.output, {"what": "VoCo weights under published names", **facts})
    outputs = _outputs(published)
    use = _use_of_tensors(wish, facts, outputs)
    counted = sum(tensor.numel() for tensor in published.values() if tensor.is_floating_point())
    card = ModelCard.from_metadata(file.metadata, path) if "card" in file.metadata else None
    _write_page(
        page, Page(_title(card, facts), facts, counted, use, card, file.metadata, _metrics(wish.source))
    )
    what = "whole network" if whole else "encoder"
    return Exported(wish.output, page, f"{what}, {len(published)} tensors; {coverage.summary()}")


def _of_encoder(name: str) -> bool:
    return not name.startswith(("decoder.", "head."))


def _outputs(published: Mapping[str, Tensor]) -> int | None:
    last = ("out.conv.conv.weight", "output_block.conv.conv.weight")
    return next((published[name].shape[0] for name in last if name in published), None)


def _use_of_tensors(wish: Wish, facts: Mapping[str, str], outputs: int | None) -> list[str]:
    network = monai_network(facts, outputs or 2)
    name = wish.output.name
    reads = {
        "torch": ("import torch", f'torch.load("{name}", weights_only=True)'),
        "safetensors": ("from safetensors.torch import load_file", f'load_file("{name}")'),
    }
    strict = outputs is not None and (wish.form == "torch" or facts["encoder"] != "unet")
    why = (
        ""
        if strict
        else "  # the rest stays as it was"
        if outputs is None
        else "  # DynUNet names each twice"
    )
    return [
        reads[wish.form][0],
        f"from monai.networks.nets import {network['_target_']}",
        "",
        f"network = {call_text(network)}",
        f"network.load_state_dict({reads[wish.form][1]}, strict={strict}){why}",
    ]


def _network(wish: Wish, path: Path, page: Path) -> Exported:
    network, card = load_model(path)
    metrics, facts = _metrics(wish.source), _description(card)
    counted = sum(parameter.numel() for parameter in network.parameters())
    if wish.form != "bundle":
        with replacing(wish.output) as beside:
            said = write_program(wish.form, network, card, beside)
        use = [*_use_of_program(wish.form, wish.output.name, card), f"# {said}"]
        _write_page(page, Page(_title(card, facts), facts, counted, use, card, {}, metrics))
        return Exported(wish.output, page, said)
    monai = monai_network(facts, card.outputs)
    configs = bundle_configs(card, monai, wish.intensity)
    text = write_page(Page(_title(card, facts), facts, counted, _BUNDLE_USE, card, {}, metrics, code=False))
    with replacing(wish.output) as beside:
        write_configs(beside, configs)
        _write_state(network, beside / MODEL)
        (beside / BUNDLE_PAGE).parent.mkdir(parents=True)
        (beside / BUNDLE_PAGE).write_text(text, encoding="utf-8")
    return Exported(wish.output, page, "configs, models/model.pt and docs/README.md")


def _description(card: ModelCard) -> dict[str, str]:
    names = ("encoder", "feature_size", "in_channels", "input_size")
    return {name: card.to_metadata()[name] for name in names}


def _write_state(network: nn.Module, path: Path) -> None:
    path.parent.mkdir(parents=True)
    _save_to(with_second_names(published_tensors(model_tensors(network))), path)


def _save(tensors: Mapping[str, Tensor], path: Path) -> None:
    with replacing(path) as beside:
        _save_to(tensors, beside)


def _save_to(tensors: Mapping[str, Tensor], path: Path) -> None:
    with path.open("wb") as stream:  # given a path, torch hides what the system said
        torch.save(dict(tensors), stream)


def _title(card: ModelCard | None, facts: Mapping[str, str]) -> str:
    what = card.task if card else "pre-trained encoder"
    return f"{facts['encoder']}, {what}"


def _metrics(source: Path) -> dict[str, float]:
    """What a run's last look at held-out cases gave, where the source is a run."""
    return (
        {f"held-out {name}": value for name, value in describe(source).val.items()} if is_run(source) else {}
    )


def _write_page(path: Path, page: Page) -> None:
    with replacing(path) as beside:
        beside.write_text(write_page(page), encoding="utf-8")


def _use_of_program(form: str, name: str, card: ModelCard) -> list[str]:
    package, load, call = _READ[form]
    shape = f"(N, {card.in_channels}, {', '.join(map(str, card.window))})"
    return [f"import {package}", "", load.format(name=name), f"{call}  # float32 {shape} in [0, 1]"]


_READ = {
    "torchscript": ("torch", 'network = torch.jit.load("{name}")', "logits = network(crops)"),
    "torch-export": ("torch", 'network = torch.export.load("{name}").module()', "logits = network(crops)"),
    "onnx": (
        "onnxruntime",
        'session = onnxruntime.InferenceSession("{name}")',
        f'(logits,) = session.run(["{OUTPUT}"], {{"{INPUT}": crops}})',
    ),
}
_BUNDLE_USE = [
    "Put images (`*.nii.gz`; several channels as `case_0000.nii.gz`, `case_0001.nii.gz`) into `images/`, then, with",
    "MONAI, einops, fire, nibabel and pytorch-ignite installed, in this folder:",
    "",
    "    python -m monai.bundle run --config_file configs/inference.json --meta_file configs/metadata.json",
    "",
    "Masks come into `predictions/`. Cases are prepared by MONAI's transforms; VoCoCore's own reading of an image may",
    "differ in rounding.",
]
