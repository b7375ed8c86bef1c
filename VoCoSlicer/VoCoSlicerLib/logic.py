"""All that the module does, without a window: each button's work is one method of `VoCoLogic`.

Scripts use the same methods (``Slicer --no-main-window --python-script``); those that take ``wait`` return when the
work is done, with the exit code that the command line would give.
"""

from __future__ import annotations

import os
import time
import traceback
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any
from weakref import WeakSet

import slicer

from VoCoCore.errors import VocoError
from VoCoCore.runs.describe import failure
from VoCoCore.runs.directory import RunDirectory
from VoCoCore.runs.follow import Follower
from VoCoCore.runs.launch import Launch
from VoCoCore.runs.lines import PlainLines
from VoCoSlicerLib import logic_cases
from VoCoSlicerLib.logic_estimate import EstimateJob
from VoCoSlicerLib.logic_folds import laterFolds
from VoCoSlicerLib.logic_predict import PredictJob
from VoCoSlicerLib.logic_settings import named
from VoCoSlicerLib.logic_start import StartJob
from VoCoSlicerLib.logic_steps import PAUSE, Steps
from VoCoSlicerLib.logic_told import Told, changes, prefixed, silent
from VoCoSlicerLib.tasks import Task, cancelAll, explain

FOLDER = "folder"  # in the user's settings: where runs, exports and predictions go unless told otherwise


