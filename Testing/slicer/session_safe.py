"""What must not hurt: coming and going, closed scenes, deleted volumes, reloads; the same in host and real Slicer."""

from __future__ import annotations

import sys

import slicer
from stage import Stage


def calls(action) -> int:
    """How many Python functions run because of ``action``: observers that were left behind make it more."""
    count = 0

    def note(frame, event, argument) -> None:
        nonlocal count
        count += event == "call"

    sys.setprofile(note)
    try:
        action()
    finally:
        sys.setprofile(None)
    return count


def comeAndGo(stage: Stage) -> None:
    """Twenty times to another module and back: scene and parameter node call nobody more than before."""
    node = stage.widget.logic.getParameterNode().parameterNode
    hand = stage.hand("cropPreview")

    def change() -> None:
        added = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTextNode")
        slicer.mrmlScene.RemoveNode(added)

    def again() -> list[int]:
        stage.leave()
        stage.open()
        # a preview that is shown comes step by step, and looks at the nodes that it has so far
        hand.until(lambda: not stage.widget.logic.preview.busy, what="the preview")
        return [calls(node.Modified), calls(change)]

    again()
    before = again()
    for _ in range(20):
        after = again()
    assert before[0] > 0 and after == before


def deleteTheVolume(stage: Stage) -> None:
    """The volume of the preview is deleted while it is shown: the next is shown then, until there is none."""
    hand, preview = stage.hand("cropPreview"), stage.widget.logic.preview
    node = showPreview(stage, hand)
    while node is not None:
        slicer.mrmlScene.RemoveNode(node)
        hand.settle()
        node = hand.find("volumeSelector").currentNode()
        if node is not None:
            hand.until(
                lambda node=node: preview.ready and preview.volume is node, what="the next volume's preview"
            )
            assert preview.shown and len(slicer.util.getNodesByClass("vtkMRMLMarkupsROINode")) == 1
    assert preview.nodes is None
    assert not slicer.util.getNodesByClass("vtkMRMLMarkupsROINode")
    assert hand.find("problemLabel").text == "Choose a volume."


def closeTheScene(stage: Stage) -> None:
    """The scene is closed while the preview is shown; nothing of it stays."""
    hand, preview = stage.hand("cropPreview"), stage.widget.logic.preview
    showPreview(stage, hand)
    slicer.mrmlScene.Clear(0)
    hand.settle()
    assert preview.nodes is None
    assert not slicer.util.getNodesByClass("vtkMRMLMarkupsROINode")
    assert hand.find("volumeSelector").currentNode() is None


def reload(stage: Stage) -> None:
    """The module is reloaded with its preview shown, and works."""
    hand = stage.hand("cropPreview")
    showPreview(stage, hand)
    stage.reopen()
    hand, preview = stage.hand("cropPreview"), stage.widget.logic.preview
    hand.until(lambda: preview.ready, what="the preview after the reload")
    rois = slicer.util.getNodesByClass("vtkMRMLMarkupsROINode")
    assert len(rois) == 1, [node.GetName() for node in rois]
    hand.check("onCheckBox", False)
    gone = "vtkMRMLMarkupsROINode"
    hand.until(lambda: not slicer.util.getNodesByClass(gone), what="the end of the preview")


def showPreview(stage: Stage, hand):
    """The preview of a new sample volume; returns its node."""
    from VoCoSlicerLib.samples import loadSample

    preview = stage.widget.logic.preview
    ((volume, _),) = loadSample(slicer.mrmlScene, "VoCoTorso")
    hand.choose("setting.preset", "tiny")
    hand.pick("volumeSelector", volume)
    hand.check("onCheckBox")
    hand.until(lambda: preview.ready and preview.shown, what="the preview")
    return volume


STEPS = (comeAndGo, deleteTheVolume, closeTheScene, reload)
