"""Folders and data sets become cases: what is found, what belongs together, what is skipped and why."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from rich.console import Console

from VoCoCore.data.cases import Case, Index
from VoCoCore.data.images import read_case
from VoCoCore.data.sources import index_source
from VoCoCore.data.store import Store
from VoCoCore.data.tables import summarise
from VoCoCore.errors import DataError, SettingsError
from VoCoCore.finetune_settings import FinetuneSettings
from VoCoCore.inference.provenance import Provenance
from VoCoCore.runs.directory import RunDirectory
from VoCoCore.training.labelled_cohort import classes_of


def touch(root: Path, *names: str) -> Path:
    """Empty files: finding cases looks at names only."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"")
    return root


def write_json(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def shown(index: Index, root: Path) -> dict[str, tuple[list[str], str | None]]:
    """Case id -> (images, label), relative to ``root``."""

    def relative(path: str) -> str:
        return Path(path).relative_to(root).as_posix()

    return {
        case.id: ([relative(s.path) for s in case.images], relative(case.label.path) if case.label else None)
        for case in index.cases
    }


def only(index: Index) -> Case:
    assert len(index.cases) == 1
    return index.cases[0]


def test_a_folder_is_read_recursively_and_hidden_files_are_not(tmp_path: Path) -> None:
    root = touch(
        tmp_path, "a.nii.gz", "B.NRRD", "x/c.mha", "x/y/d.mhd", "x/y/d.raw", "e.nii",
        "._a.nii.gz", ".hidden/f.nii", "__MACOSX/g.nii.gz", "readme.txt", "notes",
    )  # fmt: skip
    index = index_source(root)
    assert sorted(case.id for case in index.cases) == ["B", "a", "c", "d", "e"]
    assert index.channels == ("image",) and index.skipped == ()


def test_names_that_occur_twice_are_told_apart_by_their_folders(tmp_path: Path) -> None:
    index = index_source(touch(tmp_path, "p1/ct.nii.gz", "p2/ct.nii.gz", "p2/ct.nrrd", "p3/mr.nii.gz"))
    assert [case.id for case in index.cases] == ["p1_ct", "p2_ct", "ct.nrrd", "mr"]


@pytest.mark.skipif(not hasattr(Path, "symlink_to"), reason="no symbolic links")
def test_links_that_run_in_circles(tmp_path: Path) -> None:
    root = touch(tmp_path / "root", "a/x.nii")
    try:
        (root / "a" / "loop").symlink_to(root, target_is_directory=True)
        (root / "a" / "self").symlink_to(root / "a" / "self")
        (root / "twice").symlink_to(root / "a", target_is_directory=True)
    except OSError:
        pytest.skip("links are not allowed here")
    assert [case.id for case in index_source(root).cases] == ["x"]


def test_labels_go_to_their_images(tmp_path: Path) -> None:
    root = touch(
        tmp_path, "torso.nii.gz", "torso_labels.nii.gz", "torso_part.nii.gz", "p1/ct.nii.gz", "p1/seg.nii.gz",
        "A/imagesTr/k1.nii.gz", "A/labelsTr/k1.nii.gz", "B/scans/n.nii.gz", "B/Masks/n_mask.nii.gz",
        "p2/labels/ct.nii.gz", "lonely_seg.nii.gz", "mask3.nii",
    )  # fmt: skip
    index = index_source(root)
    assert shown(index, root) == {
        "torso": (["torso.nii.gz"], "torso_labels.nii.gz"),
        "torso_part": (["torso_part.nii.gz"], None),
        "ct": (["p1/ct.nii.gz"], "p1/seg.nii.gz"),
        "k1": (["A/imagesTr/k1.nii.gz"], "A/labelsTr/k1.nii.gz"),
        "n": (["B/scans/n.nii.gz"], "B/Masks/n_mask.nii.gz"),
    }
    # A label of another patient, or without an image, is given to nobody.
    unused = {"ct.nii.gz", "lonely_seg.nii.gz", "mask3.nii"}
    assert {Path(item.path).name for item in index.skipped} == unused
    assert all("no image of that name" in item.reason for item in index.skipped)


def test_segmentations_of_slicer_go_to_their_images(tmp_path: Path) -> None:
    root = touch(
        tmp_path, "p1/2: Abdomen.nrrd", "p1/Segmentation.seg.nrrd", "p2/ct.nrrd", "p2/by Anna.seg.nrrd",
        "all/CT 1.nrrd", "all/CT 1 Segmentation.seg.nrrd", "all/CT 2.nrrd", "all/CT 2-segmentation_1.seg.nrrd",
        "all/CT 3.nrrd", "all/CT 3.seg.nrrd", "all/Segmentation.seg.nrrd", "two/a.nrrd", "two/b.nrrd", "two/c.seg.nrrd",
        "three/ct.nrrd", "three/x.seg.nrrd", "three/y.seg.nrrd",
    )  # fmt: skip
    index = index_source(root)
    found = {case.id: Path(case.label.path).name if case.label else None for case in index.cases}
    assert found == {
        "2: Abdomen": "Segmentation.seg.nrrd",
        "p2_ct": "by Anna.seg.nrrd",
        "CT 1": "CT 1 Segmentation.seg.nrrd",
        "CT 2": "CT 2-segmentation_1.seg.nrrd",
        "CT 3": "CT 3.seg.nrrd",
        "a": None,
        "b": None,
        "three_ct": None,
    }
    # Which of two it is, or whose, nothing says.
    left = {"Segmentation.seg.nrrd", "c.seg.nrrd", "x.seg.nrrd", "y.seg.nrrd"}
    assert {Path(item.path).name for item in index.skipped} == left


@pytest.mark.parametrize(
    "ends", [("_t1", "_t1ce", "_t2", "_flair", "_seg"), ("-t1n", "-t1c", "-t2w", "-t2f", "-seg")]
)
def test_brats_files_are_channels_of_one_case(tmp_path: Path, ends: tuple[str, ...]) -> None:
    for case in ("BraTS_001", "BraTS_002"):
        touch(tmp_path, *(f"{case}/{case}{end}.nii.gz" for end in ends))
    (tmp_path / f"BraTS_002/BraTS_002{ends[1]}.nii.gz").unlink()
    index = index_source(tmp_path)
    assert index.channels == ("t1", "t1ce", "t2", "flair")
    images, label = shown(index, tmp_path)["BraTS_001"]
    assert [name.rpartition("BraTS_001")[2] for name in images] == [f"{end}.nii.gz" for end in ends[:4]]
    assert label == f"BraTS_001/BraTS_001{ends[4]}.nii.gz"
    assert index.cases[1].missing == ("t1ce",) and len(index.cases[1].images) == 3


def test_one_lone_t1_is_an_image(tmp_path: Path) -> None:
    index = index_source(touch(tmp_path, "a_t1.nii.gz", "b_t1.nii.gz"))
    assert index.channels == ("image",) and [case.id for case in index.cases] == ["a_t1", "b_t1"]


def test_numbered_images_are_cases_outside_nnunet_folders(tmp_path: Path) -> None:
    assert len(index_source(touch(tmp_path, "c_0000.nii.gz", "c_0001.nii.gz", "c_0002.nii.gz")).cases) == 3
    root = touch(tmp_path / "n", "imagesTr/c_0000.nii.gz", "imagesTr/c_0001.nii.gz", "labelsTr/c.nii.gz")
    case = only(index_source(root))
    assert (case.id, len(case.images), case.label is not None) == ("c", 2, True)


def test_nnunets_names_are_known_where_its_folder_itself_is_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = touch(tmp_path / "imagesTs", "c_0000.nii.gz", "c_0001.nii.gz", "d_0000.nii.gz", "d_0001.nii.gz")
    monkeypatch.chdir(root)
    for named in (root, Path(".")):
        assert [(case.id, len(case.images)) for case in index_source(named).cases] == [("c", 2), ("d", 2)]
    alone = touch(tmp_path / "one" / "imagesTs", "c_0000.nii.gz", "d_0000.nii.gz")
    assert [case.id for case in index_source(alone).cases] == ["c", "d"]


def test_more_numbers_than_channels_are_cases(tmp_path: Path) -> None:
    """A cohort that counts its cases with four digits is not one case, also where only its images' folder is given."""
    several = touch(tmp_path / "several" / "imagesTr", *(f"c_{n:04d}.nii.gz" for n in range(8)))
    assert len(only(index_source(several)).images) == 8
    cohort = touch(
        tmp_path / "cohort", *(f"imagesTr/c_{n:04d}.nii.gz" for n in range(9)), "labelsTr/c_0003.nii.gz"
    )
    for given in (cohort, cohort / "imagesTr"):
        index = index_source(given)
        assert index.channels == ("image",) and [case.id for case in index.cases] == [
            f"c_{n:04d}" for n in range(9)
        ]
    assert [case.id for case in index_source(cohort).cases if case.label is not None] == ["c_0003"]


@pytest.mark.parametrize(
    ("images", "labels"),
    [
        (
            ["batch 1/volume-7.nii", "batch 2/volume-17.nii"],
            ["batch 1/segmentation-7.nii", "batch 2/segmentation-17.nii"],
        ),
        (["img/img0001.nii.gz", "img/img0002.nii.gz"], ["label/label0001.nii.gz", "label/label0002.nii.gz"]),
        (["images/ct_1.nrrd", "images/ct_11.nrrd"], ["masks/mask_1.nrrd", "masks/mask_11.nrrd"]),
    ],
)
def test_numbers_bring_labels_to_images(tmp_path: Path, images: list[str], labels: list[str]) -> None:
    index = index_source(touch(tmp_path, *images, *labels))
    pairs = [(case.images[0].path, case.label.path if case.label else "") for case in index.cases]
    wanted = [
        (str(tmp_path / image), str(tmp_path / label)) for image, label in zip(images, labels, strict=True)
    ]
    assert sorted(pairs) == sorted(wanted) and index.skipped == ()


@pytest.mark.parametrize("label", ["P2/mask_1.nii", "P2/masks/mask_1.nii"])
def test_a_number_brings_no_label_of_another_patient(tmp_path: Path, label: str) -> None:
    index = index_source(touch(tmp_path, "P1/ct_1.nii", "P2/ct_2.nii", label))
    assert [case.label for case in index.cases] == [None, None]
    assert [item.path for item in index.skipped] == [str(tmp_path / label)]


def test_a_number_that_two_images_have_brings_no_label(tmp_path: Path) -> None:
    index = index_source(touch(tmp_path, "a/volume-0.nii", "b/volume-0.nii", "a/segmentation-0.nii"))
    assert [case.label for case in index.cases] == [None, None]
    assert [item.path for item in index.skipped] == [str(tmp_path / "a/segmentation-0.nii")]


@pytest.mark.parametrize(
    ("patterns", "labels", "files"),
    [
        (["ct=*_ct.nii.gz", "pet=*_pet.nii.gz"], "*_mask.nii.gz", ["p_ct", "p_pet", "p_mask", "notes_xx"]),
        (["_ct", "_pet"], "_mask", ["p_ct", "p_pet", "p_mask", "notes_xx"]),
        (["ct=ct/*.nii.gz", "pet=pet/*.nii.gz"], "truth", ["ct/p", "pet/p", "truth/p", "other/p"]),
        (["ct.nii.gz", "pet.nii.gz"], "roi.nii.gz", ["p/ct", "p/pet", "p/roi", "p/notes"]),
    ],
)
def test_patterns_of_channels_and_labels(
    tmp_path: Path, patterns: list[str], labels: str, files: list[str]
) -> None:
    index = index_source(
        touch(tmp_path, *(f"{name}.nii.gz" for name in files)), channels=patterns, labels=labels
    )
    case = only(index)
    assert index.channels == ("ct", "pet") and case.id == "p"
    assert shown(index, tmp_path)["p"] == ([f"{n}.nii.gz" for n in files[:2]], f"{files[2]}.nii.gz")
    assert [item.reason for item in index.skipped] == ["matches no pattern of a channel"]
    with pytest.raises(SettingsError, match="no pattern"):
        index_source(tmp_path, channels=["t1="])


def msd(root: Path, modality: dict[str, str], images: list[str], **more: Any) -> Path:
    training = [{"image": f"./imagesTr/{n}.nii.gz", "label": f"./labelsTr/{n}.nii.gz"} for n in images]
    content = {"modality": modality, "labels": {"0": "background", "1": "tumour"}, "training": training}
    write_json(root / "dataset.json", {**content, "test": ["./imagesTs/t.nii.gz"], **more})
    return touch(root, *(f"{folder}/._{n}.nii.gz" for n in images for folder in ("imagesTr", "labelsTr")))


def test_decathlon(tmp_path: Path) -> None:
    root = msd(tmp_path / "Task", {"0": "CT"}, ["a", "b"])
    for source in (root, root / "dataset.json", tmp_path):
        index = index_source(source)
        assert index.channels == ("CT",) and index.labels == {"background": 0, "tumour": 1}
        assert [(case.id, case.split) for case in index.cases] == [("a", None), ("b", None), ("t", "test")]
        assert shown(index, root)["a"] == (["imagesTr/a.nii.gz"], "labelsTr/a.nii.gz")


def test_decathlon_with_several_modalities_reads_4d_files(tmp_path: Path) -> None:
    root = msd(tmp_path, {"0": "FLAIR", "1": "T1w"}, ["a"], test=[])
    array = np.random.default_rng(0).normal(size=(5, 6, 7, 2)).astype(np.float32)
    nib.save(nib.Nifti1Image(array, np.eye(4)), root / "imagesTr" / "a.nii.gz")
    index = index_source(root)
    assert index.channels == ("FLAIR", "T1w") and [s.volume for s in only(index).images] == [0, 1]
    assert np.array_equal(read_case(only(index))[0], np.moveaxis(array, -1, 0))


def test_nnunet_v1_lists_names_without_channel_numbers(tmp_path: Path) -> None:
    root = touch(
        msd(tmp_path, {"0": "A", "1": "B"}, ["a"], test=[]), *(f"imagesTr/a_000{n}.nii.gz" for n in (0, 1))
    )
    assert shown(index_source(root), root)["a"][0] == ["imagesTr/a_0000.nii.gz", "imagesTr/a_0001.nii.gz"]


def test_nnunet_v2(tmp_path: Path) -> None:
    labels = {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "enhancing": 3, "ignore": 4}
    content = {"channel_names": {"0": "T1", "1": "T2"}, "labels": labels, "file_ending": ".nrrd"}
    write_json(tmp_path / "dataset.json", {**content, "numTraining": 2, "regions_class_order": [1, 2, 3]})
    root = touch(
        tmp_path, "imagesTr/c1_0000.nrrd", "imagesTr/c1_0001.nrrd", "labelsTr/c1.nrrd",
        "imagesTr/c2_0001.nrrd", "imagesTs/t_0000.nrrd", "imagesTs/t_0001.nrrd", "imagesTr/stray.nrrd",
    )  # fmt: skip
    index = index_source(root)
    assert index.channels == ("T1", "T2")
    assert index.labels == {"background": 0, "whole": 1, "core": 2, "enhancing": 3, "ignore": 4}
    assert index.regions == {"whole": (1, 2, 3), "core": (2, 3), "enhancing": (3,)}
    assert shown(index, root)["c1"] == (
        ["imagesTr/c1_0000.nrrd", "imagesTr/c1_0001.nrrd"],
        "labelsTr/c1.nrrd",
    )
    assert [(case.id, case.missing, case.split) for case in index.cases] == [
        ("c1", (), None), ("c2", ("T1",), None), ("t", (), "test"),
    ]  # fmt: skip
    assert [Path(item.path).name for item in index.skipped] == ["stray.nrrd"]


def test_beside_regions_a_label_of_one_value_is_an_output_too(tmp_path: Path) -> None:
    """nnU-Net takes 3 and [3] for the same; a value in no list of values is not lost."""
    touch(tmp_path, "imagesTr/c_0000.nii.gz", "labelsTr/c.nii.gz")
    labels = {"background": 0, "cyst": 3, "kidney": [1, 2], "tumour": 2, "ignore": 4}
    write_json(tmp_path / "dataset.json", {"channel_names": {"0": "CT"}, "labels": labels})
    classes, activation = classes_of(index_source(tmp_path), FinetuneSettings())
    found = {kind.name: kind.values for kind in classes}
    assert activation == "sigmoid" and found == {"cyst": (3,), "kidney": (1, 2), "tumour": (2,)}
    write_json(
        tmp_path / "dataset.json", {"channel_names": {"0": "CT"}, "labels": {"background": 0, "cyst": 3}}
    )
    assert index_source(tmp_path).regions == {}


def test_nnunet_v2_with_a_list_of_its_own(tmp_path: Path) -> None:
    listed = {"c": {"images": ["x/1.nii.gz", "x/2.nii.gz"], "label": "x/l.nii.gz"}}
    write_json(
        tmp_path / "dataset.json",
        {"channel_names": {"0": "a", "1": "b"}, "labels": {"bg": 0}, "dataset": listed},
    )
    assert shown(index_source(tmp_path), tmp_path) == {"c": (["x/1.nii.gz", "x/2.nii.gz"], "x/l.nii.gz")}


def test_a_damaged_dataset_json(tmp_path: Path) -> None:
    path = write_json(tmp_path / "dataset.json", {"training": [{"label": "x"}, {"image": 7}], "labels": {}})
    with pytest.raises(DataError, match="entry 2"):
        index_source(path)


def test_volumes_of_4d_files_on_request(tmp_path: Path) -> None:
    nib.save(nib.Nifti1Image(np.zeros((4, 5, 6, 3), np.int16), np.eye(4)), tmp_path / "a.nii.gz")
    assert only(index_source(tmp_path)).images[0].volume is None
    index = index_source(tmp_path, volumes="channels")
    assert len(index.channels) == 3 and [s.volume for s in only(index).images] == [0, 1, 2]
    assert [s.volume for s in only(index_source(tmp_path, volumes=1)).images] == [1]
    with pytest.raises(SettingsError, match="volumes is 'all'"):
        index_source(tmp_path, volumes="all")


def test_patients_from_paths(tmp_path: Path) -> None:
    touch(tmp_path, "sub-01/ses-1/a.nii.gz", "sub-01/ses-2/b.nii.gz", "c.nii.gz")
    patients = {case.id: case.patient for case in index_source(tmp_path).cases}
    assert patients == {"a": "sub-01", "b": "sub-01", "c": "c"}
    assert index_source(tmp_path, patient=r"ses-(\d)").cases[0].patient in "12c"
    with pytest.raises(SettingsError, match="regular expression"):
        index_source(tmp_path, patient="(")


def test_nothing_to_find_is_said_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="it has no files"):
        index_source(tmp_path)
    touch(tmp_path, "a.png", "b.png", "c.txt")
    with pytest.raises(DataError, match=r"2 \.png, 1 \.txt"):
        index_source(tmp_path)
    with pytest.raises(DataError, match=r"1 skipped, image format \.mgz"):
        index_source(touch(tmp_path, "brain.mgz"))
    with pytest.raises(DataError, match=r"not there\. Did you mean 'images'"):
        index_source(touch(tmp_path, "images/x.nii") / "image")
    with pytest.raises(DataError, match="no list of cases and no image"):
        index_source(tmp_path / "a.png")


