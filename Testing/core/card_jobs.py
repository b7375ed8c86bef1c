"""Whole jobs on the card of `card.py`, beside the same on the processor. test_card.py runs this in its own process."""

from __future__ import annotations

from unittest.mock import patch

import numpy as np
import pytest
import torch
from card import DEVICE, NAME, Card, OnCard
from made_models import card_of, network_of

from VoCoCore.devices import Machine
from VoCoCore.downstream.segmentation import Segmentation
from VoCoCore.evaluation import final
from VoCoCore.inference.predict import Predictor
from VoCoCore.inference.windows import slide
from VoCoCore.models.card import OutputClass
from VoCoCore.pretext import parts
from VoCoCore.protocols import resolve_finetune
from VoCoCore.training import attempt, estimate, planning
from VoCoCore.training.finetune import finetune
from VoCoCore.training.pretrain import pretrain

CARD, HOST = Machine(DEVICE, "fp32", "a card"), Machine(torch.device("cpu"), "fp32", "no card")
BY_DEVICE = [estimate.PROBE, parts.VOXELS, planning.CROP_VOXELS, planning.CASES, planning.CROPS]
BY_DEVICE += [planning.STEPS, planning.FEATURES]


@pytest.fixture(autouse=True)
def known(monkeypatch):
    """A card of which the tables know as much as of a processor; parts have two crops."""
    for table in BY_DEVICE:
        monkeypatch.setitem(table, NAME, table["cpu"])
    monkeypatch.setitem(parts.VOXELS, NAME, 2 * 32**3)


@pytest.fixture
def on(monkeypatch):
    """Let jobs run on this machine."""

    def choose(machine):
        for module in (attempt, final):
            monkeypatch.setattr(module, "choose", lambda _: machine)

    return choose


class Watched:
    """Losses of a job, and how often each of its steps made the host wait."""

    def __init__(self, work, settings, folder, **options):
        self.losses, self.card, self.marks = [], Card(), []
        # Looks ask too; what is counted here are steps.
        with self.card, patch.object(attempt.Attempt, "breaks_off", lambda _: False):
            self.result = work(settings, folder, listeners=[self.hear], should_stop=self.mark, **options)
        self.waits = np.diff(self.marks[-6:]).tolist()  # asked while preparing too

    def hear(self, event):
        if event["type"] == "metrics" and event["split"] == "train":
            self.losses.append(event["values"]["loss"])

    def mark(self):
        """Asked after each step, before anything is reported."""
        self.marks.append(len(self.card.waits))
        return False


SETTINGS = {"run__log_every": 5, "run__validate_every": 6, "run__checkpoint_every": 6}


def assert_alike(found, expected):
    """The job of the card is that of the host, and none of its steps waits; steps 1 and 5 are reported."""
    assert found.result.finished and expected.result.finished
    assert found.losses[0] == pytest.approx(expected.losses[0], rel=1e-5)
    assert found.losses == pytest.approx(expected.losses, rel=0.05)  # steps of Adam make more of rounding
    assert found.waits[1:4] == [0, 0, 0] and found.waits[0] and found.waits[4], found.card.waits


@pytest.mark.parametrize(("recipe", "again"), [("paper", False), ("v1", False), ("v2", True)])
def test_a_pretraining_is_that_of_the_processor_and_its_steps_wait_for_nothing(
    recipe, again, small_cohort, tmp_path, on
):
    settings = small_cohort.settings(recipe, model__checkpointing=again, **SETTINGS)
    on(CARD)
    found = Watched(pretrain, settings, tmp_path / "card")
    on(HOST)
    expected = Watched(pretrain, settings, tmp_path / "host")
    assert_alike(found, expected)


def test_a_finetuning_is_that_of_the_processor_and_its_steps_wait_for_nothing(labelled_cohort, tmp_path, on):
    settings = labelled_cohort.settings(data__test_fraction=0.2, optim__ema=0.9, **SETTINGS)
    on(CARD)
    found = Watched(finetune, settings, tmp_path / "card")
    on(HOST)
    expected = Watched(finetune, settings, tmp_path / "host")
    assert_alike(found, expected)
    on(CARD)
    with Card():
        scores = final.examine(tmp_path / "card")
    on(HOST)
    assert scores == pytest.approx(final.examine(tmp_path / "host"), abs=0.05)


ALL = ("turn", "rotate", "zoom", "scale", "shift", "gamma", "noise", "blur")
OTHER = {"model__deep_supervision": True, "loss__kind": "tversky_ce", "optim__accumulate": 2}


@pytest.mark.parametrize("task", ["segmentation", "classification"])
def test_every_augmentation_and_loss_is_that_of_the_processor(task, labelled_cohort, tmp_path, on):
    named = {**OTHER, **{f"augment__{name}": 1.0 for name in ALL}}
    if task == "classification":
        named = {
            "task": task,
            "data__source": str(diagnoses(labelled_cohort.source, tmp_path)),
            "prepare__spacing": "auto",
        }
    settings = labelled_cohort.settings(**named, **SETTINGS)
    on(CARD)
    found = Watched(finetune, settings, tmp_path / "card")
    on(HOST)
    assert_alike(found, Watched(finetune, settings, tmp_path / "host"))


