"""Starts, checks and their ends without a window: with jobs that are only played, and once with real ones."""

from __future__ import annotations

import hashlib
import json
import re
import struct
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import made_scene as made
import numpy as np
import pytest
import slicer
from made_jobs import makeRun

from VoCoCore.errors import DataError, EnvironmentFault, SettingsError, StopRequested
from VoCoCore.runs.directory import RunDirectory
from VoCoSlicerLib.logic import VoCoLogic
from VoCoSlicerLib.logic_cases import casesOf
from VoCoSlicerLib.logic_check import CheckJob
from VoCoSlicerLib.logic_settings import named
from VoCoSlicerLib.logic_start import StartJob
from VoCoSlicerLib.logic_steps import EXPORTING, Progress
from VoCoSlicerLib.model_info import readModel
from VoCoSlicerLib.tasks import Task

SMALL_SETTINGS = {"preset": "tiny", "model.encoder": "unet", "run.device": "cpu"}
SMALL = {"preset": "tiny", "encoder": "unet", "device": "cpu", "workers": 0}


@pytest.fixture
def scene(monkeypatch):
    made_scene = slicer.vtkMRMLScene()
    application = slicer.vtkSlicerApplicationLogic()
    application.SetMRMLScene(made_scene)
    segmentations = slicer.vtkSlicerSegmentationsModuleLogic()
    segmentations.SetMRMLApplicationLogic(application)
    segmentations.SetMRMLScene(made_scene)
    monkeypatch.setattr(slicer, "mrmlScene", made_scene, raising=False)
    yield made_scene
    segmentations.SetMRMLScene(None)
    application.SetMRMLScene(None)


@pytest.fixture
def logic(scene, tmp_path, monkeypatch):
    monkeypatch.setenv("VOCO_PYTHON", sys.executable)
    monkeypatch.setenv("VOCO_CONFIG_HOME", str(tmp_path / "config"))
    return VoCoLogic(scene, {"folder": str(tmp_path / "VoCo")})


def body(scene, name, seed=0, edge=40):
    """A volume of ``edge`` voxels a side with the values of a CT: a ball of 40 HU in air."""
    at = np.stack(np.meshgrid(*[np.linspace(-1, 1, edge)] * 3, indexing="ij"))
    ball = np.where((at**2).sum(0) < 0.7, 40, -1000) + made.noise((edge,) * 3, seed) // 100
    return made.volume(scene, ball.astype(np.int16), name)


class Played:
    """Stands for an export or a launch: what the next polls give, and whether it was cancelled."""

    def __init__(self, *states, index="index.json"):
        self.states, self.index, self.cancelled, self.started = list(states), index, False, False

    def start(self):
        self.started = True

    def _next(self):
        state = self.states.pop(0) if len(self.states) > 1 else self.states[0]
        if isinstance(state, Exception):
            raise state
        return state

    poll = ready = _next

    def cancel(self):
        self.cancelled = True


def exported(done, finished=False, error=None, warnings=()):
    return SimpleNamespace(
        done=done, total=10, text="one", finished=finished, error=error, warnings=tuple(warnings)
    )


class PlayedLogic:
    """What a StartJob asks of the logic."""

    def __init__(self, export, launch):
        self.export, self.launch, self.asked, self.working = export, launch, [], set()
        self.jobs = SimpleNamespace(start=self._start, kill=lambda run: None)

    def exportFolder(self, run):
        return run.parent / "volumes"

    def makeExport(self, cases, folder, folders, labels):
        self.labels = labels
        self.asked.append((cases, folder, folders))
        return self.export

    def _start(self, kind, values, run, python):
        if isinstance(self.launch, Exception):
            raise self.launch
        self.asked.append((kind, values, run, python))
        return self.launch


def aStart(tmp_path, export, launch, **options):
    logic = PlayedLogic(export, launch)
    job = StartJob(
        logic, "pretrain", tmp_path / "run", {"preset": "tiny"}, cases=["a case"], python="py", **options
    )
    return logic, job.start()


