"""Stand-ins for the qMRML widgets over the real scene; properties, slots and signals are those of the C++ classes."""

from __future__ import annotations

import weakref

import shiboken6
import vtk
from PySide6 import QtCore, QtWidgets

from .failures import FAILURES
from .signals import HostSignal
from .standins import hostProperty, standIn


@standIn
class qMRMLWidget(QtWidgets.QWidget):
    """A widget that knows a scene and says so: mrmlScene(), setMRMLScene(scene), mrmlSceneChanged(vtkMRMLScene*)."""

    mrmlSceneChanged = HostSignal("mrmlSceneChanged", "vtkMRMLScene*")

    def __init__(self, parent=None) -> None:
        super().__init__(parent)
        self._hostScene = None

    def mrmlScene(self):
        """The scene, or None."""
        return self._hostScene

    def setMRMLScene(self, scene) -> None:
        """Slot."""
        if scene is not self._hostScene:
            self._hostScene = scene
            type(self).mrmlSceneChanged.emit(self, scene)


@standIn
class qMRMLNodeComboBox(QtWidgets.QWidget):
    """Chooses one node of the scene; the entries follow the scene."""

    currentNodeChanged = HostSignal("currentNodeChanged", "vtkMRMLNode*", more=("bool",))
    currentNodeIDChanged = HostSignal("currentNodeIDChanged", "QString")
    nodeActivated = HostSignal("nodeActivated", "vtkMRMLNode*")
    nodeAdded = HostSignal("nodeAdded", "vtkMRMLNode*")
    nodeAddedByUser = HostSignal("nodeAddedByUser", "vtkMRMLNode*")
    nodeAboutToBeRemoved = HostSignal("nodeAboutToBeRemoved", "vtkMRMLNode*")
    currentNodeRenamed = HostSignal("currentNodeRenamed", "QString")

    def __init__(self, parent=None) -> None:
        super().__init__(parent)
        row = QtWidgets.QHBoxLayout(self)
        row.setContentsMargins(0, 0, 0, 0)
        self._hostCombo = QtWidgets.QComboBox()
        row.addWidget(self._hostCombo)
        self._hostScene, self._hostTags, self._hostIds = None, {}, []
        self._hostCurrent, self._hostBusy = "", False
        self._hostAttributes = []
        weakref.finalize(self, _removeAll, self._hostTags)
        self._hostCombo.connect("currentIndexChanged(int)", self._hostPicked)
        self._hostCombo.connect("activated(int)", self._hostActivated)

    def _hostRefresh(self, leaving=None) -> None:
        if self._hostScene is None or self._hostScene.IsBatchProcessing():
            return
        self._hostBusy = True
        self._hostIds = [""] if self.noneEnabled else []
        names = [self.noneDisplay] if self.noneEnabled else []
        for node in self._hostNodes():
            if node is not leaving:
                self._hostIds.append(node.GetID())
                names.append(node.GetName() or "")
                self._hostWatch(node, vtk.vtkCommand.ModifiedEvent, self._hostRenamed)
        place = self._hostCombo.currentIndex
        self._hostCombo.clear()
        self._hostCombo.addItems(names)
        wanted = self._hostCurrent
        if leaving is not None and leaving.GetID() == wanted and self._hostIds:
            # as Slicer does: the next node is chosen when the chosen one goes, with "None" too
            wanted = self._hostIds[min(max(place, 0), len(self._hostIds) - 1)]
        elif wanted not in self._hostIds:
            # as Slicer does: a combo box without "None" falls on the first node
            wanted = next((one for one in self._hostIds), "")
        self._hostCombo.setCurrentIndex(self._hostIds.index(wanted) if wanted in self._hostIds else -1)
        self._hostBusy = False
        self._hostBecome(wanted)

    def _hostNodes(self) -> list:
        found = []
        for index in range(self._hostScene.GetNumberOfNodes()):
            node = self._hostScene.GetNthNode(index)
            if node.GetHideFromEditors() and not self.showHidden:
                continue
            if self._hostFits(node):
                found.append(node)
        return found

    def _hostFits(self, node) -> bool:
        for kind in self.nodeTypes:
            exact = node.GetClassName() == kind
            if not (exact or (self.showChildNodeTypes and node.IsA(kind))):
                continue
            if any(node.IsA(hidden) for hidden in self.hideChildNodeTypes):
                continue
            wanted = [(key, value) for of, key, value in self._hostAttributes if of == kind]
            if all(_hasAttribute(node, key, value) for key, value in wanted):
                return True
        return False

    def _hostBecome(self, nodeId: str) -> None:
        if nodeId == self._hostCurrent:
            return
        self._hostCurrent = nodeId
        node = self.currentNode()
        type(self).currentNodeChanged.emit(self, node)
        type(self).currentNodeIDChanged.emit(self, nodeId)

    def _hostPicked(self, index: int) -> None:
        if not self._hostBusy:
            self._hostBecome(self._hostIds[index] if 0 <= index < len(self._hostIds) else "")

    def _hostActivated(self, index: int) -> None:
        type(self).nodeActivated.emit(self, self.currentNode())

    nodeTypes = hostProperty("QStringList", "nodeTypes", [], "_hostRefresh")
    hideChildNodeTypes = hostProperty("QStringList", "hideChildNodeTypes", [], "_hostRefresh")
    showHidden = hostProperty(bool, "showHidden", False, "_hostRefresh")
    showChildNodeTypes = hostProperty(bool, "showChildNodeTypes", True, "_hostRefresh")
    noneEnabled = hostProperty(bool, "noneEnabled", False, "_hostRefresh")
    noneDisplay = hostProperty(str, "noneDisplay", "None", "_hostRefresh")
    addEnabled = hostProperty(bool, "addEnabled", True)
    removeEnabled = hostProperty(bool, "removeEnabled", True)
    editEnabled = hostProperty(bool, "editEnabled", False)
    renameEnabled = hostProperty(bool, "renameEnabled", False)
    selectNodeUponCreation = hostProperty(bool, "selectNodeUponCreation", True)
    baseName = hostProperty(str, "baseName", "")
    interactionNodeSingletonTag = hostProperty(str, "interactionNodeSingletonTag", "")

    def _hostReadId(self) -> str:
        return self._hostCurrent

    def setCurrentNodeID(self, nodeId: str) -> None:
        """Slot; an id that is not offered chooses none."""
        nodeId = nodeId or ""
        index = self._hostIds.index(nodeId) if nodeId in self._hostIds else -1
        if index < 0 and self.noneEnabled:
            index = 0
        self._hostCombo.setCurrentIndex(index)

    currentNodeID = QtCore.Property(str, _hostReadId, setCurrentNodeID)

    def setCurrentNode(self, node) -> None:
        """Slot: a node, its id, or None."""
        self.setCurrentNodeID(node if isinstance(node, str) else node.GetID() if node is not None else "")

    def setCurrentNodeIndex(self, index: int) -> None:
        """Slot: counted without "None"."""
        self._hostCombo.setCurrentIndex(index + (1 if self.noneEnabled else 0))

    def currentNode(self):
        """The chosen node, or None."""
        return (
            self._hostScene.GetNodeByID(self._hostCurrent) if self._hostScene and self._hostCurrent else None
        )

    def nodeCount(self) -> int:
        """How many nodes are offered."""
        return len([one for one in self._hostIds if one])

    def nodeFromIndex(self, index: int):
        """The n-th node offered, or None."""
        offered = [one for one in self._hostIds if one]
        return self._hostScene.GetNodeByID(offered[index]) if 0 <= index < len(offered) else None

    def addAttribute(self, nodeType: str, name: str, value=None) -> None:
        """Offer nodes of that type with that attribute only."""
        self._hostAttributes.append((nodeType, name, value))
        self._hostRefresh()

    def mrmlScene(self):
        """The scene, or None."""
        return self._hostScene

    def setMRMLScene(self, scene) -> None:
        """Slot: offers the scene's nodes from now on, and follows it."""
        self._hostLetGo()
        self._hostScene = scene
        if scene is None:
            return
        from slicer import vtkMRMLScene

        self._hostWatch(scene, vtkMRMLScene.NodeAddedEvent, self._hostAdded, withNode=True)
        self._hostWatch(scene, vtkMRMLScene.NodeAboutToBeRemovedEvent, self._hostLeaving, withNode=True)
        self._hostWatch(scene, vtkMRMLScene.EndBatchProcessEvent, self._hostRefresh)
        self._hostWatch(scene, vtkMRMLScene.EndCloseEvent, self._hostRefresh)
        self._hostRefresh()

    def _hostWatch(self, subject, event, method, withNode: bool = False) -> None:
        if (subject, event) in self._hostTags:
            return

        observe = _observer(weakref.WeakMethod(method), withNode)
        self._hostTags[(subject, event)] = subject.AddObserver(event, observe)

    def _hostLetGo(self) -> None:
        _removeAll(self._hostTags)

    def _hostAdded(self, node) -> None:
        if node is not None and self._hostFits(node):
            self._hostRefresh()
            type(self).nodeAdded.emit(self, node)

    def _hostLeaving(self, node) -> None:
        self._hostTags.pop((node, vtk.vtkCommand.ModifiedEvent), None)
        if node.GetID() in self._hostIds:
            type(self).nodeAboutToBeRemoved.emit(self, node)
            self._hostRefresh(leaving=node)

    def _hostRenamed(self) -> None:
        names = [self._hostCombo.itemText(index) for index in range(self._hostCombo.count)]
        nodes = [self._hostScene.GetNodeByID(one) if one else None for one in self._hostIds]
        if [node.GetName() if node else self.noneDisplay for node in nodes] != names:
            self._hostRefresh()


