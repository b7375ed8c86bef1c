"""What a user who asks `voco predict` for the impossible sees."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from faults import meet
from made_runs import make_run
from test_predict import blobs, card

from VoCoCore.data.images import write_image
from VoCoCore.models.model_files import save_model
from VoCoCore.models.networks import build_network


@pytest.fixture
def place(tmp_path):
    """A model and an image."""
    torch.manual_seed(0)
    save_model(build_network(card()), card(), tmp_path / "model.safetensors")
    write_image(tmp_path / "case.nii.gz", blobs((34, 33, 20)) * 100, np.eye(4))
    return tmp_path


def words(place, *more: object, output: str = "out") -> list[object]:
    given = ["predict", "--model", place / "model.safetensors", place / "case.nii.gz", "-o", place / output]
    return [*given, *more]


@pytest.mark.parametrize(
    ("kind", "more", "says"),
    [
        ("an unknown format of predictions", ["--format", "nii.gzz"], ["Did you mean 'nii.gz'", "--format"]),
        ("windows that overlap wholly", ["--overlap", "1.0"], ["from 0 to below 1", "--overlap"]),
        ("no folder for predictions", ["-o", " "], ["is empty", "--output"]),
        ("a negative overlap", ["--overlap", "-0.5"], ["from 0 to below 1", "--overlap"]),
        ("no window at a time", ["--batch", "0"], ["at least one", "--batch"]),
        ("an axis that there is not", ["--mirror", "xw"], ["name axes", "--mirror"]),
        ("a split that a file has not", ["--split", "test"], ["no case of the split test"]),
    ],
)
def test_options(capsys, place, kind, more, says) -> None:
    expected = 3 if "split" in kind else 2
    meet(capsys, kind, expected, words(place, *more), says)


def test_models(capsys, place) -> None:
    given = words(place)
    given[2] = place / "none.safetensors"
    meet(capsys, "a model that is not there", 3, given, ["there is no", "none.safetensors"])
    (place / "page.pt").write_text("<!DOCTYPE html><html></html>")
    given[2] = place / "page.pt"
    meet(capsys, "a web page as a model", 3, given, ["web page", "page.pt"])
    given[2] = place
    meet(capsys, "a folder without a run as a model", 3, given, ["neither a run nor", place.name])


def test_inputs(capsys, place) -> None:
    given = words(place)
    given[3] = place / "nothing.nii.gz"
    meet(capsys, "an image to predict that is not there", 3, given, ["is not there", "nothing.nii.gz"])
    (place / "cases").mkdir()
    write_image(place / "cases" / "good.nii.gz", blobs((33, 33, 20)) * 100, np.eye(4))
    (place / "cases" / "bad.nii.gz").write_bytes((place / "cases" / "good.nii.gz").read_bytes()[:900])
    given[3] = place / "cases"
    meet(
        capsys,
        "a damaged image among good ones",
        3,
        given,
        ["1 case could not", "all others are done", "bad"],
    )
    assert (place / "out" / "good.nii.gz").is_file()


def test_channels(capsys, place) -> None:
    two = card(channels=("t1", "t2"))
    save_model(build_network(two), two, place / "model.safetensors")
    says = ["1 image, the network takes 2: t1, t2", "case"]
    meet(capsys, "another number of channels than trained with", 3, words(place), says)


def test_folders(capsys, place) -> None:
    make_run(place / "run")
    meet(
        capsys,
        "predictions into the folder of a run",
        2,
        words(place, output="run"),
        ["folder of a run", "run"],
    )
    (place / "file").write_text("")
    meet(capsys, "predictions into a file", 4, words(place, output="file"), ["is a file", "file"])
    from VoCoCore.cli import main

    assert main([str(word) for word in words(place)]) == 0
    says = ["another model or with other options", "--overwrite"]
    meet(capsys, "predictions into another model's folder", 2, words(place, "--largest"), says)
    assert main([str(word) for word in words(place, "--largest", "--overwrite")]) == 0


def test_memory_that_runs_out_is_said_and_made_do_with(capsys, place, monkeypatch) -> None:
    """As a GPU does it: batches of more than one window fail."""
    from VoCoCore.cli import main
    from VoCoCore.inference.predict import Predictor

    usual = Predictor._predict

    def short(self, windows):
        if len(windows) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return usual(self, windows)

    assert main([str(word) for word in words(place)]) == 0
    monkeypatch.setattr(Predictor, "_predict", short)
    assert main([str(word) for word in words(place, output="again")]) == 0
    assert "out of memory: windows are now predicted 1 at a time" in capsys.readouterr().out
    from VoCoCore.data.images import read_image

    first, again = (read_image(place / name / "case.nii.gz").array for name in ("out", "again"))
    assert np.mean(first == again) > 0.999
