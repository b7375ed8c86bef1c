"""A stand-in for the main window: status bar, module selector, and a close event that the module may listen to."""

from __future__ import annotations

from PySide6 import QtCore, QtWidgets

from .signals import HostSignal
from .standins import standIn


@standIn
class HostModuleSelector(QtCore.QObject):
    """Chooses the module that the user is in; leaves the one before."""

    moduleSelected = HostSignal("moduleSelected", "QString")

    def __init__(self, manager) -> None:
        super().__init__()
        self._hostManager, self._hostCurrent = manager, ""

    selectedModule = property(lambda self: self._hostCurrent)

    def selectModule(self, name: str) -> None:
        """Slot: exit the module before, enter this one ("" for none, as when Slicer closes)."""
        before = self._hostManager.module(self._hostCurrent)
        if name == self._hostCurrent:
            return
        self._hostCurrent = name
        if before is not None:
            before.widgetRepresentation().exit()
            before.widgetRepresentation().hide()
        module = self._hostManager.module(name)
        if module is not None:
            module.widgetRepresentation().show()
            module.widgetRepresentation().enter()
        type(self).moduleSelected.emit(self, name)


@standIn
class HostMainWindow(QtWidgets.QMainWindow):
    """qSlicerMainWindow."""

    def __init__(self, manager, layoutNode=None) -> None:
        super().__init__()
        self.setObjectName("qSlicerMainWindow")
        self._hostSelector = HostModuleSelector(manager)
        self._hostLayoutNode = layoutNode
        self._hostKept = None

    def closeEvent(self, event) -> None:
        """Qt's call: leaves the module, then keeps the layout for the next start."""
        self._hostSelector.selectModule("")
        if self._hostLayoutNode is not None:
            self._hostKept = self._hostLayoutNode.GetViewArrangement()
        event.accept()

    hostKeptLayout = property(lambda self: self._hostKept)

    def moduleSelector(self) -> HostModuleSelector:
        """The module selector."""
        return self._hostSelector

    def pythonConsole(self):
        """There is no console."""
        return None
