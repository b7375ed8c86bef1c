"""Pictures of the module's sections and of its crop preview for docs/pictures/slicer, with made data and made runs.

    python Testing/slicer/screenshots.py [FOLDER]

Needs slicer-core and PySide6, no screen and no Slicer. Paths and names in the pictures are made up.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import struct
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
from made_jobs import makeRun, progress, started, train, val  # noqa: E402
from views import SliceView, ThreeDView  # noqa: E402

WIDTH = 640


def makeRuns() -> None:
    """Three runs as jobs leave them: one that was finished, one that was stopped, one that failed."""
    from VoCoCore.runs import known

    events = [started(step=0, device="NVIDIA RTX 4090")]
    for step in range(10, 1001, 10):
        events += [train(step, 0.55 + 0.9 * math.exp(-step / 220) + 0.03 * math.sin(step)), progress(step)]
        if step % 100 == 0:
            events.append(val(step, position_accuracy=0.9 - 0.7 * math.exp(-step / 400)))
    runs = PLACE / "VoCo"
    known.remember(makeRun(runs / "pretrain 2025-11-03", "finished", 1000, events))
    known.remember(makeRun(runs / "pretrain 2025-11-10", "stopped", 430, events[: 43 * 2 + 5]))
    failed = {"type": "error", "kind": "EnvironmentFault", "message": "the graphics card is out of memory"}
    failed |= {"hint": "take a smaller batch, or crops.base_size, or the preset tiny"}
    known.remember(
        makeRun(runs / "pretrain 2025-11-12", "failed", 12, [started(), failed], failed["message"])
    )


def makeModel() -> Path:
    """A file that says of itself what a fine-tuned model says."""
    names = ("liver", "spleen", "left kidney", "right kidney", "vertebrae", "aorta")
    classes = [{"name": name, "values": [number + 1]} for number, name in enumerate(names)]
    card = {"task": "segmentation", "encoder": "unet", "classes": classes, "steps": 2000, "cases": 6}
    head = json.dumps({"__metadata__": {"card": json.dumps(card)}}).encode()
    path = PLACE / "organs.safetensors"
    path.write_bytes(struct.pack("<Q", len(head)) + head)
    return path


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


def takeAll(folder: Path) -> None:
    """All pictures into ``folder``."""
    from VoCoSlicerLib.samples import loadSample

    makeRuns()
    model = makeModel()
    pictures = Pictures(folder)
    cases = [*loadSample(slicer.mrmlScene, "VoCoTorso"), *loadSample(slicer.mrmlScene, "VoCoTorsos")]
    hand = pictures.open("environment")
    hand.until(lambda: hand.find("checkPythonButton").isEnabled(), 300, "the probe")
    pictures.take("environment", "environment")
    hand = pictures.open("volumes")
    hand.until(lambda: len(hand.rows("volumesTable")) == len(cases), 20, "the table")
    hand.click("allButton")
    pictures.take("volumes", "volumes")
    takePreview(pictures, cases[0])
    hand = pictures.open("pretraining")
    hand.choose("setting.model.encoder", "unet")
    hand.click("estimateButton")
    label = hand.find("estimateLabel")
    hand.until(lambda: label.text and not label.text.startswith("Estimating"), 1200, "the estimate")
    assert "GB" in label.text, label.text
    pictures.take("pretraining", "pretraining")
    pictures.open("finetuning")
    pictures.take("finetuning", "finetuning")
    hand = pictures.open("prediction")
    pictures.widget.logic.getParameterNode().model = str(model)
    hand.pick("volumeSelector", cases[1][0])
    pictures.take("prediction", "prediction")
    hand = pictures.open("jobs")
    hand.until(lambda: len(hand.rows("runsTable")) == 3, 20, "the runs")
    hand.selectRow("runsTable", 0)
    pictures.take("jobs", "jobs")
    pictures.close()


def takePreview(pictures: Pictures, case) -> None:
    """The section of the crop preview, and what the views show of it."""
    volume, _ = case
    for segmentation in slicer.util.getNodesByClass("vtkMRMLSegmentationNode"):
        segmentation.SetDisplayVisibility(False)
    hand = pictures.open("cropPreview")
    hand.choose("setting.preset", "tiny")
    hand.pick("volumeSelector", volume)
    hand.check("onCheckBox")
    preview = pictures.widget.logic.preview
    hand.until(lambda: preview.ready and preview.shown, 60, "the preview")
    middle = preview.world.centres[5:11:5].mean(0)
    preview.roiNode.SetCenterWorld(*middle)
    hand.settle()
    pictures.take("crop-preview", "cropPreview")
    for name in ("Red", "Yellow", "Green"):
        SliceView(pictures.host.setup, name).save(pictures.folder / f"view-{name.lower()}.png")
    ThreeDView(pictures.host.setup).save(pictures.folder / "view-3d.png")
    hand.check("heatCheckBox")
    SliceView(pictures.host.setup, "Red").save(pictures.folder / "view-heat.png")
    hand.check("onCheckBox", False)


if __name__ == "__main__":
    takeAll(Path(sys.argv[1]) if len(sys.argv) > 1 else PICTURES)
