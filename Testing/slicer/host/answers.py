"""Questions of the program and who answers them: message boxes, file dialogs, menus. Nothing ever waits for a hand.

A test says beforehand what will be answered, `ANSWERS.give(True, "Keep running", "/a/folder")`, and looks afterwards at
`ANSWERS.asked`. A box that only tells something (one button) needs no answer. A question without one fails the test.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from .failures import FAILURES


@dataclass(frozen=True)
class Asked:
    """One question or message: ``kind`` is the class or function that asked; ``buttons`` the texts to choose from."""

    kind: str
    text: str
    details: str = ""
    title: str = ""
    buttons: tuple[str, ...] = field(default=())


class Answers:
    """The queue of answers, and what was asked."""

    def __init__(self) -> None:
        self.asked: list[Asked] = []
        self._queue: deque = deque()

    def give(self, *answers) -> None:
        """Queue answers: True, False, a button's or menu item's text, "Escape", a path, a callable given the dialog."""
        self._queue.extend(answers)

    def clear(self) -> None:
        """Forget all questions and answers."""
        self.asked.clear()
        self._queue.clear()

    @property
    def unused(self) -> list:
        """Answers that nobody has asked for yet."""
        return list(self._queue)

    def texts(self) -> list[str]:
        """The texts asked so far."""
        return [one.text for one in self.asked]

    def next(self, asked: Asked, otherwise=None):
        """Record a question and return its answer; ``otherwise`` where none was given, which fails the test."""
        self.asked.append(asked)
        if self._queue:
            return self._queue.popleft()
        FAILURES.add(f"nobody answered {asked}")
        return otherwise


ANSWERS = Answers()
YES = ("ok", "yes", "retry", "save", "apply", "open")
NO = ("cancel", "no", "close", "discard", "abort")


def plain(text: str) -> str:
    """A button's text as a person reads it: without the mark of its shortcut."""
    return text.replace("&", "").strip()


def _choose(answer, buttons: dict):
    """The button for an answer: True is the accepting one, False the refusing one."""
    if isinstance(answer, bool):
        words = YES if answer else NO
        for text, button in buttons.items():
            if text.lower() in words:
                return button
    for text, button in buttons.items():
        if answer == text:
            return button
    raise AssertionError(f"no button for the answer {answer!r} in {list(buttons)}")


def runMessageBox(box) -> int:
    """What `exec` does for a message box: records it, clicks the button of the answer, returns its value."""
    stays = (box.ActionRole, box.HelpRole)  # such as "Show Details..."
    buttons = {plain(one.text): one for one in box.buttons() if box.buttonRole(one) not in stays}
    escape = _escape(box, list(buttons.values()))
    if escape is None:
        FAILURES.add(f"the Escape key cannot leave this question: {box.text}")
    asked = Asked(
        type(box).__name__,
        "\n".join(text for text in (box.text, box.informativeText) if text),
        box.detailedText,
        box.windowTitle.strip(),
        tuple(buttons),
    )
    if len(buttons) <= 1:
        ANSWERS.asked.append(asked)
        return int(box.standardButton(next(iter(buttons.values())))) if buttons else 0
    answer = ANSWERS.next(asked, otherwise=False)
    if callable(answer):
        return answer(box)
    chosen = escape if answer == "Escape" else answer if answer in box.buttons() else _choose(answer, buttons)
    box.open()
    chosen.click()
    return int(box.standardButton(chosen)) if int(box.standardButton(chosen)) else box.result()


def _escape(box, buttons: list):
    """The button that the Escape key and the window's cross press, found as Qt finds it; None: they do nothing."""
    if box.escapeButton() is not None or len(buttons) < 2:
        return box.escapeButton() or (buttons or [box])[0]
    if box.button(box.Cancel) is not None:
        return box.button(box.Cancel)
    for role in (box.RejectRole, box.NoRole):
        found = [one for one in buttons if box.buttonRole(one) == role]
        if len(found) == 1:
            return found[0]
    return None


def runDialog(dialog) -> int:
    """What `exec` does for any other dialog: a callable answer works on it; True accepts, False rejects."""
    answer = ANSWERS.next(Asked(type(dialog).__name__, dialog.windowTitle, title=dialog.windowTitle), False)
    dialog.open()
    if callable(answer):
        answer(dialog)
    elif answer:
        dialog.accept()
    else:
        dialog.reject()
    result = dialog.result()
    dialog.close()
    return result


def runMenu(menu):
    """What `exec` does for a menu: triggers the action with the answer's text and returns it."""
    menu.aboutToShow.emitForHost() if hasattr(menu.aboutToShow, "emitForHost") else None
    actions = {plain(action.text): action for action in menu.actions() if not action.isSeparator()}
    answer = ANSWERS.next(Asked("QMenu", "", buttons=tuple(actions)))
    if answer is None:
        return None
    action = _choose(answer, actions)
    if not action.isEnabled():
        raise AssertionError(f"the menu item {answer!r} is switched off")
    action.trigger()
    return action


def askPath(kind: str):
    """A replacement of QFileDialog's static functions; PythonQt returns a text, empty for "cancelled"."""

    def ask(parent=None, caption="", directory="", *rest, **more):
        answer = ANSWERS.next(Asked(kind, str(caption), details=str(directory)), "")
        return "" if answer is None or answer is False else answer

    return ask


def askText(parent=None, title="", label="", *rest, **more):
    """A replacement of QInputDialog.getText; PythonQt returns the text, empty for "cancelled"."""
    answer = ANSWERS.next(Asked("getText", str(label), title=str(title)), "")
    return "" if answer is None or answer is False else answer


def askBox(kind: str):
    """A replacement of QMessageBox's static functions (question, warning, ...)."""

    def ask(parent=None, title="", text="", buttons=None, *rest):
        from PySide6 import QtWidgets

        box = QtWidgets.QMessageBox(parent)
        box.setWindowTitle(title)
        box.setText(text)
        default = box.Yes | box.No if kind == "question" else box.Ok
        box.setStandardButtons(buttons if buttons is not None else default)
        return runMessageBox(box)

    return ask


def install() -> None:
    """Answer instead of waiting, in PySide6's own classes."""
    from PySide6 import QtWidgets

    def run(dialog):
        return runMessageBox(dialog) if isinstance(dialog, QtWidgets.QMessageBox) else runDialog(dialog)

    for kind in (QtWidgets.QDialog, QtWidgets.QMessageBox):
        kind.exec = kind.exec_ = run
    QtWidgets.QMenu.exec = QtWidgets.QMenu.exec_ = lambda menu, *where: runMenu(menu)
    for kind in ("getOpenFileName", "getOpenFileNames", "getSaveFileName", "getExistingDirectory"):
        setattr(QtWidgets.QFileDialog, kind, staticmethod(askPath(kind)))
    QtWidgets.QInputDialog.getText = staticmethod(askText)
    for kind in ("question", "warning", "information", "critical"):
        setattr(QtWidgets.QMessageBox, kind, staticmethod(askBox(kind)))
