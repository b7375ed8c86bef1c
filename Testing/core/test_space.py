"""`voco jobs space`: what is listed, what is deleted, and all that must never be."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import sys
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from faults import meet
from made_runs import make_run

from VoCoCore.cli import main
from VoCoCore.data import store as stores
from VoCoCore.runs import files, free, known, process, space
from VoCoCore.runs.export import MARK, MARKER
from VoCoCore.runs.lock import FileLock
from VoCoCore.training.labelled_cohort import LabelledCohort, Member

KEYS = [f"{number:02x}" + 62 * "0" for number in range(4)]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, own_config, monkeypatch) -> Path:
    """A user without anything yet; the default store lies in here."""
    for name in ("XDG_CACHE_HOME", "LOCALAPPDATA", "HOME", "USERPROFILE"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    return tmp_path / "home"


def make_store(path: Path, keys: list[str] = KEYS) -> Path:
    """A store as preparing leaves it, with a case for each key."""
    store = stores.Store(path).create()
    for key in keys:
        volume = np.random.default_rng(0).integers(0, 255, (1, 16, 16, 16), dtype=np.uint8)
        store.write(key, volume, {"affine": np.eye(4).tolist()})
    (path / "hashes.txt").write_text("")
    return path


def use(folder: Path, store: Path | str, keys: list[str], state: str = "finished") -> Path:
    """A known run that reads ``keys`` of ``store``."""
    run = make_run(folder, state)
    (run / "private").mkdir()
    files.write_json(
        run / "private" / "cohort.json", {"store": str(store), "train": keys[1:], "val": keys[:1]}
    )
    files.write_json(run / "private" / "places.json", {"data.store": os.path.abspath(store)})
    here = {
        "host": process.host_name(),
        "pid": os.getpid(),
        "process_start": process.process_start(os.getpid()),
    }
    files.write_json(run / "status.json", {**files.read_json(run / "status.json"), **here})
    known.remember(run)
    return run


def make_export(folder: Path) -> Path:
    folder.mkdir()
    files.write_json(folder / MARKER, MARK)
    (folder / "job.sbatch").write_text("#" * 1000)
    known.remember(folder, known.EXPORTS)
    return folder


def say(capsys, *words: object) -> str:
    capsys.readouterr()
    assert main(["jobs", "space", *map(str, words)]) == 0
    return capsys.readouterr().out


def test_the_store_is_where_and_what_the_store_says(tmp_path: Path) -> None:
    store = make_store(tmp_path / "store")
    assert space.kind_of(store) == space.STORE
    assert sorted(space.case_folders(store)) == stores.Store(store).keys() == KEYS
    assert {path.name for path in store.iterdir()} <= set(free._OURS[space.STORE])


def test_all_places_are_listed_with_who_needs_them(tmp_path: Path, home: Path, capsys) -> None:
    assert "no stores" in say(capsys)
    default = make_store(space.default_store(), KEYS[:1])
    shared = make_store(tmp_path / "disk" / "store")
    other = make_store(tmp_path / "elsewhere" / "deep" / "store")
    a, b = (use(tmp_path / name, shared, keys) for name, keys in (("a", KEYS[:2]), ("b", KEYS[1:3])))
    export = make_export(tmp_path / "cluster")
    found = {place["path"]: place for place in json.loads(say(capsys, "--json", tmp_path / "elsewhere"))}
    assert set(found) == {str(path) for path in (default, shared, other, export)}
    place = found[str(shared)]
    assert sorted(place["runs"]) == [str(a), str(b)] and place["busy"] == []
    assert (place["kind"], place["cases"], place["unused"]) == ("store", 4, 1)
    sizes = {key: stores.Store(shared).size(key) for key in KEYS}
    assert place["unused_size"] == sizes[KEYS[3]]
    assert place["size"] == sum(path.stat().st_size for path in shared.rglob("*") if path.is_file())
    assert abs(place["last_used"] - time.time()) < 60
    assert found[str(export)]["kind"] == "export" and found[str(export)]["size"] > 1000
    said = say(capsys)
    assert (
        f"{shared} is used by {a}" in said
        and "no known run needs 1 case: " in said
        and str(other) not in said
    )


def test_a_store_of_another_folder_is_found_though_its_run_names_it_in_short(tmp_path: Path, capsys) -> None:
    store = make_store(tmp_path / "store")
    run = use(tmp_path / "run", store, KEYS)
    cohort = files.read_json(run / "private" / "cohort.json")
    files.write_json(run / "private" / "cohort.json", {**cohort, "store": "store"})
    assert [place["path"] for place in json.loads(say(capsys, "--json"))] == [str(store)]


def test_deleting_says_what_it_freed_and_leaves_nothing(tmp_path: Path, capsys) -> None:
    store, export = make_store(tmp_path / "store"), make_export(tmp_path / "cluster")
    size = space.tree_size(store) + space.tree_size(export)
    said = say(capsys, "--delete", store, "--delete", export, "--yes")
    assert f"{size / 1000:.3g} kB freed" in said
    assert not store.exists() and not export.exists()
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []
    assert known.remembered(known.EXPORTS) == []


def test_the_cases_of_a_fine_tuning_are_needed_as_well(tmp_path: Path, capsys) -> None:
    path = make_store(tmp_path / "store")
    run = use(tmp_path / "a", path, [])
    train, val = ((Member(key, "a case", -1, "hash"),) for key in KEYS[:2])
    cohort = LabelledCohort(str(path), train, val, test=(), fingerprint="f")
    files.write_json(run / "private" / "cohort.json", asdict(cohort))
    assert "no known run needs 2 cases" in say(capsys)
    say(capsys, "--unused", path, "--yes")
    assert stores.Store(path).keys() == KEYS[:2]


def test_only_cases_that_no_run_needs_are_deleted(tmp_path: Path, capsys) -> None:
    path = make_store(tmp_path / "store")
    use(tmp_path / "a", path, KEYS[:2])
    (path / "partial" / f"{KEYS[1]}.abc").mkdir()
    (path / "partial" / f"{KEYS[1]}.abc" / "half").write_text("x" * 100)
    before = space.tree_size(path)
    said = say(capsys, "--unused", path, "--yes")
    assert "2 cases deleted" in said and f"{(before - space.tree_size(path)) / 1000:.3g} kB freed" in said
    store = stores.Store(path)
    assert store.keys() == KEYS[:2] and list((path / "partial").iterdir()) == []
    store.check()
    assert store.open(KEYS[0]).read().shape == (1, 16, 16, 16)
    assert "0 cases deleted" in say(capsys, "--unused", path, "--yes")


def test_a_case_that_somebody_prepares_stays(tmp_path: Path, monkeypatch) -> None:
    path = make_store(tmp_path / "store")
    monkeypatch.setattr(free, "_PATIENCE", 0.1)
    monkeypatch.setattr(free, "_refuse_in_use", lambda store: None)  # it began right after that question
    lock = FileLock(path / "locks" / "01.lock")
    assert lock.acquire()
    try:
        assert free.delete_unused(path)[0] == 3
    finally:
        lock.release()
    assert stores.Store(path).keys() == [KEYS[1]]


def test_without_locks_a_case_in_work_stays_for_a_day(tmp_path: Path, monkeypatch) -> None:
    path = make_store(tmp_path / "store")
    partial = path / "partial" / f"{KEYS[1]}.abc"
    partial.mkdir()
    monkeypatch.setattr("VoCoCore.runs.lock._try", lambda handle, shared=False: None)
    assert free.delete_unused(path)[0] == 4 and partial.exists(), "a job may be at work there"
    os.utime(partial, (1, 1))
    free.delete_unused(path)
    assert not partial.exists()


def test_what_is_not_marked_is_never_deleted(tmp_path: Path, capsys) -> None:
    photos, fake = tmp_path / "photos", tmp_path / "store"
    for folder in (photos, fake, tmp_path / ".photos.deleting-0123abcd"):
        (folder / "cases").mkdir(parents=True)
        (folder / "cases" / "one.jpg").touch()
    (fake / "store.json").write_text('{"what": "a shop"}')
    run = use(tmp_path / "run", tmp_path / "x", [])
    for path in (photos, fake, tmp_path / ".photos.deleting-0123abcd", run, tmp_path / "gone", tmp_path):
        words = ["jobs", "space", "--yes", "--delete", path]
        meet(
            capsys,
            "deleting what is not marked as ours",
            2,
            words,
            ["no store", "voco jobs space lists", path],
        )
        meet(
            capsys,
            "unused cases of no store",
            2,
            ["jobs", "space", "--yes", "--unused", path],
            ["no store", path],
        )
    assert (photos / "cases" / "one.jpg").exists() and run.is_dir()
    assert "photos" not in say(capsys, tmp_path, "--json")


def test_a_store_or_export_with_other_things_in_it_stays(tmp_path: Path, capsys) -> None:
    store, export, linked = (
        make_store(tmp_path / "s", []),
        make_export(tmp_path / "e"),
        make_store(tmp_path / "l", []),
    )
    (store / "thesis.docx").touch()
    make_run(export / "run")
    shutil.rmtree(linked / "partial")
    (linked / "partial").symlink_to(tmp_path)
    delete = ["jobs", "space", "--yes", "--delete"]
    meet(
        capsys,
        "deleting a store with other files in it",
        2,
        [*delete, store],
        ["not ours: thesis.docx", store],
    )
    meet(capsys, "deleting an export with a run in it", 2, [*delete, export], ["holds a run", export / "run"])
    meet(capsys, "deleting a store with a link in it", 2, [*delete, linked], ["not ours: partial", linked])
    assert all(path.is_dir() for path in (store, export / "run", linked))


def test_links_in_somebody_elses_store_lead_to_no_deletion(tmp_path: Path, capsys) -> None:
    path, mine = make_store(tmp_path / "store", KEYS[:1]), tmp_path / "mine"
    for folder in (mine / "thesis", mine / f"{KEYS[1]}.half", mine / KEYS[1]):
        folder.mkdir(parents=True)
    (path / "cases" / "01").symlink_to(mine)
    (path / "partial").rmdir()
    (path / "partial").symlink_to(mine)
    assert "1 case deleted" in say(capsys, "--unused", path, "--yes")
    stores.Store(path).create().clean()
    assert sorted(mine.iterdir()) == [mine / KEYS[1], mine / f"{KEYS[1]}.half", mine / "thesis"]
    (path / "partial").unlink()
    (path / "partial").mkdir()
    (path / "partial" / "thesis").mkdir()
    stores.Store(path).clean()
    assert (path / "partial" / "thesis").is_dir(), "no name that a case being written has"


def test_a_store_in_use_stays_and_the_run_is_named(tmp_path: Path, capsys) -> None:
    store, export = make_store(tmp_path / "store"), make_export(tmp_path / "cluster")
    run = use(tmp_path / "run", store, KEYS, state="running")
    words = ["is using the store", run, f"jobs stop {run}"]
    for option in ("--delete", "--unused"):
        meet(capsys, f"{option} of a store in use", 2, ["jobs", "space", "--yes", option, store], words)
    shutil.move(store, export / "store")
    files.write_json(
        run / "private" / "cohort.json", {"store": str(export / "store"), "train": [], "val": []}
    )
    meet(
        capsys,
        "deleting an export whose store is in use",
        2,
        ["jobs", "space", "--yes", "--delete", export],
        words[:2],
    )
    files.write_json(run / "status.json", {"state": "finished"})
    lock = FileLock(export / "store" / "locks" / "00.lock")
    assert lock.acquire()
    said = ["a process is preparing cases", export / "store"]
    meet(
        capsys,
        "deleting a store that is being filled",
        2,
        ["jobs", "space", "--yes", "--delete", export],
        said,
    )
    lock.release()
    assert "freed" in say(capsys, "--delete", export, "--yes")


def test_nothing_is_deleted_without_consent(tmp_path: Path, capsys, monkeypatch) -> None:
    store = make_store(tmp_path / "store", KEYS[:1])
    delete = ["jobs", "space", "--delete", store]
    with open(os.devnull) as nobody, monkeypatch.context() as patch:
        patch.setattr(sys, "stdin", nobody)
        meet(capsys, "deleting without --yes in a script", 2, delete, ["nobody to ask", "--yes"])

    class Terminal:
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stdin", Terminal())
    monkeypatch.setattr("builtins.input", lambda _: "")
    meet(capsys, "deleting and then saying no", 5, delete, ["nothing was deleted"])
    assert store.is_dir()
    monkeypatch.setattr("builtins.input", lambda _: "y")
    assert "freed" in say(capsys, "--unused", store) and store.is_dir()
    assert "freed" in say(capsys, "--delete", store) and not store.exists()


def _delete_and_die(path: Path, calls: int, unused: bool) -> None:
    """Delete, and be killed at one of the steps on the way."""
    left = calls

    def count(event: str, _: object) -> None:
        nonlocal left
        if event in ("os.rename", "os.remove", "os.rmdir", "shutil.rmtree"):
            left -= 1
            if left < 0:
                os._exit(9)

    sys.addaudithook(count)
    (free.delete_unused if unused else free.delete)(path)


def _killed_after(path: Path, calls: int, unused: bool = False) -> bool:
    child = multiprocessing.get_context("fork").Process(target=_delete_and_die, args=(path, calls, unused))
    child.start()
    child.join(30)
    assert child.exitcode in (0, 9)
    return child.exitcode == 9


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_deletion_killed_at_any_step_is_whole_or_a_leftover_that_is_found(tmp_path: Path, capsys) -> None:
    calls = 0
    killed = True
    while killed:
        export = make_export(tmp_path / "cluster")
        make_store(export / "store", KEYS[:1])
        killed = _killed_after(export, calls)
        listed = {place.path: place.kind for place in space.find_places()}
        left = [path for path in tmp_path.iterdir() if path.name != "config"]
        assert list(listed) == left and len(left) <= killed, "nothing is lost from sight"
        for path, kind in listed.items():
            assert kind == (space.EXPORT if path == export else space.LEFTOVER)
            assert str(path) in say(capsys)
            free.delete(path)
        assert [path.name for path in tmp_path.iterdir()] == ["config"]
        assert not left or known.remembered(known.EXPORTS) == []
        calls += 3
    assert calls > 12


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_unused_cases_killed_at_any_step_leave_a_sound_store(tmp_path: Path) -> None:
    path, killed, calls = tmp_path / "store", True, 0
    use(tmp_path / "run", path, KEYS[:1])
    while killed:
        make_store(path, KEYS[:3])
        killed = _killed_after(path, calls, unused=True)
        store = stores.Store(path)
        left = store.keys()
        assert KEYS[0] in left
        for key in left:
            store.open(key).read()
        free.delete_unused(path)
        assert store.keys() == KEYS[:1] and list((path / "partial").iterdir()) == []
        calls += 3
    assert calls > 6
