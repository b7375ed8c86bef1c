"""The index file: what is saved comes back, wherever the folder goes; other files are refused in one line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from VoCoCore.data.cases import Case, Index, Skipped, Source, load_index, save_index, with_unique_ids
from VoCoCore.data.sources import index_source
from VoCoCore.errors import DataError

words = st.text(
    st.characters(blacklist_categories=("Cs", "Cc"), blacklist_characters="/\\"), min_size=1, max_size=8
)
names = words.filter(lambda name: name.strip(". ") == name)
segments = st.lists(st.tuples(names, st.integers(0, 9)), max_size=3, unique_by=lambda pair: pair[0])
sources = st.builds(
    lambda folder, name, files, volume, segments: Source(
        f"/data/{folder}/{name}", tuple(files), volume, tuple(segments)
    ),
    names,
    names,
    st.lists(names, max_size=3),
    st.none() | st.integers(0, 5),
    segments,
)
cases = st.builds(
    Case,
    id=names,
    images=st.lists(sources, min_size=1, max_size=3).map(tuple),
    label=st.none() | sources,
    patient=names,
    split=st.sampled_from((None, "train", "val", "test")),
    fold=st.none() | st.integers(0, 9),
    body_part=st.none() | names,
    target=st.none() | names | st.integers(-3, 3),
    missing=st.lists(names, max_size=2).map(tuple),
)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(cases, max_size=5),
    st.lists(names, min_size=1, max_size=3),
    st.dictionaries(names, st.integers(0, 9)),
)
def test_an_index_comes_back_as_it_was(
    tmp_path_factory: pytest.TempPathFactory, found: list[Case], channels: list[str], labels: dict[str, int]
) -> None:
    index = Index(
        with_unique_ids(found),
        tuple(channels),
        labels,
        (Skipped("/data/x", "a scout", 3),),
        {"all": tuple(labels.values())},
    )
    path = tmp_path_factory.mktemp("index") / "index.json"
    save_index(index, path)
    assert load_index(path) == index


def test_an_index_moves_with_its_folder(tmp_path: Path) -> None:
    inside = Source(str(tmp_path / "a" / "images" / "é.nii.gz"))
    outside = Source(str(tmp_path / "elsewhere.nii.gz"))
    (tmp_path / "a" / "lists").mkdir(parents=True)
    save_index(Index((Case("c", (inside, outside), patient="p"),)), tmp_path / "a" / "lists" / "index.json")
    text = json.loads((tmp_path / "a" / "lists" / "index.json").read_text())
    assert text["cases"][0]["images"] == ["../images/é.nii.gz", "../../elsewhere.nii.gz"]
    shutil.move(tmp_path / "a", tmp_path / "deep" / "b")
    (case,) = load_index(tmp_path / "deep" / "b" / "lists" / "index.json").cases
    assert case.images[0].path == str(tmp_path / "deep" / "b" / "images" / "é.nii.gz")


def test_many_cases_load_without_touching_their_files(tmp_path: Path) -> None:
    source = Source(str(tmp_path / "gone" / "image.nii.gz"))
    index = Index(tuple(Case(f"case{n}", (source,), patient=f"p{n}") for n in range(20_000)))
    save_index(index, tmp_path / "index.json")
    assert len(load_index(tmp_path / "index.json").cases) == 20_000


def test_an_index_is_replaced_in_one_step(tmp_path: Path) -> None:
    path = tmp_path / "index.json"
    save_index(Index((Case("a", (Source("/x.nii"),)),)), path)
    save_index(Index((Case("b", (Source("/x.nii"),)),)), path)
    assert load_index(path).cases[0].id == "b" and [p.name for p in tmp_path.iterdir()] == ["index.json"]


GOOD: dict[str, Any] = {
    "format": "vococore-index",
    "version": 1,
    "channels": ["image"],
    "cases": [{"id": "a", "images": ["a.nii"]}],
    "skipped": [],
}


def changed(case: dict[str, Any] | None = None, **values: Any) -> dict[str, Any]:
    return {**GOOD, **values, **({"cases": [{**GOOD["cases"][0], **case}]} if case else {})}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "not valid JSON"),
        ("{", "not valid JSON.*line 1"),
        (b"\xff\xfe{", "UTF-8"),
        ("[]", "not an index"),
        ({"format": "other"}, "not an index"),
        (changed(version=2), "index version 2"),
        (changed(version="1"), "index version '1'"),
        (changed(cases=None), "its head|NoneType"),
        (changed(cases=[7]), "case number 0"),
        (changed(cases=[{"images": ["a.nii"]}]), "'id' is missing"),
        (changed({"images": []}), "'images' is empty"),
        (changed({"images": "a.nii"}), "'images' cannot be"),
        (changed({"images": [None]}), "case number 0"),
        (changed({"images": [{"files": ["a"]}]}), "'path' is missing"),
        (changed({"fold": "one"}), "'fold' cannot be"),
        (changed({"fold": True}), "'fold' cannot be"),
        (changed({"split": "vall"}), "split 'vall'"),
        (changed(cases=GOOD["cases"] * 2), "two cases with the id 'a'"),
        (changed(skipped=[{}]), "skipped"),
    ],
)
def test_other_files_are_refused_in_one_line(tmp_path: Path, content: Any, words: str) -> None:
    path = tmp_path / "index.json"
    data = json.dumps(content) if isinstance(content, dict) else content
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    with pytest.raises(DataError, match=words) as error:
        load_index(path)
    assert str(path) in str(error.value) and error.value.hint and "\n" not in str(error.value)


def test_an_index_is_a_source_too(tmp_path: Path) -> None:
    (tmp_path / "index.json").write_text(json.dumps(GOOD))
    index = index_source(tmp_path / "index.json", body_part="chest")
    assert index.cases[0] == Case("a", (Source(str(tmp_path / "a.nii")),), patient="a", body_part="chest")
    (tmp_path / "index.json").write_text(json.dumps(changed({"patient": None, "label": None, "fold": None})))
    assert index_source(tmp_path / "index.json", body_part="chest") == index, "null is nobody's name"


def test_equal_ids_get_numbers() -> None:
    image = (Source("/x.nii"),)
    ids = [case.id for case in with_unique_ids([Case(name, image) for name in ("a", "a", "a-2", "a")])]
    assert ids == ["a", "a-2", "a-2-2", "a-3"]
