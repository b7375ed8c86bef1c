"""Segmentations as 3D Slicer saves them: by the names of segments, whatever their values, layers and grid."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
from faults import meet
from hypothesis import given, settings
from hypothesis import strategies as st
from made_cohorts import LabelledCohort
from made_labels import body, mask, write

from VoCoCore.cli import main
from VoCoCore.data.cases import Source, load_index, save_index
from VoCoCore.data.images import content_hash, write_image
from VoCoCore.data.label_maps import map_along, read_map
from VoCoCore.data.segments import named_values, segments_of
from VoCoCore.data.sources import index_source
from VoCoCore.errors import DataError
from VoCoCore.evaluation.final import examine
from VoCoCore.models.model_files import load_model
from VoCoCore.runs.events import read_events
from VoCoCore.training.finetune import finetune

SHAPE = (36, 34, 33)
AFFINE = np.diag([-1.0, -1.0, 1.0, 1.0])  # LPS, as in the file


def save(
    path: Path,
    layers: list[np.ndarray],
    segments: list[tuple[str, int, int]],
    offset: tuple[int, ...] = (0, 0, 0),
    old: bool = False,
) -> Path:
    """A .seg.nrrd written by hand: arrays (X, Y, Z) a layer, (name, value, layer) a segment, origin in voxels.

    ``old``: as Slicer before 4.11, without values and layers.
    """
    several = len(layers) > 1
    sizes = [*([len(layers)] if several else []), *layers[0].shape]
    head = [
        "NRRD0004",
        "type: unsigned char",
        f"dimension: {len(sizes)}",
        "space: left-posterior-superior",
        f"sizes: {' '.join(map(str, sizes))}",
        f"space directions: {'none ' if several else ''}(1,0,0) (0,1,0) (0,0,1)",
        f"kinds: {'list ' if several else ''}domain domain domain",
        "encoding: gzip",
        f"space origin: ({','.join(map(str, offset))})",
    ]
    for number, (name, value, layer) in enumerate(segments):
        told = name.replace("\\", "\\\\")
        head += [f"Segment{number}_ID:=S_{number}", f"Segment{number}_Name:={told}"]
        head += [] if old else [f"Segment{number}_LabelValue:={value}", f"Segment{number}_Layer:={layer}"]
    path.parent.mkdir(parents=True, exist_ok=True)
    voxels = np.stack(layers).astype(np.uint8) if several else layers[0].astype(np.uint8)
    path.write_bytes("\n".join([*head, "", ""]).encode() + gzip.compress(voxels.tobytes(order="F")))
    return path


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_segments_are_drawn_by_name_the_later_above(data, tmp_path_factory):
    count = data.draw(st.integers(1, 6))
    layers = data.draw(st.integers(1, 3))
    places = data.draw(
        st.lists(
            st.tuples(st.integers(1, 200), st.integers(0, layers - 1)),
            min_size=count,
            max_size=count,
            unique=True,
        )
    )
    names = [f"organ {n} \\ größe" for n in range(count)]
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    arrays = [rng.choice([0, 7, *(v for v, _ in places)], (5, 4, 3)) for _ in range(layers)]
    segments = [(name, value, layer) for name, (value, layer) in zip(names, places, strict=True)]
    path = save(tmp_path_factory.mktemp("seg") / "a.seg.nrrd", arrays, segments)
    wanted = {name: int(value) for name, value in zip(names, rng.permutation(count) + 1, strict=True)}
    expected = np.zeros((5, 4, 3), int)
    for name, value, layer in segments:
        expected[arrays[layer] == value] = wanted[name]
    assert np.array_equal(read_map(Source(str(path), segments=tuple(wanted.items()))).array, expected)
    assert [one.name for one in segments_of(str(path))] == names


def test_of_older_versions_each_layer_is_a_segment(tmp_path):
    one, two = mask(1), mask(0, 1) > 0
    path = save(tmp_path / "a.seg.nrrd", [one, two], [("x", 0, 0), ("y", 0, 0)], old=True)
    found = read_map(Source(str(path), segments=(("x", 5), ("y", 9)))).array
    assert np.array_equal(found, np.where(two, 9, np.where(one, 5, 0)))


def cohort(folder: Path, count: int = 5) -> Path:
    """Cases whose segments have other values in every other file; in the third ``vessel`` lies upon ``blob``."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        write_image(folder / f"c{number}.nii.gz", body(number), AFFINE)
        label = mask(1, 2)
        if number % 2:
            swapped, segments = np.choose(label, [0, 2, 1]), [("other", 1, 0), ("blob", 2, 0)]
            save(folder / f"c{number} Segmentation.seg.nrrd", [swapped], segments)
        elif number == 2:
            upon = np.zeros(SHAPE)
            upon[5:9, 7:12, 7:12] = 1
            segments = [("Blob", 1, 0), ("other", 2, 0), ("vessel", 1, 1)]
            save(folder / f"c{number}.seg.nrrd", [label, upon], segments)
        else:
            save(folder / f"c{number}-segmentation.seg.nrrd", [label], [("blob", 1, 0), ("other", 2, 0)])
    return folder


