"""`voco finetune` as a user calls it: a run, its report, folds, going on, stopping, killing, other jobs' commands."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from faults import meet
from kills import curve, unequal
from made_cohorts import SMALL_FINETUNE
from safetensors.torch import load_file

from VoCoCore.cli import main
from VoCoCore.errors import StopRequested
from VoCoCore.evaluation import final
from VoCoCore.evaluation.cases_table import read_per_case
from VoCoCore.fields import flatten
from VoCoCore.models.model_files import load_model
from VoCoCore.runs.directory import RunDirectory
from VoCoCore.runs.events import read_events
from VoCoCore.runs.weights import model_paths
from VoCoCore.training.checkpoint import newest
from VoCoCore.training.finetune import finetune

STEPS = 14
MODEL = Path("weights") / "model.safetensors"


@pytest.fixture(scope="module", autouse=True)
def config(tmp_path_factory) -> Iterator[None]:
    """Runs known to the user who tests stay as they are."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VOCO_CONFIG_HOME", str(tmp_path_factory.mktemp("config")))
        yield


@pytest.fixture(scope="module")
def words(labelled_cohort) -> Callable[..., list[str]]:
    """Words of a small fine-tuning in a folder; None among the changes leaves a setting open."""

    def make(run: Path, *more: str, **changes: Any) -> list[str]:
        named = {name.replace("__", "."): value for name, value in changes.items()}
        values = {
            **SMALL_FINETUNE,
            "optim.steps": STEPS,
            "run.validate_every": 5,
            "run.checkpoint_every": 4,
            "data.source": labelled_cohort.source,
            "data.store": labelled_cohort.store,
            **named,
        }
        options = [str(word) for n, v in values.items() if v is not None for word in (f"--{n}", v)]
        return ["finetune", "--run", str(run), *options, *more]

    return make


# What the finished run is made of: a test case, a share of the labels, and augmentation that is drawn anew.
USUAL = {"data__test_fraction": 0.17, "data__val_fraction": 0.17, "data__labels": 0.75, "augment__noise": 0.5}


@pytest.fixture(scope="module")
def finished(words, tmp_path_factory) -> Path:
    run = tmp_path_factory.mktemp("cli") / "run"
    assert main(words(run, **USUAL)) == 0
    return run


def assert_same(run: Path, other: Path) -> None:
    """The same bits in the weights, the last checkpoint and every number that was told."""
    assert not list(unequal(load_file(run / MODEL), load_file(other / MODEL), "weights"))
    ours, theirs = (newest(RunDirectory(r).checkpoints)[0] for r in (run, other))
    assert ours and theirs and ours.name == theirs.name
    assert not list(unequal(*(load_file(c / "model.safetensors") for c in (ours, theirs)), "checkpoint"))
    assert not list(unequal(curve(run), curve(other), "metrics"))


def events(run: Path, kind: str) -> list[dict[str, Any]]:
    return [event for event in read_events(run / "events.jsonl") if event["type"] == kind]


def wait_for(condition: Callable[[], bool], seconds: float = 120.0) -> None:
    give_up = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < give_up, "waited in vain"
        time.sleep(0.01)


def at_step(run: Path, step: int) -> Callable[[], bool]:
    return lambda: (status := RunDirectory(run).read_status()) is not None and status.step >= step


# A run and its report


def test_a_run_ends_with_scores_of_test_cases(finished) -> None:
    status = RunDirectory(finished).read_status()
    assert status and (status.state, status.step, status.total) == ("finished", STEPS, STEPS)
    splits = [event["split"] for event in events(finished, "metrics")]
    assert splits.count("val") == 3 and splits.count("test") == 1
    test = next(event["values"] for event in events(finished, "metrics") if event["split"] == "test")
    assert test["cases"] == 1 and 0 <= test["dice"] <= 1 and {"dice_liver"} <= test.keys()
    assert (finished / "test" / "per_case.csv").is_file()
    log = (finished / "log.txt").read_text()
    assert log.count("  validation Dice ") == 3 and log.count("  test Dice ") == 1
    assert json.loads((finished / "settings.json").read_text())["data"]["labels"] == 3


