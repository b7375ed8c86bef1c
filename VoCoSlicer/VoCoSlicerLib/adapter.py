"""The few things that PythonQt and PySide6 do differently, in one place; panels use these and nothing else for them."""

from __future__ import annotations

import html
import os
from collections.abc import Callable, Iterator, MutableMapping
from typing import Any

import qt
import slicer
import vtk

from VoCoSlicerLib import threads
from VoCoSlicerLib.core import MODULE_FOLDER
from VoCoSlicerLib.environment import SETTING
from VoCoSlicerLib.pythons import VARIABLE

PARAMETER = "SlicerParameterName"  # dynamic property in the .ui files: the parameter that a control shows
_texts: list[Any] = []  # the last window of `showText`: without a main window nobody else holds it


def read(widget: Any, name: str) -> Any:
    """The value of a Qt property, such as ``text``, ``checked``, ``value`` or ``currentIndex``."""
    return widget.property(name)


def connect(widget: Any, signal: str, slot: Callable[..., Any]) -> None:
    """Connect a signal by its C++ signature, for those that only the string form reaches."""
    widget.connect(signal, slot)


def onClicked(button: Any, slot: Callable[[], Any]) -> None:
    """Call ``slot()`` whenever a button is clicked, without the argument that Qt sends along."""
    button.clicked.connect(lambda *_: slot())


def onNodeChanged(selector: Any, slot: Callable[[Any], Any]) -> None:
    """Call ``slot`` with the node, or None, whenever a qMRMLNodeComboBox has another one."""
    selector.connect("currentNodeChanged(vtkMRMLNode*)", slot)


class blocked:
    """A block in which the widgets send no signals: they are being told, not asked."""

    def __init__(self, *widgets: Any) -> None:
        self._widgets = widgets

    def __enter__(self) -> None:
        self._before = [widget.blockSignals(True) for widget in self._widgets]

    def __exit__(self, *_: object) -> None:
        for widget, before in zip(self._widgets, self._before, strict=True):
            widget.blockSignals(before)


def bindGui(parameters: Any, ui: Any) -> Callable[[], None]:
    """Bind the controls of ``ui`` that name a parameter to it, both ways; returns what undoes it completely.

    `connectGui` of Slicer leaves its observer on the parameter node behind when disconnected, one for each time that
    a module is entered, and does not give its tag in every version: both are taken care of here. So are lines of text,
    which it writes anew at each letter: the cursor went to the end, and what could be undone was lost.
    """
    controls = {}
    for widget in vars(ui).values():
        name = widget.property(PARAMETER) if hasattr(widget, "property") else None
        if name:
            controls[str(name)] = widget
    lines = {name: widget for name, widget in controls.items() if isinstance(widget, qt.QLineEdit)}
    undo = [_bindLine(parameters, name, controls.pop(name)) for name in lines]
    observers: list[int] = []
    add = parameters.AddObserver

    def remember(*arguments: Any) -> int:
        observers.append(add(*arguments))
        return observers[-1]

    parameters.AddObserver = remember
    try:
        tag = parameters.connectParametersToGui(controls)
    finally:
        del parameters.AddObserver

    def release() -> None:
        parameters.disconnectGui(tag)
        for observer in observers:
            parameters.RemoveObserver(observer)
        observers.clear()
        for each in undo:
            each()

    return release


def _bindLine(parameters: Any, name: str, line: Any) -> Callable[[], None]:
    """Bind a QLineEdit to a parameter, both ways; returns what undoes it."""

    def store(*_: Any) -> None:
        setattr(parameters, name, str(read(line, "text")))

    def show() -> None:
        if (text := getattr(parameters, name)) != read(line, "text"):
            line.setText(text)

    watch = Observed(show)
    show()
    watch.follow(parameters)
    line.textChanged.connect(store)

    def release() -> None:
        line.textChanged.disconnect(store)
        watch.follow(None)

    return release


class Observed:
    """One observer on a node's ModifiedEvent, moved from node to node and never left behind."""

    def __init__(self, callback: Callable[[], Any], event: int = vtk.vtkCommand.ModifiedEvent) -> None:
        # Kept here: an observer that only its node holds may be emptied by the garbage collector.
        self._call, self._event = (lambda *_: callback()), event
        self._node: Any = None
        self._tag = 0

    def follow(self, node: Any) -> None:
        """Observe ``node`` (None: nothing) instead of the one before."""
        if self._node is not None:
            self._node.RemoveObserver(self._tag)
        self._node = node
        if node is not None:
            self._tag = node.AddObserver(self._event, self._call)


class UserSettings(MutableMapping[str, str]):
    """Texts in the application's settings, below ``VoCo/``: what belongs to the machine and not to a scene."""

    def __init__(self) -> None:
        self._settings = qt.QSettings()

    def __getitem__(self, name: str) -> str:
        if not self._settings.contains(f"VoCo/{name}"):
            raise KeyError(name)
        return str(self._settings.value(f"VoCo/{name}"))

    def __setitem__(self, name: str, value: str) -> None:
        self._settings.setValue(f"VoCo/{name}", str(value))

    def __delitem__(self, name: str) -> None:
        if name not in self:
            raise KeyError(name)
        self._settings.remove(f"VoCo/{name}")

    def __iter__(self) -> Iterator[str]:
        start = len("VoCo/")
        return iter([str(key)[start:] for key in self._settings.allKeys() if str(key).startswith("VoCo/")])

    def __len__(self) -> int:
        return len(list(iter(self)))


def settingsForScript() -> dict[str, str]:
    """A copy of the user's settings; of a Python chosen there and one that VOCO_PYTHON names, a script takes this."""
    kept = dict(UserSettings())
    if os.environ.get(VARIABLE, "").strip():
        kept.pop(SETTING, None)
    return kept


