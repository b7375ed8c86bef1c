"""Many cases: what stops the work and what does not, what is found again, where the files go."""

from __future__ import annotations

import csv
import json
import os
import signal
import sys
from contextlib import contextmanager
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from faults import meet
from test_predict import CPU, Threshold, blobs, card

from VoCoCore.cli import main
from VoCoCore.data.cases import Case, Source
from VoCoCore.data.images import read_image, write_image
from VoCoCore.inference.job import Predictions
from VoCoCore.inference.predict import Predictor
from VoCoCore.inference.results import segments_of, volumes_ml
from VoCoCore.models.card import OutputClass
from VoCoCore.models.model_files import save_model
from VoCoCore.models.networks import build_network

AFFINE = np.array([[-1.0, 0, 0, 5], [0, 0, 1.5, 3], [0, 2, 0, 1], [0, 0, 0, 1]])


def model_in(path: Path, seed: int = 0, **changes: object) -> Path:
    """A random network in a file."""
    torch.manual_seed(seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_model(build_network(card(**changes)), card(**changes), path)
    return path


@pytest.fixture
def place(tmp_path):
    """A model and three images."""
    model_in(tmp_path / "model.safetensors")
    (tmp_path / "images").mkdir()
    for number in range(3):
        write_image(tmp_path / "images" / f"c{number}.nii.gz", blobs((34, 33, 20), number) * 100, AFFINE)
    return tmp_path


def words(place: Path, *more: object, output: str = "out") -> list[str]:
    given = ["predict", "--model", place / "model.safetensors", place / "images", "-o", place / output, *more]
    return [str(word) for word in given]


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


MEMORY = {".voco-predictions.jsonl", ".voco-predictions.lock"}
WHOLE = {"c0.nii.gz", "c1.nii.gz", "c2.nii.gz", "labels.json", "volumes.csv", *MEMORY}


@contextmanager
def files_of_at_most(size: int):
    """As on a disk that is full: files cannot grow beyond ``size`` bytes."""
    resource = pytest.importorskip("resource", reason="limits of POSIX")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)


@pytest.mark.parametrize("form", ["nii.gz", "nrrd", "seg.nrrd"])
def test_a_full_disk_stops_all_and_the_next_call_goes_on(place, capsys, form):
    with files_of_at_most(500):
        meet(capsys, f"predicting {form} on a full disk", 4, words(place, "--format", form), ["disk is full"])
    assert not any(name.startswith((".c", "c")) or name.endswith(".tmp") for name in names(place / "out"))
    assert main(words(place, "--format", form)) == 0
    assert len(list((place / "out").glob(f"c?.{form}"))) == 3


def test_a_full_disk_for_probabilities(place, capsys):
    with files_of_at_most(20_000):
        meet(capsys, "probabilities on a full disk", 4, words(place, "--probabilities"), ["disk is full"])
    assert not list((place / "out" / "probabilities").iterdir())


def test_an_interrupt_ends_after_the_case_in_work(place, capsys, monkeypatch):
    usual, seen = Predictor.segment_prepared, []

    def interrupted(self, *given, **named):
        seen.append(1)
        os.kill(os.getpid(), signal.SIGINT)
        return usual(self, *given, **named)

    monkeypatch.setattr(Predictor, "segment_prepared", interrupted)
    says = ["1 of 3 cases done", "run it again"]
    meet(capsys, "predicting, interrupted", 5, words(place), says)
    assert len(seen) == 1 and {"c0.nii.gz", "volumes.csv"} <= names(place / "out")
    monkeypatch.setattr(Predictor, "segment_prepared", usual)
    assert main(words(place)) == 0
    assert "2 cases predicted" in (said := capsys.readouterr().out) and "1 was done before" in said
    assert names(place / "out") == WHOLE
    rows = list(csv.DictReader((place / "out" / "volumes.csv").open()))
    assert [row["case"] for row in rows] == ["c0", "c1", "c2"]


def test_voxels_in_a_wrong_unit_are_said_to_be_so_where_memory_ends(place, capsys, monkeypatch):
    """An image of 33 x 33 x 20 voxels of 200 mm would become one of 5 000 000 000 of 1 mm."""

    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(Predictor, "prepare", full)
    for image in (place / "images").iterdir():
        image.unlink()
    write_image(place / "images" / "metres.nii.gz", blobs((33, 33, 20)) * 100, np.diag([200, 200, 200, 1]))
    assert main(words(place)) == 3
    said = capsys.readouterr().err
    assert "metres: it has voxels of 200 x 200 x 200 mm" in said and "check the header's unit" in said