@standIn
class qMRMLCheckableNodeComboBox(qMRMLNodeComboBox):
    """Chooses any number of nodes; checkedNodesChanged()."""

    checkedNodesChanged = HostSignal("checkedNodesChanged")

    def __init__(self, parent=None) -> None:
        super().__init__(parent)
        self._hostChecked: list[str] = []

    def checkedNodes(self) -> list:
        """The nodes with a check mark, in the scene's order."""
        return [node for node in self._hostNodes() if node.GetID() in self._hostChecked]

    def uncheckedNodes(self) -> list:
        """The others."""
        return [node for node in self._hostNodes() if node.GetID() not in self._hostChecked]

    def checkState(self, node):
        """Qt.Checked or Qt.Unchecked."""
        return QtCore.Qt.Checked if node.GetID() in self._hostChecked else QtCore.Qt.Unchecked

    def setCheckState(self, node, state) -> None:
        """Check or uncheck a node."""
        checked = set(self._hostChecked) - {node.GetID()}
        if state == QtCore.Qt.Checked:
            checked.add(node.GetID())
        if checked != set(self._hostChecked):
            self._hostChecked = sorted(checked)
            type(self).checkedNodesChanged.emit(self)


def _removeAll(tags: dict) -> None:
    for (subject, _), tag in tags.items():
        subject.RemoveObserver(tag)
    tags.clear()


def _observer(method, withNode: bool):
    # holds the widget weakly, and stops with it, as the C++ widget does
    def observe(caller, name, node=None):
        slot = method()
        if slot is None or not shiboken6.isValid(slot.__self__):
            return
        try:
            slot(node) if withNode else slot()
        except Exception as error:
            FAILURES.addException(f"node combo box, event {name}", error)

    if withNode:
        observe.CallDataType = vtk.VTK_OBJECT
    return observe


def _hasAttribute(node, name: str, value) -> bool:
    found = node.GetAttribute(name)
    return found is not None and (value is None or found == str(value))