def makeTimer(milliseconds: int, slot: Callable[[], Any]) -> Any:
    """A QTimer that calls ``slot`` again and again once it is started."""
    timer = qt.QTimer()
    timer.setInterval(milliseconds)
    timer.timeout.connect(slot)
    return timer


class ThreadTurns:
    """While threads are at work, lets them have Python's lock between the window's events (see `threads`)."""

    def __init__(self) -> None:
        self._timer = makeTimer(threads.EVERY, self._give)
        threads.began.connect(self._begin)

    def cleanup(self) -> None:
        """Listen no more."""
        threads.began.disconnect(self._begin)
        self._timer.stop()

    def _begin(self) -> None:
        self._timer.start()

    def _give(self) -> None:
        if not threads.giveTurns():
            self._timer.stop()


def plainTip(text: str) -> str:
    """``text`` as a tool tip that shows it as it is: Qt takes a name with ``<`` in it for HTML, with pictures."""
    return f"<qt>{html.escape(text)}</qt>".replace("\n", "<br>") if "<" in text else text


def loadUi(name: str) -> tuple[Any, Any]:
    """The form ``Resources/UI/name`` and its children by name, told of the scene."""
    # Not by resourcePath: with a relative --additional-module-paths that is lost when the current folder changes.
    made = slicer.util.loadUI(str(MODULE_FOLDER / "Resources" / "UI" / name))
    made.setMRMLScene(slicer.mrmlScene)
    for child in slicer.util.findChildren(made):
        if isinstance(child, qt.QLabel) and read(child, "wordWrap"):
            letWrap(child)
    return made, slicer.util.childWidgetVariables(made)


def letWrap(label: Any) -> None:
    """Let a label with word wrap take the width that there is; by itself it would like to be wide.

    A collapsible section is never narrower than its contents like: with each longer text all of the module's panel
    would become wider, and the slice views narrower.
    """
    policy = read(label, "sizePolicy")
    policy.setHorizontalPolicy(qt.QSizePolicy.Ignored)
    label.setSizePolicy(policy)


def fitHeight(table: Any, most: int) -> None:
    """Let a QTableWidget be as high as its rows need, up to ``most`` rows; its own minimum is the least.

    There is room for the scroll bar below too: it comes where the panel is narrow, and would cover the last row.
    """
    least = table.property("VoCoLeastHeight")
    if least is None:
        least = read(table, "minimumHeight")
        table.setProperty("VoCoLeastHeight", least)
    rows = min(read(table, "rowCount"), most)
    head = read(table.horizontalHeader(), "sizeHint").height()
    edge = 2 * read(table, "frameWidth") + read(table.horizontalScrollBar(), "sizeHint").height()
    table.setMinimumHeight(max(int(least), head + edge + sum(table.rowHeight(row) for row in range(rows))))


def chooseFolder(title: str, start: str = "") -> str:
    """Ask for a folder; "" where the user thinks better of it."""
    return str(qt.QFileDialog.getExistingDirectory(slicer.util.mainWindow(), title, start) or "")


def chooseFile(title: str, start: str = "", kinds: str = "") -> str:
    """Ask for a file that exists; "" where the user thinks better of it."""
    answer = qt.QFileDialog.getOpenFileName(slicer.util.mainWindow(), title, start, kinds)
    # PySide6 returns the file and the kind, PythonQt the file.
    return str((answer[0] if isinstance(answer, tuple) else answer) or "")


def ask(title: str, text: str, answers: list[str], harmless: int = -1) -> int:
    """Put a question with one button for each of ``answers``; returns the number of the one pressed, -1 for none.

    The Escape key and the window's cross press the ``harmless`` one, the last unless said otherwise.
    Under ``--testing`` nobody is there to answer: nothing is asked, and none is pressed.
    """
    if slicer.app.testingEnabled():
        return -1
    box = qt.QMessageBox(slicer.util.mainWindow())
    box.setIcon(qt.QMessageBox.Question)
    box.setWindowTitle(title)
    box.setTextFormat(qt.Qt.PlainText)
    box.setText(text)
    buttons = [box.addButton(answer, qt.QMessageBox.AcceptRole) for answer in answers]
    box.setEscapeButton(buttons[harmless])  # Qt finds none among buttons of one role, and then does not close
    run = getattr(box, "exec_", None) or box.exec
    run()
    pressed = box.clickedButton()
    box.deleteLater()  # the main window would keep it
    return next((number for number, button in enumerate(buttons) if button == pressed), -1)


def showText(title: str, text: str) -> Any:
    """Show a long text, such as a log, as it is: plain, selectable, of fixed width. Returns the window."""
    window = qt.QDialog(slicer.util.mainWindow())
    window.setWindowTitle(title)
    window.setObjectName("VoCoTextWindow")
    layout = qt.QVBoxLayout(window)
    box = qt.QPlainTextEdit()
    box.setReadOnly(True)
    box.setPlainText(text)
    box.setLineWrapMode(qt.QPlainTextEdit.NoWrap)
    font = qt.QFont("monospace")  # tables and progress bars stand in columns
    font.setStyleHint(qt.QFont.TypeWriter)
    box.setFont(font)
    layout.addWidget(box)
    window.resize(900, 500)
    window.setAttribute(qt.Qt.WA_DeleteOnClose)
    window.show()
    _texts[:] = [window]
    return window


def isDark(widget: Any) -> bool:
    """Whether ``widget`` has a dark ground, as on Slicer's dark style."""
    return bool(widget.palette.color(qt.QPalette.Window).lightness() < 128)