def test_bad_cases_of_every_kind_do_not_stop_the_others(place, capsys, monkeypatch):
    images = place / "images"
    (images / "text.nii.gz").write_text("hello " * 99)
    write_image(images / "flat.nii.gz", np.zeros((33, 33, 20), np.int16), np.eye(4))
    usual = Predictor.prepare

    def odd(self, array, affine):
        if array.shape[1] == 40:
            raise RuntimeError("nobody foresaw this")
        if array.shape[1] == 41:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return usual(self, array, affine)

    monkeypatch.setattr(Predictor, "prepare", odd)
    write_image(images / "odd.nii.gz", blobs((40, 33, 20)) * 100, np.eye(4))
    write_image(images / "vast.nii.gz", blobs((41, 33, 20)) * 100, np.eye(4))
    kind = "four kinds of bad images among three good ones"
    line = meet(
        capsys, kind, 3, words(place), ["4 cases could not be predicted", "nobody foresaw this", "text"]
    )
    assert "flat: all voxels have the same value, 0 (export it again, or leave it out);" in line
    assert "vast: there is not enough memory for it" in line
    assert names(place / "out") == WHOLE


def test_an_image_that_has_changed_is_predicted_again_and_said(place, capsys):
    assert main(words(place)) == 0
    write_image(place / "images" / "c1.nii.gz", blobs((36, 33, 20), 9) * 100, AFFINE)
    capsys.readouterr()
    assert main(words(place)) == 0
    said = capsys.readouterr().out
    assert "c1: its images are not those of the last call" in said and "1 case predicted" in said
    assert read_image(place / "out" / "c1.nii.gz").array.shape == (36, 33, 20)
    rows = list(csv.DictReader((place / "out" / "volumes.csv").open()))
    assert sorted(row["case"] for row in rows) == ["c0", "c1", "c2"]


@pytest.mark.parametrize(
    "content", ["", "{", "[1, 2]\n\xff", '{"maker": 3}\n{"maker": "m", "case"', '"maker"\n']
)
def test_a_memory_of_the_folder_that_is_damaged(place, content):
    (place / "out").mkdir()
    (place / "out" / ".voco-predictions.jsonl").write_text(content)
    assert main(words(place, "--overwrite")) == 0
    assert names(place / "out") == WHOLE


def test_folds_in_a_folder_predict_together(place, capsys):
    for number in range(2):
        run = place / "folds" / f"fold-{number}"
        model_in(run / "weights" / "model.safetensors", seed=number)
        for name in ("settings.json", "status.json"):
            (run / name).write_text("{}")
    given = words(place)
    given[2] = str(place / "folds")
    assert main(given) == 0 and "2 networks on cpu" in capsys.readouterr().out
    model_in(place / "folds" / "fold-1" / "weights" / "model.safetensors", window=(32, 32, 48))
    given[-1] = str(place / "other")
    meet(capsys, "folds of different networks", 2, given, ["differ in window", "one fine-tuning"])


def test_runs_that_hold_no_network_yet(place, capsys):
    for name in ("settings.json", "status.json"):
        (place / name).write_text("{}")
    given = words(place)
    given[2] = str(place)
    meet(capsys, "a run without weights as a model", 3, given, ["no weights yet", place])
    (place / "weights").mkdir()
    (place / "weights" / "encoder.safetensors").write_bytes(b"x")
    meet(capsys, "a pre-training as a model", 3, given, ["is a pre-training", "voco finetune --init"])


def test_a_network_of_cases_resized_as_a_whole_cannot_segment(place, capsys):
    model_in(place / "model.safetensors", prepare={"fit": "resize"})
    says = ["resized as a whole", "prepare.fit pad"]
    meet(capsys, "a segmentation network of resized cases", 2, words(place), says)


def test_dicom_seg_of_what_is_no_dicom(place, capsys, monkeypatch):
    kind = "DICOM SEG without its package"
    monkeypatch.setitem(sys.modules, "highdicom", None)
    monkeypatch.setattr("VoCoCore.data.dicom_seg.find_spec", lambda name: None)
    meet(capsys, kind, 4, words(place, "--format", "dicom-seg"), ["highdicom", "pip install highdicom"])
    monkeypatch.setattr("VoCoCore.data.dicom_seg.find_spec", lambda name: name)
    says = ["3 cases could not", "c0.nii.gz is no DICOM series", "another --format"]
    meet(
        capsys, "DICOM SEG of other images", 3, words(place, "--format", "dicom-seg"), ["3 cases", *says[1:2]]
    )


