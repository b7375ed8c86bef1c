"""A script that trains all folds of a cross-validation, with a process that is only played."""

from __future__ import annotations

import sys

import pytest

from VoCoCore.runs.directory import RunDirectory
from VoCoSlicerLib.logic import VoCoLogic


class PlayedFolds:
    """A process that makes one fold at each look, with ``states``, and then ends with ``code``."""

    def __init__(self, folder, states, code):
        self.folder, self.states, self.code, self.made = folder, states, code, 0
        self.ready = lambda: True
        self.output = lambda: "fold 1: 30 of 40\nvoco: error: the disk is full  (free some)\n"
        assert self.exit_code is None

    @property
    def exit_code(self):
        if self.made == len(self.states):
            return self.code
        run = RunDirectory.create(self.folder / f"fold-{self.made}", {"patches": {}}, {})
        state = self.states[self.made]
        run.write_status(state, message="it was so")
        run.events.emit("finished", state=state, step=2)
        self.made += 1
        return None


@pytest.mark.parametrize(
    ("states", "ended", "code"),
    [
        (["finished", "finished", "finished"], 0, 0),
        (["finished", "stopped"], 5, 5),
        (["finished", "failed"], 1, 1),
        (["finished"], 4, 4),
    ],
)
def test_a_script_that_trains_all_folds_waits_for_all_of_them(
    states, ended, code, scene, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(
        "VoCoCore.runs.launch.start", lambda run, *_, **__: PlayedFolds(run.parent, states, ended)
    )
    (tmp_path / "list.json").write_text("{}")
    given = {"index": tmp_path / "list.json", "fold": "all", "folds": 3, "python": sys.executable}
    logic = VoCoLogic(scene, {"folder": str(tmp_path / "VoCo")})
    lines: list[str] = []
    assert logic.finetune(run=tmp_path / "cv", progress=lines.append, **given) == code
    assert len(list((tmp_path / "cv").glob("fold-*"))) == len(states)
    for number, state in enumerate(states):
        assert any(line == f"fold-{number}: {state} at step 2" for line in lines), lines
    assert ("the disk is full" in capsys.readouterr().out) == (ended == 4)
