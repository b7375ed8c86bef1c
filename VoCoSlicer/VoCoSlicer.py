"""VoCo: teach a 3D network anatomy from volumes without labels, fine-tune it, apply it; the module of 3D Slicer.

What is here binds the parts of VoCoSlicerLib together: the module, its widget with one section for each panel, its
logic, its tests.
"""

from __future__ import annotations

import sys
from importlib import import_module

import slicer
from slicer.i18n import tr as _
from slicer.i18n import translate
from slicer.ScriptedLoadableModule import (
    ScriptedLoadableModule,
    ScriptedLoadableModuleLogic,
    ScriptedLoadableModuleTest,
    ScriptedLoadableModuleWidget,
)
from slicer.util import VTKObservationMixin

from VoCoSlicerLib import adapter
from VoCoSlicerLib.logic import VoCoLogic
from VoCoSlicerLib.messages import Messages
from VoCoSlicerLib.panels.closing import CloseQuestion
from VoCoSlicerLib.panels.height import HeightKeeper
from VoCoSlicerLib.parameters import VoCoParameterNode
from VoCoSlicerLib.samples import registerSamples

# Section -> module of VoCoSlicerLib.panels and its class; a panel is made when its section is first opened.
PANELS = {
    "environment": ("environment", "EnvironmentPanel"),
    "volumes": ("volumes", "VolumesPanel"),
    "cropPreview": ("crop_preview", "CropPreviewPanel"),
    "pretraining": ("training", "PretrainingPanel"),
    "finetuning": ("training", "FinetuningPanel"),
    "prediction": ("predict", "PredictionPanel"),
    "jobs": ("jobs", "JobsPanel"),
}


class VoCoSlicer(ScriptedLoadableModule):
    """What Slicer knows of the module before it is opened."""

    def __init__(self, parent):
        ScriptedLoadableModule.__init__(self, parent)
        parent.title = "VoCo"
        parent.categories = [translate("qSlicerAbstractCoreModule", "Machine Learning")]
        parent.dependencies = []
        parent.contributors = ["The VoCo contributors"]
        parent.helpText = _(
            "Pre-train a 3D network on volumes without labels (VoCo, volume contrast), fine-tune it on a few labelled "
            "ones, and segment or classify new volumes. Jobs run in the background and go on when Slicer closes. To "
            "try it, load VoCoTorsos in the module Sample Data, and go through the sections from top to bottom."
        )
        parent.acknowledgementText = _(
            "Method: Wu, Zhuang, Chen: VoCo: A Simple-yet-Effective Volume Contrastive Learning Framework for 3D "
            "Medical Image Analysis, CVPR 2024, and Large-Scale 3D Medical Image Pre-training, 2024."
        )
        slicer.app.connect("startupCompleted()", self.onStartup)

    def onStartup(self):
        """Slicer is up: offer the samples, and look after scenes that are loaded, whether the module is open or not."""
        registerSamples()
        slicer.mrmlScene.AddObserver(slicer.vtkMRMLScene.EndImportEvent, self.onSceneImported)

    def onSceneImported(self, caller, event):
        """A scene was loaded: it may have been saved while crops were previewed."""
        from VoCoSlicerLib.preview_layers import restoreSaved

        restoreSaved(caller)


