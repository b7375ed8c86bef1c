"""Bad images, lists, stores, weights and runs, through the command line: one line each, and nothing lost."""

from __future__ import annotations

import gzip
import json
import os
import pickle
import shutil
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from faults import meet

from VoCoCore.cli import main
from VoCoCore.data.images import write_image

GRID = ["--preset", "tiny", "--crops.counts", "2,2,1"]
TRAIN = [
    *GRID, "--encoder", "unet", "--model.feature_size", "4", "--model.projector_width", "16", "--steps", "1",
    "--optim.warmup", "0",
]  # fmt: skip
POSIX = pytest.mark.skipif(os.name != "posix", reason="a POSIX file system")

pytestmark = pytest.mark.usefixtures("own_config")


def voxels(shape: tuple[int, ...] = (24, 24, 12), kind: type = np.int16) -> np.ndarray:
    return np.random.default_rng(0).integers(-500, 300, shape).astype(kind)


def image(path: Path, array: np.ndarray | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(voxels() if array is None else array, np.eye(4)), path)
    return path


def patched(at: int, layout: str, *values: float) -> Callable[[Path], object]:
    """A writer of an image whose header has ``values`` at byte ``at``."""

    def write(path: Path) -> None:
        content = bytearray(image(path.with_name("whole.nii")).read_bytes())
        struct.pack_into(layout, content, at, *values)
        path.write_bytes(gzip.compress(bytes(content)))
        path.with_name("whole.nii").unlink()

    return write


