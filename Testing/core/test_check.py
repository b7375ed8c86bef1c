"""Checking cases: every kind of fault is found, by name and with figures, and no case stops the others."""

from __future__ import annotations

import gzip
import io
import json
import os
import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from rich.console import Console

from VoCoCore.data.cases import Case, Index, Source
from VoCoCore.data.check import CheckReport, check_index
from VoCoCore.data.check_pool import Died, run_each
from VoCoCore.data.images import write_image
from VoCoCore.data.sources import index_source

SHAPE = (20, 18, 16)
AFFINE = np.diag([-1.0, -1.0, 2.0, 1.0])


def noise(shape: tuple[int, ...] = SHAPE, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(-500, 500, shape).astype(np.int16)


def save(path: Path, array: np.ndarray | None = None, affine: np.ndarray = AFFINE) -> Source:
    image = nib.Nifti1Image(noise() if array is None else array, affine)
    nib.save(image, path)
    return Source(str(path))


def check(*cases: Case, labels: dict[str, int] | None = None, **options: Any) -> CheckReport:
    channels = tuple(f"channel_{n}" for n in range(len(cases[0].images)))
    return check_index(Index(cases, channels, labels), **{"workers": 0, **options})


def kinds(report: CheckReport) -> list[tuple[str, str]]:
    return [(row.severity, row.kind) for row in report.rows]


def with_voxel(value: float) -> np.ndarray:
    array = noise().astype(np.float32)
    array[3, 4, 5] = value
    return array


def singular(path: Path) -> Source:
    save(path)
    content = path.read_bytes()
    path.write_bytes(content[:312] + bytes(16) + content[328:])  # the sform's last row
    return Source(str(path))


def sheared() -> np.ndarray:
    affine = AFFINE.copy()
    affine[1, 2] = 2 * np.tan(np.radians(20))
    return affine


def cut(path: Path) -> Source:
    save(path)
    path.write_bytes(path.read_bytes()[:-100])
    return Source(str(path))


def text(path: Path) -> Source:
    path.write_text("no image\n" * 99)
    return Source(str(path))


IMAGES: dict[str, tuple[str, Callable[[Path], Source], str]] = {
    "error missing_file": ("gone.nii", lambda p: Source(str(p)), "not there"),
    "error unreadable": ("text.nii.gz", text, "text file"),
    "error truncated": ("cut.nii.gz", cut, "ends early"),
    "error not_3d": ("four.nii", lambda p: save(p, noise((20, 18, 16, 5))), "4D with 5 volumes"),
    "error not_finite": ("nan.nii", lambda p: save(p, with_voxel(np.nan)), "1 voxel that is not finite"),
    "error not_finite ": ("inf.nii", lambda p: save(p, with_voxel(-np.inf)), "NaN or Inf"),
    "error all_zero": ("zero.nii", lambda p: save(p, np.zeros(SHAPE, np.int16)), "are 0"),
    "error constant": ("same.nii", lambda p: save(p, np.full(SHAPE, -1024, np.int16)), "the value -1024"),
    "error too_small": (
        "small.nii",
        lambda p: save(p, noise((15, 18, 16))),
        "15 x 18 x 16 .* at least 16 x 16 x 4",
    ),
    "error singular_affine": ("flat.nii", singular, "cannot be inverted"),
    "warning sheared": ("sheared.nii", lambda p: save(p, None, sheared()), "20.0 degrees"),
    "warning voxel_size": ("big.nii", lambda p: save(p, None, np.diag([50.0, 50, 50, 1])), "50 x 50 x 50 mm"),
}


@pytest.mark.parametrize("name", IMAGES)
def test_faults_of_an_image(tmp_path: Path, name: str) -> None:
    file, make, words = IMAGES[name]
    report = check(
        Case("bad", (make(tmp_path / file),)), Case("good", (save(tmp_path / "good.nii.gz", noise(seed=1)),))
    )
    (row,) = report.rows
    assert f"{row.severity} {row.kind}" == name.strip() and row.case == "bad" and row.hint
    assert str(tmp_path / file) in row.message
    assert report.checked == 2 and report.bad_cases == (("bad",) if row.severity == "error" else ())
    assert re.search(words, row.message)


def test_a_good_case_has_no_finding(tmp_path: Path) -> None:
    label = (noise() > 0).astype(np.uint8)
    case = Case("a", (save(tmp_path / "a.nii.gz"),), save(tmp_path / "l.nii.gz", label))
    report = check(case, labels={"background": 0, "organ": 1})
    assert report.rows == () and report.checked == 1


def test_the_grid_decides_what_is_too_small_in_patient_axes(tmp_path: Path) -> None:
    swapped = np.zeros((4, 4))
    swapped[2, 0] = swapped[0, 1] = swapped[1, 2] = swapped[3, 3] = 1  # axis 0 runs to S, 1 to R, 2 to A
    case = Case("a", (save(tmp_path / "a.nii", noise((5, 16, 16)), swapped),))
    assert kinds(check(case, counts=(4, 4, 1))) == []
    assert "16 x 16 x 5" in check(case, counts=(4, 4, 2)).rows[0].message


@pytest.mark.parametrize(
    ("label", "affine", "kind", "words"),
    [
        (np.ones((20, 18, 15)), AFFINE, "label_grid", "20 x 18 x 16 and 20 x 18 x 15"),
        (np.ones(SHAPE), AFFINE + 38 * np.eye(4, k=3), "label_grid", "38.00 mm apart"),
        (np.full(SHAPE, 3), AFFINE, "label_values", "has the values 3, declared are 0, 1, 2"),
        (np.full(SHAPE, -1), AFFINE, "label_values", "values -1"),
        (np.zeros((*SHAPE, 3)), AFFINE, "label_not_3d", "is 4D with 3 volumes"),
        (np.full(SHAPE, 0.5), AFFINE, "label_values", "not whole numbers"),
        (np.full(SHAPE, np.nan), AFFINE, "label_values", "not whole numbers"),
        (np.zeros(SHAPE), AFFINE, "label_empty", "marks nothing"),
    ],
)
def test_faults_of_a_label(
    tmp_path: Path, label: np.ndarray, affine: np.ndarray, kind: str, words: str
) -> None:
    whole = np.isfinite(label).all() and (label == np.rint(label)).all()
    source = save(tmp_path / "l.nii.gz", label.astype(np.int16 if whole else np.float32), affine)
    report = check(Case("a", (save(tmp_path / "a.nii"),), source), labels={"bg": 0, "x": 1, "y": 2})
    (row,) = report.rows
    assert row.kind == kind and words in row.message and str(tmp_path / "l.nii.gz") in row.message
    assert row.severity == ("warning" if kind == "label_empty" else "error")


def test_a_negative_label_where_nothing_is_declared(tmp_path: Path) -> None:
    source = save(tmp_path / "l.nii.gz", np.full(SHAPE, -1, np.int16), AFFINE)
    (row,) = check(Case("a", (save(tmp_path / "a.nii"),), source)).rows
    assert (
        row.severity == "error" and "the values -1, labels are whole numbers from 0 to 32767" in row.message
    )


def test_values_of_8_bits_far_below_zero(tmp_path: Path) -> None:
    label = np.full(SHAPE, 100, np.int8)
    label[0] = -100
    (row,) = check(Case("a", (save(tmp_path / "a.nii"),), save(tmp_path / "l.nii.gz", label, AFFINE))).rows
    assert row.kind == "label_values" and "has the values -100" in row.message


def test_labels_without_a_declaration_may_have_any_whole_value_that_training_takes(tmp_path: Path) -> None:
    label = np.zeros(SHAPE, np.float32)
    label[0, 0, :2] = (7, 32_767)
    assert check(Case("a", (save(tmp_path / "a.nii"),), save(tmp_path / "l.nii", label))).rows == ()
    label[0, 0, 2:4] = (70_000, 9_000_000)
    case = Case("a", (save(tmp_path / "a.nii"),), save(tmp_path / "l.nii", label))
    (row,) = check(case).rows
    assert row.severity == "error" and row.kind == "label_values"
    assert "the values 70000, 9000000, labels are whole numbers from 0 to 32767" in row.message
    assert "7, 32767, 70000, 9000000, declared are 0" in check(case, labels={"bg": 0}).rows[0].message


def test_a_declared_value_beyond_what_training_takes(tmp_path: Path) -> None:
    label = np.zeros(SHAPE, np.int32)
    label[0, 0, 0] = 40_000
    case = Case("a", (save(tmp_path / "a.nii"),), save(tmp_path / "l.nii", label))
    (row,) = check(case, labels={"bg": 0, "x": 40_000}).rows
    assert row.severity == "error" and "has the values 40000, labels are whole numbers from 0" in row.message


def test_a_label_that_is_ignored_everywhere(tmp_path: Path) -> None:
    label = np.full(SHAPE, 2, np.uint8)
    case = Case("a", (save(tmp_path / "a.nii"),), save(tmp_path / "l.nii", label))
    labels = {"bg": 0, "x": 1, "ignore": 2}
    (row,) = check(case, labels=labels).rows
    assert row.severity == "error" and row.kind == "label_ignored" and row.hint
    assert "says of no voxel what it is" in row.message and str(tmp_path / "l.nii") in row.message
    label[0, 0, 0] = 1
    save(tmp_path / "l.nii", label)
    assert check(case, labels=labels).rows == ()


def test_faults_of_channels(tmp_path: Path) -> None:
    one, moved = (
        save(tmp_path / "1.nii"),
        save(tmp_path / "2.nii", noise(seed=2), np.diag([-1.0, -1, 2.1, 1])),
    )
    report = check(
        Case("apart", (one, moved)),
        Case("few", (one,)),
        Case("lacks", (one,), missing=("t2",)),
        Case("both the same", (one, one)),
    )
    found = {row.case: row for row in report.rows if row.kind != "duplicate"}
    assert found["apart"].kind == "channel_grid" and "1.50 mm apart" in found["apart"].message
    assert found["few"].kind == "missing_channel" and "1 channel, the index has 2" in found["few"].message
    assert found["lacks"].kind == "missing_channel" and "no file for t2" in found["lacks"].message
    twice = [row.message for row in report.rows if row.case == "both the same"]
    assert len(twice) == 1 and twice[0].startswith("two channels have the same voxels")


def test_duplicates_are_found_by_content(tmp_path: Path) -> None:
    original = save(tmp_path / "a.nii.gz")
    raw = gzip.decompress(Path(original.path).read_bytes())
    (tmp_path / "b.nii.gz").write_bytes(gzip.compress(raw, 1))
    (tmp_path / "c.nii").write_bytes(raw)
    write_image(tmp_path / "d.nrrd", noise(), AFFINE)
    write_image(tmp_path / "e.nii", noise()[::-1].astype(np.float32), np.diag([1.0, -1, 2, 1]))
    write_image(tmp_path / "f.nii", noise(), np.diag([-1.0, -1, 3, 1]))
    splits = {"b": "train", "c": "val"}
    names = ("a.nii.gz", "b.nii.gz", "c.nii", "d.nrrd", "e.nii", "f.nii")
    cases = [Case(n[0], (Source(str(tmp_path / n)),), split=splits.get(n[0], "train")) for n in names]
    report = check(*cases)
    assert [(row.case, row.severity, row.kind) for row in report.rows] == [
        (name, "warning", "duplicate") for name in "bcde"
    ]
    assert all("the same voxels as case a" in row.message for row in report.rows)
    assert ["must not share" in row.hint for row in report.rows] == [False, True, False, False]


def test_a_patient_in_two_splits(tmp_path: Path) -> None:
    splits = {"a": "train", "b": None, "c": "test", "d": "train"}
    cases = [
        Case(name, (save(tmp_path / f"{name}.nii", noise(seed=n)),), patient="p", split=split)
        for n, (name, split) in enumerate(splits.items())
    ]
    (row,) = check(*cases).rows
    assert (row.case, row.severity, row.kind) == ("c", "error", "patient_split") and row.hint
    assert "a and c are of one patient, but split says train and test" in row.message


def test_processes_find_the_same_in_the_same_order(tmp_path: Path) -> None:
    for number in range(12):
        save(tmp_path / f"Fäll{number:02}.nii.gz", noise((15 + number, 18, 16), seed=number))
    cut(tmp_path / "Fäll05.nii.gz")
    index = index_source(tmp_path)
    seen: list[tuple[int, int]] = []
    here = check_index(index, workers=0)
    spread = check_index(index, workers=2, progress=lambda done, total, text: seen.append((done, total)))
    assert here == spread and [row.kind for row in here.rows] == ["too_small", "truncated"]
    assert seen == [(n, 12) for n in range(1, 13)]


def double_or_die(number: int) -> int:
    if number == 3:
        os.kill(os.getpid(), signal.SIGTERM)
    if number == 4:
        raise ValueError("not foreseen")
    return 2 * number


def test_a_worker_that_dies_loses_its_item_only() -> None:
    results = dict(run_each(double_or_die, range(6), 2))
    died = {position: result.exit_code for position, result in results.items() if isinstance(result, Died)}
    assert died.keys() == {3, 4} and died[3] != 0 and died[4] == 1
    assert {position: results[position] for position in (0, 1, 2, 5)} == {0: 0, 1: 2, 2: 4, 5: 10}
    assert list(run_each(double_or_die, [], 2)) == []


def test_a_crash_becomes_a_finding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cases = tuple(Case(name, (save(tmp_path / f"{name}.nii"),)) for name in "ab")
    monkeypatch.setattr("VoCoCore.data.check.run_each", lambda *_: iter([(1, Died(-9)), (0, Died(None))]))
    report = check(*cases, workers=1)
    assert [(row.case, row.kind) for row in report.rows] == [("a", "crashed"), ("b", "crashed")]
    assert "exit code -9" in report.rows[1].message and report.bad_cases == ("a", "b")


def test_the_unforeseen_becomes_a_finding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("what nobody thought of")

    monkeypatch.setattr("VoCoCore.data.check.examine", fail)
    (row,) = check(Case("a", (save(tmp_path / "a.nii"),))).rows
    assert row.kind == "unreadable" and "what nobody thought of" in row.message


def test_the_report_for_people_and_programs(tmp_path: Path) -> None:
    (tmp_path / "lonely_seg.nii").write_bytes(b"")
    text(tmp_path / "[bold]x.nii")
    report = check_index(index_source(tmp_path), workers=0)
    content = json.loads(report.to_json())
    assert content["checked"] == 1 and content["bad_cases"] == ["[bold]x"]
    assert content["findings"][0] == {
        "case": "[bold]x",
        "severity": "error",
        "kind": "unreadable",
        "message": report.rows[0].message,
        "hint": report.rows[0].hint,
    }
    assert content["skipped"][0]["path"].endswith("lonely_seg.nii")
    shown = io.StringIO()
    Console(file=shown, width=200).print(report.table())
    assert "1 error, 0 warnings" in shown.getvalue() and "[bold]x.nii" in shown.getvalue()
    assert "skipped" in shown.getvalue() and "lonely_seg.nii" in shown.getvalue()


def test_real_cases(shared_data: Path) -> None:
    index = index_source(shared_data / "hippocampus")
    assert check_index(index, workers=2).rows == ()
