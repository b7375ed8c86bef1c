"""The whole published step (sets E and F): our task and optimiser around the reference's tiny backbone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from VoCoCore.devices import Machine
from VoCoCore.models.teacher import Teacher
from VoCoCore.presets import resolve_pretrain
from VoCoCore.pretext.voco import VoCo
from VoCoCore.settings import OptimSettings
from VoCoCore.training.schedule import warmup_cosine
from VoCoCore.training.updates import Updater

CPU = Machine(torch.device("cpu"), "fp32", "cpu")


class TinyBackbone(nn.Module):
    """4^3 voxels, mean over 2^3 blocks, Linear(8, 12), tanh; as one feature map of one voxel."""

    channels = (12,)

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(8, 12)

    def forward(self, x):
        """(N, 1, 4, 4, 4) -> [(N, 12, 1, 1, 1)]."""
        blocks = nn.functional.avg_pool3d(x, 2).flatten(1)
        return [torch.tanh(self.fc(blocks)).view(-1, 12, 1, 1, 1)]


def task_with(recipe: str, arrays, prefix: str) -> VoCo:
    """Our task with the reference's initial parameters."""
    values = {"recipe": recipe, "preset": "tiny", "model.projector_width": 16}
    task = VoCo(resolve_pretrain({}, values), TinyBackbone)
    # v1 names two whole networks, v2 a backbone and two heads.
    names = {
        "student.back.": "student.encoder.", "student.proj_head.": "student.head.", "backbone.": "student.encoder.",
        "teacher.back.": "teacher.network.encoder.", "teacher.proj_head.": "teacher.network.head.",
        "student.layer": "student.head.layer", "teacher.layer": "teacher.network.layer",
    }  # fmt: skip
    state = {}
    for key in (k for k in arrays.files if k.startswith(prefix + ".param0.")):
        name = key.removeprefix(prefix + ".param0.")
        head = next(old for old in names if name.startswith(old))
        state[names[head] + name.removeprefix(head)] = torch.tensor(arrays[key])
    task.load_state_dict(state)
    task.published = {our: their for their, our in names.items()}
    return task.train()


def published_name(task: VoCo, name: str, arrays, prefix: str) -> str:
    for ours, theirs in task.published.items():
        if name.startswith(ours) and f"{prefix}.{theirs}{name.removeprefix(ours)}" in arrays:
            return f"{prefix}.{theirs}{name.removeprefix(ours)}"
    return ""


def batch_of(arrays, prefix: str, kept=None):
    """Volume-major crops, each volume's random crops before its base crops, as our task takes them."""
    labels = torch.tensor(arrays[prefix + ".labels"])
    volumes, k, n = labels.shape
    order = ordering(volumes, k, n)
    crops = torch.cat([torch.tensor(arrays[f"{prefix}.{name}"]) for name in ("img", "crops")])[order]
    keep = torch.ones(volumes * (k + n), dtype=torch.bool) if kept is None else torch.tensor(kept)[order]
    return {"crops": crops, "labels": labels, "keep": keep.view(volumes, -1)}


def ordering(volumes: int, k: int, n: int) -> torch.Tensor:
    random = torch.arange(volumes * k).view(volumes, k)
    bases = volumes * k + torch.arange(volumes * n).view(volumes, n)
    return torch.cat([random, bases], dim=1).flatten()


def tolerance(name: str) -> float:
    """A bias before batch norm has gradient 0: there both sides show the rounding of large sums that cancel."""
    return 1e-4 if name.endswith(("head.layer1.0.bias", "head.layer2.0.bias")) else 2e-5


def runs(shared_data, recipe, variant):
    for path in sorted((shared_data / "reference").glob(f"*_{recipe}.npz")):
        arrays = np.load(path, allow_pickle=False)
        for key in arrays.files:
            if key.startswith("E.") and key.endswith(f".{variant}.total"):
                yield arrays, key.removesuffix(".total")


def without_drop(task: VoCo) -> VoCo:
    task.settings = task.settings.with_values({"pretext.drop_crops": 0.0})
    return task


