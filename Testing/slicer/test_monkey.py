"""Hands that do not know what they do: random steps at all controls and in the scene, and what must hold after them.

Each seed is one session, the same each time. What a failure says ends with its steps; leave out those that do not
matter, and there is the test to be written.
"""

from __future__ import annotations

import random

import made_scene as made
import numpy as np
import pytest
import slicer
from hand import Hand
from preview_scene import composites, nodeIds, torso

from VoCoSlicerLib.preview_nodes import OWNER, nodesByClass
from VoCoSlicerLib.preview_plan import requestOf

SECTIONS = ("volumes", "cropPreview", "pretraining", "finetuning", "prediction", "jobs")
VOLUMES = "vtkMRMLScalarVolumeNode"
NAMES = ("", "ct", "ct", "a/b \\ \"c\" 'd'", "p_t1", "p_t2", "体积 😀", "<b>&", "x" * 200)
TEXTS = (
    "",
    " ",
    "0",
    "-1",
    "1e999",
    "nan",
    "4,4,1",
    "99,99,99",
    "abc",
    "9" * 40,
    "ü体",
    "../x",
    "tiny",
    ",,,",
    "{n}",
)
BLIND = ("Unexpected", "defect of ours", "Error:", "None")  # words that are meant for nobody who reads them


class Monkey:
    """One session: `act` does a random step, `check` what must hold when all has come to rest."""

    def __init__(self, seed: int, voco, host) -> None:
        self.random, self.voco, self.host = random.Random(seed), voco, host
        self.steps: list[str] = []
        self.entered = True
        self.acts = {
            self.touch: 12,
            self.addVolume: 4,
            self.changeVolume: 4,
            self.moveVolume: 4,
            self.removeVolume: 2,
            self.removePart: 1,
            self.closeScene: 1,
            self.showCrops: 6,
            self.hideCrops: 3,
            self.drag: 4,
            self.chooseLayer: 3,
            self.comeOrGo: 4,
        }
        for name in SECTIONS:
            voco.openSection(name)
        self.addVolume()

    def act(self) -> None:
        """A random step; what went wrong in slots fails here."""
        (do,) = self.random.choices(list(self.acts), list(self.acts.values()))
        self.steps.append(do.__name__)
        self.steps[-1] += f" {do() or ''}"
        self.host.app.processEvents()
        self.host.failures.check()

    # The hand

    def touch(self) -> str:
        """Press, choose, type or set one of the controls that can be reached."""
        import qt

        kinds = (qt.QPushButton, qt.QCheckBox, qt.QComboBox, qt.QLineEdit, qt.QSpinBox, qt.QTableWidget)
        panels = [self.voco.panel(name).widget for name in SECTIONS]
        found = [one for panel in panels for kind in kinds for one in panel.findChildren(kind)]
        control = self.random.choice([one for one in found if one.isVisible() and one.isEnabled()] or [None])
        if control is None or not self.entered:
            return ""
        self._use(control, qt)
        return control.objectName

    def _use(self, control, qt) -> None:
        if isinstance(control, qt.QPushButton | qt.QCheckBox):
            control.click()
        elif isinstance(control, qt.QComboBox):
            control.setCurrentIndex(self.random.randrange(max(1, control.count)))
        elif isinstance(control, qt.QLineEdit):
            control.setText(self.random.choice(TEXTS))
        elif isinstance(control, qt.QSpinBox):
            control.setValue(self.random.choice((control.minimum, 0, 7, control.maximum)))
        elif control.rowCount:
            item = control.item(self.random.randrange(control.rowCount), 0)
            wanted = qt.Qt.ItemIsUserCheckable | qt.Qt.ItemIsEnabled
            if item is not None and item.flags() & wanted == wanted:
                item.setCheckState(self.random.choice((qt.Qt.Checked, qt.Qt.Checked, qt.Qt.Unchecked)))

    def comeOrGo(self) -> str:
        """To another module, and back."""
        self.entered = not self.entered
        (self.host.enter if self.entered else self.host.exit)("VoCoSlicer")
        return "enter" if self.entered else "exit"

    def showCrops(self) -> str:
        """Preview some volume."""
        panel, node = self.voco.panel("cropPreview"), self._volume()
        if not self.entered or node is None:
            return ""
        panel.ui.volumeSelector.setCurrentNode(node)
        if panel.ui.settingsFrame.isEnabled():
            panel._form.rows["preset"].editor.setCurrentIndex(1)
        panel.ui.onCheckBox.setChecked(True)
        if self.random.random() < 0.5:
            self.voco.logic.preview.wait(60)
        return node.GetID()

    def hideCrops(self) -> None:
        """Uncheck the box of the preview."""
        if self.entered:
            self.voco.panel("cropPreview").ui.onCheckBox.setChecked(False)

    def drag(self) -> None:
        """Pull the crop anywhere, or its size; by a script also where there is none."""
        far = self.random.choice((5, 50, 1e5))
        place, roi = [self.random.uniform(-far, far) for _ in range(3)], self.voco.logic.preview.roiNode
        if roi is None:
            self.voco.logic.preview.moveCrop(place)
        elif self.random.random() < 0.2:
            roi.SetSize(5, 5, 5)
        else:
            roi.SetCenterWorld(*place)

    # The scene

    def _volume(self):
        there = [node for node in nodesByClass(self.host.scene, VOLUMES) if node.GetAttribute(OWNER) is None]
        return self.random.choice(there or [None])

    def addVolume(self) -> str:
        """A volume, good or not."""
        scene, kind = (
            self.host.scene,
            self.random.choice(("good", "good", "good", "flat", "nan", "empty", "vector")),
        )
        node = torso(scene, self.random.choice(list(made.GEOMETRIES)), self.random.choice(NAMES))
        if kind == "flat":
            node.SetAndObserveImageData(made.imageOf(made.noise((1, 20, 20))))
        elif kind == "nan":
            node.SetAndObserveImageData(made.imageOf(np.full((9, 20, 20), np.nan, np.float32)))
        elif kind == "empty":
            node.SetAndObserveImageData(None)
        elif kind == "vector":
            node.SetAndObserveImageData(made.imageOf(np.zeros((9, 20, 20, 3), np.uint8)))
        return f"{kind} {node.GetID()}"

    def changeVolume(self) -> str:
        """Other voxels, another size, spacing or name."""
        if (node := self._volume()) is None:
            return ""
        what = self.random.choice(("voxels", "spacing", "name", "segmentation"))
        if what == "voxels":
            shape = [self.random.choice((8, 14, 20)) for _ in range(3)]
            slicer.util.updateVolumeFromArray(node, made.noise(shape, self.random.randrange(9)))
        elif what == "spacing":
            node.SetSpacing([self.random.choice((0.0, 1e-4, 0.7, 3.0, 40.0)) for _ in range(3)])
        elif what == "name":
            node.SetName(self.random.choice(NAMES))
        elif (image := node.GetImageData()) is not None:
            mask = np.ones(image.GetDimensions()[::-1], bool)
            made.segmentation(self.host.scene, node, {"liver": mask}, f"{node.GetName()} seg")
        return f"{what} {node.GetID()}"

    def moveVolume(self) -> str:
        """Below a transform, linear or not, or out of it."""
        if (node := self._volume()) is None:
            return ""
        what = self.random.choice(("turn", "turn", "warp", "out"))
        if what == "turn":
            made.transform(self.host.scene, made.turn(self.random.randrange(360), (5, 0, 3)), node)
        elif what == "warp":
            made.warp(self.host.scene, node)
        else:
            node.SetAndObserveTransformNodeID(None)
        return f"{what} {node.GetID()}"

    def removeVolume(self) -> None:
        """Delete one."""
        if (node := self._volume()) is not None:
            self.host.scene.RemoveNode(node)

    def removePart(self) -> None:
        """A script deletes a node of the preview, as one of a class."""
        if parts := self._parts():
            self.host.scene.RemoveNode(self.random.choice(parts))

    def closeScene(self) -> None:
        """File, Close Scene."""
        self.host.closeScene()

    def chooseLayer(self) -> None:
        """Another volume in one of the views."""
        node = self._volume()
        self.random.choice(composites(self.host.scene)).SetForegroundVolumeID(node and node.GetID())

    def _parts(self) -> list:
        scene = self.host.scene
        return [node for node in map(scene.GetNodeByID, nodeIds(scene)) if node.GetAttribute(OWNER)]

    # What must hold

    def check(self) -> None:
        """Nothing is left behind, nothing shown is out of date, and no error is one that nobody thought of."""
        panels = {name: self.voco.panel(name) for name in SECTIONS}
        hand, preview = Hand(self.voco.parent, self.host), self.voco.logic.preview
        for name in ("pretraining", "finetuning", "prediction", "volumes"):
            panels[name].cancel()
        hand.until(lambda: not preview.busy, what="the rest of the preview")
        said = f"{self.voco.ui.errorLabel.text} {preview.error or ''} {panels['pretraining'].ui.problemLabel.text}"
        assert not any(word in said for word in BLIND), said
        if not preview.shown:
            assert not self._parts()
            assert not [view for view in composites(self.host.scene) if view.GetAttribute("VoCo.own")]
        elif preview.ready:
            assert np.allclose(preview.labels, preview.world.labels(preview.box))
            assert preview.world.clamped(preview.box) == preview.box
            assert requestOf(preview.channels, preview.settings).key == preview._placed.request.key
        for view in composites(self.host.scene):
            shown = view.GetBackgroundVolumeID(), view.GetForegroundVolumeID(), view.GetLabelVolumeID()
            assert all(self.host.scene.GetNodeByID(one) for one in shown if one)
        for name, button in (("pretraining", "startButton"), ("prediction", "predictButton")):
            shown = panels[name].ui.problemLabel.text, getattr(panels[name].ui, button).isEnabled()
            panels[name]._check()
            assert shown == (panels[name].ui.problemLabel.text, getattr(panels[name].ui, button).isEnabled())
        assert self.host.app.hostPauses == 0


@pytest.mark.parametrize("seed", [0, 1, 3, 5])  # each has found a defect
def test_a_monkey_leaves_all_in_order(voco, host, tmp_path, monkeypatch, seed):
    monkeypatch.setenv("VOCO_PYTHON", str(tmp_path / "no python"))  # nothing is started that takes time
    monkeypatch.setattr(host.answers, "next", lambda asked, otherwise=None: "Escape" if asked.buttons else "")
    monkeypatch.setattr(
        "VoCoSlicerLib.preview_nodes.BUDGET", 0
    )  # steps fall between the stages of the preview
    voco.logic.store["folder"] = str(tmp_path / "VoCo")
    monkey = Monkey(seed, voco, host)
    try:
        for _ in range(4):
            for _ in range(12):
                monkey.act()
            monkey.check()
    except Exception as error:
        error.add_note("\n".join(f"{number} {step}" for number, step in enumerate(monkey.steps)))
        raise
    finally:
        del voco.logic.store["folder"]