def test_the_report_shows_classes_and_pictures_but_nobodys_name(finished, labelled_cohort) -> None:
    text = (finished / "report.html").read_text(encoding="utf-8")
    assert len(re.findall("<svg", text)) >= 2, "curves and pictures"
    for word in (
        "liver",
        "spleen",
        "reference",
        "prediction",
        "validation",
        "test",
        "Dice",
        "slices of patients",
    ):
        assert word in text, word
    ids = {path.name.split(".")[0] for path in (labelled_cohort.source / "imagesTr").iterdir()}
    private = [*ids, str(labelled_cohort.source), str(labelled_cohort.store), str(finished), "torso_"]
    assert not [name for name in private if name in text]
    public = [
        p
        for p in finished.rglob("*")
        if p.suffix in (".json", ".jsonl", ".csv") and p.parent.name != "private"
    ]
    assert {"settings.json", "environment.json", "events.jsonl", "per_case.csv", "summary.json"} <= {
        p.name for p in public
    }
    for path in public:
        held = path.read_text()
        assert not [word for word in private if word in held], path
    called = json.loads((finished / "private" / "cases.json").read_text())
    assert (
        set(called) == set(read_per_case(finished / "test" / "per_case.csv")) and set(called.values()) < ids
    )


def test_jobs_show_says_how_it_stands(finished, capsys) -> None:
    assert main(["jobs", "show", str(finished)]) == 0
    shown = capsys.readouterr().out
    assert "finished" in shown and f"{STEPS}" in shown
    assert main(["jobs", "resume", str(finished)]) == 2
    assert "is finished" in capsys.readouterr().err


def test_an_exported_run_gives_the_same_weights(finished, labelled_cohort, tmp_path, capsys) -> None:
    folder = tmp_path / "export"
    assert main(["jobs", "export", str(finished), "-o", str(folder), "--gpus", "0"]) == 0
    script = (folder / "job.sbatch").read_text()
    assert "-m VoCoCore finetune" in script and not re.findall("@[A-Z]+@|pretrain", script)
    index = json.loads((folder / "index.json").read_text())
    assert {case["split"] for case in index["cases"]} == {"train", "val", "test"} and index["labels"]["liver"]
    # As the script calls it, here.
    places = ["--data", folder / "index.json", "--store", labelled_cohort.store, "--device", "cpu"]
    again = ["finetune", "--run-folder", tmp_path / "run", "--config", folder / "settings.json", *places]
    assert main([str(word) for word in again]) == 0
    assert_same(tmp_path / "run", finished)


# Going on


def test_a_stop_file_leaves_a_checkpoint_and_jobs_resume_goes_on_to_the_same_bits(
    finished, words, tmp_path, capsys
) -> None:
    run = tmp_path / "run"

    def ask() -> None:
        wait_for(at_step(run, 2))
        RunDirectory(run).request_stop()

    asking = threading.Thread(target=ask)
    asking.start()
    assert main(words(run, **USUAL)) == 5
    asking.join()
    said = capsys.readouterr()
    assert "voco: stopped: at step" in said.err and "voco finetune --run" in said.err
    state = RunDirectory(run)
    assert state.state() == "stopped" and newest(state.checkpoints)[0] and not (run / MODEL).exists()
    assert "stopped on request" in (run / "report.html").read_text()
    assert main(["jobs", "show", str(run)]) == 0 and "stopped" in capsys.readouterr().out
    assert main(["jobs", "resume", str(run), "--foreground"]) == 0
    assert_same(run, finished)


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_a_killed_background_job_goes_on_to_the_same_bits(finished, words, tmp_path, capsys) -> None:
    run = tmp_path / "run"
    assert main(words(run, "--detach", **USUAL)) == 0
    assert "voco jobs follow" in capsys.readouterr().out
    wait_for(at_step(run, 6))
    status = RunDirectory(run).read_status()
    assert status and status.pid != os.getpid()
    job = psutil.Process(status.pid)
    job.send_signal(signal.SIGKILL)
    psutil.wait_procs([job], timeout=30)
    assert RunDirectory(run).state() == "lost" and newest(RunDirectory(run).checkpoints)[0]
    assert main(["finetune", "--run", str(run), "--resume"]) == 0
    assert_same(run, finished)