@pytest.mark.parametrize(("recipe", "variant"), [("v1", "std"), ("v2", "nodrop")])
def test_forward_gradients_and_teacher(shared_data, recipe, variant):
    for arrays, prefix in runs(shared_data, recipe, variant):
        task = without_drop(task_with(recipe, arrays, prefix))
        outcome = task(batch_of(arrays, prefix))
        np.testing.assert_allclose(outcome.loss.item(), arrays[prefix + ".total"], rtol=2e-6)
        parts = arrays[prefix + (".pos_neg_reg" if recipe == "v1" else ".intra_inter_reg")]
        ours = {name: term.item() for name, term in outcome.terms.items()}
        expected = [parts[0] + parts[1], parts[2]] if recipe == "v1" else parts
        names = (
            ["prediction", "regularisation"] if recipe == "v1" else ["prediction", "inter", "regularisation"]
        )
        np.testing.assert_allclose([ours[name] for name in names], expected, rtol=5e-6)
        outcome.loss.backward()
        for name, parameter in task.named_parameters():
            if key := published_name(task, name, arrays, prefix + ".grad"):
                np.testing.assert_allclose(
                    parameter.grad.numpy(), arrays[key], rtol=1e-4, atol=tolerance(name), err_msg=name
                )
            if key := published_name(task, name, arrays, prefix + ".param1"):
                np.testing.assert_allclose(
                    parameter.detach().numpy(), arrays[key], rtol=1e-6, atol=1e-7, err_msg=name
                )


def test_dropping_whole_crops(shared_data):
    for arrays, prefix in runs(shared_data, "v2", "drop"):
        whole = prefix.removesuffix("drop") + "nodrop"
        task = task_with("v2", arrays, whole)
        outcome = task(batch_of(arrays, whole, arrays[prefix + ".row_kept"]))
        # Two dropped rows give equal outputs: log(1e-6 +- 1e-7) there, see the reference's own remark.
        np.testing.assert_allclose(outcome.loss.item(), arrays[prefix + ".total"], rtol=5e-3)
        np.testing.assert_allclose(
            outcome.terms["prediction"].item(), arrays[prefix + ".intra_inter_reg"][0], rtol=1e-5
        )


@pytest.mark.parametrize(("recipe", "variant"), [("v1", "std"), ("v2", "nodrop")])
def test_five_steps(shared_data, recipe, variant):
    for arrays, prefix in runs(shared_data, recipe, variant):
        task = without_drop(task_with(recipe, arrays, prefix))
        updater = Updater(task.parameters(), OptimSettings(amsgrad=True, weight_decay=0.01), CPU)
        losses, rates = [], []
        for step in range(5):
            rates.append(warmup_cosine(step, 1e-2, 2, 6))
            outcome = task(batch_of(arrays, prefix))
            losses.append(outcome.loss.item())
            updater.backward(outcome.loss)
            updater.step(rates[-1])
            task.after_step(step)
        np.testing.assert_allclose(rates, arrays[prefix + ".traj_lr"], rtol=1e-12)
        np.testing.assert_allclose(losses, arrays[prefix + ".traj_loss"], rtol=2e-4)
        teacher = task.teacher.network
        last = {"student": task.student.head, "teacher": teacher.head if recipe == "v1" else teacher}
        for name, head in last.items():
            bias = dict(head.named_parameters())["layer3.0.bias"]
            np.testing.assert_allclose(
                bias.detach().numpy(), arrays[f"{prefix}.traj_{name}_last_bias"], rtol=1e-3, atol=2e-5
            )


class Pair(nn.Module):
    """One linear layer and a buffer, as in set F."""

    def __init__(self, arrays, prefix: str) -> None:
        super().__init__()
        self.w, self.b = (nn.Parameter(torch.tensor(arrays[f"{prefix}.{name}"])) for name in ("w", "b"))
        self.register_buffer("buf", torch.tensor(arrays[prefix + ".buf"]))


def test_moving_average(shared_data):
    for path in sorted((shared_data / "reference").glob("*_v[12].npz")):
        arrays = np.load(path, allow_pickle=False)
        for key in (k for k in arrays.files if k.startswith("F.") and k.endswith(".before.student.w")):
            prefix = key.removesuffix(".before.student.w")
            student, teacher = (Pair(arrays, f"{prefix}.before.{name}") for name in ("student", "teacher"))
            Teacher(teacher).follow(student, 0.9)
            for name in ("w", "b", "buf"):
                ours = dict([*teacher.named_parameters(), *teacher.named_buffers()])[name].numpy()
                np.testing.assert_allclose(
                    ours, arrays[f"{prefix}.after.teacher.{name}"], rtol=1e-6, atol=1e-7
                )
