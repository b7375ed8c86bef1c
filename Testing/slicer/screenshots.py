"""Pictures of the module's sections, its crop preview and its results for docs/pictures/slicer, with made data.

    python Testing/slicer/screenshots.py [FOLDER [RUN]]

Needs slicer-core and PySide6, no screen and no Slicer. Paths and names in the pictures are made up. The curves are
not: a network is fine-tuned on the sample cases for minutes, unless ``RUN`` is one that has been done already.
`screenshots_in_slicer` takes those of Slicer's whole window.
"""

from __future__ import annotations

import math
import os
import shutil
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
PLACE = Path(tempfile.gettempdir()) / "VoCo"  # what the pictures show as the user's folder
for folder in (HERE, ROOT / "VoCoSlicer"):
    sys.path.insert(0, str(folder))
shutil.rmtree(PLACE, ignore_errors=True)
PYTHON = PLACE / "python" / "bin" / "python"  # the jobs' Python: this one, under another name
PYTHON.parent.mkdir(parents=True)
PYTHON.symlink_to(sys.executable)
(PLACE / "python" / "lib").symlink_to(Path(sys.prefix) / "lib")
(PLACE / "python" / "pyvenv.cfg").write_text(f"home = {sys.base_prefix}/bin\n")
os.environ.update(HOME=str(PLACE), VOCO_CONFIG_HOME=str(PLACE / ".config"), VOCO_PYTHON=str(PYTHON))

import slicer  # noqa: E402
from hand import PICTURES, Hand  # noqa: E402
from host import Host  # noqa: E402
from made_jobs import FINETUNING, choose, makeRun, progress, started, train, val  # noqa: E402
from moved_crop import showMovedCrop  # noqa: E402
from views import PlotView, SliceView, ThreeDView  # noqa: E402

WIDTH = 640


def makeRuns() -> None:
    """Four runs as jobs leave them: one that was finished, one that was stopped, one that failed, one under way."""
    from VoCoCore.runs import known

    events = [started(step=0, device="NVIDIA RTX 4090")]
    for step in range(10, 1001, 10):
        events += [train(step, 0.55 + 0.9 * math.exp(-step / 220) + 0.03 * math.sin(step)), progress(step)]
        if step % 100 == 0:
            events.append(val(step, position_accuracy=0.9 - 0.7 * math.exp(-step / 400)))
    runs = PLACE / "VoCo"
    known.remember(makeRun(runs / "pretrain 2025-11-03", "finished", 1000, events))
    known.remember(makeRun(runs / "pretrain 2025-11-10", "stopped", 430, events[: 43 * 2 + 5]))
    card = started(device="NVIDIA RTX 4090")
    failed = {"type": "error", "kind": "EnvironmentFault", "message": "the graphics card is out of memory"}
    failed |= {"hint": "take a smaller batch, or crops.base_size, or the preset tiny"}
    known.remember(makeRun(runs / "pretrain 2025-11-12", "failed", 12, [card, failed], failed["message"]))
    going = [*events[: 62 * 2 + 7], progress(620, 4.1, 93.0)]
    running = makeRun(runs / "pretrain 2025-11-14", "running", 620, going, pid=os.getpid())
    (running / "log.txt").write_text("step 620 of 1000\n")
    known.remember(running)


def fineTuned(logic, cases, done: Path | None) -> Path:
    """A run that was fine-tuned on ``cases``: ``done`` under a made-up name, or a new one."""
    from VoCoCore.runs import known

    run = PLACE / "VoCo" / "finetune 2025-11-17"
    if done is not None:
        shutil.copytree(done, run, ignore=shutil.ignore_patterns("checkpoints"))
        known.remember(run)
        return run
    volumes, segmentations = zip(*cases, strict=True)
    code = logic.finetune(volumes, run, segmentations=segmentations, settings=FINETUNING, progress=print)
    assert code == 0, code
    return run