@pytest.mark.parametrize("left", ["report.html", "nothing"])
def test_a_run_that_ended_in_its_last_look_makes_up_for_it(left, finished, tmp_path, capsys) -> None:
    run = shutil.copytree(finished, tmp_path / "run")
    shutil.rmtree(run / "test")
    if left == "nothing":  # killed; after an error the report is written
        (run / "report.html").unlink()
    assert main(["jobs", "show", str(run)]) == 0
    said = capsys.readouterr().out
    assert "last look" in said and f"voco jobs resume {run}" in said
    assert main(["jobs", "resume", str(run), "--foreground"]) == 0
    assert (run / "test" / "summary.json").is_file() and (run / "report.html").is_file()
    assert_same(run, finished)
    capsys.readouterr()
    assert main(["jobs", "resume", str(run)]) == 2
    assert "nothing to go on with" in capsys.readouterr().err


@pytest.mark.parametrize("how", ["Ctrl-C", "jobs stop"])
def test_a_wish_ends_the_last_look_and_resuming_makes_up_for_it(
    how, finished, tmp_path, capsys, monkeypatch
) -> None:
    run = shutil.copytree(finished, tmp_path / "run")
    shutil.rmtree(run / "test")
    load = final.load_model

    def asked(file: Path) -> Any:
        if how == "jobs stop":
            assert main(["jobs", "stop", str(run)]) == 0
        else:
            signal.raise_signal(signal.SIGINT)
        return load(file)

    with monkeypatch.context() as patch:
        patch.setattr(final, "load_model", asked)
        assert main(["jobs", "resume", str(run), "--foreground"]) == 5
    said = capsys.readouterr()
    assert "after the case it is in" in said.out
    assert "stopped: 0 of 1 held-out case scored" in said.err and f"jobs resume {run}" in said.err
    assert RunDirectory(run).state() == "finished" and not (run / "test").exists()
    assert "0 of 1" in (run / "log.txt").read_text()
    assert main(["jobs", "resume", str(run), "--foreground"]) == 0
    assert (run / "test" / "summary.json").is_file()
    assert_same(run, finished)


def test_the_last_look_ends_between_two_cases(finished, tmp_path) -> None:
    run, heard = shutil.copytree(finished, tmp_path / "run"), []
    shutil.rmtree(run / "test")
    index = run / "private" / "index.json"
    index.write_text(index.read_text().replace('"val"', '"test"'))
    with pytest.raises(StopRequested, match="1 of "):
        final.examine(run, lambda kind, **_: heard.append(kind), lambda: "stage" in heard)
    assert heard == ["stage"] and not (run / "test").exists()


@pytest.mark.parametrize("left_out", ["private", "log.txt", "checkpoints"])
def test_a_run_without_its_report_that_cannot_be_made_up_for(left_out, finished, tmp_path, capsys) -> None:
    """One passed on without images of patients, one that Python code has made, one that would be trained anew."""
    run = shutil.copytree(finished, tmp_path / "run", ignore=shutil.ignore_patterns(left_out, "report.html"))
    assert main(["jobs", "show", str(run)]) == 0
    assert "last look" not in capsys.readouterr().out
    assert main(["jobs", "resume", str(run), "--foreground"]) == 2


def test_a_run_goes_on_without_the_file_it_started_from(finished, labelled_cohort, tmp_path) -> None:
    weights, run, said = tmp_path / "start.safetensors", tmp_path / "run", []
    shutil.copy(finished / MODEL, weights)
    settings = labelled_cohort.settings(
        init=str(weights), optim__freeze="encoder", optim__steps=4, prepare__spacing=None
    )
    stopping = {"listeners": [said.append], "should_stop": lambda: any(e["type"] == "progress" for e in said)}
    assert not finetune(settings, run, **stopping).finished
    assert dict(flatten(RunDirectory(run).read_settings()))["prepare.spacing"] == [8, 8, 10], (
        "as its card says"
    )
    weights.unlink()
    assert main(["finetune", "--run", str(run), "--resume"]) == 0
    start, end = load_file(finished / MODEL), load_file(run / MODEL)
    frozen = [name for name in start if name.startswith("encoder.")]
    assert frozen and all(start[name].equal(end[name]) for name in frozen)
    assert load_model(run / MODEL)[1].facts["start"] == "VoCo segmentation model"


# Folds


