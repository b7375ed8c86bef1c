"""Stand-ins for CTK's buttons, boxes and paths; properties, slots and signals are those of the C++ classes."""

from __future__ import annotations

from PySide6 import QtWidgets

from .answers import askPath
from .signals import HostSignal
from .standins import hostProperty, standIn


def _showContents(owner, shown: bool) -> None:
    # children that the program itself has hidden stay hidden when the box opens again
    hidden = owner.__dict__.setdefault("_hostHidden", [])
    if shown:
        for child in hidden:
            child.setVisible(True)
        hidden.clear()
        return
    for child in owner.children():
        if child.isWidgetType() and not child.isHidden():
            child.setVisible(False)
            hidden.append(child)


@standIn
class ctkCollapsibleButton(QtWidgets.QAbstractButton):
    """A button that opens and closes the section below it; `collapsed`, contentsCollapsed(bool), clicked by hand."""

    contentsCollapsed = HostSignal("contentsCollapsed", "bool")

    def __init__(self, *arguments) -> None:
        text, parent = _textAndParent(arguments)
        super().__init__(parent)
        self.setText(text)
        self.setCheckable(True)
        self.setChecked(True)
        self.setContentsMargins(0, self.fontMetrics().height() + 12, 0, 0)
        self.connect("toggled(bool)", self._hostToggled)

    def _hostApply(self) -> None:
        self.setChecked(not self.collapsed)
        _showContents(self, not self.collapsed)
        type(self).contentsCollapsed.emit(self, self.collapsed)

    def _hostToggled(self, checked: bool) -> None:
        self.collapsed = not checked

    collapsed = hostProperty(bool, "collapsed", False, "_hostApply")
    collapsedHeight = hostProperty(int, "collapsedHeight", 10)
    flat = hostProperty(bool, "flat", False)
    contentsLineWidth = hostProperty(int, "contentsLineWidth", 1)

    def paintEvent(self, event) -> None:
        """A bar with an arrow and the section's title."""
        painter = QtWidgets.QStylePainter(self)
        option = QtWidgets.QStyleOptionButton()
        option.initFrom(self)
        height = self.fontMetrics().height() + 10
        option.rect = self.rect.adjusted(0, 0, 0, height - self.height)
        arrow = "\u25b8" if self.collapsed else "\u25be"
        option.text = f"{arrow}  {self.text}"
        painter.drawControl(QtWidgets.QStyle.CE_PushButton, option)

    def sizeHint(self):
        """The size of what is shown: the bar alone when collapsed."""
        hint = super().sizeHint()
        height = self.fontMetrics().height() + 12
        if self.layout() is not None and not self.collapsed:
            return self.layout().totalSizeHint().expandedTo(hint)
        hint.setHeight(height)
        hint.setWidth(max(hint.width(), 120))
        return hint

    minimumSizeHint = sizeHint

    def hitButton(self, position) -> bool:
        """The bar alone can be clicked."""
        return position.y() <= self.fontMetrics().height() + 12


@standIn
class ctkCollapsibleGroupBox(QtWidgets.QGroupBox):
    """A group box whose title opens and closes it."""

    def __init__(self, *arguments) -> None:
        text, parent = _textAndParent(arguments)
        super().__init__(text, parent)
        self.setCheckable(True)
        self.setChecked(True)
        self.connect("toggled(bool)", self._hostToggled)

    def _hostApply(self) -> None:
        self.setChecked(not self.collapsed)
        _showContents(self, not self.collapsed)

    def _hostToggled(self, checked: bool) -> None:
        self.collapsed = not checked

    collapsed = hostProperty(bool, "collapsed", False, "_hostApply")
    collapsedHeight = hostProperty(int, "collapsedHeight", 14)


@standIn
class ctkPathLineEdit(QtWidgets.QWidget):
    """A path that is typed or browsed for; `currentPath`, currentPathChanged(QString)."""

    Files, Dirs, Drives, NoDot, NoDotDot, Readable, Writable, Executable = (
        2,
        1,
        4,
        0x2000,
        0x4000,
        0x10,
        0x20,
        0x40,
    )
    validInputChanged = HostSignal("validInputChanged", "bool")
    currentPathChanged = HostSignal("currentPathChanged", "QString")

    def __init__(self, parent=None) -> None:
        super().__init__(parent)
        row = QtWidgets.QHBoxLayout(self)
        row.setContentsMargins(0, 0, 0, 0)
        self._hostEdit = QtWidgets.QComboBox()
        self._hostEdit.setEditable(True)
        self._hostButton = QtWidgets.QToolButton()
        self._hostButton.setText("...")
        row.addWidget(self._hostEdit, 1)
        row.addWidget(self._hostButton)
        self._hostEdit.connect("editTextChanged(QString)", self._hostTyped)
        self._hostButton.connect("clicked()", self.browse)

    def _hostApply(self) -> None:
        if self._hostEdit.currentText != self.currentPath:
            self._hostEdit.setEditText(self.currentPath)
        type(self).currentPathChanged.emit(self, self.currentPath)

    def _hostTyped(self, text: str) -> None:
        self.setCurrentPath(text)

    def _hostLook(self) -> None:
        self._hostButton.setVisible(self.showBrowseButton)

    currentPath = hostProperty(str, "currentPath", "", "_hostApply")
    label = hostProperty(str, "label", "")
    filters = hostProperty(int, "filters", 0)
    options = hostProperty(int, "options", 0)
    settingKey = hostProperty(str, "settingKey", "")
    nameFilters = hostProperty("QStringList", "nameFilters", [])
    showBrowseButton = hostProperty(bool, "showBrowseButton", True, "_hostLook")
    showHistoryButton = hostProperty(bool, "showHistoryButton", True)
    sizeAdjustPolicy = hostProperty(int, "sizeAdjustPolicy", 0)
    minimumContentsLength = hostProperty(int, "minimumContentsLength", 0)

    def setCurrentPath(self, path: str) -> None:
        """Slot."""
        self.currentPath = path

    def browse(self) -> None:
        """Slot: asks for a folder or file, as the filters say."""
        kind = "getExistingDirectory" if int(self.filters) & self.Dirs else "getOpenFileName"
        path = askPath(kind)(self, self.label, self.currentPath)
        if path:
            self.setCurrentPath(path)

    def addCurrentPathToHistory(self) -> None:
        """Slot; the host keeps no history."""

    def retrieveHistory(self) -> None:
        """Slot; the host keeps no history."""

    def comboBox(self):
        """The combo box that the path is typed into."""
        return self._hostEdit


@standIn
class ctkComboBox(QtWidgets.QComboBox):
    """A combo box with a default text."""

    defaultText = hostProperty(str, "defaultText", "")
    forceDefault = hostProperty(bool, "forceDefault", False)


@standIn
class ctkCheckBox(QtWidgets.QCheckBox):
    """A check box with icons, which the host does not draw."""


@standIn
class ctkMenuButton(QtWidgets.QPushButton):
    """A push button with a menu beside its text."""


@standIn
class ctkMessageBox(QtWidgets.QMessageBox):
    """A message box with "do not show again"; a test answers it."""

    dontShowAgain = hostProperty(bool, "dontShowAgain", False)
    dontShowAgainVisible = hostProperty(bool, "dontShowAgainVisible", False)
    dontShowAgainSettingsKey = hostProperty(str, "dontShowAgainSettingsKey", "")


def _textAndParent(arguments: tuple) -> tuple[str, object]:
    text = next((one for one in arguments if isinstance(one, str)), "")
    parent = next((one for one in arguments if isinstance(one, QtWidgets.QWidget)), None)
    return text, parent
