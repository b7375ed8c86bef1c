"""Colours of errors and warnings that can be read on Slicer's light and on its dark style."""

from __future__ import annotations

from typing import Any

import qt
import slicer

# As the forms name them, and the same hue on a dark ground: at least 4.5 times as bright as what it stands on, or dark.
_ON_DARK = {"#b3261e": "#ff897d", "#9a5b00": "#ffb74d"}
_ON_LIGHT = {dark: light for light, dark in _ON_DARK.items()}


def suit(root: Any) -> None:
    """Give the labels below ``root`` the colours for the style that Slicer has now."""
    dark = root.palette.color(qt.QPalette.Window).lightness() < 128
    colours = _ON_DARK if dark else _ON_LIGHT
    for label in slicer.util.findChildren(root, className="QLabel"):
        style = str(label.styleSheet)
        for named, other in colours.items():
            if named in style:
                label.setStyleSheet(style.replace(named, other))