def test_folds_share_a_plan_and_finished_ones_are_not_trained_again(words, tmp_path, capsys) -> None:
    run = tmp_path / "folds"
    call = words(
        run, "--fold", "all", data__folds=2, prepare__spacing=None, optim__steps=2, run__validate_every=2
    )
    assert main(call) == 0
    assert "ensemble of 2 folds" in capsys.readouterr().out
    cards = [load_model(path)[1] for path in model_paths(run)]
    assert [path.parents[1].name for path in model_paths(run)] == ["fold-0", "fold-1"]
    first, second = cards
    assert first.prepare == second.prepare and first.window == second.window and first.prepare["spacing"]
    held = [json.loads((run / f"fold-{n}" / "private" / "cohort.json").read_text())["val"] for n in (0, 1)]
    assert not {m["id"] for m in held[0]} & {m["id"] for m in held[1]} and sum(map(len, held)) == 6
    before = shutil.move(run / "fold-1", tmp_path / "before")
    stamp = (run / "fold-0" / MODEL).stat().st_mtime_ns
    # As if it had been stopped in its last look: the scores of its validation cases are not there yet.
    RunDirectory(run / "fold-0").request_stop()
    tables = [run / "fold-0" / "validation" / name for name in ("per_case.csv", "summary.json")]
    scores = [(table, table.read_text(), table.unlink())[1] for table in tables]
    assert main(["finetune", "--run", str(run), "--resume"]) == 0
    assert f"{run / 'fold-0'} is finished" in capsys.readouterr().out
    assert (run / "fold-0" / MODEL).stat().st_mtime_ns == stamp
    assert [table.read_text() for table in tables] == scores
    assert_same(run / "fold-1", Path(before))


def test_folds_started_one_by_one_have_the_same_plan(labelled_cohort, words, tmp_path) -> None:
    from VoCoCore.cli.finetune import parser
    from VoCoCore.cli.options import given_settings
    from VoCoCore.finetune_settings import FinetuneSettings
    from VoCoCore.protocols import resolve_finetune
    from VoCoCore.training.case_facts import facts_of
    from VoCoCore.training.labelled_cohort import labelled_index

    found = []
    for fold in range(3):
        call = words(tmp_path, data__fold=fold, data__folds=3, prepare__spacing=None)[1:]
        settings = resolve_finetune({}, given_settings(parser().parse_args(call), FinetuneSettings))
        facts = facts_of(labelled_index(settings)[0], settings)
        found.append((facts.spacing.tolist(), facts.extent.tolist(), facts.kind, facts.under_labels))
        assert facts.cases == 4, "cases to train on, for the length of an epoch"
    assert found[0] == found[1] == found[2]


def test_settings_in_a_file_of_a_user(labelled_cohort, tmp_path) -> None:
    """Nested, with a fold as a number."""
    import yaml

    nested: dict[str, Any] = {}
    for name, value in {**SMALL_FINETUNE, "optim.steps": 1, "data.fold": 1, "data.folds": 2}.items():
        head, _, rest = name.partition(".")
        nested.setdefault(head, {})[rest] = value
    (tmp_path / "my.yaml").write_text(yaml.safe_dump(nested))
    places = ["--data", labelled_cohort.source, "--store", labelled_cohort.store, "--steps", 2]
    call = ["finetune", "--config", tmp_path / "my.yaml", "--run", tmp_path / "run", *places]
    assert main([str(word) for word in call]) == 0
    kept = dict(flatten(RunDirectory(tmp_path / "run").read_settings()))
    assert (kept["optim.steps"], kept["data.fold"]) == (2, "1")


def test_folds_that_were_refused_are_begun_again_with_what_is_asked_for_now(tmp_path: Path, capsys) -> None:
    (tmp_path / "data").mkdir()
    words = [
        "finetune",
        "--data",
        tmp_path / "data",
        "--run",
        tmp_path / "run",
        "--fold",
        "all",
        "--init",
        "scratch",
    ]
    for more, steps in ((["--steps", "5"], 5), ([], None), (["--steps", "7"], 7)):
        meet(capsys, "folds of a folder without images", 3, [*words, *more], ["no images", tmp_path / "data"])
        assert RunDirectory(tmp_path / "run" / "fold-0").read_settings()["optim"]["steps"] == steps
