"""A stand-in for `slicer.app`: settings, layout, module manager, reading and writing of scenes."""

from __future__ import annotations

import os
import re
import shutil
import sys
import tempfile
from pathlib import Path

from PySide6 import QtCore, QtWidgets

from .layout import HostLayoutManager
from .signals import HostSignal
from .standins import standIn


@standIn
class HostModuleManager(QtCore.QObject):
    """The modules that are loaded, by name."""

    moduleLoaded = HostSignal("moduleLoaded", "QString")
    moduleAboutToBeUnloaded = HostSignal("moduleAboutToBeUnloaded", "QString")

    def __init__(self) -> None:
        super().__init__()
        self._hostModules: dict[str, object] = {}

    def module(self, name: str):
        """The module, or None."""
        return self._hostModules.get(name)

    def modulesNames(self) -> list[str]:
        """All names."""
        return list(self._hostModules)

    def factoryManager(self):
        """Itself: it also knows loadedModuleNames()."""
        return self

    def loadedModuleNames(self) -> list[str]:
        """All names."""
        return list(self._hostModules)


class _CommandOptions:
    def __init__(self) -> None:
        self.noMainWindow, self.testingEnabled, self.runPythonAndExit = True, False, False


class _Environment:
    """As ctkProcessEnvironment: keys() and value(key)."""

    def __init__(self, values: dict) -> None:
        self._values = values

    def keys(self) -> list[str]:
        return list(self._values)

    def value(self, key: str, default: str = "") -> str:
        return self._values.get(key, default)

    def contains(self, key: str) -> bool:
        return key in self._values


class _CoreIO:
    """Reading and writing of whole scenes; nodes are read by the storage nodes of the real core."""

    def saveNodes(self, kind: str, properties: dict, messages=None) -> bool:
        import slicer

        path = properties["fileName"]
        if kind == "SceneFile" and path.endswith(".mrb"):
            return bool(slicer.mrmlScene.WriteToMRB(path))
        if kind == "SceneFile":
            slicer.mrmlScene.SetURL(path)
            return bool(slicer.mrmlScene.Commit())
        node = slicer.mrmlScene.GetNodeByID(properties["nodeID"])
        if node.GetStorageNode() is None:
            node.AddDefaultStorageNode()
        node.GetStorageNode().SetFileName(path)
        return bool(node.GetStorageNode().WriteData(node))

    def loadNodes(self, kind: str, properties: dict, collection=None, messages=None) -> bool:
        import slicer

        path = str(properties["fileName"])
        if kind == "SceneFile":
            clear = bool(properties.get("clear", False))
            if path.endswith(".mrb"):
                return bool(slicer.mrmlScene.ReadFromMRB(path, clear))
            slicer.mrmlScene.SetURL(path)
            return bool(slicer.mrmlScene.Connect() if clear else slicer.mrmlScene.Import())
        node = _load(slicer, kind, path, properties.get("name") or Path(path).stem.split(".")[0])
        if node is not None and collection is not None:
            collection.AddItem(node)
        return node is not None


def _load(slicer, kind: str, path: str, name: str):
    if kind == "VolumeFile":
        return slicer.app.hostScene.logics["Volumes"].AddArchetypeVolume(path, name)
    classes = {
        "SegmentationFile": "vtkMRMLSegmentationNode",
        "ModelFile": "vtkMRMLModelNode",
        "TransformFile": "vtkMRMLLinearTransformNode",
    }
    node = slicer.mrmlScene.AddNewNodeByClass(classes[kind], name)
    storage = node.CreateDefaultStorageNode()
    storage.UnRegister(None)
    slicer.mrmlScene.AddNode(storage)
    storage.SetFileName(path)
    if not storage.ReadData(node):
        slicer.mrmlScene.RemoveNode(node)
        return None
    node.SetAndObserveStorageNodeID(storage.GetID())
    node.CreateDefaultDisplayNodes()
    return node


