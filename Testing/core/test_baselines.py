"""The baselines of the benchmarks do the same mathematics as ours: else their ratios would say nothing."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from baselines import monai_pipeline, published_step
from made_models import card_of
from monai.networks.nets.swin_unetr import SwinTransformer
from monai.transforms import Compose
from torch import nn

from VoCoCore.data.cases import Case, Index, Source
from VoCoCore.data.images import write_image
from VoCoCore.data.patches import draw_patches
from VoCoCore.data.places import places_of
from VoCoCore.data.prepare import prepare_index
from VoCoCore.data.sampling import TRAIN, draw
from VoCoCore.data.store import Store
from VoCoCore.devices import Machine, choose
from VoCoCore.downstream.losses import segmentation_loss
from VoCoCore.evaluation.metrics import case_metrics
from VoCoCore.inference.predict import Predictor
from VoCoCore.inference.windows import slide
from VoCoCore.models.encoders import SwinUnetrEncoder, build_encoder
from VoCoCore.models.networks import SegmentationNetwork
from VoCoCore.models.placing import placed
from VoCoCore.presets import resolve_pretrain
from VoCoCore.pretext.voco import VoCo
from VoCoCore.protocols import resolve_finetune
from VoCoCore.settings import PrepareSettings
from VoCoCore.training.updates import Updater

HOST = Machine(torch.device("cpu"), "fp32", "")
INPUT = (32, 32, 64)  # smaller than a user may choose: the lowest map is 1 x 1 x 2


@pytest.fixture(scope="module")
def settings():
    sizes = {
        "model.feature_size": 12,
        "model.projector_width": 32,
        "crops.counts": (2, 2, 1),
        "crops.base_size": (24, 24, 40),
        "optim.lr": 1e-3,
        "run.device": "cpu",
    }
    # turned and shifted often, or a few crops would show none of it
    often = {"augment.flip": 0.5, "augment.turn": 0.7, "augment.shift": 0.7}
    return resolve_pretrain({}, {"recipe": "v1", "preset": "tiny", **sizes, **often})


def with_input(settings, size):
    values = dict(vars(settings.crops), input_size=size)
    return type(settings)(**{**vars(settings), "crops": type(settings.crops)(**values)})


def batch_of(volume, drawn):
    names = ("starts", "sizes", "labels", "flips", "turns", "shifts")
    arrays = {name: torch.from_numpy(np.ascontiguousarray(getattr(drawn, name)))[None] for name in names}
    return {"volumes": volume[None], **arrays}


def test_crops_of_the_published_transforms_are_ours(settings):
    settings = with_input(settings, INPUT)
    size = settings.crops.volume_size
    volume = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (1, *size), np.uint8))
    task = VoCo(settings, lambda: SwinUnetrEncoder(1, 12, INPUT, False)).train()
    for number in range(3):
        drawn = draw(settings, number, size, TRAIN)
        ours = task.cut(batch_of(volume, drawn))
        theirs = published_step.crops_of(volume.float() / 255, drawn, INPUT)
        torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=0)
        assert drawn.flips.any() and drawn.turns.any() and drawn.shifts.any()


def small_windows(*sizes, **options):
    """A Swin transformer with windows of 3^3 rather than 7^3 voxels: a tenth of the time."""
    return SwinTransformer(*sizes, **{**options, "window_size": (3, 3, 3)})


def test_a_published_step_has_our_loss_gradient_and_update(settings, monkeypatch):
    """In double precision: norms over two voxels and three crops enlarge what single precision leaves out."""
    for module in ("VoCoCore.models.encoders", "monai.networks.nets.swin_unetr"):
        monkeypatch.setattr(f"{module}.SwinTransformer", small_windows)
    settings = with_input(settings, INPUT).with_values({"crops.counts": (2, 1, 1), "crops.random_crops": 1})
    torch.manual_seed(0)
    machine = choose(settings.run)
    task = placed(VoCo(settings, lambda: SwinUnetrEncoder(1, 12, INPUT, False)), machine).double().train()
    theirs = published_step.PublishedStep(settings)
    for network in (theirs.student, theirs.teacher):
        network.double()
    theirs.student.load_state_dict(task.student.state_dict())
    theirs.teacher.load_state_dict(task.teacher.network.state_dict())
    updater = Updater(task.parameters(), settings.optim, machine)
    crops = torch.rand(3, 1, *INPUT, dtype=torch.float64)
    labels = torch.tensor([[[0.7, 0.3]]], dtype=torch.float64)

    loss, other = task({"crops": crops, "labels": labels}).loss, theirs.loss(crops, labels)
    loss.backward()
    other.backward()
    assert loss.item() == pytest.approx(other.item(), rel=1e-6)
    pairs = list(zip(task.student.named_parameters(), theirs.student.parameters(), strict=True))
    largest = max(float(parameter.grad.abs().max()) for _, parameter in pairs)
    for (name, mine), published in pairs:
        torch.testing.assert_close(mine.grad, published.grad, atol=1e-6 * largest, rtol=1e-4, msg=name)
    for mine, published in zip(task.teacher.parameters(), theirs.teacher.parameters(), strict=True):
        torch.testing.assert_close(mine, published)  # both followed once

    # the same gradient leads to the same weights: AdamW with AMSGrad and decay of 0.01
    for mine, published in zip(task.student.parameters(), theirs.student.parameters(), strict=True):
        published.grad.copy_(mine.grad)
    updater.step(settings.optim.lr)
    theirs.optimiser.step()
    for mine, published in zip(task.student.parameters(), theirs.student.parameters(), strict=True):
        torch.testing.assert_close(mine, published, atol=1e-6, rtol=1e-5)


def test_the_published_data_path_gives_our_prepared_volume(tmp_path, settings):
    rng = np.random.default_rng(0)
    image = np.full((50, 60, 30), -1000, np.int16)
    image[8:44, 10:52, 3:27] = rng.integers(-100, 250, (36, 42, 24))
    image[8:44, 10:52, [3, 26]] = 200  # the foreground ends here, whatever the noise says
    image[[8, 43], 10:52, 3:27] = image[8:44, [10, 51], 3:27] = 200
    path = tmp_path / "ct.nii.gz"
    write_image(path, image, np.diag([-1.0, -1.0, 2.0, 1]))
    store = Store(tmp_path / "store")
    keys = prepare_index(Index((Case("a", (Source(str(path)),)),)), settings, store, workers=0).keys
    ours = store.open(keys[0]).read() / 255.0
    theirs = published_step.volume_from(path, settings.crops.volume_size).numpy()
    assert np.abs(ours - theirs).max() < 0.51 / 255  # stored as whole 255ths


def trained_by_us(network, images, labels, steps):
    made = resolve_pretrain({}, {"optim.lr": 1e-3, "optim.weight_decay": 1e-5, "run.device": "cpu"})
    updater = Updater(network.parameters(), made.optim, choose(made.run))
    losses = []
    for _ in range(steps):
        terms = segmentation_loss(network(images), labels)
        updater.backward(loss := terms["dice"] + terms["cross_entropy"])
        updater.step(1e-3)
        losses.append(loss.item())
    return losses


def test_monais_training_is_ours():
    torch.manual_seed(0)
    network = SegmentationNetwork(build_encoder("unet", 1, 4, 32), 3).train()
    other = SegmentationNetwork(build_encoder("unet", 1, 4, 32), 3)
    other.load_state_dict(network.state_dict())
    images, labels = torch.rand(2, 1, 32, 32, 32), torch.randint(0, 3, (2, 32, 32, 32))
    training = monai_pipeline.MonaiTraining(other, lr=1e-3)
    training.optimiser.param_groups[0]["amsgrad"] = True  # as our recipe v1 has it
    theirs = [training.step(images, labels[:, None]) for _ in range(3)]
    assert trained_by_us(network, images, labels, 3) == pytest.approx(theirs, rel=1e-3)


@pytest.fixture
def files(tmp_path):
    rng = np.random.default_rng(0)
    image = rng.integers(-100, 200, (40, 44, 36)).astype(np.int16)
    label = np.zeros(image.shape, np.uint8)
    label[10:14, 20:26, 8:12] = 1
    for name, array in (("image", image), ("label", label)):
        write_image(tmp_path / f"{name}.nii.gz", array, np.diag([-1.0, -1.0, 1.0, 1]))
    return [{name: str(tmp_path / f"{name}.nii.gz") for name in ("image", "label")}]


def test_monais_crops_stand_where_ours_may(tmp_path, files):
    window, size = (-175.0, 250.0), (16, 16, 16)
    for cache in (None, tmp_path / "cache"):
        batch = next(iter(monai_pipeline.loader(files, window, size, crops=8, cache=cache)))
        assert batch["image"].shape == batch["label"].shape == (8, 1, *size)
    whole = Compose(monai_pipeline.fixed_steps(window, size))(files[0])
    image, label = np.asarray(whole["image"][0]), np.asarray(whole["label"][0])
    crop = monai_pipeline.random_steps(size, 8, positive=1.0)[0]
    places = places_of(label.astype(np.uint8), seed=0)
    options = {"patches.size": size, "patches.per_case": 8, "patches.positive": 1.0}
    made = resolve_finetune({}, {**options, "augment.flip": (0.2, 0.2, 0.2)})
    drawn = draw_patches(made.patches, made.augment, 0, 0, label.shape, places)
    for start in drawn.starts:  # a positive crop of both holds a labelled voxel in its middle
        middle = np.minimum(start + 8, np.array(label.shape) - 1)
        assert label[tuple(middle)] == 1
    for found in crop(whole):
        assert found["label"][0, 8, 8, 8] == 1
        assert np.isin(np.asarray(found["image"]), image).all()


class Shifted(nn.Module):
    """Two classes of a window that depend on where in it a voxel lies."""

    def forward(self, x):
        ramp = torch.linspace(0, 1, x.shape[-1])
        return torch.cat([x * ramp, x.flip(-1)], dim=1)


@pytest.mark.parametrize("overlap", [0.25, 0.5])
def test_monais_windows_are_ours(overlap):
    volume = torch.rand(1, 40, 37, 50)
    ours = slide(volume, Shifted(), (16, 16, 16), overlap)
    theirs = monai_pipeline.predict(volume, Shifted(), (16, 16, 16), overlap)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("spacing", [None, (1.5, 1.5, 1.5)])
def test_monais_way_from_voxels_to_labels_is_ours(spacing):
    """On a volume that lies turned; the network makes three classes of its intensities."""
    prepare = PrepareSettings(
        intensity="ct", window=(-100.0, 200.0), foreground=0.0, fit="pad", spacing=spacing
    )
    model = card_of(prepare=prepare.to_dict(), channels=("ct",), window=(16, 16, 16))
    voxels = np.random.default_rng(0).integers(-150, 250, (1, 6, 7, 5), np.int16)
    voxels, affine = voxels.repeat(8, 1).repeat(6, 2).repeat(7, 3), np.diag([-0.8, 0.8, 1.0, 1.0])

    def by_intensity(x):
        return torch.cat([x, 0.6 + 0 * x, 1 - x], dim=1)

    predictor = Predictor([(nn.Identity(), model)], HOST)
    predictor.networks = [by_intensity]
    ours = predictor.segment(voxels, affine)
    window = {"intensities": (-100.0, 200.0), "spacing": spacing}
    read = torch.from_numpy(voxels).float()
    theirs = monai_pipeline.segment(read, affine, by_intensity, (16, 16, 16), 0.5, HOST, **window)
    assert ours.shape == theirs.shape == voxels.shape[1:] and ours.dtype == theirs.dtype
    assert np.bincount(ours.ravel()).min() > 1000 and (ours == theirs).mean() > 0.999


@pytest.mark.parametrize("at_once", [1, 3])
def test_monais_scores_are_ours(at_once):
    rng = np.random.default_rng(0)
    reference, prediction = (np.zeros((30, 32, 20), np.uint8) for _ in range(2))
    for number in (1, 2, 3):
        low = rng.integers(2, 10, 3)
        for array in (reference, prediction):
            a, b = low + rng.integers(-2, 3, 3), low + rng.integers(5, 9, 3)
            array[tuple(slice(i, j) for i, j in zip(a, b, strict=True))] = number
    spacing, labels = (0.8, 1.0, 2.5), {str(n): (n,) for n in (1, 2, 3)}
    ours = case_metrics(reference, prediction, spacing, labels, 1.0)
    tensors = torch.from_numpy(reference), torch.from_numpy(prediction)
    theirs = monai_pipeline.scores(*tensors, spacing, 3, 1.0, at_once)
    for name, values in theirs.items():
        assert [getattr(found, name) for found in ours.values()] == pytest.approx(values, rel=1e-5)
