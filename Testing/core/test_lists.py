"""CSV and JSON lists: every column, delimiter and spelling; what cannot be understood names file and row."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from VoCoCore.data.cases import Case, Index, Source
from VoCoCore.data.sources import index_source
from VoCoCore.errors import DataError, SettingsError


def read_table(folder: Path, text: str, encoding: str = "utf-8", **options) -> Index:
    (folder / "cases.csv").write_bytes(text.encode(encoding))
    return index_source(folder / "cases.csv", **options)


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_all_columns(tmp_path: Path, delimiter: str, encoding: str, newline: str) -> None:
    rows = [
        ["ID", "Image_T1", "image_t2", "label", "patient", "split", "fold", "body_part", "class", "remark"],
        ["c1", "a/ä 1.nii.gz", "b.nii.gz", "l.nii.gz", "p", "Training", "3", "Head-Neck", "2", "x"],
        ["c2", "/abs/a.nii.gz", "b.nii.gz", "", "", "val", "", "", "benign", ""],
        ["", "", "", "", "", "", "", "", "", ""],
    ]
    text = newline.join(delimiter.join(row) for row in rows)
    index = read_table(tmp_path, text, encoding)

    def at(name: str) -> Source:
        return Source(os.path.normpath(tmp_path / name))

    assert index.channels == ("t1", "t2") and index.skipped == ()
    assert index.cases == (
        Case("c1", (at("a/ä 1.nii.gz"), at("b.nii.gz")), at("l.nii.gz"), "p", "train", 3, "headneck", 2),
        Case("c2", (at("/abs/a.nii.gz"), at("b.nii.gz")), None, "c2", "val", None, None, "benign"),
    )


def test_quoted_cells_and_rows_without_image(tmp_path: Path) -> None:
    index = read_table(tmp_path, 'image,note\n"a,1.nii","two\nlines"\n,nothing\n"b.nii",\n')
    assert [case.id for case in index.cases] == ["a,1", "b"]
    assert [item.reason for item in index.skipped] == ["row 3 names no image"]


def test_empty_lines_are_no_rows(tmp_path: Path) -> None:
    index = read_table(tmp_path, "\n\r\nimage,note\n\na.nii,\n,\n")
    assert [case.id for case in index.cases] == ["a"] and not index.skipped


def test_a_row_may_lack_a_channel(tmp_path: Path) -> None:
    index = read_table(tmp_path, "image_a,image_b\nx.nii,y.nii\nz.nii,\n")
    assert index.cases[1].missing == ("b",) and len(index.cases[1].images) == 1


def test_other_names_of_columns(tmp_path: Path) -> None:
    index = read_table(tmp_path, "CT file;Who\na.nii;7\n", columns={"image": "ct FILE", "patient": "Who"})
    assert index.cases[0].patient == "7" and index.cases[0].id == "a"
    channels = read_table(tmp_path, "one,two\na.nii,b.nii\n", columns={"image_x": "one", "image_y": "two"})
    assert channels.channels == ("x", "y")
    with pytest.raises(DataError, match=r"no column 'Whoo'.*Did you mean 'Who'"):
        read_table(tmp_path, "image;Who\na.nii;7\n", columns={"patient": "Whoo"})
    with pytest.raises(SettingsError, match="Did you mean 'patient'"):
        read_table(tmp_path, "image;Who\na.nii;7\n", columns={"pateint": "Who"})


def test_a_list_made_on_windows(tmp_path: Path) -> None:
    (path,) = (case.images[0].path for case in read_table(tmp_path, "image\nsub\\a.nii\n").cases)
    assert path == str(tmp_path / "sub" / "a.nii")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is empty"),
        ("imag,label\na.nii,b.nii\n", r"no column 'image'.*Did you mean 'imag'"),
        ("image\n", "names no case"),
        ("image,split\na.nii,tets\n", "row 2: split 'tets'.*Did you mean 'test'"),
        ("image,fold\na.nii,0\nb.nii,-1\n", "row 3: fold '-1'"),
        ("image,body_part\na.nii,cehst\n", "row 2: body_part 'cehst'.*Did you mean 'chest'"),
        ("image,volume\na.nii,x\n", "row 2: volume 'x'"),
    ],
)
def test_mistakes_in_a_table(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(DataError, match=words) as error:
        read_table(tmp_path, text)
    assert "cases.csv" in str(error.value) and error.value.hint
    with pytest.raises(DataError, match="UTF-8"):
        read_table(tmp_path, "image\nä.nii\n", "latin-1")


def test_json_lists(tmp_path: Path) -> None:
    records = [
        "a.nii.gz",
        {"image": "b.nii.gz", "label": "l.nii.gz", "class": 1, "fold": 0},
        {"image": {"path": "four.nii.gz", "volume": 2}, "id": "c"},
        {"image": "/scans/d.nii.gz", "volume": 0, "patient": "p"},
        {"label": "nothing.nii.gz"},
    ]
    path = tmp_path / "list.json"
    path.write_text(json.dumps(records))
    index = index_source(path)
    assert [case.id for case in index.cases] == ["a", "b", "c", "d"]
    assert index.cases[1].target == 1 and index.cases[1].fold == 0 and index.cases[1].label
    assert [case.images[0].volume for case in index.cases] == [None, None, 2, 0]
    assert [item.reason for item in index.skipped] == ["entry 5 names no image"]
    path.write_text(json.dumps({"cases": [{"image": {"ct": "c.nii", "pet": "p.nii"}}, {"image": ["x.nii"]}]}))
    index = index_source(path)
    assert index.channels == ("ct", "pet", "image") and index.cases[0].missing == ("image",)


def test_lists_of_monai(tmp_path: Path) -> None:
    content = {
        "training": [{"image": ["t1.nii", "t2.nii"], "label": "l.nii", "fold": 1}],
        "validation": [{"image": ["v1.nii", "v2.nii"]}],
    }
    (tmp_path / "datalist.json").write_text(json.dumps(content))
    index = index_source(tmp_path / "datalist.json")
    assert [(len(case.images), case.split, case.fold) for case in index.cases] == [
        (2, None, 1),
        (2, "val", None),
    ]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "not valid JSON"),
        ({"a": 1}, "no list of cases"),
        ([1, 2], "no list of cases"),
        ([{"image": 5}], "entry 1: an image is given as 5"),
        ([], "names no case"),
        ([{"label": "x.nii"}], "entry 1 names no image"),
    ],
)
def test_mistakes_in_json(tmp_path: Path, content: object, words: str) -> None:
    path = tmp_path / "list.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(DataError, match=words) as error:
        index_source(path)
    assert "list.json" in str(error.value)


def test_a_folder_of_dicom_in_a_list(tmp_path: Path, shared_data: Path) -> None:
    (tmp_path / "empty").mkdir()
    index = read_table(tmp_path, f"image,patient\n{shared_data / 'ct_dicom'},p1\nempty,p2\n")
    assert len(index.cases[0].images[0].files) == 20 and index.cases[0].patient == "p1"
    assert "holds 0 DICOM series" in index.skipped[0].reason


def test_a_patient_is_not_read_from_the_folder_of_all_cases(tmp_path: Path) -> None:
    place = tmp_path / "sub-projects"
    for name in ("a.nii", "b.nii", "sub-7/ses-1/c.nii", "sub-7/ses-2/d.nii"):
        (place / name).parent.mkdir(parents=True, exist_ok=True)
    read = [read_table(place, f"image\n{root}a.nii\n{root}sub-7/ses-1/c.nii\n") for root in ("", f"{place}/")]
    for index in read:
        assert [case.patient for case in index.cases] == ["a", "sub-7"]
    # Of one patient alone, the names of files say who it is.
    alone = read_table(place / "sub-7", "image\nses-1/sub-7_t1.nii\nses-2/sub-7_t1.nii\n")
    assert [case.patient for case in alone.cases] == ["sub-7", "sub-7"]