class VoCoLogic:
    """The module's work on one scene (None: Slicer's own).

    ``store`` keeps what belongs to the machine: the Python of the jobs, the folder for runs (None: for this
    session only). ``environment``, ``jobs``, ``preview`` and ``plots`` are made when they are first asked for.
    """

    def __init__(self, scene: Any = None, store: MutableMapping[str, str] | None = None) -> None:
        self.scene = slicer.mrmlScene if scene is None else scene
        self.store: MutableMapping[str, str] = {} if store is None else store
        self.working: WeakSet[Steps] = WeakSet()  # what has begun; some of it may have finished
        self.installing: Task | None = None  # the last installation of packages, perhaps over
        self.facts: Any = None  # what the last probe of the jobs' Python found (`environment.Facts`)

    @cached_property
    def environment(self) -> Any:
        """Which Python runs the jobs, and what it has."""
        from VoCoSlicerLib.environment import Environment

        return Environment(self.store)

    @cached_property
    def jobs(self) -> Any:
        """The runs that are known, and what can be done with them."""
        from VoCoSlicerLib.jobs import JobTable

        return JobTable(lambda: str(self.environment.python))

    @cached_property
    def preview(self) -> Any:
        """Base crops and random crops of a volume, as nodes in the scene."""
        from VoCoSlicerLib.preview import CropPreview

        return CropPreview(self.scene)

    @cached_property
    def plots(self) -> Any:
        """A run's metrics as nodes of Slicer's plot view."""
        from VoCoSlicerLib.plots import RunPlots

        return RunPlots(self.scene)

    def cleanup(self) -> None:
        """Take everything out of the scene that only this logic needs and end background tasks; jobs go on."""
        for name in ("preview", "plots"):
            if name in vars(self):
                getattr(self, name).cleanup()
        cancelAll()

    def showOverlay(self, label: str, *, bring: bool = True) -> None:
        """Show the predicted probabilities of ``label`` in each slice view over the volume that they belong to.

        "" takes them away. ``bring``: where no view shows such a volume, the latest one comes into all of them.
        """
        from VoCoSlicerLib import overlays

        overlays.showOverlay(self.scene, label, bring=bring)

    # Folders

    @property
    def folder(self) -> Path:
        """Where runs, exported volumes and predictions go unless a place is named."""
        return Path(self.store.get(FOLDER) or Path.home() / "VoCo")

    def newFolder(self, kind: str) -> Path:
        """A folder that does not exist yet: ``pretrain-2026-03-01-1430`` and the like, below `folder`."""
        stem = self.folder / f"{kind}-{time.strftime('%Y-%m-%d-%H%M')}"
        number, path = 1, stem
        while os.path.lexists(path):
            number, path = number + 1, stem.with_name(f"{stem.name}-{number + 1}")
        return path

    def exportFolder(self, run: Path) -> Path:
        """Where the volumes of the scene go that the job in ``run`` reads: one place, so that each is written once."""
        return run.parent / "exported volumes"

    def volumesInUse(self) -> dict[Path, str]:
        """The folders of exported volumes that something under way here writes or reads, and what that is."""
        return {one.volumes: one.named for one in self.working if one.volumes and not one.finished}

    # Cases

    def makeExport(
        self, cases: Sequence[Any], folder: Path, folders: Sequence[Path] = (), labels: bool = True
    ) -> Any:
        """The export of ``cases`` (SceneCase) into ``folder``, not started yet; see `export.CaseExport`."""
        from VoCoSlicerLib.export import CaseExport

        return CaseExport(self.scene, cases, folder, folders=tuple(folders), labels=labels)

    def exportIndex(self, volumes: Sequence[Any], folder: str | Path, **facts: Any) -> Path:
        """Write ``volumes`` (nodes or IDs) where they must be, and the list of them; waits, returns the list's path.

        ``facts``: ``segmentations`` (a node, an ID or None for each volume), ``classLabels``, ``names``, ``folders``
        (index files of cohorts on disk). Raises DataError for a volume that cannot be used.
        """
        folders = facts.pop("folders", None)
        folders = [Path(item) for item in logic_cases.listed(() if folders is None else folders, "folder")]
        cases = logic_cases.casesOf(self.scene, volumes, **facts)
        return Path(self.makeExport(cases, Path(folder), folders).run())

    def indexFolder(self, source: str | Path, index: str | Path) -> Any:
        """A background task that lists the cases of a folder, dataset.json, CSV or DICOM folder in ``index``."""
        Path(index).parent.mkdir(parents=True, exist_ok=True)
        return self.backgroundTask(["data", "index", source, "-o", index])

    def checkIndex(self, index: str | Path, counts: Sequence[int] = (4, 4, 1)) -> Any:
        """A background task that opens every case of a list and prints what is wrong as JSON."""
        return self.backgroundTask(["data", "check", index, "--json", "--counts", ",".join(map(str, counts))])

    def backgroundTask(self, words: Sequence[str | Path], python: str | None = None) -> Any:
        """A background ``voco`` command in the Python of the jobs (or another), not started yet; see `tasks.Task`."""
        return Task(words, python=python or str(self.environment.python))

    # Jobs

    def estimate(self, kind: str, run: str | Path, values: Mapping[str, Any], **chosen: Any) -> EstimateJob:
        """The estimate, to be polled, of what a ``pretrain`` or ``finetune`` job of these settings needs.

        ``chosen``: ``cases`` and ``folders`` as of `EstimateJob`; without them a pre-training has one channel.
        """
        return EstimateJob(self, kind, run, values, **chosen).start()

    def startJob(self, kind: str, run: str | Path, values: Mapping[str, Any], **options: Any) -> StartJob:
        """The start of a ``pretrain`` or ``finetune`` job, to be polled; ``options`` as of `StartJob`."""
        options.setdefault("python", str(self.environment.python))
        return StartJob(self, kind, run, dict(values), **options).start()

    def pretrain(self, volumes: Sequence[Any] = (), run: str | Path = "", **options: Any) -> int:
        """Pre-train on ``volumes`` of the scene (nodes or IDs); returns the exit code.

        ``run``: a new folder (default: one below `folder`). Options: ``wait`` (True: until the job has ended; False:
        until it has started), ``folders`` or ``index`` (cases on disk), ``python``, ``progress`` (called with a line of
        text), ``settings`` (a dictionary of dotted names), and the words of the command line: ``preset``, ``recipe``,
        ``encoder``, ``steps``, ``batch``, ``seed``, ``device``, ``init``...

        Returns 0 when it has finished (or started, without ``wait``), 5 when it was stopped, 2, 3 or 4 when settings,
        data or machine are to blame. Raises VocoError for what is wrong before the job starts; see `exitCode`.
        """
        return self._work("pretrain", volumes, run, options)

    def finetune(self, volumes: Sequence[Any] = (), run: str | Path = "", **options: Any) -> int:
        """Fine-tune on labelled ``volumes`` of the scene; like `pretrain`, and with two options more.

        ``segmentations``: a segmentation or label map node, or its ID, for each volume (default: by the name).
        ``classLabels``: a class for each volume, with ``task="classification"``. ``init``: run or file to start from.
        """
        return self._work("finetune", volumes, run, options)

    def predict(self, model: str | Path, volumes: Sequence[Any], **options: Any) -> PredictJob:
        """Predict ``volumes`` (nodes, IDs or names; a list of them is one case of several channels), and add the
        results to the scene. ``model``: a fine-tuned run or file.

        Options as of `PredictJob` (``output``, ``mirror``, ``largest``, ``probabilities``, ``device``, ``python``), and
        ``wait``: True returns when all is done, with the nodes in `PredictJob.segmentations` and the exit code in
        `PredictJob.exitCode`; False returns at once, and the caller polls. Raises VocoError where nothing was made.
        """
        wait = options.pop("wait", True)
        options.setdefault("python", str(self.environment.python))
        output = options.pop("output", "") or self.newFolder("predict")
        groups = [
            logic_cases.nodesOf(self.scene, one if isinstance(one, list | tuple) else [one])
            for one in logic_cases.listed(volumes)
        ]
        job = PredictJob(self, model, groups, output, **options).start()
        if wait:
            job.wait()
            for name, reason in job.failed.items():
                print(f"voco: error: {name}: {reason}")
        return job

    def exitCode(self, work: Callable[[], Any]) -> int:
        """Do ``work`` and return its exit code, for ``sys.exit`` at a script's end: errors become a line and a code.

        Also those of the script itself, with their traceback: Slicer would stay open, without a window.
        """
        try:
            done = work()
        except VocoError as error:
            print(f"voco: error: {error}")
            return error.exit_code
        except Exception:
            traceback.print_exc()
            return 1
        return done if isinstance(done, int) else int(getattr(done, "exitCode", 0) or 0)

    def waitFor(self, run: str | Path, progress: Callable[[str], Any] | None = None) -> int:
        """Wait until the job in ``run`` has ended; returns 0, 5 when it was stopped, or the code of what went wrong,
        which is printed: a script has nothing else to show it. Raises SettingsError for a folder that is no run.
        """
        follower, lines = Follower(RunDirectory.open(run)), PlainLines(progress or silent)
        # An error comes with its hint at the end.
        state = follower.until_ended(lambda e: e["type"] == "error" or lines(e), pause=4 * PAUSE)
        lines.flush()
        if state in ("finished", "stopped"):
            return 0 if state == "finished" else 5
        error = failure(follower)
        print(f"voco: error: {error}")
        return error.exit_code

    def lostWithSlicer(self) -> list[str]:
        """What is under way here and would be lost if Slicer were closed now, in words: a prediction, a job whose
        volumes are still being written, an installation.
        """
        task = self.installing
        installing = task is not None and task.running and not task.cancelled
        words = [one.lostWithSlicer for one in self.working]
        return sorted({*filter(None, words), *(["the installation of packages"] if installing else [])})

    def activeRuns(self) -> list[Any]:
        """The rows of the jobs that run on this machine now, as far as the table knows of them; takes a moment."""
        return self.jobs.underWay()

    def stopRuns(self, runs: Sequence[str | Path]) -> None:
        """Ask these jobs to stop with a checkpoint; those that have not begun are ended. Never waits.

        Raises SettingsError for a folder that is no run.
        """
        for run in logic_cases.listed(runs, "run"):
            if not self.jobs.withdraw(run):
                RunDirectory.open(run).request_stop()

    def _work(self, kind: str, volumes: Sequence[Any], run: str | Path, options: dict[str, Any]) -> int:
        wait, progress = options.pop("wait", True), options.pop("progress", None) or silent
        chosen = {name: options.pop(name, None) for name in ("folders", "index", "python")}
        given = {name: value for name, value in chosen.items() if value is not None}
        facts = {name: options.pop(name, None) for name in ("segmentations", "classLabels", "names")}
        values = named(kind, options, options.pop("settings", None))
        labelled = kind == "finetune" and values.get("task") != "classification"
        cases = logic_cases.casesOf(self.scene, volumes, labelled=labelled, **facts)
        folder = run or self.newFolder(kind)
        tell = changes(progress)
        start = self.startJob(kind, folder, values, cases=cases, **given)
        path = start.wait(lambda now: tell(f"{now.stage} {now.done}/{now.total}" if now.total else now.stage))
        if not wait:
            return 0
        if start.folds is None:
            return self.waitFor(path, progress)
        return self._waitForFolds(path, start.folds, progress)

    def _waitForFolds(self, first: Path, started: Launch, progress: Told) -> int:
        """The exit code of a cross-validation; its lines of progress begin with the fold's name."""
        code = 0
        for fold in chain([first], laterFolds(first, started)):
            code = code or self.waitFor(fold, prefixed(progress, fold.name))
        if not code and started.exit_code:  # between two folds, or after the last
            error = explain(started.exit_code, started.output())
            print(f"voco: error: {error}")
            code = error.exit_code
        return code