@standIn
class HostApplication(QtCore.QObject):
    """`slicer.app`."""

    startupCompleted = HostSignal("startupCompleted")
    aboutToQuit = HostSignal("aboutToQuit")
    lastWindowClosed = HostSignal("lastWindowClosed")

    def __init__(self, scene, folder: Path, mainWindow: bool = True) -> None:
        super().__init__()
        self._hostScene, self._hostFolder = scene, folder
        self._hostLayout = HostLayoutManager(scene) if mainWindow else None
        self._hostManager = HostModuleManager()
        self._hostTesting, self._hostPauses = False, 0
        self._hostBefore = dict(os.environ)
        self._hostOptions = _CommandOptions()
        self._hostIo = _CoreIO()
        self._hostSettings = QtCore.QSettings()

    # what a test may look at or set
    hostScene = property(lambda self: self._hostScene)
    hostPauses = property(lambda self: self._hostPauses)
    hostTesting = property(
        lambda self: self._hostTesting, lambda self, value: self.__dict__.update(_hostTesting=value)
    )

    # properties of qSlicerCoreApplication
    applicationName = property(lambda self: "Slicer")
    applicationVersion = property(lambda self: "5.10.0-2025-11-10")
    majorVersion = property(lambda self: 5)
    minorVersion = property(lambda self: 10)
    revision = property(lambda self: "34045")
    repositoryRevision = property(lambda self: "34045")
    os = property(lambda self: {"darwin": "macosx", "win32": "win"}.get(sys.platform, "linux"))
    arch = property(lambda self: "amd64")
    temporaryPath = property(lambda self: str(self._hostFolder / "tmp"))
    slicerHome = property(lambda self: str(self._hostFolder))
    slicerUserSettingsFilePath = property(lambda self: self._hostSettings.fileName())
    launcherExecutableFilePath = property(lambda self: "")
    documentationBaseUrl = property(lambda self: "https://slicer.readthedocs.io/en/latest/")

    def testingEnabled(self) -> bool:
        """Whether started with --testing: then Slicer answers its own questions."""
        return self._hostTesting

    def commandOptions(self) -> _CommandOptions:
        """As given on the command line."""
        return self._hostOptions

    def applicationLogic(self):
        """The real one."""
        return self._hostScene.applicationLogic

    mrmlApplicationLogic = applicationLogic

    def mrmlScene(self):
        """The scene."""
        return self._hostScene.scene

    def layoutManager(self):
        """The layout manager; None where Slicer was started without its main window."""
        return self._hostLayout

    def moduleManager(self) -> HostModuleManager:
        """The module manager."""
        return self._hostManager

    def coreIOManager(self) -> _CoreIO:
        """Reads and writes."""
        return self._hostIo

    ioManager = coreIOManager

    def settings(self):
        """Settings of this version; the host has one file for all."""
        return self._hostSettings

    userSettings = revisionUserSettings = settings

    def environment(self) -> _Environment:
        """The environment of this process."""
        return _Environment(dict(os.environ))

    def startupEnvironment(self) -> _Environment:
        """The environment before Slicer was started: nothing that a script has set since."""
        return _Environment(self._hostBefore)

    def processEvents(self) -> None:
        """Let Qt work."""
        QtWidgets.QApplication.processEvents()

    def topLevelWidgets(self) -> list:
        """All windows; none of them is a main window unless a test makes one."""
        return QtWidgets.QApplication.topLevelWidgets()

    def setOverrideCursor(self, cursor) -> None:
        """As QApplication's."""
        QtWidgets.QApplication.setOverrideCursor(cursor)

    def restoreOverrideCursor(self) -> None:
        """As QApplication's."""
        QtWidgets.QApplication.restoreOverrideCursor()

    def clipboard(self):
        """As QApplication's."""
        return QtWidgets.QApplication.clipboard()

    def palette(self):
        """As QApplication's."""
        return QtWidgets.QApplication.palette()

    def setPalette(self, palette) -> None:
        """As QApplication's."""
        QtWidgets.QApplication.setPalette(palette)

    def pythonConsole(self):
        """There is no console."""
        return None

    def translate(self, context: str, text: str) -> str:
        """English."""
        return text

    def moduleDocumentationUrl(self, name: str) -> str:
        """Where a module is described."""
        return f"https://slicer.readthedocs.io/{re.sub('[^a-z]', '', name.lower())}"

    def pauseRender(self) -> None:
        """Let the views wait. The host renders nothing, but tests can see in ``hostPauses`` whether they would."""
        self._hostPauses += 1

    def resumeRender(self) -> None:
        """Let the views go on, after as many calls as there were of `pauseRender`."""
        assert self._hostPauses, "rendering was not paused"
        self._hostPauses -= 1

    def exit(self, status: int = 0) -> None:
        """End: the test sees it as SystemExit."""
        raise SystemExit(status)


def makeSettings(folder: Path) -> None:
    """Point `qt.QSettings()` to an ini file of its own."""
    QtCore.QCoreApplication.setOrganizationName("NA-MIC")
    QtCore.QCoreApplication.setApplicationName("Slicer")
    QtCore.QSettings.setDefaultFormat(QtCore.QSettings.IniFormat)
    QtCore.QSettings.setPath(QtCore.QSettings.IniFormat, QtCore.QSettings.UserScope, str(folder))


def temporaryFolder() -> Path:
    """A folder for the settings and temporary files of one application."""
    folder = Path(tempfile.mkdtemp(prefix="host-"))
    (folder / "tmp").mkdir()
    return folder


def removeFolder(folder: Path) -> None:
    """Delete it."""
    shutil.rmtree(folder, ignore_errors=True)
