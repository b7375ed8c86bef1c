"""Install into the Python of the jobs what they miss: a dry run first, what it would change shown, then with consent.

In Slicer's own Python every package that is there is pinned, so that nothing which Slicer or another extension came
with can change; a plan that would is refused. PyTorch comes there first, in the way of the extension PyTorch, which
picks the build for the graphics card; the rest is planned when it is there. All is done in processes of their own: the
window never waits, and Slicer itself never loads PyTorch, so that no restart is needed.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from dataclasses import dataclass

from VoCoCore.errors import EnvironmentFault
from VoCoCore.runs.narrate import size
from VoCoSlicerLib.environment import TORCH, Environment, Facts
from VoCoSlicerLib.tasks import Task, orderFile

NO_EXTENSION = (
    "install the extension PyTorch with Slicer's Extensions Manager, restart Slicer and press Install again; "
    "or choose another Python for the jobs that has PyTorch"
)
_SHOWN = 12  # packages that a question names; a screen holds no more than forty lines
_KEPT = ("numpy", "scipy", "simpleitk")  # what Slicer itself has loaded, whatever is wrong with it


@dataclass(frozen=True)
class Change:
    """One package that installing touches. ``before``: the version that is there now, "" for none; ``size``: bytes to
    download, None where nobody says.
    """

    name: str
    version: str
    before: str
    size: int | None

    @property
    def replaces(self) -> bool:
        """Whether another version is there now."""
        return bool(self.before) and self.before != self.version


@dataclass(frozen=True)
class Plan:
    """What installing would do. ``throughExtension``: PyTorch comes in the way of Slicer's extension of that name."""

    changes: tuple[Change, ...]
    throughExtension: bool

    @property
    def bytes(self) -> int:
        """Size of all downloads that is known; PyTorch through the extension not counted."""
        return sum(change.size or 0 for change in self.changes)

    def words(self) -> str:
        """The question to put before anything is changed."""
        # What takes the place of another version first, then by size.
        ranked = sorted(self.changes, key=lambda each: (not each.replaces, -(each.size or 0), each.name))
        lines = [_one(change) for change in ranked[:_SHOWN]]
        if more := len(ranked) - len(lines):
            lines.append("and one package more" if more == 1 else f"and {more} packages more")
        if self.throughExtension:
            lines.insert(
                0,
                "PyTorch, as Slicer's extension PyTorch chooses it (0.2 to 3 GB, depending on the graphics card)",
            )
        unknown = any(change.size is None for change in self.changes)
        amount = f"About {size(self.bytes)}" + (" and more" if unknown else "") if self.changes else ""
        return "\n".join([*lines, *([f"{amount} will be downloaded."] if amount else [])])


