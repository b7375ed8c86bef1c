"""Parts of a fine-tuning that its other tests leave out: patience over a stop, pictures, weights of any length."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from made_cohorts import SMALL_FINETUNE
from safetensors.torch import load_file, save_file
from test_finetune import stopping_after

from VoCoCore.cli import main
from VoCoCore.data import labelled
from VoCoCore.data.images import write_image
from VoCoCore.data.places import places_of
from VoCoCore.devices import Machine
from VoCoCore.errors import DataError
from VoCoCore.evaluation.case_pictures import kept_pictures
from VoCoCore.evaluation.final import _values
from VoCoCore.evaluation.finetune_curves import class_names, finetune_figure
from VoCoCore.evaluation.finetune_report import judge, write_finetune_report
from VoCoCore.evaluation.metrics import LabelMetrics
from VoCoCore.models.card import OutputClass
from VoCoCore.models.networks import SegmentationNetwork
from VoCoCore.models.weight_files import read_weight_file
from VoCoCore.protocols import resolve_finetune
from VoCoCore.runs.events import read_events
from VoCoCore.runs.narrate import _scores
from VoCoCore.training.finetune import finetune
from VoCoCore.training.finetune_look import Looker, Seen, Slice, values_of
from VoCoCore.training.labelled_cohort import LabelledCohort, labelled_index
from VoCoCore.training.ranks import Ranks

CLASSES = (OutputClass("background", (0,), (0, 0, 0)), OutputClass("a", (1,), (250, 0, 0)))


def test_patience_counts_over_a_stop(labelled_cohort, tmp_path) -> None:
    """Without learning no look is better than the first, so the third one ends the job, stopped meanwhile or not."""
    settings = labelled_cohort.settings(
        optim__steps=9, optim__lr=0.0, run__validate_every=1, optim__patience=2, run__checkpoint_every=1
    )
    assert not finetune(settings, tmp_path / "run", **stopping_after(1)).finished
    result = finetune(settings, tmp_path / "run", resume=True)
    assert result.finished and result.steps == 3


def test_a_look_says_where_memory_runs_out(labelled_cohort, tmp_path, monkeypatch) -> None:
    """On a card that training fills, windows go through by ones: much slower, which must not look like a fault."""
    forward, heard = SegmentationNetwork.forward, []

    def narrow(self: SegmentationNetwork, crops: torch.Tensor) -> Any:
        if not self.training and len(crops) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(self, crops)

    monkeypatch.setattr(SegmentationNetwork, "forward", narrow)
    finetune(labelled_cohort.settings(optim__steps=1), tmp_path / "run", listeners=[heard.append])
    warnings = [event["message"] for event in heard if event["type"] == "warning"]
    assert warnings.count("validation: out of memory: windows are now predicted 1 at a time") == 1, warnings


def test_a_list_of_training_cases_alone_must_say_what_to_validate_on(labelled_cohort, tmp_path) -> None:
    images = sorted((labelled_cohort.source / "imagesTr").iterdir())
    rows = [f"{path},{str(path).replace('imagesTr', 'labelsTr')},train" for path in images]
    (tmp_path / "list.csv").write_text("\n".join(["image,label,split", *rows]) + "\n")
    settings = labelled_cohort.settings(data__source=str(tmp_path / "list.csv"), data__val_fraction=0.0)
    index, _ = labelled_index(settings)
    assert {case.split for case in index.cases} == {"train"} and len(index.cases) == 6


# Pictures


def kept(scores: list[float], folder: Path, on_this_rank: list[int] | None = None) -> Any:
    """What a look leaves of cases with these scores (nan: nothing there and nothing found)."""
    settings = resolve_finetune({}, {"patches.size": "32,32,32", "model.encoder": "unet"})
    cohort = LabelledCohort(str(folder), (), (), (), "")
    task = SimpleNamespace(activation="softmax")
    looker = Looker(task, cohort, settings, Machine(torch.device("cpu"), "fp32", "cpu"), Ranks(1), CLASSES)
    sizes = [0 if np.isnan(score) else 100 for score in scores]
    found = [round(size * score) if size else 0 for size, score in zip(sizes, scores, strict=True)]
    counts = [[[9, both], [9, size], [9, size]] for both, size in zip(found, sizes, strict=True)]
    numbers = range(len(scores)) if on_this_rank is None else on_this_rank
    picture = np.zeros((6, 8), np.uint8)
    slices = {n: Slice(np.full((6, 8), n / 100), picture, picture, np.array([1.0, 2.0])) for n in numbers}
    looker.keep(folder, Seen(np.asarray(counts, np.int64), np.zeros(len(scores), int), slices), 7)
    with np.load(folder / "latest.npz", allow_pickle=False) as content:
        assert int(content["step"]) == 7
        return [round(100 * content[f"image_{place}"][0, 0]) for place in range(len(content["scores"]))], [
            shown["word"] for shown in kept_pictures(content)
        ]


def test_worst_median_and_best_case_are_kept(tmp_path) -> None:
    assert kept([0.5, 0.9, 0.1, 0.7, 0.3], tmp_path) == ([2, 0, 1], ["worst", "median", "best"])
    assert kept([0.5, 0.9], tmp_path) == ([0, 1], ["worst", "best"])
    assert kept([0.5], tmp_path) == ([0], ["the only case"])
    assert kept([0.5, 0.9, 0.1, 0.7, 0.3], tmp_path, on_this_rank=[0, 1, 3]) == (
        [0, 3, 1],
        ["worst", "median", "best"],
    )


def test_a_case_with_nothing_to_find_is_no_best_one(tmp_path) -> None:
    nan = float("nan")
    assert kept([0.5, nan, 0.2, 0.3, nan], tmp_path)[0] == [2, 3, 0]
    assert kept([nan], tmp_path) == ([0], ["the only case"])


# The report


def test_classes_may_be_called_low_and_high() -> None:
    values = {"dice": 0.5, "dice_low": 0.4, "dice_high": 0.6, "dice_liver": 0.5}
    assert class_names([{"type": "metrics", "split": "val", "values": values}]) == ["liver"]
    kinds = [
        OutputClass(name, (n,), (n, 0, 0)) for n, name in enumerate(("background", "low", "high", "cases"))
    ]
    counts = np.array([[[9, 0, 5, 10], [9, 10, 10, 10], [9, 10, 10, 10]]] * 4)
    counts[0, 0, 1] = 10
    values = values_of(Seen(counts, np.zeros(4, int), {}), kinds, "segmentation")
    assert class_names([{"type": "metrics", "split": "val", "values": values}]) == [
        "'low'",
        "'high'",
        "cases",
    ]
    assert (values["dice_'low'"], values["dice_'high'"], values["dice_cases"]) == (0.25, 0.5, 1.0)
    assert 0.5 <= values["dice_low"] < values["dice"] < values["dice_high"] and values["cases"] == 4
    single = values_of(Seen(counts[:1], np.zeros(1, int), {}), kinds, "segmentation")
    assert "dice_low" not in single and "95 %" not in _scores(single), "one case has no interval"
    assert "(95 % 0." in _scores(values)
    scores = {f"c{n}": {"low": LabelMetrics(dice=n / 10), "high": LabelMetrics(dice=1.0)} for n in range(5)}
    found = _values(scores, {"low": (1,), "high": (2,)})
    assert found["dice_'low'"] == pytest.approx(0.2) and found["dice_'high'"] == 1
    assert 0.5 <= found["dice_low"] < 0.6 < found["dice_high"]
    values = {"auroc": 0.5, "auroc_low": 0.4, "auroc_high": 0.6}
    assert class_names([{"type": "metrics", "split": "val", "values": values}]) == ["low", "high"]


def test_what_the_scores_say() -> None:
    val = {"dice": 0.81, "dice_low": 0.7, "dice_high": 0.9, "cases": 12.0}
    said = judge(val, None, active=False)
    assert "81" in said.title and "validation" in said.title and "chosen by these very cases" in said.text
    said = judge(val, {**val, "dice": 0.6, "cases": 3.0}, active=False)
    assert "60" in said.title and "test" in said.title and "So few cases" in said.text
    assert judge(None, None, active=True).title == "No scores yet"
    said = judge(val, {"cases": 0.0}, active=False)
    assert (said.kind, said.title) == ("bad", "None of the test cases could be scored")
    assert "Balanced accuracy" in judge({"balanced_accuracy": 0.5, "cases": 9.0}, None, False).title


def test_a_report_comes_without_whole_pictures(labelled_cohort, tmp_path) -> None:
    run = tmp_path / "run"
    finetune(labelled_cohort.settings(optim__steps=1), run)
    path = run / "validation" / "latest.npz"
    content = path.read_bytes()
    for broken in (content[: len(content) // 2], b"", b"hello", None):
        path.unlink() if broken is None else path.write_bytes(broken)
        text = write_finetune_report(run).read_text(encoding="utf-8")
        assert "liver" in text and "reference" not in text


# The end


@pytest.mark.usefixtures("own_config")
def test_a_test_case_that_cannot_be_read_is_told_of_at_the_end(tmp_path, capsys) -> None:
    """Without the name of its file, and the report comes."""
    for name in ("a", "b", "secret"):
        array = np.random.default_rng(0).normal(0, 300, (33, 34, 35)).astype(np.float32)
        array[3, 3, 3] = np.inf if name == "secret" else 0
        write_image(tmp_path / f"{name}.nii.gz", array, np.eye(4))
    rows = ["image,target,split", "a.nii.gz,ill,train", "b.nii.gz,well,train", "secret.nii.gz,ill,test"]
    (tmp_path / "list.csv").write_text("\n".join(rows) + "\n")
    values = {
        **SMALL_FINETUNE,
        "data.source": tmp_path / "list.csv",
        "data.store": tmp_path / "store",
        "data.val_fraction": 0.0,
        "optim.steps": 1,
    }
    words = [str(word) for name, value in values.items() for word in (f"--{name}", value)]
    assert main(["finetune", "--run", str(tmp_path / "run"), "--task", "classification", *words]) == 0
    events = read_events(tmp_path / "run" / "events.jsonl")
    told = [e["message"] for e in events if e["type"] == "warning" and "cannot be scored" in e["message"]]
    assert len(told) == 1 and "not finite" in told[0] and "secret" not in told[0]
    assert [e["values"] for e in events if e.get("split") == "test"] == [{"cases": 0.0}]
    # The report takes names of files and cases out of what it shows, and must leave the words.
    report = (tmp_path / "run" / "report.html").read_text()
    assert all(words in report for words in ("None of the test cases could be scored", "cannot be scored: "))
    for text in (capsys.readouterr().out, (tmp_path / "run" / "log.txt").read_text()):
        assert "warning: one of the held-out cases cannot be scored" in text
        assert "none of the test cases could be scored" in text


# Weights


def test_weights_whose_header_has_the_length_of_a_pickles_first_byte(tmp_path) -> None:
    """One in 32 files of weights begins like a pickle: none of them is refused, and no pickle is read."""
    begins = set()
    for padding in range(0, 400, 8):
        path = tmp_path / f"{padding}.safetensors"
        save_file({"w" * 900: torch.zeros(2)}, path, {"note": "x" * padding})
        begins.add(path.read_bytes()[:1])
        assert len(read_weight_file(path).tensors) == 1 == len(load_file(path))
    assert b"\x80" in begins
    (tmp_path / "pickle.safetensors").write_bytes(b"\x80\x04\x95\x00\x00\x00\x00\x00}{" + bytes(50))
    with pytest.raises(DataError):
        read_weight_file(tmp_path / "pickle.safetensors")


def test_the_legend_of_many_classes_stays_inside_its_chart() -> None:
    values = {"dice": 0.5, **{f"dice_label {n}": 0.5 for n in range(30)}}
    figure = finetune_figure(
        [{"type": "metrics", "split": "val", "step": n, "values": values} for n in (1, 2)]
    )
    figure.canvas.draw()
    axes = figure.axes[2]
    legend, inside = axes.get_legend().get_window_extent(), axes.get_window_extent()
    assert inside.y0 <= legend.y0 and legend.y1 <= inside.y1 and legend.x1 <= inside.x1


# The cache


def test_loader_workers_share_one_cache(tmp_path, monkeypatch) -> None:
    """Four cases that fit for one process fill the shares of four workers with one case each."""
    volumes = [
        SimpleNamespace(
            folder=Path(str(n)), shape=(2, 8, 8, 8), read=lambda box=None: np.zeros((2, 8, 8, 8), np.int16)
        )
        for n in range(5)
    ]
    monkeypatch.setattr(labelled, "CACHE_BYTES", 4 * 2 * 2 * 8**3)
    kept_by = []
    for workers in (None, 4):
        info = None if workers is None else SimpleNamespace(num_workers=workers)
        monkeypatch.setattr(labelled, "get_worker_info", lambda info=info: info)
        samples = labelled.LabelledSamples(tmp_path, [], resolve_finetune({}, {}))
        for volume in volumes:
            assert samples._read(volume, np.zeros(3, int), np.full(3, 8)).shape == (2, 8, 8, 8)
        kept_by.append(len(samples._kept))
    assert kept_by == [4, 1]


def test_the_places_of_labels_take_their_part_of_the_cache(tmp_path, monkeypatch) -> None:
    """Of ten thousand cases with ten labels they come to 2.6 GB: those without room are read each time."""
    found = places_of(np.arange(64).reshape(4, 4, 4) % 3, seed=0)
    assert found.nbytes == 64 * 3 * 2 + 2 * 3 * 8
    monkeypatch.setattr(labelled, "CACHE_BYTES", 2 * found.nbytes + 2 * 2 * 4**3)
    samples, read = labelled.LabelledSamples(tmp_path, [], resolve_finetune({}, {})), []

    def case(name: str) -> SimpleNamespace:
        return SimpleNamespace(
            folder=Path(name),
            shape=(2, 4, 4, 4),
            places=lambda: read.append(name) or found,
            read=lambda box=None: np.zeros((2, 4, 4, 4), np.int16),
        )

    for name in "abcabc":
        assert samples._places_of(case(name)) is found
    assert read == ["a", "b", "c", "c"]
    for name in "ab":
        samples._read(case(name), np.zeros(3, int), np.full(3, 4))
    assert list(samples._kept) == ["a"], "what places take is not there for volumes"