def test_a_start_exports_then_launches_then_says_it_runs(tmp_path):
    export = Played(exported(3), exported(10, finished=True), index="/made/index.json")
    logic, job = aStart(tmp_path, export, Played(False, True), folders=["/cohort.json"])
    assert export.started and logic.asked == [(["a case"], tmp_path / "volumes", [Path("/cohort.json")])]
    assert not logic.labels  # of a pre-training: those of two cohorts need not agree
    now = job.poll()
    assert (now.stage, now.done, now.total, now.finished) == ("exporting", 3, 10, False)
    assert job.poll().stage == "starting"
    values = {"preset": "tiny", "data.source": "/made/index.json"}
    assert logic.asked[1] == ("pretrain", values, tmp_path / "run", "py")
    assert not job.poll().finished
    end = job.poll()
    assert (end.stage, end.finished, end.error) == ("running", True, None) and job.poll() is end
    assert job.wait() == tmp_path / "run"


def test_what_an_export_warns_of_is_kept(tmp_path):
    said = ["t2 is resampled onto the grid of t1"]
    _, job = aStart(tmp_path, Played(exported(3), exported(10, True, warnings=said)), Played(True))
    job.wait()
    assert job.warnings == said


@pytest.mark.parametrize("where", ["export", "start", "job"])
def test_what_goes_wrong_ends_a_start_with_its_own_error(tmp_path, where):
    fault = DataError("the disk is gone", "plug it in")
    export = Played(exported(1, True, fault if where == "export" else None))
    launch = {"export": Played(True), "start": fault, "job": Played(False, fault)}[where]
    _, job = aStart(tmp_path, export, launch)
    with pytest.raises(DataError, match="the disk is gone"):
        job.wait()
    assert job.poll().finished and job.poll().error is fault


def test_what_nobody_foresaw_ends_a_work_too(tmp_path):
    _, job = aStart(tmp_path, Played(exported(1), KeyError("seven")), Played(True))
    job.poll()
    now = job.poll()
    assert now.finished and now.error.exit_code == 1 and "the start failed: KeyError" in str(now.error)


def test_a_start_that_is_cancelled_takes_everything_along(tmp_path):
    export = Played(exported(1))
    _, job = aStart(tmp_path, export, Played(True))
    job.poll()
    job.cancel()
    assert export.cancelled and isinstance(job.poll().error, StopRequested)
    launch, alive = Played(False), []
    logic, job = aStart(tmp_path, Played(exported(1, True)), launch)
    logic.jobs.kill = lambda run: alive.append(not launch.cancelled)
    job.poll()
    job.cancel()
    assert alive == [True], "the table of jobs would take a dead job for a failed one"
    assert launch.cancelled and isinstance(job.poll().error, StopRequested)


