"""Slicer itself in the place of the host: its application, errors in slots, how its module is opened and left."""

import sys
import traceback

import slicer


class Failures:
    """Errors in slots and observers: Slicer prints them through sys.excepthook, and goes on."""

    def __init__(self):
        self.texts = []
        self._before = sys.excepthook
        sys.excepthook = self._note

    def _note(self, kind, error, trace):
        self.texts.append("".join(traceback.format_exception(kind, error, trace)))
        self._before(kind, error, trace)

    def check(self):
        """Raise what was noted."""
        texts, self.texts = self.texts, []
        assert not texts, "failed where nobody could catch it:\n" + "\n".join(texts)


class Here:
    """Slicer itself, in the place of the host."""

    def __init__(self):
        self.app, self.failures = slicer.app, Failures()


def openModule():
    """Go to the module, in the main window or, without one, in a window of its own; returns its widget."""
    if slicer.util.mainWindow() is not None:
        slicer.util.mainWindow().resize(1600, 1100)  # the sections and all four views in the pictures
        slicer.util.selectModule("VoCoSlicer")
        return slicer.util.getModuleWidget("VoCoSlicer")
    window = slicer.modules.vocoslicer.widgetRepresentation()
    window.resize(560, 1400)
    window.show()
    window.enter()
    return slicer.util.getModuleWidget("VoCoSlicer")


def leaveModule():
    """Go to another module."""
    if slicer.util.mainWindow() is not None:
        slicer.util.selectModule("Data")
    else:
        slicer.modules.vocoslicer.widgetRepresentation().exit()


def reopenModule():
    """Read the module again from its files: the nearest to a new start of Slicer that a script can do in it."""
    leaveModule()
    slicer.util.getModuleWidget("VoCoSlicer").onReload()
    return openModule()