class Pictures:
    """Opens one section after the other and takes its picture."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.host = Host()
        self.widget = self.host.loadModule(ROOT / "VoCoSlicer" / "VoCoSlicer.py")
        self.widget.parent.resize(WIDTH, 2400)
        self.widget.parent.show()
        self.host.enter("VoCoSlicer")
        self.hand = Hand(self.widget.parent, self.host)
        for name in self.sections():
            self.hand.fold(name)

    def sections(self) -> list[str]:
        """The names of the collapsible buttons."""
        return [name for name in vars(self.widget.ui) if name.endswith("Section")]

    def open(self, name: str) -> Hand:
        """A hand on the controls of a section, the only one that is open."""
        for other in self.sections():
            self.hand.fold(other)
        self.hand.open(f"{name}Section")
        return Hand(self.widget.panel(name).widget, self.host)

    def take(self, name: str, section: str) -> None:
        """Save the open section."""
        self.hand.screenshot(name, self.widget.section(section), self.folder)

    def close(self) -> None:
        """End; errors that nobody saw fail."""
        self.host.close()
        self.host.failures.check()


def takeAll(folder: Path, done: Path | None) -> None:
    """All pictures into ``folder``."""
    from VoCoSlicerLib.samples import loadSample

    makeRuns()
    pictures = Pictures(folder)
    big, small = loadSample(slicer.mrmlScene, "VoCoTorso"), loadSample(slicer.mrmlScene, "VoCoTorsos")
    hand = pictures.open("environment")
    hand.until(lambda: hand.find("checkPythonButton").isEnabled(), 300, "the probe")
    pictures.take("environment", "environment")
    hand = pictures.open("volumes")
    hand.until(lambda: len(hand.rows("volumesTable")) == 7, what="the table")
    hand.click("allButton")
    hand.checkRow("volumesTable", 0, on=False)
    pictures.take("volumes", "volumes")
    takePreview(pictures, big[0])
    hand = pictures.open("pretraining")
    hand.choose("setting.model.encoder", "unet")
    hand.type("setting.optim.steps", "200")
    takeEstimate(pictures, hand, "pretraining")
    hand = pictures.open("finetuning")
    hand.type("setting.optim.steps", "300")
    takeEstimate(pictures, hand, "finetuning")
    takeJobs(pictures)
    run = fineTuned(pictures.widget.logic, small, done)
    takeResults(pictures, run, big[0][0])
    pictures.close()


def takeEstimate(pictures: Pictures, hand: Hand, name: str) -> None:
    """The section of a training, with what it will need."""
    hand.click("estimateButton")
    label = hand.find("estimateLabel")
    words = ("Estimating", "Writing")
    hand.until(lambda: label.text and not label.text.startswith(words), 1200, "the estimate")
    assert "GB" in label.text, label.text
    pictures.take(name, name)


def takeJobs(pictures: Pictures) -> None:
    """The section of the jobs."""
    from VoCoCore.runs.directory import RunDirectory

    hand = pictures.open("jobs")
    with RunDirectory(PLACE / "VoCo" / "pretrain 2025-11-14").lock():  # as long as it runs
        hand.until(lambda: len(hand.rows("runsTable")) == 4, what="the runs")
        hand.selectRow("runsTable", 0)
        hand.until(lambda: hand.rows("runsTable")[0][2] == "running", what="the job")
        hand.until(lambda: hand.find("runsTable").columnWidth(0) > 150, what="the width for the names")
        pictures.take("jobs", "jobs")


def takeResults(pictures: Pictures, run: Path, volume) -> None:
    """Plots of a fine-tuning, and the section of the prediction."""
    hand = pictures.open("jobs")
    choose(hand, pictures.widget.panel("jobs"), run.name)
    hand.check("plotButton")
    logic = pictures.widget.logic
    for name, chart in logic.plots.charts.items():
        PlotView(chart).save(pictures.folder / f"plot-{name}.png")
    hand.check("plotButton", False)
    hand = pictures.open("prediction")
    logic.getParameterNode().model = str(run)
    hand.pick("volumeSelector", volume)
    pictures.take("prediction", "prediction")


def takePreview(pictures: Pictures, case) -> None:
    """The section of the crop preview, and what the views show of it."""
    volume, _ = case
    for segmentation in slicer.util.getNodesByClass("vtkMRMLSegmentationNode"):
        segmentation.SetDisplayVisibility(False)
    hand = pictures.open("cropPreview")
    showMovedCrop(hand, pictures.widget.logic.preview, volume)
    pictures.take("crop-preview", "cropPreview")
    for name in ("Red", "Yellow", "Green"):
        SliceView(pictures.host.setup, name).save(pictures.folder / f"view-{name.lower()}.png")
    ThreeDView(pictures.host.setup).save(pictures.folder / "view-3d.png")
    hand.check("heatCheckBox")
    SliceView(pictures.host.setup, "Red").save(pictures.folder / "view-heat.png")
    hand.check("onCheckBox", False)


if __name__ == "__main__":
    given = [Path(word) for word in sys.argv[1:]]
    takeAll(given[0] if given else PICTURES, given[1].absolute() if len(given) > 1 else None)
