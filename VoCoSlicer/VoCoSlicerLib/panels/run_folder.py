"""Whether a folder may become that of a new run: asked of the disk when its name stays as it is, not at each letter."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from VoCoCore.errors import VocoError
from VoCoSlicerLib import adapter
from VoCoSlicerLib.logic_start import checkFolder

_PAUSE = 400  # milliseconds without another name


class RunFolder:
    """What is wrong with the folder named last; ``changed()`` is called when that is known. Start checks by itself.

    ``checked``: the folder that was looked at last, None at first.
    """

    def __init__(self, changed: Callable[[], Any]) -> None:
        self._changed = changed
        self._named: Path | None = None
        self._problem: VocoError | None = None
        self.checked: Path | None = None
        self._timer = adapter.makeTimer(_PAUSE, self.look)
        self._timer.setSingleShot(True)

    def problems(self, folder: Path) -> list[VocoError]:
        """What is known to be wrong with ``folder``; a new name is looked at after a pause."""
        if folder != self._named:
            self._named = folder
            self._timer.start()
        return [self._problem] if self._problem is not None and folder == self.checked else []

    def look(self) -> None:
        """Look at the folder named last."""
        self._timer.stop()
        if self._named is None:
            return
        self.checked, self._problem = self._named, None
        try:
            checkFolder(self.checked)
        except VocoError as error:
            self._problem = error
        self._changed()

    def forget(self) -> None:
        """Look again when a folder is next asked about: another program may have filled it."""
        self._timer.stop()
        self._named = None