def test_a_dicom_series_is_predicted_on_its_grid(shared_data, tmp_path):
    network = model_in(tmp_path / "m.safetensors", prepare={"spacing": (12.0, 12.0, 4.0), "foreground": 0.3})
    series = shared_data / "ct_dicom"
    assert main(["predict", "--model", str(network), str(series), "-o", str(tmp_path / "out")]) == 0
    (found,) = (tmp_path / "out").glob("*.nii.gz")
    assert read_image(found).array.shape == (512, 512, 20)
    np.testing.assert_allclose(np.diag(read_image(found).affine)[:3], (-0.9765625, -0.9765625, 2.0))


def test_splits_and_ids_of_a_list(place, capsys):
    cases = [
        {"id": "a/b", "images": ["images/c0.nii.gz"], "split": "test"},
        {"id": "a_b", "images": ["images/c1.nii.gz"], "split": "test"},
        {"id": "..", "images": ["images/c2.nii.gz"], "split": "test"},
        {"id": "left", "images": ["images/c2.nii.gz"], "split": "train"},
    ]
    index = {"format": "vococore-index", "version": 1, "channels": ["image"], "labels": None}
    (place / "index.json").write_text(json.dumps({**index, "cases": cases, "skipped": []}))
    given = words(place, "--split", "test")
    given[3] = str(place / "index.json")
    assert main(given) == 0
    maps = {"a_b.nii.gz", "a_b-2.nii.gz", "case.nii.gz"}
    assert names(place / "out") == maps | {"labels.json", "volumes.csv", *MEMORY}
    assert main(given) == 0 and "3 were done before" in capsys.readouterr().out


def test_a_4d_file_holds_the_channels_of_a_case(place, capsys):
    model_in(place / "model.safetensors", channels=("t1", "t2"))
    four = np.stack([blobs((34, 33, 20), n) for n in range(2)], axis=3)
    nib.save(nib.Nifti1Image(four, np.eye(4)), place / "four.nii.gz")
    given = words(place)
    given[3] = str(place / "four.nii.gz")
    assert main(given) == 0 and (place / "out" / "four.nii.gz").is_file()


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_probabilities_are_those_of_each_voxel_and_background_outside_the_box(axis, tmp_path):
    shape = [36, 34, 33]
    shape[axis] = 50  # the axis along which planes come
    image = np.zeros(shape, np.float32)
    inner = tuple(slice(3, n - 2) for n in shape)
    image[inner] = 0.1 + 0.9 * blobs(tuple(n - 5 for n in shape))
    write_image(tmp_path / "case.nii.gz", image, AFFINE)
    predictor = Predictor([(Threshold(), card(prepare={"foreground": 0.05}))], CPU)
    (tmp_path / "model").write_bytes(b"weights")
    options = {"format": "nii.gz", "probabilities": True}
    made = Predictions(tmp_path / "out", predictor, [tmp_path / "model"], options)
    case = Case("case", (Source(str(tmp_path / "case.nii.gz")),))
    assert not made.predict([case], lambda *_: None, lambda: False).failed
    stored = nib.load(tmp_path / "out" / "probabilities" / "case.nii.gz")
    np.testing.assert_allclose(stored.affine, AFFINE, atol=1e-6)
    bright = 1 / (1 + np.exp(-20.0 * image.astype(float) + 10.0))
    bright[~_box(image, inner)] = 0
    expected = np.stack([1 - bright, bright], axis=3)
    np.testing.assert_allclose(np.asarray(stored.dataobj), expected, atol=2e-5)
    assert names(tmp_path / "out" / "probabilities") == {"case.nii.gz"}


def _box(image: np.ndarray, inner: tuple[slice, ...]) -> np.ndarray:
    inside = np.zeros(image.shape, bool)
    inside[inner] = True
    return inside


def test_volumes_of_regions_hold_the_smaller_ones_in_them():
    regions = {"WT": (1, 2, 4), "TC": (1, 4), "ET": (4,)}
    kinds = tuple(OutputClass(name, values, (1, 1, 1)) for name, values in regions.items())
    made = card(classes=kinds, activation="sigmoid")
    labels = np.zeros((10, 10, 10), np.uint8)
    labels[0], labels[1, :5], labels[2, 0] = 2, 1, 4
    found = volumes_ml(labels, np.diag([-1.0, 2.0, 5.0, 1.0]), made)
    assert found == {"WT": pytest.approx(1.6), "TC": pytest.approx(0.6), "ET": pytest.approx(0.1)}


def test_what_overlapping_regions_share_has_a_name_of_its_own():
    kinds = (OutputClass("A", (1, 2), (9, 1, 1)), OutputClass("B", (2, 3), (1, 9, 1)))
    made = card(classes=kinds, activation="sigmoid")
    assert {name: value for name, (value, _) in segments_of(made).items()} == {"A": 1, "B": 3, "A and B": 2}
