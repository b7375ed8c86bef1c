"""Forms made from VoCoCore's own description of its settings: help, unit, range and choices cannot drift apart.

An empty control means "as preset, recipe or protocol say", and shows that value in grey; only what is changed by hand
counts as changed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import ctk
import qt
from slicer.i18n import tr as _

from VoCoCore.errors import SettingsError
from VoCoCore.fields import Group, Option, as_typed
from VoCoSlicerLib import adapter

_FAR = 1e5  # an upper limit beyond is there for slips of the finger


class SettingsForm:
    """Controls for some settings of ``settingsClass`` in ``parentWidget``, whose layout takes them.

    ``groups``: title -> dotted names, in order; a title makes a box that can be closed, "" none. ``onChange()``
    is called after each change by hand. ``labels``: what a setting is called where its own name says too little.
    """

    def __init__(
        self,
        parentWidget: Any,
        settingsClass: type[Group],
        groups: Mapping[str, Iterable[str]],
        onChange: Callable[[], Any],
        labels: Mapping[str, str] | None = None,
    ) -> None:
        known = {option.name: option for option in settingsClass.options()}
        self._onChange = onChange
        self.rows: dict[str, SettingRow] = {}
        self.boxes: dict[str, Any] = {}
        for title, names in groups.items():
            form = self._layout(parentWidget, title)
            for name in names:
                label = (labels or {}).get(name) or labelOf(known[name])
                self.rows[name] = SettingRow(known[name], label, form, onChange)

    def values(self) -> dict[str, Any]:
        """The settings changed by hand, by dotted name, in their own types; without those that are wrong (`errors`)."""
        return {name: row.value for name, row in self.rows.items() if row.value is not None}

    def errors(self) -> dict[str, SettingsError]:
        """What is wrong with single settings, by dotted name."""
        return {name: row.error for name, row in self.rows.items() if row.error is not None}

    def setValues(self, values: Mapping[str, Any]) -> None:
        """Show what was changed by hand; others become empty. A wrong text that is being typed stays."""
        for name, row in self.rows.items():
            row.setValue(values.get(name))

    def setDefaults(self, values: Mapping[str, Any]) -> None:
        """Show, in grey, the values that hold where nothing is changed by hand."""
        for name, row in self.rows.items():
            row.setDefault(values.get(name))

    def reset(self) -> None:
        """Take all changes back."""
        for row in self.rows.values():
            row.clear()
        self._onChange()

    def forgetErrors(self) -> None:
        """Take texts away that are wrong; they hold nowhere."""
        for row in self.rows.values():
            if row.error is not None:
                row.clear()

    def alignLabels(self, *others: Any) -> None:
        """Give ``others``, labels of rows above or below, the width of this form's: controls begin at one line."""
        width = max(adapter.read(row.label, "sizeHint").width() for row in self.rows.values())
        for label in others:
            label.setMinimumWidth(width)

    def showTogether(self, error: SettingsError | None) -> None:
        """Show an error of values that do not fit together beside those that it names; None takes it away."""
        for name, row in self.rows.items():
            named = error is not None and name in error.message.replace(",", " ").split()
            row.showTogether(error if named else None)

    def _layout(self, parent: Any, title: str) -> Any:
        if not title:
            form = qt.QFormLayout()
            parent.layout().addLayout(form)
            return form
        box = ctk.ctkCollapsibleGroupBox()
        box.setTitle(title)
        contents = qt.QWidget()  # hidden as one, so that a closed box takes no space for its rows
        form = qt.QFormLayout(contents)
        qt.QVBoxLayout(box).addWidget(contents)
        parent.layout().addWidget(box)
        self.boxes[title] = box
        return form

    def closeBoxes(self) -> None:
        """Close all boxes; done when they are filled."""
        for box in self.boxes.values():
            box.collapsed = True