def test_a_folder_gives_all_files_the_same_values_by_name(tmp_path):
    index = index_source(cohort(tmp_path / "cases"))
    assert index.labels == {"background": 0, "blob": 1, "other": 2, "vessel": 3}
    for number, case in enumerate(index.cases):
        expected = mask(1, 2)
        if number == 2:
            expected[5:9, 7:12, 7:12] = 3
        assert case.label and np.array_equal(map_along(case.label, SHAPE, AFFINE).array, expected), number
    save_index(index, tmp_path / "index.json")
    assert load_index(tmp_path / "index.json") == index == index_source(tmp_path / "index.json")
    # Another value for a name makes another label, though the file is the same.
    changed = json.loads((tmp_path / "index.json").read_text())
    changed["labels"]["blob"] = 7
    (tmp_path / "index.json").write_text(json.dumps(changed))
    again = index_source(tmp_path / "index.json").cases[0].label
    assert (
        again
        and read_map(again).array.max() == 7
        and content_hash(again) != content_hash(index.cases[0].label)
    )


def test_a_fine_tuning_learns_by_name(tmp_path):
    plain = tmp_path / "plain"
    plain.mkdir()
    for number in range(4):
        write_image(plain / f"c{number}.nii.gz", body(number), AFFINE)
        write_image(plain / f"c{number}_seg.nii.gz", mask(1, 2), AFFINE)
    named = cohort(tmp_path / "named", 4)
    save(named / "c2.seg.nrrd", [mask(1, 2)], [("blob", 1, 0), ("other", 2, 0)])
    steps = {
        "optim__steps": 2,
        "data__test_fraction": 0.3,
        "prepare__spacing": "2,2,2",
        "augment__flip": "0,0,0",
    }
    scores = []
    for folder in (plain, named):
        made, run = (
            LabelledCohort(folder, tmp_path / f"store of {folder.name}"),
            tmp_path / f"run of {folder.name}",
        )
        assert finetune(made.settings(**steps), run).finished
        examine(run)
        seen = [e["values"] for e in read_events(run / "events.jsonl") if e.get("split") in ("val", "test")]
        scores.append([[value for name, value in sorted(values.items())] for values in seen])
    assert scores[0] == scores[1] and len(scores[0]) == 2
    _, card = load_model(run / "weights" / "model.safetensors")
    assert [kind.name for kind in card.classes] == ["background", "blob", "other"]


@pytest.mark.parametrize(
    ("low", "size"),
    [
        ((3, 5, 2), (20, 18, 25)),
        ((3, 5, 2), (20, 18, 1)),
        ((-4, 0, -2), (45, 34, 36)),
        ((30, 30, 30), (12, 12, 12)),
    ],
)
def test_a_grid_of_its_own_is_laid_on_the_images(low, size, tmp_path):
    rng = np.random.default_rng(0)
    whole = np.zeros((60, 60, 60), np.uint8)  # from voxel -10 on
    at = tuple(slice(a + 10, a + 10 + n) for a, n in zip(low, size, strict=True))
    whole[at] = rng.integers(0, 3, size)
    path = save(tmp_path / "a.seg.nrrd", [whole[at]], [("x", 1, 0), ("y", 2, 0)], offset=low)
    source = Source(str(path), segments=(("x", 1), ("y", 2)))
    found = map_along(source, SHAPE, AFFINE)
    assert np.array_equal(found.array, whole[10:46, 10:44, 10:43]) and np.allclose(found.affine, AFFINE)