class VoCoSlicerWidget(ScriptedLoadableModuleWidget, VTKObservationMixin):
    """The module's window: one collapsible section for each panel, a line for messages, one for errors.

    To the panels it is the *host*: `say`, `note`, `showError`, `hideError`, `openSection`, `advance`, `offerRuns`,
    `selectRun`.
    """

    def __init__(self, parent=None):
        self.logic = None
        self.ui = None
        self.messages = None
        self._parameterNode = None
        self._panels = {}
        self._advanced = set()
        VTKObservationMixin.__init__(self)
        ScriptedLoadableModuleWidget.__init__(self, parent)

    def setup(self):
        """Load the form and make the logic; called by Slicer when the module is first opened."""
        ScriptedLoadableModuleWidget.setup(self)
        form, self.ui = adapter.loadUi("VoCoSlicer.ui")
        self.layout.addWidget(form)
        self.logic = VoCoSlicerLogic(store=adapter.UserSettings())
        self.messages = Messages(self.ui)
        self.closeQuestion = CloseQuestion(self.logic)
        self.turns = adapter.ThreadTurns()
        self.height = HeightKeeper(self.parent)
        for name in PANELS:
            adapter.connect(
                self.section(name),
                "contentsCollapsed(bool)",
                lambda collapsed, name=name: collapsed or self.panel(name),
            )
        scene = slicer.mrmlScene
        self.addObserver(scene, slicer.vtkMRMLScene.StartCloseEvent, self.onSceneStartClose)
        self.addObserver(scene, slicer.vtkMRMLScene.EndCloseEvent, self.onSceneEndClose)
        self.addObserver(scene, slicer.vtkMRMLScene.EndImportEvent, self.onSceneEndImport)
        # After the node selectors, which offer nodes that came together only then.
        done = slicer.vtkMRMLScene.EndBatchProcessEvent
        self.addObserver(scene, done, self.onSceneEndBatchProcess, priority=-1.0)
        self.openSection("volumes")
        if getattr(self.parent, "isEntered", False):
            self.enter()  # reloaded while it is open: Slicer has told the widget before this one that it was entered

    # Slicer's calls

    def enter(self):
        """The user has come to the module."""
        self.initializeParameterNode()
        self._forEach(lambda panel: panel.enter())

    def exit(self):
        """The user goes to another module; jobs and starts go on."""
        self._forEach(lambda panel: panel.exit())
        self.setParameterNode(None)

    def cleanup(self):
        """The module is unloaded or reloaded."""
        self.setParameterNode(None)
        self._forEach(lambda panel: panel.cleanup())
        self._panels.clear()
        self.removeObservers()
        if self.logic is not None:
            self.closeQuestion.cleanup()
            self.turns.cleanup()
            self.height.cleanup()
            self.logic.cleanup()

    def onSceneStartClose(self, caller, event):
        """The scene goes away: let go of the parameter node before it does."""
        self.setParameterNode(None)

    def onSceneEndClose(self, caller, event):
        """The scene is empty now."""
        if self.parent.isEntered:
            self.initializeParameterNode()

    def onSceneEndImport(self, caller, event):
        """A scene was loaded: its choices have come with it, and are shown at the end of the batch."""
        self.setParameterNode(None)

    def onSceneEndBatchProcess(self, caller, event):
        """All nodes of a batch are there: of a scene that was loaded, say."""
        if self.parent.isEntered and self._parameterNode is None:
            self.initializeParameterNode()

    def onReload(self):
        """Reload the module and its library, for those who work on it."""
        forgetLibrary()
        ScriptedLoadableModuleWidget.onReload(self)

    # The parameter node

    def initializeParameterNode(self):
        """Bind the scene's parameter node; it is made where there is none."""
        self.setParameterNode(self.logic.getParameterNode())

    def setParameterNode(self, parameterNode):
        """Bind all panels to a parameter node (None: to nothing)."""
        if parameterNode is self._parameterNode:
            return
        self._parameterNode = parameterNode
        self._forEach(lambda panel: panel.setParameterNode(parameterNode))

    def _forEach(self, work):
        """Do ``work(panel)``; what goes wrong in one section is shown, and keeps no other from it."""
        for panel in list(self._panels.values()):
            try:
                work(panel)
            except Exception as error:
                self.showError(error)

    # What panels ask of their host

    def say(self, text):
        """Show a line at the bottom: what is going on, or what has just been done."""
        self.messages.say(text)

    def note(self, sentences):
        """Add lines to what was said last: what was done otherwise than one might think."""
        self.messages.note(sentences)

    def showError(self, error, log=None):
        """Show what went wrong as one line with its hint; ``log`` (text, or a file's path) behind "Show log"."""
        self.messages.showError(error, log)

    def hideError(self):
        """Take an error away that no longer holds: what went wrong is being done again."""
        self.messages.hideError()

    def openSection(self, name):
        """Open a section; the others stay as they are."""
        self.section(name).collapsed = False

    def advance(self, name):
        """Open the section that a user needs next, the first time that this is so."""
        if name not in self._advanced:
            self._advanced.add(name)
            self.openSection(name)

    def offerRuns(self):
        """There are runs, or results of runs, that sections have not offered yet."""
        self._forEach(lambda panel: panel.offerRuns())

    def selectRun(self, path):
        """Show a run in the section of the jobs."""
        self.openSection("jobs")
        self.panel("jobs").selectRun(path)

    def section(self, name):
        """The collapsible button of a section."""
        return getattr(self.ui, f"{name}Section")

    def panel(self, name):
        """The panel of a section; it is made at the first call, with its section open."""
        if name not in self._panels and self.section(name).collapsed:
            self.openSection(name)
        if name not in self._panels:
            file, className = PANELS[name]
            panel = getattr(import_module(f"VoCoSlicerLib.panels.{file}"), className)(self.logic, self)
            self.section(name).layout().addWidget(panel.widget)
            self._panels[name] = panel
            if self._parameterNode is not None:
                panel.setParameterNode(self._parameterNode)
                panel.enter()
        return self._panels[name]


class VoCoSlicerLogic(VoCoLogic, ScriptedLoadableModuleLogic):
    """The module's work, for panels and scripts; see VoCoSlicerLib.logic.

    Without a ``store`` it begins with what the user chose in the window, and what a script chooses is not kept.
    """

    def __init__(self, scene=None, store=None):
        ScriptedLoadableModuleLogic.__init__(self)
        self.moduleName = "VoCoSlicer"
        VoCoLogic.__init__(self, scene, adapter.settingsForScript() if store is None else store)

    def getParameterNode(self):
        """The scene's choices."""
        return VoCoParameterNode(ScriptedLoadableModuleLogic.getParameterNode(self))


class VoCoSlicerTest(ScriptedLoadableModuleTest):
    """A short look whether the module works in this Slicer; the whole of the tests is in Testing/slicer."""

    def runTest(self):
        """Run all."""
        self.setUp()
        self.test_opens()
        self.setUp()
        self.test_logicListsVolumes()

    def setUp(self):
        """Begin with an empty scene."""
        slicer.mrmlScene.Clear()

    def test_opens(self):
        """The module opens, all its panels too, and torch does not come into this process."""
        before = set(sys.modules)  # another extension may have brought it
        if slicer.util.mainWindow() is not None:  # else there is no place where a user could select a module
            slicer.util.selectModule("VoCoSlicer")
        widget = slicer.util.getModuleWidget("VoCoSlicer")
        for name in PANELS:
            widget.openSection(name)
            self.assertTrue(widget.panel(name).widget is not None)
        self.assertNotIn("torch", set(sys.modules) - before)

    def test_logicListsVolumes(self):
        """A volume of the scene is listed with its size."""
        import numpy as np

        from VoCoSlicerLib.volumes import listVolumes

        slicer.util.addVolumeFromArray(np.zeros((8, 9, 10), np.int16), name="three")
        (row,) = listVolumes(slicer.mrmlScene)
        self.assertEqual((row.name, tuple(row.size)), ("three", (10, 9, 8)))


def forgetLibrary():
    """Take the library out of ``sys.modules``, so that it is read again."""
    for name in [name for name in sys.modules if name.split(".")[0] == "VoCoSlicerLib"]:
        del sys.modules[name]
