"""Records that come back from JSON only with the types that they were written with."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from VoCoCore.runs.files import read_json, write_json
from VoCoCore.runs.typed import from_plain


@dataclass(frozen=True)
class Part:
    name: str
    count: int


@dataclass(frozen=True)
class Whole:
    parts: tuple[Part, ...]
    pairs: tuple[tuple[str, str], ...]
    size: tuple[float, ...]
    sure: bool = False


PARTS = st.builds(Part, st.text(), st.integers(-(2**53), 2**53))
FINITE = st.floats(allow_nan=False, allow_infinity=False)
WHOLES = st.builds(
    Whole,
    st.lists(PARTS, max_size=3).map(tuple),
    st.lists(st.tuples(st.text(), st.text()), max_size=3).map(tuple),
    st.lists(FINITE, max_size=3).map(tuple),
    st.booleans(),
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(WHOLES)
def test_what_was_written_comes_back(whole):
    assert from_plain(Whole, json.loads(json.dumps(asdict(whole)))) == whole


@given(WHOLES, st.sampled_from(["parts", "pairs", "size", "sure"]), JSON)
def test_anything_else_is_a_type_error_and_never_a_record_of_other_types(whole, name, value):
    data = {**json.loads(json.dumps(asdict(whole))), name: value}
    try:
        found = from_plain(Whole, data)
    except TypeError:
        return
    assert json.loads(json.dumps(asdict(found)))[name] == value
    assert all(isinstance(part, Part) for part in found.parts) and isinstance(found.sure, bool)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("parts", [{"name": "a", "count": True}]),
        ("parts", [{"name": "a", "count": 1.0}]),
        ("parts", [{"name": "a", "count": 1, "more": 1}]),
        ("parts", [{"name": "a"}]),
        ("size", [float("inf")]),
        ("size", [float("nan")]),
        ("size", [10**400]),
        ("size", [True]),
        ("pairs", [["a"]]),
        ("pairs", [["a", "b", "c"]]),
        ("pairs", ["ab"]),
        ("sure", 1),
    ],
)
def test_what_is_nearly_right_is_a_type_error_too(name, value):
    data = {"parts": [], "pairs": [], "size": [], "sure": False}
    assert from_plain(Whole, data) == Whole((), (), ())
    with pytest.raises(TypeError):
        from_plain(Whole, {**data, name: value})


@pytest.mark.parametrize(
    "data", [None, [], {}, {"parts": []}, {"parts": [], "pairs": [], "size": [], "more": 1}]
)
def test_what_is_missing_or_strange_is_a_type_error(data):
    with pytest.raises(TypeError):
        from_plain(Whole, data)


def test_numbers_that_are_none_are_not_json(tmp_path):
    (tmp_path / "x.json").write_text('{"size": [NaN]}')
    assert read_json(tmp_path / "x.json") is None
    write_json(tmp_path / "x.json", {"size": [1.5]})
    assert read_json(tmp_path / "x.json") == {"size": [1.5]}