@pytest.mark.parametrize("off", [(3.4, 0, 0), (100, 0, 0), (0, 0, -80)])
def test_a_grid_elsewhere_is_refused(off, tmp_path):
    write_image(tmp_path / "c.nii.gz", body(), AFFINE)
    save(tmp_path / "c.seg.nrrd", [mask(1)[:20]], [("x", 1, 0)], offset=off)
    (case,) = index_source(tmp_path).cases
    assert case.label
    assert map_along(case.label, SHAPE, AFFINE).array.shape != SHAPE or off[0] == 3.4
    assert main(["data", "check", str(tmp_path), "--counts", "1,1,1"]) == 3


# What cannot be


def listed(folder: Path, labels: dict[str, int]) -> Path:
    """An nnU-Net-like list of the cases in ``folder`` that names the labels."""
    entries = [
        {"image": path.name, "label": next(folder.glob(f"{path.name[:2]}*.seg.nrrd")).name}
        for path in sorted(folder.glob("*.nii.gz"))
    ]
    content = {"labels": labels, "channel_names": {"0": "CT"}, "training": entries}
    (folder / "dataset.json").write_text(json.dumps(content))
    return folder / "dataset.json"


def words(folder: Path, source: Path) -> list[str]:
    places = {"--run": folder / "run", "--data": source, "--store": folder / "store", "--device": "cpu"}
    return ["finetune", *(str(word) for pair in places.items() for word in pair)]


def test_a_list_gives_the_values_and_a_segment_that_it_lacks_is_refused(tmp_path, capsys):
    folder = cohort(tmp_path / "data", 2)
    index = index_source(listed(folder, {"background": 0, "Other": 4, "BLOB": 9}))
    for case in index.cases:
        assert case.label and np.array_equal(read_map(case.label).array, np.choose(mask(1, 2), [0, 9, 4]))
    source = listed(cohort(folder, 3), {"background": 0, "other": 1, "blob": 2})
    says = ["the segment 'vessel'", "is none of the labels", "c2.seg.nrrd"]
    meet(capsys, "a segment that is none of the labels", 3, words(tmp_path, source), says)
    # Of a list that speaks of values, whose segments have no names, the values count.
    unnamed = index_source(listed(folder, {"background": 0, "a": 1, "b": 2})).cases[1].label
    assert unnamed and np.array_equal(read_map(unnamed).array, (3 - mask(1, 2)) * (mask(1, 2) > 0))


def test_names_and_bare_values_are_not_mixed(tmp_path, capsys):
    folder = cohort(tmp_path / "data", 2)
    write(folder / "d.nii.gz", body(7))
    write(folder / "d_seg.nii.gz", mask(1, 2))
    says = ["have names, those in", "have not", "d_seg.nii.gz"]
    meet(capsys, "label maps with names and without", 3, words(tmp_path, folder), says)
    assert index_source(folder).labels is None, "a pre-training asks nobody for labels"


def test_a_value_that_is_no_whole_number(tmp_path):
    path = save(tmp_path / "a.seg.nrrd", [mask(1)], [("x", 1, 0)])
    text = path.read_bytes().replace(b"type: unsigned char", b"type: float")
    head, _, voxels = text.partition(b"\n\n")
    halves = (np.frombuffer(gzip.decompress(voxels), np.uint8) * 0.5).astype("<f4")
    path.write_bytes(head + b"\nendian: little\n\n" + gzip.compress(halves.tobytes()))
    with pytest.raises(DataError, match="not whole numbers"):
        read_map(Source(str(path), segments=(("x", 1),)))


# Evaluation


def scored(capsys, folder: Path, references: Path, *more: str) -> dict:
    words = [
        "evaluate",
        "--predictions",
        folder,
        "--references",
        references,
        "-o",
        folder / "out",
        "--workers",
        0,
    ]
    assert main([*map(str, words), *more]) == 0, capsys.readouterr().err
    return json.loads((folder / "out" / "summary.json").read_text())


