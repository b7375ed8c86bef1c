"""Machines that are not at hand, imitated: Windows, where another holds a file, a Mac's GPU, other processors."""

from __future__ import annotations

import os
import re
from importlib.resources import files
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from made_cohorts import SMALL_FINETUNE
from test_predict import CPU, PLAIN, Threshold, blobs, card
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from VoCoCore.data.apply import LEVELS
from VoCoCore.data.names import file_names
from VoCoCore.data.phantom import make_cohort
from VoCoCore.devices import choose
from VoCoCore.downstream.losses import segmentation_loss
from VoCoCore.downstream.segmentation import Segmentation
from VoCoCore.inference.predict import Predictor
from VoCoCore.models.card import OutputClass
from VoCoCore.models.networks import build_network
from VoCoCore.models.weights import save_weights
from VoCoCore.protocols import resolve_finetune
from VoCoCore.settings import OptimSettings, RunSettings
from VoCoCore.training.checkpoint import checkpoints, is_whole, save_checkpoint, set_aside
from VoCoCore.training.finetune_look import Looker
from VoCoCore.training.labelled_cohort import LabelledCohort, Member
from VoCoCore.training.needs import clock, wall_clock
from VoCoCore.training.pictures import write_arrays
from VoCoCore.training.ranks import Ranks
from VoCoCore.training.updates import Updater

CLASSES = (OutputClass("background", (0,), (0, 0, 0)), OutputClass("a", (1,), (250, 0, 0)))