class SettingRow:
    """The control of one setting. ``value``: what was given by hand, None where nothing was or it is wrong;
    ``error``: what is wrong with it.
    """

    def __init__(self, option: Option, title: str, form: Any, changed: Callable[[], Any]) -> None:
        self.option, self._changed = option, changed
        self.value: Any = None
        self.error: SettingsError | None = None
        self._words = _wordsOf(option)
        self.editor = qt.QComboBox() if self._words else qt.QLineEdit()
        self.editor.setObjectName(f"setting.{option.name}")
        self.note = qt.QLabel("")
        self.note.setTextFormat(qt.Qt.PlainText)
        self.note.setWordWrap(True)
        adapter.letWrap(self.note)
        self.note.setStyleSheet("color: #b3261e")
        self.note.setVisible(False)
        self.note.setObjectName(f"note.{option.name}")
        self.label = qt.QLabel(title)
        tip = tooltipOf(option)
        for widget in (self.editor, self.label, self.note):
            widget.setToolTip(tip)
        if self._words:
            self.editor.addItem("")
            for word in self._words:
                self.editor.addItem(word)
            self.editor.connect("currentIndexChanged(int)", self._onPicked)
        else:
            # Not textEdited: what a script puts there is shown, and so must hold.
            self.editor.connect("textChanged(QString)", self._onTyped)
        cell = qt.QVBoxLayout()
        cell.setSpacing(0)
        cell.addWidget(self.editor)
        cell.addWidget(self.note)
        form.addRow(self.label, cell)
        self.setDefault(option.default)

    def setValue(self, value: Any) -> None:
        """Show a value given by hand; None: nothing is."""
        if value is None and self.error is not None:
            return
        value = None if value is None else self._checked(value)
        if value == self.value and self.error is None:
            return
        self.value, self.error = value, None
        with adapter.blocked(self.editor):
            if self._words:
                self.editor.setCurrentIndex(0 if value is None else 1 + self._words.index(as_typed(value)))
            else:
                self.editor.setText("" if value is None else as_typed(value))
        self._note(None)

    def setDefault(self, value: Any) -> None:
        """Show, in grey, what holds where nothing is given; where something is, that is not known."""
        if self.value is not None:
            return
        text = _("automatic") if value is None else as_typed(value)
        if not self._words:
            self.editor.setPlaceholderText(text)
        elif self.editor.itemText(0) != (shown := _("default: {value}").format(value=text)):
            with adapter.blocked(self.editor):
                self.editor.setItemText(0, shown)

    def clear(self) -> None:
        """Take what was given by hand back."""
        self.error = None
        self.value = ...
        self.setValue(None)

    def showTogether(self, error: SettingsError | None) -> None:
        """Show an error that this setting has with others; None takes it away."""
        self._note(self.error or error)

    def _onPicked(self, index: int) -> None:
        self._take(None if index <= 0 else self._words[index - 1])

    def _onTyped(self, text: str) -> None:
        self._take(text.strip() or None)

    def _take(self, given: str | None) -> None:
        self.value, self.error = None, None
        try:
            self.value = None if given is None else self.option.check(given)
        except SettingsError as error:
            self.error = error
        self._note(self.error)
        self._changed()

    def _checked(self, value: Any) -> Any:
        try:
            return self.option.check(value)
        except SettingsError:
            return None  # a scene of another version: its preset decides

    def _note(self, error: SettingsError | None) -> None:
        text = "" if error is None else str(error)
        if self.note.text != text:
            self.note.setText(text)
        self.note.setVisible(bool(text))


def labelOf(option: Option) -> str:
    """What a setting is called in a form: the last word of its dotted name, with its unit."""
    words = option.name.rpartition(".")[2].replace("_", " ").strip().capitalize()
    unit = option.facts["unit"]
    return f"{words} [{unit}]" if unit else words


def tooltipOf(option: Option) -> str:
    """Help, unit, range, choices and full name of a setting."""
    facts = option.facts
    lines = [facts["help"] + (f" [{facts['unit']}]" if facts["unit"] else "")]
    low, high = facts["low"], facts["high"]
    if low is not None and high is not None and high <= _FAR:
        lines.append(_("from {low} to {high}").format(low=low, high=high))
    elif low is not None:
        lines.append(_("at least {low}").format(low=low))
    if facts["choices"]:
        lines.append(_("one of: {choices}").format(choices=", ".join(facts["choices"])))
    kinds = getattr(option.plain, "__args__", ())
    if kinds:
        lines.append(
            _("{n} values, such as {example}").format(n=len(kinds), example=",".join(["4"] * len(kinds)))
        )
    lines.append(option.name)
    return "\n".join(lines)


def _wordsOf(option: Option) -> tuple[str, ...]:
    """The words to choose from; none where something is typed."""
    return ("true", "false") if option.plain is bool else tuple(option.facts["choices"])
