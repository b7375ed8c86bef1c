"""Going on with a run: damaged and foreign checkpoints, other settings, other data, a job that is still there."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from faults import meet
from nursery import ROOT
from safetensors.torch import load_file, save_file

from VoCoCore.cli import main
from VoCoCore.runs.directory import RunDirectory
from VoCoCore.training.checkpoint import MODEL, STATE, checkpoints, is_whole, newest
from VoCoCore.training.pretrain import pretrain

pytestmark = pytest.mark.usefixtures("own_config")


def resume(run):
    return ["pretrain", "--run", run.path, "--resume"]


# Checkpoints


def test_a_checkpoint_cut_in_half_gives_way_to_the_one_before(stopped_run, capsys):
    last = checkpoints(stopped_run.checkpoints)[-1]
    (last / STATE).write_bytes((last / STATE).read_bytes()[:1000])
    assert main(["pretrain", "--run", str(stopped_run.path), "--resume"]) == 0
    said = capsys.readouterr().out
    assert f"checkpoint {last.name} is damaged, so the one of step 1 is used" in said
    assert (stopped_run.checkpoints / f"damaged-{last.name}").is_dir()
    assert all(is_whole(path) for path in checkpoints(stopped_run.checkpoints))


@pytest.mark.parametrize("how", ["cut", "no manifest", "garbage manifest", "a file short"])
def test_no_whole_checkpoint_is_an_error_and_not_a_new_start(how, stopped_run, capsys):
    """Somebody's days of training must not begin again from 0 without a word."""
    for folder in checkpoints(stopped_run.checkpoints):
        if how == "cut":
            (folder / MODEL).write_bytes((folder / MODEL).read_bytes()[:-1])
        elif how == "a file short":
            (folder / STATE).unlink()
        else:
            (folder / "manifest.json").write_text(
                "" if how == "no manifest" else '{"files": [1, {}], "step": "x"}'
            )
    kind = f"no whole checkpoint ({how})"
    meet(capsys, kind, 3, resume(stopped_run), ["is whole", stopped_run.checkpoints])


def rewrite(checkpoint, change):
    """Change a checkpoint's model and make its manifest agree."""
    import hashlib

    tensors = change(load_file(checkpoint / MODEL))
    save_file(tensors, checkpoint / MODEL)
    manifest = json.loads((checkpoint / "manifest.json").read_text())
    content = (checkpoint / MODEL).read_bytes()
    manifest["files"][MODEL] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    (checkpoint / "manifest.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize("what", ["names", "shapes"])
def test_a_checkpoint_of_another_network_is_refused(what, stopped_run, capsys):
    def other(tensors):
        if what == "names":
            return {f"other.{name}": value for name, value in tensors.items()}
        return {name: torch.cat([value, value]) if value.ndim else value for name, value in tensors.items()}

    last = checkpoints(stopped_run.checkpoints)[-1]
    rewrite(last, other)
    meet(capsys, f"checkpoint of another network ({what})", 2, resume(stopped_run), ["another network", last])


def test_a_checkpoint_with_code_in_it_is_not_run(stopped_run, capsys, tmp_path):
    import hashlib
    import pickle

    class Evil:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "executed",))

    last = checkpoints(stopped_run.checkpoints)[-1]
    content = pickle.dumps(Evil())
    (last / STATE).write_bytes(content)
    manifest = json.loads((last / "manifest.json").read_text())
    manifest["files"][STATE] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    (last / "manifest.json").write_text(json.dumps(manifest))
    meet(capsys, "checkpoint with code in it", 3, resume(stopped_run), ["cannot read the checkpoint", last])
    assert not (tmp_path / "executed").exists()


# Going on with a run


def test_other_settings_are_refused_once_something_was_computed(stopped_run, capsys):
    words = [*resume(stopped_run), "--optim.lr", "0.5", "--encoder", "unetr"]
    line = meet(
        capsys, "resume with other settings", 2, words, ["model.encoder", "optim.lr", stopped_run.path]
    )
    assert stopped_run.state() == "stopped" and "run.lock" not in line


def test_other_data_are_refused(stopped_run, capsys, tmp_path):
    from VoCoCore.data.phantom import make_cohort

    other = make_cohort(tmp_path / "others", cases=6, seed=99, size=(40, 40, 24), labels=False)
    words = [*resume(stopped_run), "--data", other]
    meet(capsys, "resume with other volumes", 2, words, ["not the volumes", stopped_run.path])


