"""The runs known to a user, and those in a folder."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from VoCoCore.runs import known
from VoCoCore.runs.directory import RunDirectory

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def config(tmp_path: Path, monkeypatch) -> Path:
    monkeypatch.setenv("VOCO_CONFIG_HOME", str(tmp_path / "config"))
    return tmp_path / "config"


def test_runs_are_remembered_newest_first(tmp_path: Path, config: Path) -> None:
    a, b = (RunDirectory.create(tmp_path / name, {}, {}) for name in "ab")
    assert known.known_runs() == []
    assert known.remember(a.path)
    assert known.remember(b.path)
    assert known.remember(a.path)
    assert known.remember(tmp_path / "gone")
    assert known.known_runs() == [a.path, b.path]
    b.write_status("finished", 7, 7)
    assert [(line.path, line.state, line.step) for line in known.list_runs()] == [
        (a.path, "preparing", 0),
        (b.path, "finished", 7),
    ]
    assert known.forget(a.path)
    assert known.known_runs() == [b.path]


def test_a_home_that_cannot_be_written_stops_nobody(config: Path) -> None:
    config.write_text("a file where the folder should be")
    assert not known.remember("run")
    assert known.known_runs() == []


def test_many_may_remember_at_once(tmp_path: Path, config: Path) -> None:
    code = """
import sys
from VoCoCore.runs import known
for i in range(10):
    assert known.remember(sys.argv[1] + str(i))
"""
    children = [
        subprocess.Popen([sys.executable, "-c", code, str(tmp_path / name)], cwd=ROOT) for name in "abc"
    ]
    assert [child.wait(30) for child in children] == [0, 0, 0]
    assert len(json.loads((config / "runs.json").read_text())["runs"]) == 30


def test_a_folder_is_searched_but_not_the_runs_in_it(tmp_path: Path, config: Path) -> None:
    places = [tmp_path / "a", tmp_path / "b" / "c", tmp_path / "b" / "d"]
    for place in places:
        RunDirectory.create(place, {}, {})
    RunDirectory.create(tmp_path / "a" / "images" / "inner", {}, {})
    RunDirectory.create(tmp_path / "1" / "2" / "3", {}, {})
    (tmp_path / "circle").symlink_to(tmp_path, target_is_directory=True)
    assert known.scan(tmp_path) == places
    assert known.scan(places[0]) == places[:1]
    assert known.scan(tmp_path / "gone") == []
    assert [line.path for line in known.list_runs(tmp_path)] == places