class MacGpu(TorchFunctionMode):
    """Takes all tensors for those of a GPU of Apple, which has no float64, but for what ``cpu()`` has brought home."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        named = kwargs or {}
        wide = function is Tensor.double or any(one is torch.float64 for one in (*args, *named.values()))
        there = "device" in named or (isinstance(args[0], Tensor) and not hasattr(args[0], "at_home"))
        if wide and there:
            raise TypeError(
                "Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support float64"
            )
        made = function(*args, **named)
        if function is Tensor.cpu:
            made.at_home = True
        return made


def looker(task: str, folder: Path) -> Looker:
    """One that has a single case, without a file: bright voxels are those of class 1."""
    settings = resolve_finetune({}, {**SMALL_FINETUNE, "task": task})
    image = blobs((32, 32, 32))
    stored = np.stack([image * LEVELS["int16"], image > 0.5]).astype(np.int16)
    if task == "segmentation":
        trained: Any = Segmentation(settings, Threshold(), CLASSES, "softmax")
    else:
        stored = stored[:1]
        network = nn.Sequential(Threshold(), nn.AdaptiveAvgPool3d(1), nn.Flatten())
        trained = SimpleNamespace(eval=network.eval, export=lambda: network)
    cohort = LabelledCohort(str(folder), (), (Member("key", "id", 1, "content"),), (), "")
    made = Looker(trained, cohort, settings, CPU, Ranks(1), CLASSES)
    made.store = SimpleNamespace(open=lambda key: SimpleNamespace(read=lambda: stored, affine=np.eye(4)))
    return made


@pytest.mark.parametrize("task", ["segmentation", "classification"])
def test_a_look_needs_no_float64_on_the_device(task, tmp_path) -> None:
    made = looker(task, tmp_path)
    with MacGpu():
        seen = made.look()
    np.testing.assert_array_equal(seen.counts, made.look().counts)
    assert seen.counts.sum() > 0.99


def test_a_diagnosis_needs_no_float64_on_the_device() -> None:
    made = card(task="classification", prepare={**PLAIN, "fit": "resize"})
    predictor = Predictor([(build_network(made).eval(), made)], CPU)
    with MacGpu():
        assert predictor.classify(blobs((33, 33, 33))[None], np.eye(4)).dtype == np.float64


def beyond_macs() -> set[str]:
    """Operators for which torch itself has no kernel for a GPU of Apple, by the list that it is made from."""
    text = (files("torchgen") / "packaged/ATen/native/native_functions.yaml").read_text(encoding="utf-8")
    entries = {part.partition("(")[0]: part for part in text.split("\n- func: ")[1:]}

    def there(entry: str) -> bool:
        if whole := re.search(r"structured_delegate: (\S+)", entry):
            return there(entries[whole[1]])
        return "dispatch:" not in entry or re.search(r"MPS|Composite", entry) is not None

    return {f"aten::{name}" for name, entry in entries.items() if not there(entry)}


class MacOperators(TorchDispatchMode):
    """Refuses what `beyond_macs` lists."""

    missing = beyond_macs()

    def __torch_dispatch__(self, operator: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if operator.name() in self.missing:
            raise NotImplementedError(f"{operator.name()} is not currently implemented for the MPS device")
        return operator(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    ("activation", "kind"), [("softmax", "dice_ce"), ("softmax", "tversky_ce"), ("sigmoid", "dice_focal")]
)
def test_the_losses_of_a_segmentation_are_made_of_operators_that_macs_have(activation, kind) -> None:
    assert {"aten::take", "aten::_linalg_eigh"} <= MacOperators.missing
    logits = torch.randn(2, 3, 8, 8, 8, requires_grad=True)
    target = torch.randint(0, 3, (2, 8, 8, 8))
    if activation == "sigmoid":
        target = nn.functional.one_hot(target, 3).movedim(-1, 1).bool()
    with MacOperators():
        terms = segmentation_loss(logits, target, kind=kind, activation=activation)
        sum(terms.values()).backward()
    assert logits.grad is not None and logits.grad.isfinite().all()


def test_the_norm_of_gradients_asks_a_mac_for_no_kernel_of_many_tensors(monkeypatch) -> None:
    for name in ("_device_has_foreach_support", "_has_foreach_support"):
        monkeypatch.setattr(f"torch.nn.utils.clip_grad.{name}", lambda *_: False)
    network = nn.Linear(2, 2)
    before = network.weight.clone()
    updater = Updater(network.parameters(), OptimSettings(), CPU)
    updater.backward(network(torch.ones(1, 2)).sum())
    updater.step(0.1)
    assert not torch.equal(network.weight, before)


def test_a_trial_is_timed_to_its_end_on_a_mac_too(monkeypatch) -> None:
    waited: list[int] = []
    monkeypatch.setattr("torch.mps.synchronize", lambda: waited.append(1))
    assert clock("mps") <= wall_clock("mps") and len(waited) == 2


@pytest.fixture
def busy(monkeypatch) -> list[Path]:
    """As on Windows while another program looks at new files: two attempts to rename are refused, each time."""
    refused: list[Path] = []
    usual = os.replace

    def replace(old: Path, new: Path) -> None:
        if refused.count(Path(new)) % 3 < 2:
            refused.append(Path(new))
            raise PermissionError(13, "Access is denied", str(old))
        usual(old, new)

    monkeypatch.setattr("VoCoCore.runs.files.PATIENCE", 2.0)
    monkeypatch.setattr(os, "replace", replace)
    return refused


def test_a_checkpoint_waits_for_who_looks_at_it(tmp_path, busy) -> None:
    network = nn.Linear(2, 2)
    updater = Updater(network.parameters(), OptimSettings(), CPU)
    made = save_checkpoint(tmp_path, 1, network, updater, {})
    assert made in busy and is_whole(made)
    busy.clear()
    assert checkpoints(tmp_path) == [
        save_checkpoint(tmp_path, 1, network, updater, {})
    ]  # over that of before
    busy.clear()
    assert set_aside(made).is_dir()


WRITERS = {
    "weights": lambda path: save_weights(nn.Linear(2, 2), path),
    "pictures": lambda path: write_arrays(path, a=np.zeros(2)),
    "cohort": lambda path: make_cohort(path.parent, cases=1, size=(40, 40, 24), labels=False),
}


@pytest.mark.parametrize("kind", WRITERS)
def test_what_replaces_a_file_waits_for_who_looks_at_it(kind, tmp_path, busy) -> None:
    WRITERS[kind](tmp_path / "file")
    assert busy and all(path.is_file() for path in busy)


@pytest.mark.parametrize("name", ["NUL", "con", "aux.v2", "COM1", "lpt¹"])
def test_no_case_is_written_to_a_device_of_windows(name) -> None:
    assert file_names([name, f"x{name}", f"_{name}"]) == [f"_{name}", f"x{name}", f"_{name}-2"]


@pytest.mark.parametrize(
    ("known", "precision"),
    [
        ({"amx_bf16": True, "avx512_bf16": False}, "bf16"),
        ({"amx_bf16": False, "avx512_bf16": True}, "bf16"),
        ({"amx_bf16": False, "avx512_bf16": False, "avx512_f": True}, "fp32"),
        ({"avx2": True}, "fp32"),
    ],
)
def test_a_processor_that_multiplies_bf16_is_asked_to(known, precision, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: known, raising=False)
    assert choose(RunSettings(device="cpu")).precision == precision
    assert choose(RunSettings(device="cpu", precision="fp32")).precision == "fp32"