def cut(path: Path) -> None:
    content = image(path).read_bytes()
    path.write_bytes(content[: len(content) // 2])


def with_value(value: float) -> Callable[[Path], object]:
    def write(path: Path) -> None:
        array = voxels(kind=np.float64)
        array[3, 4, 5] = value
        image(path, array)

    return write


def impossible(path: Path) -> None:
    header = bytearray(nib.Nifti1Image(voxels((4, 4, 4)), np.eye(4)).to_bytes()[:352])
    struct.pack_into("<4h", header, 40, 3, 30000, 30000, 30000)
    path.write_bytes(bytes(header) + bytes(648))


def impossible_nifti2(path: Path) -> None:
    header = bytearray(nib.Nifti2Image(voxels((4, 4, 4)), np.eye(4)).to_bytes()[:544])
    struct.pack_into("<4q", header, 16, 3, 2**40, 2**40, 2**40)
    path.write_bytes(bytes(header) + bytes(600))


RGB = np.zeros((8, 8, 8), [("R", "u1"), ("G", "u1"), ("B", "u1")])
IMAGES: list[tuple[str, Callable[[Path], object], str]] = [
    ("an image cut off", cut, "ends early"),
    ("a text named as an image", lambda p: p.write_text("hello " * 100), "text file"),
    ("a web page named as an image", lambda p: p.write_text("<!DOCTYPE html>" * 40), "web page"),
    ("an empty file", lambda p: p.write_bytes(b""), "empty"),
    ("a packed nothing", lambda p: p.write_bytes(gzip.compress(b"")), "empty"),
    ("bytes named as an image", lambda p: p.write_bytes(bytes(range(256)) * 4), "not a NIfTI"),
    ("a 2D image", lambda p: image(p, voxels((24, 24))), "not 3D"),
    ("a 3D image of one slice", lambda p: image(p, voxels((24, 24, 1))), "not 3D"),
    ("a colour image", lambda p: image(p, RGB), "colour"),
    ("a 4D image without --volumes", lambda p: image(p, voxels((24, 24, 12, 3))), "--volumes"),
    ("a 5D image", lambda p: image(p, voxels((24, 24, 12, 1, 3))), "dimensions"),
    ("complex numbers", lambda p: image(p, voxels(kind=np.complex64)), "complex"),
    ("NaN among the voxels", with_value(np.nan), "not finite"),
    ("infinity among the voxels", with_value(np.inf), "not finite"),
    ("values beyond float32", with_value(1e300), "1e+300"),
    ("all voxels zero", lambda p: image(p, np.zeros((24, 24, 12), np.int16)), "same value, 0"),
    ("all voxels alike", lambda p: image(p, np.full((24, 24, 12), 7.5)), "same value, 7.5"),
    ("an affine without volume", patched(280, "<4f", 0, 0, 0, 0), "inverted"),
    ("NaN in the affine", patched(280, "<f", np.nan), "inverted"),
    ("a size below zero", patched(42, "<h", -5), "damaged"),
    ("a type that there is not", patched(70, "<h", 77), "damaged"),
    ("a scale that overflows", patched(112, "<2f", 3e38, 3e38), "not finite"),
    ("a header that claims 30000^3 voxels", impossible, "far too small"),
    ("a header that claims 2^120 voxels", impossible_nifti2, "far too small"),
]


@pytest.mark.parametrize(("kind", "write", "says"), IMAGES, ids=[entry[0] for entry in IMAGES])
def test_an_image(kind, write, says, capfd, tmp_path):
    path = tmp_path / "data" / "case.nii.gz"
    path.parent.mkdir()
    write(path)
    store = ["--store", tmp_path / "store"]
    meet(capfd, kind, 3, ["data", "check", path, "--workers", "0", "--json"], ["1 of 1 case cannot", path])
    meet(capfd, kind, 3, ["data", "prepare", path.parent, *GRID, *store], [says, path])
    meet(capfd, kind, 3, ["crops", path, "-o", tmp_path / "x.png", *GRID], [says, path])
    assert not (tmp_path / "x.png").exists() and not list((tmp_path / "store" / "partial").iterdir())


HEAD = "ObjectType = Image\nNDims = 3\nBinaryData = True\nDimSize = 8 8 8\nElementType = MET_SHORT\n"
NRRD = "NRRD0004\ntype: short\ndimension: 3\nsizes: {0} {0} {0}\nencoding: raw\nendian: little\n{1}\n"
OTHERS: list[tuple[str, str, str, str]] = [
    ("a header whose voxels are gone", "c.mhd", HEAD + "ElementDataFile = gone.raw\n", "gone.raw"),
    ("a header whose voxels are cut off", "c.mhd", HEAD + "ElementDataFile = short.raw\n", "c.mhd"),
    ("an NRRD whose voxels are gone", "c.nrrd", NRRD.format(8, "data file: gone.raw"), "gone.raw"),
    ("an NRRD that claims 30000^3 voxels", "c.nrrd", NRRD.format(30000, "\nabc"), "c.nrrd"),
    ("a text named as NRRD", "c.nrrd", "hello", "c.nrrd"),
]


@pytest.mark.parametrize(("kind", "name", "text", "says"), OTHERS, ids=[entry[0] for entry in OTHERS])
def test_an_image_of_another_format(kind, name, text, says, capfd, tmp_path):
    (tmp_path / name).write_text(text)
    (tmp_path / "short.raw").write_bytes(bytes(100))
    words = ["data", "prepare", tmp_path / name, *GRID, "--store", tmp_path / "store"]
    capfd.readouterr()
    assert main([str(word) for word in words]) == 3
    assert [line.split()[0] for line in capfd.readouterr().err.splitlines()] == [
        "preparing",
        "preparing",
        "voco:",
    ]
    meet(capfd, kind, 3, words, [says])


def test_channels_that_do_not_fit_together(capsys, tmp_path):
    for name, shape in (("a_t1", (24, 24, 12)), ("a_t2", (20, 24, 12)), ("b_t1", (24, 24, 12))):
        image(tmp_path / "data" / f"{name}.nii.gz", voxels(shape))
    index = tmp_path / "index.json"
    assert main(["data", "index", str(tmp_path / "data"), "-o", str(index), "--channels", "_t1,_t2"]) == 0
    words = ["data", "prepare", index, *GRID, "--store", tmp_path / "store"]
    line = meet(capsys, "channels on different grids", 3, words, ["their sizes differ", "a_t2.nii.gz"])
    assert "b has no file for t2" in line


def test_cases_of_different_channels(capsys, tmp_path):
    paths = [str(image(tmp_path / f"{name}.nii.gz")) for name in "abc"]
    (tmp_path / "cases.json").write_text(json.dumps([{"image": paths[:2]}, {"image": paths[2]}]))
    words = ["data", "prepare", tmp_path / "cases.json", *GRID, "--store", tmp_path / "store"]
    meet(capsys, "cases of different channels", 3, words, ["has no file", "c"])


def test_a_volume_too_small_for_the_grid(capsys, tmp_path):
    image(tmp_path / "small.nii.gz", voxels((5, 5, 5)))
    words = ["data", "check", tmp_path / "small.nii.gz", "--workers", "0"]
    meet(
        capsys,
        "a volume too small for the grid",
        3,
        words,
        ["1 of 1 case cannot", "the grid needs", "small.nii.gz"],
    )


def test_a_label_on_another_grid(capsys, tmp_path):
    image(tmp_path / "a.nii.gz")
    image(tmp_path / "a_seg.nii.gz", np.ones((5, 5, 5), np.uint8))
    (tmp_path / "l.csv").write_text("image,label\na.nii.gz,a_seg.nii.gz\n")
    assert main(["data", "check", str(tmp_path / "l.csv"), "--workers", "0", "--json"]) == 3
    out, _ = capsys.readouterr()
    finding = json.loads(out)["findings"][0]
    assert finding["kind"] == "label_grid" and "a_seg.nii.gz" in finding["message"] and finding["hint"]


def test_names_that_are_odd_and_folders_that_look_like_images(capsys, tmp_path):
    data = tmp_path / "a\nb \u00e9 c"
    image(data / "x\ny \u00fc.nii.gz")
    (data / "folder.nii.gz").mkdir()
    words = ["data", "prepare", data, *GRID, "--store", tmp_path / "store"]
    assert main([str(word) for word in words]) == 0 and "1 case is prepared" in capsys.readouterr().out
    (data / "x\ny \u00fc.nii.gz").write_bytes(b"")
    meet(capsys, "a name with a line break", 3, words, ["x y \u00fc.nii.gz is empty"])


@POSIX
def test_links_and_pipes(capsys, tmp_path):
    os.mkfifo(tmp_path / "pipe.nii.gz")
    os.mkfifo(tmp_path / "pipe.pt")
    (tmp_path / "loop.nii.gz").symlink_to(tmp_path / "loop.nii.gz")
    store = [*GRID, "--store", tmp_path / "store"]
    words = ["data", "prepare", tmp_path / "pipe.nii.gz", *store]
    meet(capsys, "a pipe as an image", 3, words, ["is a pipe", "pipe.nii.gz"])
    os.mkfifo(tmp_path / "pipe.csv")
    meet(capsys, "a pipe as a list", 3, ["data", "check", tmp_path / "pipe.csv"], ["is a pipe", "pipe.csv"])
    meet(capsys, "a pipe as weights", 3, ["weights", "inspect", tmp_path / "pipe.pt"], ["pipe.pt"])
    (tmp_path / "round" / "deep").mkdir(parents=True)
    (tmp_path / "round" / "deep" / "up").symlink_to(tmp_path / "round")
    image(tmp_path / "round" / "a.nii.gz")
    assert main([str(w) for w in ["data", "prepare", tmp_path / "round", *store]]) == 0
    (tmp_path / "round" / "self.nii.gz").symlink_to(tmp_path / "round" / "self.nii.gz")
    words = ["data", "prepare", tmp_path / "round", *store]
    meet(capsys, "a link to itself", 3, words, ["symbolic links", "self.nii.gz"])


@POSIX
def test_a_name_that_is_no_text(capsys, tmp_path):
    write_image(tmp_path / "a.mha", voxels(), np.eye(4))
    odd = os.fsencode(tmp_path) + b"/bad\xff.mha"
    try:
        os.rename(tmp_path / "a.mha", odd)
    except OSError:
        pytest.skip("this file system takes text only")
    words = ["data", "prepare", os.fsdecode(odd), *GRID, "--store", tmp_path / "store"]
    meet(capsys, "a name that is no text", 3, words, ["not valid text", "bad"])


INDEX = {"format": "vococore-index", "version": 1, "channels": ["image"], "skipped": [], "regions": {}}
ONE = [{"id": "a", "images": ["gone.nii.gz"]}]
LISTS: list[tuple[str, str, object, str]] = [
    ("a table without the column", "l.csv", "path,x\na.nii.gz,1\n", "no column 'image'"),
    ("an empty table", "l.csv", "", "is empty"),
    ("a table of bytes", "l.csv", b"\xff\xfe\x00" * 50, "UTF-8"),
    ("a table without rows", "l.csv", "image\n", "names no case"),
    ("a table with an endless field", "l.csv", "image\n" + "x" * 200_000, "no table"),
    ("a table with a file that is gone", "l.csv", "image\ngone.nii.gz\n", "gone.nii.gz"),
    ("a table with a short row", "l.csv", "image,fold\ngone.nii.gz\n", "gone.nii.gz"),
    ("a table with a comma in a name", "l.csv", "image,fold\na.nii.gz,1\nb,c.nii.gz,1\n", "row b,c.nii.gz,1 has more"),
    ("a table with an open quotation mark", "l.csv", 'image\n"a.nii.gz\nb.nii.gz\n', "no table"),
    ("a table with a column twice", "l.csv", "image,image\na.nii.gz,b.nii.gz\n", "two columns 'image'"),
    ("a table with a split that is none", "l.csv", "image,split\n\na.nii.gz,nowhere\n", "row 3"),
    ("a list that is a number", "l.json", "5", "no list of cases"),
    ("a list nested too deeply", "l.json", "[" * 100_000, "understood"),
    ("a list with an endless number", "l.json", '{"cases":' + "9" * 5000 + "}", "understood"),
    ("a record whose image has no path", "l.json", [{"image": {"ct": {"x": 1}}}], "'path' is missing"),
    ("an index cut off", "l.json", json.dumps(INDEX)[:50], "not valid JSON"),
    ("an index of another version", "l.json", {**INDEX, "version": 9}, "version 9"),
    ("an index without its keys", "l.json", {**INDEX}, "'cases' is missing"),
    ("an index without cases", "l.json", {**INDEX, "cases": []}, "names no case"),
    ("an index of files that are gone", "l.json", {**INDEX, "cases": ONE}, "gone.nii.gz"),
    ("an index with an id twice", "l.json", {**INDEX, "cases": ONE * 2}, "id 'a'"),
    ("an index with odd labels", "l.json", {**INDEX, "cases": ONE, "labels": [1]}, "its head"),
    ("an index whose case is a number", "l.json", {**INDEX, "cases": [5]}, "case number 0"),
    ("a broken dataset.json", "dataset.json", "{", "not valid JSON"),
    ("a dataset.json without files", "dataset.json", {"channel_names": {"0": "CT"}}, "names no case"),
    ("a dataset.json of gone files", "dataset.json", {"training": [{"image": "gone.nii.gz"}]}, "gone.nii.gz"),
    ("a dataset.json of numbers", "dataset.json", {"training": [5]}, "understood"),
    ("a file that is no list", "l.pdf", "x", "no list of cases"),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "name", "content", "says"), LISTS, ids=[entry[0] for entry in LISTS])
def test_a_list(kind, name, content, says, capsys, tmp_path):
    made = content if isinstance(content, str | bytes) else json.dumps(content)
    (tmp_path / name).write_bytes(made if isinstance(made, bytes) else made.encode())
    words = ["data", "prepare", tmp_path / name, *GRID, "--store", tmp_path / "store"]
    meet(capsys, kind, 3, words, [says])


def test_folders_and_paths_without_images(capsys, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "a.txt").write_text("x")
    for kind, source, says in (
        ("an empty folder", tmp_path / "empty", ["no images", "empty"]),
        ("a folder of other files", tmp_path / "other", ["1 .txt", "other"]),
        ("a path that is gone", tmp_path / "empt", ["Did you mean 'empty'", "empt"]),
        ("no path at all", "", ["no data are named"]),
        ("a path too long", "x" * 5000, ["is not there"]),
    ):
        for action in (["index", source, "-o", tmp_path / "i.json"], ["check", source, "--workers", "0"]):
            meet(capsys, kind, 3, ["data", *action], says)
    assert not (tmp_path / "i.json").exists()


def series(folder: Path, name: str) -> list[Path]:
    """Six DICOM slices of one series."""
    from test_dicom import write_slice  # skips where pydicom is not installed

    for n in range(6):
        tags = {"ImagePositionPatient": [0, 0, 2.0 * n], "ImageType": ["ORIGINAL", "PRIMARY", name]}
        write_slice(folder / f"{n}.dcm", voxels((24, 24)) + n, **tags)
    return sorted(folder.iterdir())


def test_dicom_folders_that_make_no_volume(capfd, tmp_path):
    store = [*GRID, "--store", tmp_path / "store"]
    series(tmp_path / "scouts", "LOCALIZER")
    meet(
        capfd, "DICOM scouts alone", 3, ["data", "prepare", tmp_path / "scouts", *store], ["scout", "scouts"]
    )
    series(tmp_path / "gap", "AXIAL")[2].unlink()
    words = ["data", "prepare", tmp_path / "gap", *store]
    meet(capfd, "a DICOM series with a gap", 3, words, ["1 slice missing", "gap"])
    cut_file = series(tmp_path / "cut", "AXIAL")[3]
    cut_file.write_bytes(cut_file.read_bytes()[:-200])
    meet(
        capfd, "a DICOM slice cut off", 3, ["data", "prepare", tmp_path / "cut", *store], ["damaged", "3.dcm"]
    )
    line = meet(capfd, "a single slice", 3, ["data", "index", cut_file, "-o", tmp_path / "i.json"], ["3.dcm"])
    assert "DICOM too" in line


def test_splits_that_leave_nothing_to_train_on(capsys, tmp_path):
    image(tmp_path / "a.nii.gz")
    for split, says in (("val", "left to train on"), ("test", "no case to train on")):
        (tmp_path / "l.csv").write_text(f"image,split\na.nii.gz,{split}\n")
        words = ["pretrain", "--data", tmp_path / "l.csv", "--run", tmp_path / split, *TRAIN]
        words += ["--store", tmp_path / "store", "--workers", "0"]
        meet(capsys, f"a list of {split} cases alone", 3, words, [says])


def test_outputs_that_cannot_be_written(capsys, tmp_path):
    source = image(tmp_path / "a.nii.gz")
    before = source.read_bytes()
    (tmp_path / "folder.json").mkdir()
    for kind, code, target, says in (
        ("an index into no folder", 4, tmp_path / "gone" / "i.json", "there is no folder"),
        ("an index onto a folder", 4, tmp_path / "folder.json", "folder.json"),
        ("an index below a file", 4, source / "i.json", "i.json"),
        ("an index onto an image", 2, source, "is no index of cases"),
        ("an index with a name too long", 2, tmp_path / ("x" * 300), "too long"),
    ):
        meet(capsys, kind, code, ["data", "index", source, "-o", target], [says])
    assert source.read_bytes() == before and sorted(p.name for p in tmp_path.iterdir()) == [
        "a.nii.gz",
        "folder.json",
    ]


class Evil:
    def __reduce__(self):
        return os.mkdir, (os.environ["VOCO_TEST_EVIL"],)


@pytest.mark.parametrize("protocol", range(6))
def test_weights_with_code_in_them_are_not_run(protocol, capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("VOCO_TEST_EVIL", str(tmp_path / "was-run"))
    (tmp_path / "evil.pt").write_bytes(pickle.dumps(Evil(), protocol=protocol))
    words = ["weights", "inspect", tmp_path / "evil.pt"]
    meet(capsys, "weights with code in them", 3, words, ["refused", "evil.pt"])
    assert not (tmp_path / "was-run").exists()


def test_weights_that_are_none(capsys, tmp_path):
    import torch

    itself: dict = {}
    itself["model"] = itself
    torch.save(itself, tmp_path / "itself.pt")
    with zipfile.ZipFile(tmp_path / "zip.pt", "w") as archive:
        archive.writestr("hello.txt", "hi")
    header = struct.pack("<Q", 2**60) + b"{}"
    made = {
        "html.pt": b"<!DOCTYPE html><html>",
        "empty.pt": b"",
        "text.pt": b"hello",
        "cut.safetensors": header,
    }
    for name, content in made.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "folder.pt").mkdir()
    for name in (*made, "itself.pt", "zip.pt", "folder.pt", "gone.pt"):
        meet(capsys, f"weights: {name}", 3, ["weights", "inspect", tmp_path / name], [name])
    meet(capsys, "weights: a name too long", 2, ["weights", "inspect", "x" * 5000], ["too long"])


@pytest.fixture
def prepared(small_cohort, tmp_path, capsys) -> Path:
    words = ["data", "prepare", small_cohort.source, *GRID, "--store", tmp_path / "store", "--workers", "0"]
    assert main([str(word) for word in words]) == 0
    capsys.readouterr()
    return tmp_path / "store"


def test_stores_that_are_none(prepared, capsys, tmp_path, small_cohort):
    for kind, content, says in (
        ("a store of another version", '{"what": "VoCoCore prepared volumes", "format": 9}', "format 9"),
        ("a store cut off", '{"what":', "no store"),
        ("a store of another program", "[]", "no store"),
    ):
        (prepared / "store.json").write_text(content)
        words = ["data", "prepare", small_cohort.source, *GRID, "--store", prepared]
        meet(capsys, kind, 4, words, [says, prepared])
        meet(capsys, kind, 4, ["data", "show", prepared], [says, prepared])
    other = image(tmp_path / "other" / "a.nii.gz")
    for kind, path in (("a store among other files", other.parent), ("a store below a file", other / "x")):
        meet(capsys, kind, 4, ["data", "prepare", small_cohort.source, *GRID, "--store", path], [path])
    assert sorted(p.name for p in other.parent.iterdir()) == ["a.nii.gz"]


@pytest.mark.parametrize(
    "what", ["header", "headers kind", "voxels", "cut voxels", "flipped voxels", "description"]
)
def test_a_damaged_prepared_volume(what, prepared, small_cohort, capsys, tmp_path):
    for case in (prepared / "cases").glob("*/*"):
        file = next(p for p in (case / "volume.zarr" / "c").rglob("*") if p.is_file())
        header, description = case / "header.json", case / "volume.zarr" / "zarr.json"
        if what == "voxels":
            shutil.rmtree(case / "volume.zarr")
            continue
        target, content = {
            "header": (header, b"{"),
            "headers kind": (header, b'{"shape": "x"}'),
            "cut voxels": (file, file.read_bytes()[:50]),
            "flipped voxels": (file, bytes(255 - byte for byte in file.read_bytes())),
            "description": (description, b"{"),
        }[what]
        target.write_bytes(content)
    kind = f"a prepared volume with a damaged part: {what}"
    meet(capsys, kind, 3, ["data", "show", prepared, "-o", tmp_path / "x.png"], ["is damaged", prepared])
    words = [
        "pretrain",
        "--data",
        small_cohort.source,
        "--run",
        tmp_path / "run",
        *TRAIN,
        "--store",
        prepared,
    ]
    meet(capsys, kind, 3, [*words, "--workers", "0"], ["is damaged", prepared])


def test_run_folders_that_are_none(capsys, tmp_path, small_cohort):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "mine.txt").write_text("mine")
    for path in (tmp_path / "file", tmp_path / "file" / "below", tmp_path / "other"):
        words = ["pretrain", "--data", small_cohort.source, "--run", path, *TRAIN]
        meet(capsys, f"a run folder that cannot be one: {path.name}", 2, words, [path])
    for path in (tmp_path / "file", tmp_path / "other", tmp_path / "gone"):
        for words in (
            ["jobs", "show", path],
            ["jobs", "stop", path],
            ["pretrain", "--run", path, "--resume"],
        ):
            meet(capsys, f"{words[0]} on what is no run: {path.name}", 2, words, ["is not a run", path])
    assert (tmp_path / "file").read_text() == "mine" and len(list((tmp_path / "other").iterdir())) == 1
