"""Stand-ins for Slicer's module objects: what `slicer.modules.x` and its widget representation are."""

from __future__ import annotations

import sys

from PySide6 import QtWidgets

from .mrml_widgets import qMRMLWidget
from .standins import standIn


@standIn
class HostModuleWidget(qMRMLWidget):
    """qSlicerScriptedLoadableModuleWidget: holds the module's Python widget; enter, exit, isEntered, reload."""

    def __init__(self, module=None) -> None:
        super().__init__(None)
        self._hostModule, self._hostSelf, self._hostEntered = module, None, False
        self.setLayout(QtWidgets.QVBoxLayout())
        self.setObjectName(f"{module.name}ModuleWidget" if module else "")

    isEntered = property(lambda self: self._hostEntered)
    moduleName = property(lambda self: self._hostModule.name)

    def hostMake(self) -> None:
        """Make the Python widget and set it up, as Slicer does when the module is first opened."""
        import slicer

        self.setMRMLScene(slicer.mrmlScene)
        self.reload()

    def reload(self) -> None:
        """Make the Python widget anew from the source that is loaded; as in Slicer, nobody calls its enter()."""
        import slicer

        name = f"{self._hostModule.name}Widget"
        self._hostSelf = getattr(sys.modules[self._hostModule.name], name)(self)
        setattr(slicer.modules, name, self._hostSelf)
        self._hostSelf.setup()

    def self(self):
        """The Python widget."""
        return self._hostSelf

    def _hostCall(self, method: str) -> None:
        getattr(self._hostSelf, method, lambda: None)()

    def enter(self) -> None:
        """The user comes to the module."""
        self._hostEntered = True
        self._hostCall("enter")

    def exit(self) -> None:
        """The user goes away."""
        self._hostEntered = False
        self._hostCall("exit")


class HostModule:
    """A module: name, path, title and so on, its logic, its widget."""

    def __init__(self, name: str, path: str, logic) -> None:
        self.name, self.path = name, path
        self.title, self.categories, self.dependencies, self.contributors = name, [], [], []
        self.helpText, self.acknowledgementText, self.icon, self.hidden = "", "", None, False
        self.associatedNodeTypes: list[str] = []
        self.index, self.widgetDone = -1, False
        self.instance = None
        self._logic, self._widgets = logic, []

    def logic(self):
        """The module's C++ logic."""
        return self._logic

    def widgetRepresentation(self):
        """The widget that the panel shows; made at the first call."""
        if not self._widgets:
            self.createNewWidgetRepresentation()
        return self._widgets[0]

    def createNewWidgetRepresentation(self):
        """A further widget of the same module."""
        widget = HostModuleWidget(self)
        self._widgets.append(widget)
        widget.hostMake()
        return widget

    def deleteWidgets(self) -> None:
        """The application ends."""
        for widget in self._widgets:
            widget.close()
            widget.deleteLater()
        self._widgets.clear()