def test_runs_and_stores_among_the_data_are_passed_over(tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path / "runs" / "first", {}, {})
    Store(tmp_path / "store").create()
    touch(tmp_path, "a.nii", "runs/first/test/c.nii", "store/cases/ab/d.nii", "settings/b.nii")
    write_json(tmp_path / "settings" / "settings.json", {})  # of another program
    with run.lock():
        assert list(shown(index_source(tmp_path), tmp_path)) == ["a", "b"]
        # A process that opens the file of its own lock loses it, as POSIX has it.
        asked = "import sys; from VoCoCore.runs.lock import probe; print(probe(sys.argv[1]))"
        words = [sys.executable, "-c", asked, str(run.lock_file)]
        assert subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip() == "True"
    for name in ("runs/first", "store"):
        with pytest.raises(DataError, match="is a run or a store"):
            index_source(tmp_path / name)
    with pytest.raises(DataError, match="it has no files"):
        index_source(tmp_path / "runs")


def test_predictions_among_the_data_are_no_images_but_may_be_labels(tmp_path: Path) -> None:
    touch(tmp_path, "a.nii", "a.nrrd", "b.nii", "out/a.nii", "out/probabilities/a.nii", "labels/b.nii")
    for folder, files in {
        "": ["a.nrrd"],
        "out": ["a.nii", "probabilities/a.nii"],
        "labels": ["b.nii"],
    }.items():
        made = Provenance(tmp_path / folder, "a model")
        made.add("a", "content", files)
    with open(tmp_path / ".voco-predictions.jsonl", "a") as file:
        file.write('[1]\n{"file": 2}\n{"fi')
    index = index_source(tmp_path)
    assert shown(index, tmp_path) == {"a": (["a.nii"], None), "b": (["b.nii"], "labels/b.nii")}
    assert {item.reason for item in index.skipped} == {"made by voco predict, so no image"}
    assert len(index.skipped) == 3
    as_labels = index_source(tmp_path, labels="out/*")
    assert shown(as_labels, tmp_path)["a"] == (["a.nii"], "out/a.nii")
    with pytest.raises(DataError, match=r"2 skipped, made by voco predict"):
        index_source(tmp_path / "out")


def test_the_summary_counts_and_gives_reasons(tmp_path: Path) -> None:
    index = index_source(touch(tmp_path, "a.nii", "[b].nii", "x_seg.nii", "y_seg.nii"), body_part="chest")
    text = io.StringIO()
    Console(file=text, width=120).print(summarise(index))
    assert "2 of 2 patients" in text.getvalue() and "chest: 2" in text.getvalue()
    assert any(line.split()[:4] == ["2", "looks", "like", "a"] for line in text.getvalue().splitlines())


def test_real_folder(shared_data: Path) -> None:
    index = index_source(shared_data)
    labelled = sum(case.label is not None for case in index.cases)
    assert (len(index.cases), labelled, index.skipped) == (135, 132, ())