def test_other_data_are_refused_where_the_list_of_the_first_is_damaged_too(stopped_run, capsys, tmp_path):
    from VoCoCore.data.phantom import make_cohort

    kept = stopped_run.private / "cohort.json"
    kept.write_text(kept.read_text().replace('"train": [', '"train": [7, ["x"], '))
    other = make_cohort(tmp_path / "others", cases=6, seed=98, size=(40, 40, 24), labels=False)
    words = [*resume(stopped_run), "--data", other]
    meet(capsys, "resume with other volumes", 2, words, ["not the volumes", stopped_run.path])
    assert main([str(word) for word in resume(stopped_run)]) == 0, capsys.readouterr().err


@pytest.mark.parametrize("renamed", [False, True])
def test_a_damaged_list_of_cases_is_said_where_the_division_is_another(
    stopped_run, small_cohort, capsys, tmp_path, renamed
):
    (stopped_run.private / "cohort.json").write_text("{}")
    paths = sorted((small_cohort.source / "imagesTr").iterdir())
    (tmp_path / "moved").mkdir()
    for number, path in enumerate(reversed(paths) if renamed else paths):
        shutil.copy(path, tmp_path / "moved" / (f"x{number}.nii.gz" if renamed else path.name))
    words = [*resume(stopped_run), "--data", tmp_path / "moved"]
    assert main([str(word) for word in words]) == 0, capsys.readouterr().err
    assert ("divided anew" in capsys.readouterr().out) == renamed


def test_the_same_data_elsewhere_are_taken(stopped_run, small_cohort, tmp_path, capsys):
    """Moved and renamed: the content decides, and the bits are the same."""
    whole = pretrain(small_cohort.settings(optim__steps=4, run__checkpoint_every=1), tmp_path / "whole")
    moved = tmp_path / "moved"
    moved.mkdir()
    for number, path in enumerate(sorted((small_cohort.source / "imagesTr").iterdir(), reverse=True)):
        shutil.copy(path, moved / f"x{number}.nii.gz")
    words = [*resume(stopped_run), "--data", moved, "--store", tmp_path / "other store"]
    assert main([str(word) for word in words]) == 0, capsys.readouterr().err
    ours, theirs = (
        load_file(newest(RunDirectory(r).checkpoints)[0] / MODEL) for r in (stopped_run.path, whole.run)
    )
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_run_that_is_under_way_is_left_alone(stopped_run, capsys):
    holder = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys; from VoCoCore.runs.directory import RunDirectory\n"
            "with RunDirectory(sys.argv[1]).lock() as run: run.write_status('running'); print(1, flush=True); input()",
            str(stopped_run.path),
        ],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    holder.stdout.readline()
    try:
        said = [stopped_run.path, f"pid {holder.pid}", "voco jobs"]
        meet(capsys, "a job runs in this run", 2, resume(stopped_run), said)
    finally:
        holder.communicate(b"\n")


def test_settings_of_a_run_cut_in_half(stopped_run, capsys):
    stopped_run.settings_file.write_text(stopped_run.settings_file.read_text()[:50])
    meet(capsys, "settings.json damaged", 2, resume(stopped_run), [stopped_run.settings_file])


# A run that was refused before its first step


def test_what_was_refused_before_its_first_step_is_tried_again_by_the_same_command(
    small_cohort, capsys, tmp_path
):
    run, data, weights = tmp_path / "run", tmp_path / "data", tmp_path / "init.safetensors"
    words = [
        *("pretrain", "--data", data, "--run", run, "--init", weights, "--store", small_cohort.store),
        *("--preset", "tiny", "--crops.counts", "2,2,1", "--encoder", "unet", "--model.feature_size", "4"),
        *("--model.projector_width", "16", "--optim.warmup", "0", "--run.threads", "1", "--workers", "0"),
    ]
    data.mkdir()
    weights.write_text("no weights")
    meet(capsys, "a run without images", 3, [*words, "--steps", "1"], ["no images", data])
    for path in sorted((small_cohort.source / "imagesTr").iterdir())[:4]:
        shutil.copy(path, data)
    meet(capsys, "a run from a file that holds no weights", 3, [*words, "--steps", "1"], [weights.name])
    shutil.copy(sorted((small_cohort.source / "imagesTr").iterdir())[-1], data)  # mended further
    meet(capsys, "a run from a file that holds no weights", 3, [*words, "--steps", "1"], [weights.name])
    assert len(json.loads((run / "private" / "index.json").read_text())["cases"]) == 5
    del words[5:7]
    assert main([str(word) for word in [*words, "--steps", "2"]]) == 0, capsys.readouterr().err
    log = (run / "log.txt").read_text()
    assert "no images" in log, "what was said before stays"
    assert RunDirectory.open(run).read_settings()["optim"]["steps"] == 2
    meet(capsys, "a run that there is already", 2, [*words, "--steps", "2"], ["already holds a run", run])
