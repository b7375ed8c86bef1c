"""Colours of errors and warnings that can be read on Slicer's light and on its dark style."""

from __future__ import annotations

from typing import Any

import slicer

from VoCoSlicerLib import adapter

# As the forms name them, and of the same hue for a dark ground: each has a contrast of 4.5 or more with its ground.
_ON_DARK = {"#b3261e": "#ff897d", "#9a5b00": "#ffb74d", "#1b6e3c": "#7fd99a"}
_ON_LIGHT = {dark: light for light, dark in _ON_DARK.items()}


def suit(root: Any) -> None:
    """Give the labels below ``root`` the colours for the style that Slicer has now."""
    colours = _ON_DARK if adapter.isDark(root) else _ON_LIGHT
    for label in slicer.util.findChildren(root, className="QLabel"):
        style = str(label.styleSheet)
        for named, other in colours.items():
            if named in style:
                label.setStyleSheet(style.replace(named, other))


def suited(colour: str, ground: Any) -> str:
    """One of the colours for a light ground, or what stands for it where the widget ``ground`` is dark."""
    return _ON_DARK[colour] if adapter.isDark(ground) else colour