def test_two_readers_are_compared_by_name(tmp_path, capsys):
    label = mask(1, 2)
    for number in range(2):
        save(tmp_path / "a" / f"c{number}.seg.nrrd", [label], [("blob", 1, 0), ("other", 2, 0)])
        swapped = np.choose(label, [0, 6, 5])
        save(tmp_path / "b" / f"c{number}.seg.nrrd", [swapped], [("other", 5, 0), ("Blob", 6, 0)])
    found = scored(capsys, tmp_path / "b", tmp_path / "a")
    assert found["labels_from"] == "the names of the references' segments"
    assert {name: one["dice"]["mean"] for name, one in found["labels"].items()} == {"blob": 1.0, "other": 1.0}
    # Of the labels beside predictions the names count too, and what the user leaves out is background.
    (tmp_path / "b" / "labels.json").write_text(json.dumps({"labels": {"other": 1, "blob": 2}}))
    found = scored(capsys, tmp_path / "b", tmp_path / "a", "--labels", "blob")
    assert found["labels"].keys() == {"blob"} and found["labels"]["blob"]["dice"]["mean"] == 1.0


def test_a_list_of_references_and_label_maps_as_predictions(tmp_path, capsys):
    index = index_source(cohort(tmp_path / "data", 2))
    save_index(index, tmp_path / "index.json")
    (tmp_path / "maps").mkdir()
    for case in index.cases:
        write_image(tmp_path / "maps" / f"{case.id}.nii.gz", mask(1, 2), AFFINE)
    found = scored(capsys, tmp_path / "maps", tmp_path / "index.json")
    assert {name: one["dice"]["mean"] for name, one in found["labels"].items()} == {"blob": 1.0, "other": 1.0}


def test_a_model_with_other_numbers_is_scored_by_name(tmp_path, capsys):
    save_index(
        index_source(cohort(tmp_path / "data", 3)), tmp_path / "index.json"
    )  # blob 1, other 2, vessel 3
    (tmp_path / "maps").mkdir()
    for number in range(3):
        write_image(tmp_path / "maps" / f"c{number}.nii.gz", np.choose(mask(1, 2), [0, 3, 1]), AFFINE)
    (tmp_path / "maps" / "labels.json").write_text(json.dumps({"labels": {"other": 1, "blob": 3}}))
    found = scored(capsys, tmp_path / "maps", tmp_path / "index.json")["labels"]
    assert found["other"]["dice"]["mean"] == 1.0 and found["blob"]["dice"]["mean"] > 0.9
    assert (found["vessel"]["missed"], found["vessel"]["absent"]) == (1, 2)


def test_values_do_not_depend_on_the_order_of_cases():
    assert named_values(["b", "A", "background", "a "]) == {"background": 0, "A": 1, "b": 2}


def test_cropped_segmentations_are_compared_on_what_holds_both(tmp_path, capsys):
    whole = mask(1, 2)
    ours = whole.copy()
    ours[4:8, 6:20, 6:20] = 0  # what the other reader has left out
    boxes = {"a": (slice(2, 30), slice(4, 25), slice(5, 33)), "b": (slice(6, 36), slice(0, 22), slice(3, 28))}
    segments = [("blob", 1, 0), ("other", 2, 0)]
    for name, label in (("a", whole), ("b", ours)):
        at = boxes[name]
        save(tmp_path / name / "c.seg.nrrd", [label[at]], segments, offset=tuple(edge.start for edge in at))
        write_image(tmp_path / f"{name}.nii.gz", label, AFFINE)
    full = {name: tmp_path / f"whole {name}" for name in "ab"}
    for name, folder in full.items():
        folder.mkdir()
        (tmp_path / f"{name}.nii.gz").rename(folder / "c.nii.gz")
    more = ("--labels", "blob=1,other=2")
    expected = scored(capsys, full["b"], full["a"], *more)["labels"]
    for predictions, references in (
        (tmp_path / "b", tmp_path / "a"),
        (tmp_path / "b", full["a"]),
        (full["b"], tmp_path / "a"),
    ):
        assert scored(capsys, predictions, references, *more)["labels"] == expected
    blob = whole == 1
    dice = 2 * (ours == 1).sum() / (blob.sum() + (ours == 1).sum())
    assert expected["blob"]["dice"]["mean"] == pytest.approx(dice) and expected["other"]["dice"]["mean"] == 1
