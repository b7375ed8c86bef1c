"""Pictures of Slicer's whole window for docs/pictures/slicer, taken in a real Slicer with made data.

    Slicer --additional-module-paths VoCoSlicer --testing --python-script Testing/slicer/screenshots_in_slicer.py

VOCO_PYTHON names the Python of the jobs; a network is fine-tuned for minutes. VOCO_TEST_PICTURES is another folder.
"""

import os
import shutil
import sys
import tempfile
import traceback
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
PLACE = Path(tempfile.gettempdir()) / "VoCo"  # what the pictures show as the user's folder
shutil.rmtree(PLACE, ignore_errors=True)
os.environ["VOCO_CONFIG_HOME"] = str(PLACE / ".config")

import slicer  # noqa: E402
from hand import PICTURES, Hand  # noqa: E402
from in_slicer import Here, openModule  # noqa: E402
from made_jobs import FINETUNING, choose  # noqa: E402
from moved_crop import showMovedCrop  # noqa: E402
from stage import Stage  # noqa: E402

FOLDER = Path(os.environ.get("VOCO_TEST_PICTURES", PICTURES))
SIZE = 1500, 1000


def arrange(layout: int, volume) -> None:
    """The window without the data probe, the volume in all views, cut through its middle."""
    window, manager = slicer.util.mainWindow(), slicer.app.layoutManager()
    window.resize(*SIZE)
    for name in ("DataProbeCollapsibleWidget", "HelpCollapsibleButton"):
        for found in slicer.util.findChildren(window, name=name):
            found.collapsed = True
    manager.setLayout(layout)
    slicer.util.setSliceViewerLayers(background=volume, fit=True)
    view = manager.threeDWidget(0).threeDView()
    view.mrmlViewNode().SetBoxVisible(False)
    view.mrmlViewNode().SetAxisLabelsVisible(False)
    view.rotateToViewAxis(3)  # from the front
    camera = slicer.modules.cameras.logic().GetViewActiveCameraNode(view.mrmlViewNode()).GetCamera()
    camera.Azimuth(25)
    camera.Elevation(20)
    view.renderWindow().GetRenderers().GetFirstRenderer().ResetCamera()
    camera.Zoom(1.3)


def take(name: str) -> None:
    """Save the window."""
    for _ in range(5):
        slicer.app.processEvents()
    for view in range(slicer.app.layoutManager().threeDViewCount):
        slicer.app.layoutManager().threeDWidget(view).threeDView().forceRender()
    slicer.util.mainWindow().grab().save(str(FOLDER / f"{name}.png"))


def only(stage: Stage, name: str) -> Hand:
    """A hand on the controls of a section, the only one that is open."""
    for section in [one for one in vars(stage.widget.ui) if one.endswith("Section")]:
        Hand(stage.widget.parent, stage).fold(section)
    return stage.hand(name)


def takePreview(stage: Stage, volume) -> None:
    """Base crops and a random crop over a volume."""
    hand = only(stage, "cropPreview")
    showMovedCrop(hand, stage.widget.logic.preview, volume)
    arrange(slicer.vtkMRMLLayoutNode.SlicerLayoutFourUpView, volume)
    take("slicer-preview")
    hand.check("onCheckBox", False)


def takeJob(stage: Stage, cases, shown) -> Path:
    """The curves of a fine-tuning beside the slices of ``shown``; returns its run."""
    volumes, segmentations = zip(*cases, strict=True)
    run = PLACE / "finetune torsos"
    logic = stage.widget.logic
    assert not logic.finetune(volumes, run, segmentations=segmentations, settings=FINETUNING, progress=print)
    hand = only(stage, "jobs")
    choose(hand, stage.widget.panel("jobs"), run.name)
    hand.check("plotButton")
    hand.settle()
    slicer.util.setSliceViewerLayers(background=shown, fit=True)
    take("slicer-jobs")
    hand.check("plotButton", False)
    return run


def takePrediction(stage: Stage, run: Path, volume) -> None:
    """What is predicted of a case that was not learnt."""
    hand = only(stage, "prediction")
    stage.widget.logic.getParameterNode().model = str(run)
    hand.pick("volumeSelector", volume)
    hand.type("outputEdit", str(PLACE / "predicted"))
    hand.click("predictButton")
    hand.until(lambda: hand.find("predictButton").isEnabled(), 600, "the prediction")
    arrange(slicer.vtkMRMLLayoutNode.SlicerLayoutFourUpView, volume)
    take("slicer-prediction")


def main() -> None:
    """All pictures."""
    from VoCoSlicerLib.samples import loadSample

    FOLDER.mkdir(parents=True, exist_ok=True)
    stage = Stage(Here(), openModule, None, None, PLACE)
    stage.open()
    ((torso, _),) = loadSample(slicer.mrmlScene, "VoCoTorso")
    cases = loadSample(slicer.mrmlScene, "VoCoTorsos")
    for node in slicer.util.getNodesByClass("vtkMRMLSegmentationNode"):
        node.SetDisplayVisibility(False)
    takePreview(stage, torso)
    takePrediction(stage, takeJob(stage, cases, torso), torso)


try:
    main()
except BaseException:
    traceback.print_exc()
    slicer.util.exit(1)
else:
    slicer.util.exit(0)