class Installer:
    """Brings the Python of the jobs up to what `Facts` found missing or broken: `plan`, `read`, ask, `install`."""

    def __init__(self, environment: Environment, facts: Facts) -> None:
        self._environment = environment
        self._facts = facts
        self._own = not environment.external

    @property
    def needed(self) -> bool:
        """Whether there is anything to do."""
        return bool(self._facts.missing or self._facts.broken)

    @property
    def torchNeeded(self) -> bool:
        """Whether PyTorch itself is missing, too old or broken."""
        return TORCH in self._facts.missing or TORCH in self._facts.broken

    @property
    def throughExtension(self) -> bool:
        """Whether PyTorch has to come through Slicer's extension."""
        return self._own and self.torchNeeded

    def plan(self) -> Task | None:
        """A task, not started, that finds out what would change; None where PyTorch comes first, by its extension.

        Raises EnvironmentFault where PyTorch is needed in Slicer's own Python and that extension is not there, and
        where nobody but others may write into that Python.
        """
        if self.throughExtension and importlib.util.find_spec("PyTorchUtils") is None:
            raise EnvironmentFault("PyTorch is not installed in Slicer's Python", NO_EXTENSION)
        if not self._facts.writable:
            raise _notAllowed(self._facts.packages)
        return self._task("plan") if self._lines() else None

    def read(self, task: Task | None) -> Plan:
        """The plan that a task of `plan` found. Raises its error, or EnvironmentFault where a package of Slicer's or of
        another extension would change.
        """
        if task is not None and (error := task.error()):
            raise _explained(error.message, task.log)
        found = json.loads(task.result()) if task is not None else []
        before = self._facts.installed
        changes = tuple(
            Change(item["name"], item["version"], before.get(item["name"], ""), item["size"])
            for item in found
        )
        free = self._mayChange()
        for change in changes:
            if self._own and change.replaces and change.name not in free:
                raise EnvironmentFault(
                    f"installing would change {change.name} {change.before}, which Slicer or another extension needs, "
                    f"to {change.version}; nothing was changed",
                    "choose another Python for the jobs, where packages can be installed freely",
                )
        return Plan(changes, self.throughExtension)

    def installTorch(self) -> Task:
        """A task, not started, that installs PyTorch as the extension does: by light-the-torch, which picks the build.

        The extension's own function would do it in Slicer's process: the window would hang meanwhile, and Slicer would
        load PyTorch. Raises EnvironmentFault where another PyTorch would have to go that Slicer has loaded already.
        """
        anew = TORCH in self._facts.broken or TORCH in self._facts.old
        if anew and "torch" in sys.modules:
            raise EnvironmentFault(
                "another extension has loaded PyTorch, so that it cannot be replaced now",
                "restart Slicer, open VoCo before anything else, and press Install",
            )
        beside = [name for name in ("torchvision",) if name in self._facts.installed]
        order = {
            "requirements": [TORCH, *beside],
            "broken": [TORCH] if TORCH in self._facts.broken else [],
            "remove": ["torch", *beside] if anew else [],
            "constraints": [pin for pin in self._constraints() if pin.partition("==")[0] not in beside],
        }
        return self._run("torch", order)

    def install(self) -> Task | None:
        """A task, not started, that installs what `plan` said; None where PyTorch comes first, by its extension.

        Its lines are pip's. Probe again when it has ended: only that tells whether all is well, or what comes next.
        """
        return self._task("install") if self._lines() else None

    def explain(self, task: Task) -> EnvironmentFault | None:
        """What went wrong with a task of `install`; None where nothing did."""
        error = task.error()
        return None if error is None else _explained(error.message, task.log)

    def _lines(self) -> tuple[str, ...]:
        # Without PyTorch in place, pip would bring a build of its own along with what needs it.
        return () if self.throughExtension else (*self._facts.missing, *self._facts.broken)

    def _mayChange(self) -> set[str]:
        """Packages that are ours to change: needed and broken or too old, but not what Slicer has loaded."""
        names = {_name(line) for line in (*self._facts.broken, *self._facts.old)}
        return names - set(_KEPT) if self._own else set(self._facts.installed)

    def _constraints(self) -> list[str]:
        if not self._own:
            return []
        free = self._mayChange()
        pins = self._facts.installed.items()
        return [f"{name}=={version}" for name, version in sorted(pins) if version and name not in free]

    def _task(self, what: str) -> Task:
        lines, broken = self._lines(), self._facts.broken
        order = {
            "requirements": [line for line in lines if line not in broken],
            "broken": [line for line in lines if line in broken],
            "constraints": self._constraints(),
        }
        return self._run(what, order)

    def _run(self, what: str, order: dict[str, list[str]]) -> Task:
        return self._environment.script("install.py", what, str(orderFile("voco-order-", order)))


def _one(change: Change) -> str:
    amount = "" if change.size is None else f", {size(change.size)}"
    instead = f" instead of {change.before}" if change.replaces else ""
    return f"{change.name} {change.version}{instead}{amount}"


def _explained(message: str, log: str) -> EnvironmentFault:
    """What pip says, in words that help."""
    text = log.lower()
    # The last is light-the-torch's own defect (0.8.1, pip 25.1), where the index of PyTorch answers nothing.
    signs = ("no matching distribution", "resolutionimpossible", "build_source() missing")
    failed = any(words in text for words in signs)
    if failed and any(words in text for words in ("connection broken", "connectionerror", "name resolution")):
        return EnvironmentFault(
            "the package index cannot be reached", "check the network and the proxy, then try again"
        )
    if "resolutionimpossible" in text or "conflicting dependencies" in text:
        return EnvironmentFault(
            "what jobs need does not go together with packages that Slicer or another extension needs",
            "choose another Python for the jobs, where packages can be installed freely",
        )
    if "no space left" in text:
        return EnvironmentFault(
            "the disk is full", "free some space, then press Install again: it repairs what is half done"
        )
    if "permission denied" in text or "access is denied" in text:
        return _notAllowed()
    if "no module named pip" in text:
        return EnvironmentFault("this Python has no pip", "choose another Python for the jobs")
    if "externally-managed" in text:
        hint = "make a virtual environment (python -m venv) and choose its Python"
        return EnvironmentFault("this Python belongs to the system, which does not let pip change it", hint)
    return EnvironmentFault(
        f"pip failed: {message}", "Show log has all that pip said; press Install to try again"
    )


def _notAllowed(folder: str = "") -> EnvironmentFault:
    where = f", whose packages lie in {folder}" if folder else ""
    return EnvironmentFault(
        f"you may not write into this Python{where}",
        "choose another Python for the jobs, such as that of a virtual environment of your own (python -m venv), or "
        "ask who looks after this machine",
    )


def _name(line: str) -> str:
    for place, letter in enumerate(line):
        if not (letter.isalnum() or letter in "-_."):
            return line[:place].lower().replace("_", "-")
    return line.lower()