def test_what_cannot_be_started_is_refused_before_anything_is_written(tmp_path):
    logic = PlayedLogic(Played(exported(1)), Played(True))
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.doc").touch()
    good = {"run": tmp_path / "run", "values": {}, "cases": ["a case"]}
    for changed, kind, words in (
        ({"cases": []}, DataError, "no volume is chosen"),
        ({"run": " "}, SettingsError, "no folder is named"),
        ({"run": tmp_path / "full"}, SettingsError, "is not empty"),
        ({"values": {"optim.stops": 3}}, SettingsError, "Did you mean 'optim.steps'"),
        ({"values": {"crops.random_size": (999, 9, 9)}}, SettingsError, "larger than"),
    ):
        call = {**good, **changed}
        with pytest.raises(kind, match=words):
            StartJob(logic, "pretrain", call["run"], call["values"], cases=call["cases"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["full"] and logic.asked == []


def test_all_folds_are_one_launch_that_follows_the_first(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(
        "VoCoCore.runs.launch.start", lambda *words, **more: asked.append((words, more)) or Played(True)
    )
    logic = PlayedLogic(Played(exported(1, True), index="/i.json"), None)
    values = {"data.fold": "all", "data.folds": 3}
    job = StartJob(
        logic, "finetune", tmp_path / "cv", values, cases=["a case"], python=sys.executable
    ).start()
    assert job.wait() == tmp_path / "cv" / "fold-0"
    ((run, words), _), config = asked[0], tmp_path / "cv" / "all-folds.json"
    assert run == tmp_path / "cv" / "fold-0"
    assert words == ["finetune", "--run", str(tmp_path / "cv"), "--config", str(config)]
    from VoCoCore.cli.options import read_config

    assert read_config(str(config)) == {**values, "data.source": "/i.json"}


def test_exit_codes_are_those_of_the_command_line(logic, tmp_path, capsys):
    def broken():
        raise EnvironmentFault("no disk", "buy one")

    assert logic.exitCode(broken) == 4 and "no disk  (buy one)" in capsys.readouterr().out
    assert logic.exitCode(lambda: 5) == 5 and logic.exitCode(lambda: SimpleNamespace(exitCode=3)) == 3
    for state, code in (("finished", 0), ("stopped", 5), ("failed", 1)):
        run = RunDirectory.create(tmp_path / state, {"patches": {}}, {})
        run.write_status(state, message="it was so")
        assert logic.waitFor(run.path) == code
    run = RunDirectory.create(tmp_path / "data", {"patches": {}}, {})
    run.events.emit("error", kind="DataError", message="bad case", hint="")
    run.write_status("failed", message="bad case")
    capsys.readouterr()
    assert logic.waitFor(run.path) == 3
    assert re.fullmatch(r"voco: error: the job in .* failed: bad case  \(.*\)\n", capsys.readouterr().out)


def test_an_error_of_the_script_itself_ends_slicer_too(logic, capsys):
    assert logic.exitCode(lambda: 1 / 0) == 1
    assert "ZeroDivisionError" in capsys.readouterr().err


def test_a_script_is_told_only_what_has_changed(logic, tmp_path, monkeypatch):
    told, path = [], tmp_path / "run"
    nows = [*[Progress("exporting", 1, 2)] * 3, *[Progress("starting")] * 4]

    def wait(tell):
        for now in nows:
            tell(now)
        run = RunDirectory.create(path, {"patches": {}}, {})
        run.events.emit("warning", message="few cases", hint="add some")
        run.events.emit("finished", state="finished", step=4)
        run.write_status("finished", step=4, total=4)
        return path

    monkeypatch.setattr(logic, "startJob", lambda *_, **__: SimpleNamespace(wait=wait, folds=None))
    assert logic.pretrain([], path, progress=told.append, preset="tiny") == 0
    warned = "warning: few cases  (add some)"
    assert told == ["exporting 1/2", "starting", warned, "finished at step 4"]


@pytest.mark.parametrize("state", ["failed", "lost"])
def test_a_waiting_script_is_told_the_last_that_was_heard(logic, tmp_path, capsys, state):
    steps = [
        {"type": "progress", "step": n, "total": 100, "rate": 1.0, "eta_s": 100.0 - n} for n in range(1, 60)
    ]
    fault = {"type": "error", "message": "bad case", "hint": "mend it", "kind": "DataError"}
    events = [{"type": "started", "step": 0, "device": "cpu"}, *steps, *[fault] * (state == "failed")]
    run = makeRun(tmp_path / "run", "failed" if state == "failed" else "running", step=59, events=events)
    told = []
    assert logic.waitFor(run, told.append) == (3 if state == "failed" else 4)
    assert told[0].startswith("started on cpu") and told[-1] == "step 59 of 100, 41 s left"
    assert capsys.readouterr().out.count("voco: error: ") == 1


def test_a_script_resumes_with_the_python_that_the_user_has_chosen(logic, tmp_path):
    run = RunDirectory.create(tmp_path / "run", {}, {})
    run.write_status("stopped")
    assert logic.jobs.python == sys.executable
    logic.environment.choose(str(tmp_path / "chosen"))
    with pytest.raises(EnvironmentFault, match=r"chosen could not be started"):
        logic.jobs.resume(run.path)


def test_new_folders_do_not_exist_yet(logic):
    first = logic.newFolder("pretrain")
    first.mkdir(parents=True)
    second = logic.newFolder("pretrain")
    assert first.parent == logic.folder and not second.exists() and second.name.startswith("pretrain-")


def test_only_jobs_of_this_machine_that_run_are_asked_about(logic, tmp_path):
    runs = {state: RunDirectory.create(tmp_path / state, {}, {}) for state in ("running", "finished")}
    for state, run in runs.items():
        run.write_status(state)
        logic.jobs.list.remember(run.path)
    logic.jobs.rows()
    assert [row.path for row in logic.activeRuns()] == [runs["running"].path]


def test_stopping_asks_and_does_not_wait(logic, tmp_path):
    run = RunDirectory.create(tmp_path / "run", {}, {})
    logic.stopRuns([run.path])
    assert run.stop_requested()


def test_what_is_no_run_is_not_called_lost(logic, tmp_path):
    RunDirectory.create(tmp_path / "cv" / "fold-0", {}, {}).write_status("finished")
    for ask in (logic.waitFor, lambda path: logic.stopRuns([path])):
        with pytest.raises(SettingsError, match=r"nothing is not a run: it does not exist"):
            ask(tmp_path / "nothing")
        with pytest.raises(SettingsError, match="holds several folds"):
            ask(tmp_path / "cv")
    with pytest.raises(SettingsError, match="one run was given instead of a list"):
        logic.stopRuns(str(tmp_path))


def test_a_job_that_has_not_begun_is_not_left_to_begin(logic, tmp_path, monkeypatch):
    run, withdrawn = tmp_path / "run", []
    monkeypatch.setattr(logic.jobs, "withdraw", lambda path: withdrawn.append(path) or True)
    logic.stopRuns([run])
    assert withdrawn == [run] and not run.exists()


def until(work, patience=60.0):
    """Poll until ``work`` is finished; returns its last state."""
    end = time.monotonic() + patience
    while True:
        now = work.poll()
        if now.finished:
            return now
        assert time.monotonic() < end, "it takes too long"
        time.sleep(0.02)


def test_the_full_check_says_what_is_wrong_with_which_case(logic, scene):
    from VoCoSlicerLib.logic_cases import casesOf

    good, small = body(scene, "good"), body(scene, "small", edge=8)
    job = CheckJob(logic, casesOf(scene, [good, small])).start()
    now = until(job)
    assert now.error is None and len(job.names) == 2
    found = {one.case: one for one in job.found if one.severity == "error"}
    assert list(found) == [job.names[1]] and "8" in found[job.names[1]].message
    job.cancel()
    assert job.poll() is now, "it is done"


def test_a_script_trains_fine_tunes_and_predicts_with_real_jobs(logic, scene, tmp_path):
    volumes = [body(scene, f"case {number} (A)", number) for number in range(3)]
    labels = np.zeros((40, 40, 40), bool)
    labels[10:30, 10:30, 10:30] = True
    for volume in volumes:
        made.segmentation(scene, volume, {"ball": labels}, f"{volume.GetName()} segmentation")
    small = {"crops.counts": (2, 2, 1), "data.val_fraction": 0.0}
    channels = casesOf(scene, [volumes])  # the three as one case, for the estimate alone
    estimate = logic.estimate(  # beside the other processes
        "pretrain", tmp_path / "pre", {**SMALL_SETTINGS, **small}, cases=channels
    )
    said = []
    code = logic.pretrain(volumes, tmp_path / "pre", steps=2, settings=small, progress=said.append, **SMALL)
    assert code == 0 and (tmp_path / "pre" / "weights" / "encoder.safetensors").is_file()
    assert any("exporting" in line for line in said) and said[-1] == "finished at step 2"
    estimate.waitFor()
    needs = estimate.needs
    assert 1 < needs.memoryMb < 2000 and needs.volumeMb == pytest.approx(3 * 64 * 64 * 32 / 2**20, abs=0.06)
    options = {"encoder": "unet", "device": "cpu", "workers": 0, "steps": 2, "init": str(tmp_path / "pre")}
    sizes = {"patches.size": (32, 32, 32), "model.feature_size": 12, "data.val_fraction": 0.34}
    cases = casesOf(scene, volumes, labelled=True)
    values = {**named("finetune", options), **sizes}
    estimate = logic.estimate("finetune", tmp_path / "fine", values, cases=cases)
    assert logic.finetune(volumes, tmp_path / "fine", settings=sizes, **options) == 0
    estimate.waitFor()
    assert estimate.needs.cases == 3 and estimate.needs.memoryMb > 1 and estimate.needs.seconds > 0
    assert any(line.startswith("optim.batch") for line in estimate.needs.plan)
    model = readModel(tmp_path / "fine")
    assert (model.task, model.labels, model.channels) == ("segmentation", ("ball",), ("image",))
    job = logic.predict(tmp_path / "fine", volumes[:2], output=tmp_path / "out", device="cpu")
    assert job.exitCode == 0 and job.failed == {}
    names = [node.GetSegmentation().GetNthSegment(0).GetName() for node in job.segmentations]
    assert names == ["ball", "ball"]
    hashed = hashlib.sha256((tmp_path / "fine" / "weights" / "model.safetensors").read_bytes()).hexdigest()
    assert job.segmentations[0].GetAttribute("VoCo.weightsHash") == hashed
    (table,) = job.tables
    assert table.GetNumberOfRows() == 2


def played(logic, tmp_path, lines):
    """A model, and `voco predict` played: it writes the first case, then does ``lines``."""
    card = {"task": "segmentation", "encoder": "unet", "classes": [{"name": "ball", "values": [1]}]}
    head = json.dumps({"__metadata__": {"card": json.dumps(card)}}).encode()
    (tmp_path / "model.safetensors").write_bytes(struct.pack("<Q", len(head)) + head)
    script = tmp_path / "play.py"
    script.write_text(
        "import sys, json, pathlib\n"
        f"sys.path.insert(0, {str(Path(made.__file__).parents[2])!r})\n"
        "import numpy as np\nfrom VoCoCore.data.images import write_image\n"
        "index, out = sys.argv[1], pathlib.Path(sys.argv[2]); out.mkdir()\n"
        "first = json.load(open(index))['cases'][0]['id']\n"
        "write_image(out / (first + '.nii.gz'), np.ones((8, 8, 8), np.uint8), np.eye(4))\n"
        "(out / 'labels.json').write_text(json.dumps({'labels': {'ball': 1}, 'colours': {'ball': [1, 2, 3]}}))\n"
        + lines
    )
    logic.backgroundTask = lambda words, python=None: Task(
        [script, words[3], words[5]], sys.executable, plain=True
    )
    return tmp_path / "model.safetensors"


def test_a_scene_closed_meanwhile_gets_no_results(logic, scene, tmp_path):
    model = played(logic, tmp_path, "")
    job = logic.predict(model, [body(scene, "first", edge=8)], output=tmp_path / "out", wait=False)
    while job.poll().stage == EXPORTING:
        pass
    scene.Clear(0)
    other = body(scene, "second", edge=8)
    assert other.GetID() == job.groups[0][0].GetID(), "the case in question"
    job.wait()
    assert job.segmentations == job.tables == [] and not slicer.util.getNodesByClass(
        "vtkMRMLSegmentationNode", scene
    )
    assert job.warnings == [f"first is no longer in the scene; its result is in {tmp_path / 'out'}"]


def test_the_result_of_a_volume_that_is_gone_is_not_given_to_one_of_a_like_name(logic, scene, tmp_path):
    """Their files would be called the same, so that the second has a number; only the first was predicted."""
    volumes = [body(scene, name, edge=8) for name in ("chest 2", "chest:2")]
    (tmp_path / "VoCo").mkdir()
    model = played(logic, tmp_path / "VoCo", "(out / 'chest 2.nii.gz').rename(out / 'chest_2.nii.gz')\n")
    job = logic.predict(model, volumes, output=tmp_path / "out", wait=False)
    while job.poll().stage == EXPORTING:
        pass
    scene.RemoveNode(volumes[0])
    with pytest.raises(DataError, match="chest:2: it was not predicted"):
        job.wait()
    assert job.segmentations == []


def test_one_bad_case_is_named_and_the_others_are_added(logic, scene, tmp_path):
    """The command is played: it writes one of two cases, says why not the other, and ends with 3."""
    bad = "6: CT thorax"  # as Slicer calls what it reads from DICOM
    volumes = [body(scene, name, edge=8) for name in ("good", bad)]
    lines = (
        "print('predicting 1/2  about 3 s left', file=sys.stderr)\n"
        f"print('left out {bad}: its first slice: it holds no number')\n"
        "print('voco: error: 1 case could not be predicted  (mend it)', file=sys.stderr); sys.exit(3)\n"
    )
    model = played(logic, tmp_path, lines)
    job = logic.predict(model, volumes, output=tmp_path / "out")
    assert job.exitCode == 3 and job.failed == {bad: "its first slice: it holds no number"}
    (node,) = job.segmentations
    assert node.GetName().startswith("good") and "mend it" in job.log
