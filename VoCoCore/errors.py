"""Errors that a user can cause or meet, each with one line of text and an exit code of its own; and words for them.

VocoError (1: a defect of ours)
├── SettingsError (2: usage or settings)
├── DataError (3: images, labels, lists of cases)
├── EnvironmentFault (4: device, package, disk)
└── StopRequested (5: stopped because somebody asked)
"""

from __future__ import annotations

import errno
from collections.abc import Iterable
from difflib import get_close_matches


class VocoError(Exception):
    """Base of all errors of this package; ``str()`` is one line: what is wrong, where, and how to mend it."""

    exit_code = 1

    def __init__(self, message: str, hint: str = "") -> None:
        self.message = _harmless(message)
        self.hint = _harmless(hint)
        super().__init__(self.message)

    def __str__(self) -> str:
        return f"{self.message}  ({self.hint})" if self.hint else self.message

    def __reduce__(self):
        # The message alone would lose the hint on the way back from a worker process.
        return type(self), (self.message, self.hint)


def _harmless(text: object) -> str:
    """``text`` as one line; what cannot be shown, as a terminal's commands in a file's name, is a question mark."""
    line = " ".join(str(text).split())
    return line if line.isprintable() else "".join(c if c.isprintable() else "?" for c in line)


class SettingsError(VocoError):
    """A command or a setting that cannot be carried out as given."""

    exit_code = 2


class DataError(VocoError):
    """A file or a list of cases that cannot be used."""

    exit_code = 3


class EnvironmentFault(VocoError):
    """The machine lacks what the job needs: a device, a package, memory, disk, permission."""

    exit_code = 4


class StopRequested(VocoError):
    """The job ended early, with a checkpoint, because somebody asked for it."""

    exit_code = 5


def kind_of(which: int | str | None) -> type[VocoError]:
    """The kind of error that has an exit code, or that is called so; VocoError itself where there is none."""
    kinds = (SettingsError, DataError, EnvironmentFault, StopRequested)
    return next((kind for kind in kinds if which in (kind.exit_code, kind.__name__)), VocoError)


def nearest(word: str, choices: Iterable[str]) -> str:
    """Return ``" Did you mean 'x'?"`` for the choice closest to ``word``, or an empty string."""
    found = get_close_matches(str(word), list(choices), n=1, cutoff=0.6)
    return f" Did you mean '{found[0]}'?" if found else ""


def counted(count: int, what: str, one: str = "", more: str = "") -> str:
    """How many of what, for a message, and the verb that goes with it: ``1 case is``, ``2 cases are``."""
    words = [str(count), f"{what}s" if what and count != 1 else what, one if count == 1 else more]
    return " ".join(word for word in words if word)


def of_the_machine(error: Exception, what: str = "") -> VocoError | None:
    """What the system or the user's words caused in work ``what``, where nobody said it better; None for a defect."""
    if isinstance(error, MemoryError):
        wanted = f"there is not enough memory{what and f' for {what}'}"
        return EnvironmentFault(wanted, "close other programs, or use a larger machine")
    if not isinstance(error, OSError) or error.errno is None:
        return None
    name = "a file" if error.filename is None else str(error.filename)
    if error.errno == errno.ENAMETOOLONG:
        return SettingsError(f"{name[:60]}... is too long for the name of a file", "give a shorter one")
    return EnvironmentFault(
        f"{name} cannot be used: {error.strerror}", "check the path, the disk and permissions"
    )
