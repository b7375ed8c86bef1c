"""Prediction: where every label ends up, what is averaged, what is written, and that nothing is done twice."""

from __future__ import annotations

import json
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
import SimpleITK
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from made_models import card_of
from scipy.ndimage import map_coordinates
from torch import nn

from VoCoCore.cli import main
from VoCoCore.data.images import write_image
from VoCoCore.devices import choose
from VoCoCore.errors import DataError, SettingsError
from VoCoCore.inference.predict import Predictor
from VoCoCore.models.card import ModelCard, OutputClass
from VoCoCore.models.model_files import save_model
from VoCoCore.models.networks import build_network
from VoCoCore.settings import PrepareSettings, RunSettings

CPU = choose(RunSettings(device="cpu"))
BRIGHT = OutputClass("bright", (3,), (255, 0, 0))
PLAIN = {"intensity": "none", "foreground": 0.0, "fit": "pad"}


class Threshold(nn.Module):
    """Class 1 where the image is above a half: what a prediction must be is known for every voxel."""

    def __init__(self, scale: float = 10.0, outputs: int = 2) -> None:
        super().__init__()
        self.convolution = nn.Conv3d(1, outputs, 1)
        with torch.no_grad():
            self.convolution.weight.copy_(torch.linspace(-scale, scale, outputs).view(-1, 1, 1, 1, 1))
            self.convolution.bias.copy_(torch.linspace(scale, -scale, outputs) / 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.convolution(x)


def card(**changes) -> ModelCard:
    prepare = PrepareSettings().with_values({**PLAIN, **changes.pop("prepare", {})}).to_dict()
    facts = {
        "window": (32, 32, 32),
        "classes": (OutputClass("background", (0,), (0, 0, 0)), BRIGHT),
        "prepare": prepare,
        "channels": ("image",),
        **changes,
    }
    return card_of(outputs=2, **facts)


def blobs(shape: tuple[int, int, int], seed: int = 0) -> np.ndarray:
    """An image in [0, 1] with smooth structures, 0 and 1 among its values."""
    rng = np.random.default_rng(seed)
    coarse = rng.random([max(2, n // 6) for n in shape])
    places = np.meshgrid(
        *(np.linspace(0, c - 1, n) for c, n in zip(coarse.shape, shape, strict=True)), indexing="ij"
    )
    smooth = map_coordinates(coarse, places, order=1)
    return ((smooth - smooth.min()) / np.ptp(smooth)).astype(np.float32)


@settings(max_examples=15, deadline=None)
@given(
    st.permutations([0, 1, 2]),
    st.tuples(*[st.sampled_from([-1, 1])] * 3),
    st.tuples(*[st.integers(9, 45)] * 3),
)
def test_labels_lie_on_the_voxels_they_are_of_whatever_the_orientation(order, signs, shape) -> None:
    affine = np.zeros((4, 4))
    for axis, (world, sign) in enumerate(zip(order, signs, strict=True)):
        affine[world, axis] = sign * 1.5
    affine[3, 3] = 1
    image = blobs(shape)
    found = Predictor([(Threshold(), card())], CPU, overlap=0.25).segment(image[None], affine)
    assert found.dtype == np.uint8 and found.shape == shape
    np.testing.assert_array_equal(found, np.where(image > 0.5, 3, 0))


def test_logits_are_interpolated_back_from_another_spacing() -> None:
    image = blobs((40, 36, 30))
    affine = np.diag([1.0, 1.0, 2.0, 1.0])
    made = Predictor([(Threshold(), card(prepare={"spacing": (1.6, 1.3, 2.5)}))], CPU)
    found = made.segment(image[None], affine)
    plan = made.plan(image[None], affine)
    axes = [np.arange(n) * s for n, s in zip(plan.shape, plan.step, strict=True)]
    coarse = map_coordinates(image.astype(float), np.meshgrid(*axes, indexing="ij"), order=1, mode="nearest")
    back = [
        np.clip(np.arange(n) / s, 0, m - 1)
        for n, s, m in zip(image.shape, plan.step, plan.shape, strict=True)
    ]
    expected = map_coordinates(coarse, np.meshgrid(*back, indexing="ij"), order=1, mode="nearest")
    sure = np.abs(expected - 0.5) > 1e-4
    inside = np.ones_like(sure)
    for axis, (n, s, m) in enumerate(zip(image.shape, plan.step, plan.shape, strict=True)):
        within = np.arange(n) / s < m - 0.5
        inside &= within.reshape([-1 if a == axis else 1 for a in range(3)])
    np.testing.assert_array_equal(found[sure & inside], np.where(expected > 0.5, 3, 0)[sure & inside])
    assert inside.mean() > 0.9


def test_outside_the_foreground_box_all_is_background() -> None:
    image = np.zeros((40, 40, 40), np.float32)
    image[10:20, 12:30, 5:35] = 1.0
    always = Threshold()
    nn.init.constant_(always.convolution.weight, 0.0)
    with torch.no_grad():
        always.convolution.bias.copy_(torch.tensor([-1.0, 1.0]))
    found = Predictor([(always, card())], CPU).segment(image[None], np.eye(4))
    np.testing.assert_array_equal(found == 3, image > 0)


def test_folds_are_averaged_and_must_agree() -> None:
    image = blobs((33, 33, 33))
    strong, weak = Threshold(30.0), Threshold(-10.0)
    both = Predictor([(strong, card()), (weak, card())], CPU).segment(image[None], np.eye(4))
    np.testing.assert_array_equal(both, np.where(image > 0.5, 3, 0))
    with pytest.raises(SettingsError, match="differ in channels"):
        Predictor([(strong, card()), (weak, card(channels=("t1",)))], CPU)


class Rounded(nn.Module):
    """Logits in bf16, as networks give them there: the same two everywhere."""

    def __init__(self, *logits: float) -> None:
        super().__init__()
        self.logits = logits

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        made = torch.tensor(self.logits, dtype=torch.bfloat16).view(1, -1, 1, 1, 1)
        return made.expand(len(x), -1, *x.shape[2:])


def test_what_networks_give_in_bf16_is_added_in_float32() -> None:
    """In bf16 256 + 1 is 256, and the second class would be no larger than the first."""
    models = [(Rounded(128, 256), card()), (Rounded(128, 1), card())]
    found = Predictor(models, CPU).segment(blobs((33, 33, 33))[None], np.eye(4))
    assert (found == found.max()).all() and found.max() > 0


def test_mirrored_views_come_back_to_their_place() -> None:
    image = blobs((40, 33, 37))
    mirrored = Predictor([(Threshold(), card())], CPU, mirror=(0, 1, 2))
    np.testing.assert_array_equal(mirrored.segment(image[None], np.eye(4)), np.where(image > 0.5, 3, 0))
    assert len(mirrored.views) == 8


def test_only_the_largest_part_is_kept_when_asked() -> None:
    image = np.zeros((40, 40, 40), np.float32)
    image[2:6, 2:6, 2:6] = 1.0
    image[20:38, 20:38, 20:38] = 1.0
    found = Predictor([(Threshold(), card())], CPU, largest=True).segment(image[None], np.eye(4))
    assert found[30, 30, 30] == 3 and not found[:10, :10, :10].any()


def test_regions_write_their_own_value_over_larger_ones() -> None:
    regions = (OutputClass("whole", (1, 2, 4), (1, 1, 1)), OutputClass("core", (1, 4), (2, 2, 2)))
    network = Threshold(outputs=2)
    with torch.no_grad():
        network.convolution.weight.copy_(torch.tensor([10.0, 10.0]).view(2, 1, 1, 1, 1))
        network.convolution.bias.copy_(torch.tensor([-3.0, -7.0]))
    image = blobs((33, 34, 35))
    found = Predictor([(network, card(classes=regions, activation="sigmoid"))], CPU).segment(
        image[None], np.eye(4)
    )
    np.testing.assert_array_equal(found, np.where(image > 0.7, 1, np.where(image > 0.3, 2, 0)))


class Bits(nn.Module):
    """Region k holds where bit k of the image, whose 1 is all of them, is set."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.outputs = outputs

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        bits = (x * (2**self.outputs - 1)).round().long()
        return torch.cat([((bits >> k) & 1) * 2.0 - 1 for k in range(self.outputs)], 1)


def of_regions(regions: dict[str, tuple[int, ...]], *masks: np.ndarray, **how) -> np.ndarray:
    """The label map of a network that finds the regions where ``masks`` (32, 32, 32) hold, and all in one corner."""
    classes = tuple(OutputClass(name, values, (1, 1, 1)) for name, values in regions.items())
    image = sum(mask * np.float32(2.0**k) for k, mask in enumerate(masks)) / (2 ** len(masks) - 1)
    image[-1, -1, -1] = 1  # the image reaches from 0 to 1
    made = Predictor([(Bits(len(masks)), card(classes=classes, activation="sigmoid"))], CPU, **how)
    return made.segment(image[None].astype(np.float32), np.eye(4))


def box(*edges: tuple[int, int]) -> np.ndarray:
    mask = np.zeros((32, 32, 32), bool)
    mask[tuple(slice(*edge) for edge in edges)] = True
    return mask


def test_regions_that_overlap_write_the_value_that_lies_in_just_those_found() -> None:
    x, y, z = box((2, 20), (4, 28), (4, 28)), box((12, 28), (4, 28), (4, 28)), box((4, 28), (20, 30), (4, 8))
    found = of_regions({"A": (1, 2, 5), "B": (2, 3, 5), "C": (4, 5, 300)}, x, y, z)
    seen = np.isin(found, (1, 2, 5)), np.isin(found, (2, 3, 5)), np.isin(found, (4, 5, 300))
    known = ~(z & (x ^ y))  # no value lies in C and one other alone
    known[-1, -1, -1] = False
    for mask, region in zip((x, y, z), seen, strict=True):
        np.testing.assert_array_equal(region[known], mask[known])
    assert set(np.unique(found)) == {0, 1, 2, 3, 4, 5} and (found[z & (x ^ y)] == 4).all()


def test_the_largest_part_of_a_region_leaves_those_around_it_whole() -> None:
    whole, core, hot = (
        box((4, 28), (4, 28), (4, 28)),
        box((6, 14), (6, 14), (6, 14)),
        box((8, 10), (8, 10), (8, 10)),
    )
    second, away = box((20, 25), (20, 25), (20, 25)), box((0, 2), (0, 2), (0, 2))
    inner = box((21, 24), (21, 24), (21, 24))  # larger than the other hot part, but of a core that goes
    regions = {"whole": (1, 2, 4), "core": (1, 4), "hot": (4,)}
    found = of_regions(regions, whole | away, core | second, hot | inner | away, largest=True)
    np.testing.assert_array_equal(found, np.where(hot, 4, np.where(core, 1, np.where(whole, 2, 0))))


def test_the_largest_part_of_one_region_leaves_another_that_overlaps() -> None:
    left, right, part = (
        box((2, 12), (4, 28), (4, 28)),
        box((10, 28), (4, 28), (4, 28)),
        box((20, 24), (6, 9), (6, 9)),
    )
    found = of_regions({"A": (1, 2), "B": (2, 3)}, left | part, right, largest=True)
    np.testing.assert_array_equal(found, left * 1 + right * 3 - (left & right) * 2)


class Overflowing(Threshold):
    """One window's answers overflow, and then are a difference of infinities, as behind a norm."""

    seen = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits = super().forward(x)
        self.seen += 1
        return logits * torch.inf - logits.abs() * torch.inf if self.seen == 2 else logits


@pytest.mark.parametrize(
    ("precision", "says"), [("fp16", "in fp16 .* --precision fp32"), ("fp32", "in fp32 .* other weights")]
)
def test_answers_that_are_not_finite_are_no_label_map(precision, says) -> None:
    machine = replace(CPU, precision=precision)
    image = blobs((64, 40, 33))
    with pytest.raises(DataError, match=says):
        Predictor([(Overflowing(), card())], machine, batch=1).segment(image[None], np.eye(4))


def test_a_diagnosis_that_is_not_finite_is_none() -> None:
    kinds = (OutputClass("well", (0,), (0, 0, 0)), OutputClass("sick", (1,), (9, 9, 9)))
    made = card(task="classification", classes=kinds, prepare={"fit": "resize"})
    network = build_network(made).eval()
    with torch.no_grad():
        for weights in network.parameters():
            weights.fill_(3e38)
    with pytest.raises(DataError, match="not all finite"):
        Predictor([(network, made)], CPU).classify(blobs((33, 33, 33))[None], np.eye(4))


def test_a_case_whose_answers_are_not_finite_fails_in_a_line(images, tmp_path, capsys) -> None:
    network = build_network(card())
    with torch.no_grad():
        list(network.parameters())[-1].fill_(torch.finfo(torch.float32).max)
        list(network.parameters())[-2].mul_(1e38)
    path = tmp_path / "model.safetensors"
    save_model(network, card(), path)
    assert main(["predict", "--model", str(path), str(images), "-o", str(tmp_path / "out")]) == 3
    said = capsys.readouterr().err
    assert "case0: the network's answers" in said and "case1: the network's answers" in said
    assert not list((tmp_path / "out").glob("*.nii.gz"))


def test_another_number_of_channels_is_refused() -> None:
    with pytest.raises(DataError, match="2 images, the network takes 1"):
        Predictor([(Threshold(), card())], CPU).segment(np.zeros((2, 32, 32, 32)), np.eye(4))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A random network in a file."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    save_model(build_network(card()), card(), path)
    return path


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(2):
        affine = np.array([[-1.0, 0, 0, 5], [0, -1, 0, 3], [0, 0, 2, 1], [0, 0, 0, 1]])
        write_image(folder / f"case{number}.nii.gz", blobs((35, 33, 20), number) * 100, affine)
    return folder


@pytest.mark.parametrize("form", ["nii.gz", "nrrd", "seg.nrrd"])
def test_every_format_lies_on_the_image(model, images, tmp_path, form) -> None:
    assert (
        main(["predict", "--model", str(model), str(images), "-o", str(tmp_path / "out"), "--format", form])
        == 0
    )
    ours = SimpleITK.ReadImage(str(tmp_path / "out" / f"case0.{form}"))
    source = SimpleITK.ReadImage(str(images / "case0.nii.gz"))
    assert ours.GetSize() == source.GetSize()
    assert np.allclose(ours.GetOrigin(), source.GetOrigin(), atol=1e-4)
    assert np.allclose(ours.GetDirection(), source.GetDirection(), atol=1e-4)
    assert np.allclose(ours.GetSpacing(), source.GetSpacing(), atol=1e-4)
    named = json.loads((tmp_path / "out" / "labels.json").read_text())
    assert named == {"labels": {"bright": 3}, "colours": {"bright": [255, 0, 0]}}
    if form == "seg.nrrd":
        assert (
            ours.GetMetaData("Segment0_Name") == "bright" and ours.GetMetaData("Segment0_LabelValue") == "3"
        )
        assert [float(v) for v in ours.GetMetaData("Segment0_Color").split()] == [1.0, 0.0, 0.0]


def test_volumes_and_probabilities_agree_with_the_label_map(model, images, tmp_path) -> None:
    out = tmp_path / "out"
    assert main(["predict", "--model", str(model), str(images), "-o", str(out), "--probabilities"]) == 0
    labels = np.asarray(nib.load(out / "case1.nii.gz").dataobj)
    found = np.asarray(nib.load(out / "probabilities" / "case1.nii.gz").dataobj)
    assert found.shape == (*labels.shape, 2)
    assert np.abs(found.sum(3)[labels > 0] - 1).max() < 0.01
    sure = np.abs(found[..., 1] - found[..., 0]) > 0.02
    np.testing.assert_array_equal((found[..., 1] > found[..., 0])[sure], (labels == 3)[sure])
    rows = (out / "volumes.csv").read_text().splitlines()
    assert rows[0] == "case,label,value,volume_ml" and len(rows) == 3
    assert float(rows[2].split(",")[3]) == pytest.approx((labels == 3).sum() * 2 / 1000, abs=1e-3)


def test_what_is_done_is_not_done_again(model, images, tmp_path, capsys) -> None:
    words = ["predict", "--model", str(model), str(images), "-o", str(tmp_path / "out")]
    assert main(words) == 0
    before = (tmp_path / "out" / "case0.nii.gz").stat().st_mtime_ns
    (tmp_path / "out" / "case1.nii.gz").unlink()
    capsys.readouterr()
    assert main(words) == 0
    assert "1 case predicted" in (said := capsys.readouterr().out) and "1 was done before" in said
    assert (tmp_path / "out" / "case0.nii.gz").stat().st_mtime_ns == before
    assert (tmp_path / "out" / "case1.nii.gz").is_file()


def test_a_diagnosis_is_a_table_of_probabilities(images, tmp_path) -> None:
    kinds = (OutputClass("well", (0,), (0, 0, 0)), OutputClass("sick", (1,), (9, 9, 9)))
    made = card(task="classification", classes=kinds, prepare={"fit": "resize"})
    path = tmp_path / "model.safetensors"
    save_model(build_network(made), made, path)
    assert main(["predict", "--model", str(path), str(images), "-o", str(tmp_path / "out")]) == 0
    rows = [row.split(",") for row in (tmp_path / "out" / "predictions.csv").read_text().splitlines()]
    assert rows[0] == ["case", "predicted", "well", "sick"] and len(rows) == 3
    for row in rows[1:]:
        assert float(row[2]) + float(row[3]) == pytest.approx(1, abs=1e-5)
        assert row[1] == ("well" if float(row[2]) > float(row[3]) else "sick")