def diagnoses(cases, folder):
    """A list of the cohort's cases, every other one ill."""
    images = sorted((cases / "imagesTr").iterdir())
    rows = [f"{path},{'ill' if number % 2 else 'well'}" for number, path in enumerate(images)]
    (folder / "cases.csv").write_text("\n".join(["image,class", *rows]), encoding="utf-8")
    return folder / "cases.csv"


def test_a_job_of_the_card_goes_on_without_it(small_cohort, tmp_path, on):
    settings, heard = small_cohort.settings("v1", run__checkpoint_every=2), []
    on(CARD)
    with Card():
        pretrain(
            settings, tmp_path, listeners=[heard.append], should_stop=lambda: "checkpoint" in kinds(heard)
        )
    on(HOST)
    done = pretrain(settings, tmp_path, resume=True)
    assert done.finished and done.steps == 6


def kinds(events):
    return [event["type"] for event in events]


@pytest.mark.parametrize("spacing", [1.0, 1.25])
def test_a_prediction_is_that_of_the_processor_and_waits_for_many_planes_at_once(spacing):
    prepare = {"spacing": [1.0, 1.0, spacing], "fit": "pad"}
    model, image = card_of(prepare=prepare), np.random.default_rng(0).random((2, 70, 60, 50), np.float32)
    expected = Predictor([(network_of(), model)], HOST).segment(image, np.eye(4))
    with Card() as card:
        made = Predictor([(network_of(), model)], CARD)
        card.waits.clear()
        found = made.segment(image, np.eye(4))
    assert (found == expected).mean() > 0.999
    sent = [line for line in card.waits if line.startswith("copy to the card")]
    assert len(sent) < 10, sent  # not one for each of 27 windows, nor for each plane
    assert len(card.waits) < max(image.shape) / 2, card.waits


def test_where_memory_runs_out_the_volume_leaves_the_card():
    volume, said, calls = torch.rand(1, 12, 12, 12), [], []

    def network(x):
        calls.append(x)
        if len(calls) < 2:
            raise torch.OutOfMemoryError("no room")
        assert isinstance(x, OnCard)
        return x * 2

    with Card() as card:
        found = slide(volume, network, (8, 8, 8), batch=1, device=DEVICE, say=said.append).cpu()
    assert torch.allclose(found, volume * 2, atol=1e-5)
    assert said == ["out of memory: the volume is now sent window by window (slower)"]
    assert sum(line.startswith("copy to the card") for line in card.waits) > 8


@pytest.mark.parametrize("spacing", [1.0, 1.25])
def test_sums_may_leave_the_card_when_some_planes_are_done(spacing):
    """Memory runs out twice from some window on: the volume leaves, then the sums; labels stay the same."""
    model = card_of(prepare={"spacing": [1.0, 1.0, spacing], "fit": "pad"})
    image = np.random.default_rng(0).random((2, 70, 60, 150), np.float32)
    expected = Predictor([(network_of(), model)], HOST, batch=1).segment(image, np.eye(4))
    said, calls = [], []
    with Card():
        made = Predictor([(network_of(), model)], CARD, batch=1, say=said.append)
        network = made.networks[0]

        def narrow(x):
            calls.append(x)
            if len(calls) in (41, 42):
                raise torch.OutOfMemoryError("no room")
            return network(x)

        made.networks = [narrow]
        found = made.segment(image, np.eye(4))
    assert (found == expected).mean() > 0.999
    assert [line.split(":")[0] for line in said] == ["out of memory"] * 2 and "sums" in said[1]


def test_logits_that_have_left_the_card_are_counted_where_they_are():
    settings = resolve_finetune({}, {"patches.size": "32,32,32", "model.encoder": "unet"})
    classes = [OutputClass("background", (0,), (0, 0, 0)), OutputClass("organ", (1,), (1, 0, 0))]
    with Card():
        task = Segmentation(settings, network_of(), classes, "softmax").to(DEVICE)
        counts = task.counts(torch.eye(2).view(1, 2, 2, 1, 1), torch.tensor([0, 1]).view(1, 2, 1, 1))
    assert counts.tolist() == [[1, 1]] * 3


def test_the_card_refuses_what_a_gpu_refuses():
    with Card() as card:
        there, here = torch.ones(3, device=DEVICE), torch.ones(3)
        assert not card.waits and (there + 1).tolist() == [2, 2, 2]
        with pytest.raises(RuntimeError, match="on the host"):
            there + here
        with pytest.raises(TypeError, match="copied to the host"):
            there.numpy()
        card.waits.clear()
        here.to(DEVICE, non_blocking=True)
        assert not card.waits
        torch.tensor([1.0], device=DEVICE)
        float(there.sum())
        assert len(card.waits) == 2
