"""What went wrong where nobody could catch it: exceptions in slots, timers and observers, and Qt's own warnings.

Slicer prints such errors and goes on, so a test would pass over them. The host collects them, and the fixture fails.
"""

from __future__ import annotations

import sys
import threading
import traceback

# what the platform says offscreen, whatever the code does
HARMLESS = (
    "This plugin does not support",
    "QFont",
    "Populating font family aliases",
    "QStandardPaths: XDG_RUNTIME_DIR",
    "libpng warning",
    "qt.qpa.fonts",
    "QSystemTrayIcon",
)


class Failures:
    """Texts of what failed since the last `take`; safe to add to from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._texts: list[str] = []
        self._installed = False
        self._hooks: tuple = ()

    def add(self, text: str) -> None:
        """Remember ``text``."""
        with self._lock:
            self._texts.append(text)

    def addException(self, where: str, error: BaseException) -> None:
        """Remember an exception with its traceback."""
        lines = traceback.format_exception(type(error), error, error.__traceback__)
        self.add(f"{where}: {''.join(lines)}")

    def take(self) -> list[str]:
        """All texts so far; the list is empty afterwards."""
        with self._lock:
            texts, self._texts = self._texts, []
        return texts

    def check(self) -> None:
        """Raise AssertionError if anything was collected."""
        texts = self.take()
        if texts:
            raise AssertionError("failed where nobody could catch it:\n" + "\n".join(texts))

    def install(self) -> None:
        """Listen to sys.excepthook, unraisable exceptions, threads and Qt's messages."""
        if self._installed:
            return
        from PySide6 import QtCore

        self._installed = True
        self._hooks = (sys.excepthook, sys.unraisablehook, threading.excepthook)
        sys.excepthook = self._uncaught
        sys.unraisablehook = self._unraisable
        threading.excepthook = lambda args: self.addException(f"thread {args.thread}", args.exc_value)
        QtCore.qInstallMessageHandler(self._qtMessage)

    def uninstall(self) -> None:
        """Give the hooks back."""
        if not self._installed:
            return
        from PySide6 import QtCore

        self._installed = False
        sys.excepthook, sys.unraisablehook, threading.excepthook = self._hooks
        QtCore.qInstallMessageHandler(None)

    def _uncaught(self, kind, error, trace) -> None:
        self.addException("uncaught", error)
        self._hooks[0](kind, error, trace)

    def _unraisable(self, args) -> None:
        if args.exc_value is not None:
            self.addException(f"unraisable in {args.object!r}", args.exc_value)

    def _qtMessage(self, kind, context, message: str) -> None:
        if kind.name in ("QtWarningMsg", "QtCriticalMsg", "QtFatalMsg") and not message.startswith(HARMLESS):
            self.add(f"Qt says: {message}")


FAILURES = Failures()
