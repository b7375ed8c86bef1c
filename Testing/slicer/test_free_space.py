"""What takes up space beside the runs: listed and deleted in the background, and never what a job is using."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

from made_jobs import makeRun, until

from VoCoCore.errors import SettingsError
from VoCoCore.runs import known
from VoCoCore.runs.files import write_json
from VoCoSlicerLib import space
from VoCoSlicerLib.export_writer import MARK, MARKER
from VoCoSlicerLib.logic_folds import CONFIG

ROOT = Path(__file__).resolve().parents[2]
# Another process that holds a lock until it is told to end.
HOLD = f"""
import sys; sys.path.insert(0, {os.fspath(ROOT)!r})
from pathlib import Path
from VoCoCore.runs.lock import FileLock
assert FileLock(Path(sys.argv[1])).acquire(); print("held", flush=True); input()
"""


def volumesBeside(run):
    folder = run.parent / "exported volumes"
    folder.mkdir()
    (folder / MARKER).write_text(json.dumps({"what": MARK, "version": 1}))
    (folder / f"volume-{'a' * 32}.nrrd").write_bytes(b"x" * 5000)
    (folder / "index-1.json").write_text("{}")
    return folder


def readsFrom(source, run):
    """Note where a run's list of cases lies, as its job does."""
    (run / "private").mkdir(exist_ok=True)
    (run / "private" / "places.json").write_text(json.dumps({"data.source": str(source), "data.store": None}))


def looked(run, working=MappingProxyType({})):
    task = space.look([run], working)
    until(lambda: not task.poll().running)
    return space.places(task)


def freed(*places, working=MappingProxyType({})):
    """The error of a deletion that has ended, None where all went well."""
    task = space.free(places, working=working)
    until(lambda: not task.poll().running)
    return task.error()


def test_space_lists_exported_volumes_and_stores_and_deletes_only_its_own(tmp_path):
    run = makeRun(tmp_path / "runs" / "one")
    known.remember(run)
    folder = volumesBeside(run)
    store = tmp_path / "cache" / "vococore" / "store"
    (store / "cases").mkdir(parents=True)
    (store / "store.json").write_text(json.dumps({"what": "VoCoCore prepared volumes", "format": 1}))
    (found,) = [place for place in looked(run) if place.kind == "volumes"]
    mark = (folder / MARKER).stat().st_size
    assert (found.path, found.size, found.runs, found.busy) == (folder, 5002 + mark, 1, ())
    (kept,) = [place for place in looked(run) if place.kind == "store"]

    (folder / "somebody's notes.txt").write_text("mine")
    assert freed(found) is None
    assert [path.name for path in folder.iterdir()] == ["somebody's notes.txt"]
    assert isinstance(error := freed(kept, found), SettingsError) and "no exported volumes" in error.message
    assert store.exists(), "nothing is deleted where a part may not be"
    assert freed(kept) is None and not store.exists()
    assert isinstance(freed(replace(found, path=run)), SettingsError) and run.is_dir()


def test_volumes_that_a_job_uses_are_not_deleted(tmp_path):
    run = makeRun(tmp_path / "runs" / "one", "running", pid=os.getpid())
    known.remember(run)
    folder = volumesBeside(run)
    (found,) = [place for place in looked(run) if place.kind == "volumes"]
    assert found.busy == (run,)
    assert "is using" in freed(found).message and len(list(folder.iterdir())) == 3


def test_volumes_that_something_under_way_needs_are_not_deleted(scene, tmp_path):
    from made_scene import noise, volume

    from VoCoSlicerLib.logic import VoCoLogic
    from VoCoSlicerLib.logic_check import CheckJob
    from VoCoSlicerLib.snapshots import SceneCase

    logic = VoCoLogic(scene, {"folder": str(tmp_path / "runs")})
    run = makeRun(tmp_path / "runs" / "one")
    node = volume(scene, noise((16, 16, 16)), "chest")
    work = CheckJob(logic, [SceneCase(volumeIds=(node.GetID(),))]).start()
    until(lambda: work.poll().stage == "checking")
    folder = logic.exportFolder(run)
    (found,) = [place for place in looked(run, logic.volumesInUse()) if place.kind == "volumes"]
    assert (found.path, found.work) == (folder, "the check")
    error = freed(found, working=logic.volumesInUse())
    assert f"{folder} is in use by the check" in error.message and len(list(folder.glob("volume-*"))) == 1
    work.cancel()
    assert logic.volumesInUse() == {} and freed(found) is None and not folder.exists()


def test_volumes_that_a_stopped_run_needs_are_deleted_on_consent_to_that_alone(tmp_path):
    runs = {state: makeRun(tmp_path / "runs" / state, state) for state in ("finished", "stopped", "failed")}
    folder = volumesBeside(runs["stopped"])
    readsFrom(tmp_path / "cohort.json", runs["failed"])
    fold = makeRun(tmp_path / "runs" / "folds" / "fold-0", "running")  # lost: its job is gone
    readsFrom(folder / "index-1.json", fold)
    task = space.look([*runs.values(), fold])
    until(lambda: not task.poll().running)
    (found,) = [place for place in space.places(task) if place.kind == "volumes"]
    assert set(found.resumable) == {runs["stopped"], fold} and found.runs == 3 and found.busy == ()
    error = freed(replace(found, resumable=(fold,)))
    assert str(runs["stopped"]) in error.message and "resumed" in error.message
    assert len(list(folder.iterdir())) == 3
    assert freed(found) is None and not folder.exists()


def test_the_last_look_of_a_run_keeps_its_volumes(tmp_path):
    run = makeRun(tmp_path / "runs" / "one", pid=os.getpid())
    volumesBeside(run)
    manifest = run / "checkpoints" / "step-000500" / "manifest.json"
    for file in (run / "weights" / "encoder.safetensors", run / "private" / "x", run / "log.txt", manifest):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text('{"step": 500}')
    held = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(run / "run.lock")], stdout=-1, stdin=-1, text=True
    )
    assert held.stdout.readline() == "held\n"
    (found,) = [place for place in looked(run) if place.kind == "volumes"]
    assert found.busy == (run,) and "is using" in freed(found).message
    held.communicate("end\n")
    (found,) = [place for place in looked(run) if place.kind == "volumes"]
    assert found.busy == () and found.resumable == (run,), "resuming makes up for a look that was cut short"
    (run / "report.html").touch()
    assert freed(*[place for place in looked(run) if place.kind == "volumes"]) is None


def test_volumes_are_kept_for_folds_that_are_only_beginning(tmp_path):
    one = makeRun(tmp_path / "runs" / "one")
    folder = volumesBeside(one)
    fold = makeRun(tmp_path / "runs" / "folds" / "fold-0", "preparing", pid=os.getpid())
    startFoldsNote(fold.parent, folder / "index-1.json")
    known.remember(fold)
    task = space.look([one, fold])
    until(lambda: not task.poll().running)
    (found,) = [place for place in space.places(task) if place.kind == "volumes"]
    assert found.busy == (fold,)


def startFoldsNote(folder, source):
    """What the start of all folds leaves for each of them."""
    write_json(folder / CONFIG, {"data.source": str(source), "data.fold": "all"})
