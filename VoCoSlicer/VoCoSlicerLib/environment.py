"""The Python of the jobs: which one, what it has, and what that means, in sentences that a clinician can act on.

Nothing is imported to learn it: a short script runs in that Python and prints JSON, so that a broken torch breaks only
the script.
"""

from __future__ import annotations

import json
from collections.abc import MutableMapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from VoCoCore.runs.narrate import size
from VoCoSlicerLib.core import MODULE_FOLDER
from VoCoSlicerLib.pythons import VARIABLE, choosePython, environOf, isExternal
from VoCoSlicerLib.tasks import Task

REQUIREMENTS = MODULE_FOLDER / "Resources" / "requirements.txt"
TORCH = "torch>=2.10,<2.14"
SHIPPED = (
    "numpy>=2.0,<3",
    "scipy>=1.13",
    "SimpleITK>=2.4",
)  # what Slicer brings itself; another Python may lack them
SCRIPTS = Path(__file__).parent / "scripts"
SETTING = "python"  # in the user's settings
_OLDEST, _NEWEST = (3, 11), (3, 13)
_LITTLE = 6 * 10**9  # bytes of a card's memory below which only the preset tiny fits


@dataclass(frozen=True)
class Facts:
    """What the probe found. ``device``: cuda, mps, cpu, or "" where nothing can run; ``memoryGb``: of the card, else of
    the machine, in 10^9 bytes; ``missing``: lines of requirements that are not there or too old; ``broken``: what is
    wrong, by line of requirements; ``installed``: versions by name; ``packages``: the folder where
    they go, and ``writable`` whether pip may; ``sentences`` for everybody, ``warnings`` first.
    """

    python: str = ""
    pythonVersion: str = ""
    torch: str = ""
    device: str = ""
    gpu: str = ""
    memoryGb: float = 0.0
    missing: tuple[str, ...] = ()
    broken: dict[str, str] = field(default_factory=dict)
    old: tuple[str, ...] = ()
    installed: dict[str, str] = field(default_factory=dict)
    cards: tuple[str, ...] = ()
    packages: str = ""
    writable: bool = True
    ok: bool = False
    warnings: tuple[str, ...] = ()
    sentences: tuple[str, ...] = ()


class Environment:
    """The Python that runs the jobs. ``store``: the user's settings, a dictionary of texts."""

    def __init__(self, store: MutableMapping[str, str], requirements: Path = REQUIREMENTS) -> None:
        self._store = store
        self.requirements = requirements

    @property
    def chosen(self) -> str:
        """What the user chose; "" for nothing in particular."""
        return self._store.get(SETTING, "")

    @property
    def python(self) -> str:
        """The program: the user's choice, else what VOCO_PYTHON names, else Slicer's own."""
        return choosePython(self.chosen)[0]

    @property
    def reason(self) -> str:
        """Why that one, in words."""
        why = choosePython(self.chosen)[1]
        words = {
            "chosen": "chosen here",
            VARIABLE: f"named by the variable {VARIABLE}",
            "Slicer": "Slicer's own",
        }
        return words[why]

    @property
    def external(self) -> bool:
        """Whether it is another Python than Slicer's."""
        return isExternal(self.python)

    def choose(self, python: str) -> None:
        """Remember another Python for the jobs; an empty text takes the choice back."""
        if python.strip():
            self._store[SETTING] = python.strip()
        else:
            self._store.pop(SETTING, None)

    def environ(self) -> dict[str, str] | None:
        """What the jobs' environment starts from; None: this process's own."""
        return environOf(self.python)

    def script(self, name: str, *arguments: str | Path) -> Task:
        """A task, not started, that runs one of our scripts in that Python."""
        return Task([SCRIPTS / name, *arguments], self.python, self.environ(), plain=True)

    def probe(self) -> Task:
        """A task, not started, that looks at that Python; hand it to `facts` when it has ended."""
        return self.script("probe.py", self.requirements, TORCH, *SHIPPED)

    def facts(self, task: Task) -> Facts:
        """What a probe that has ended found; a probe that failed gives facts with the reason as warning."""
        error = task.error()
        try:
            found = None if error else json.loads(task.result().strip().splitlines()[-1])
        except (ValueError, IndexError):
            found = None
        if not isinstance(found, dict):
            return unusable(task.python, error.message if error else "it did not answer as a Python does")
        return readFacts(task.python, found)


def unusable(python: str, reason: str) -> Facts:
    """Facts about a Python that cannot even be asked."""
    warning = f"{reason}." if reason.startswith(python) else f"{python} cannot run jobs: {reason}."
    return Facts(python, warnings=(warning,), sentences=(warning, "Choose another Python for the jobs."))


def readFacts(python: str, found: dict[str, Any]) -> Facts:
    """Facts from what the probe printed."""
    torch = found.get("torch", {})
    version = torch.get("version", "")
    device, gpu, memory = _device(found, torch)
    old = tuple(item["line"] for item in found["old"])
    missing, broken = (*found["missing"], *old), found["broken"]
    fits = _OLDEST <= tuple(int(part) for part in found["python"].split(".")[:2]) <= _NEWEST
    warnings = [
        *([] if fits else [_wrongVersion(found["python"])]),
        *_packageWarnings(found),
        *(_deviceWarnings(found, torch, device) if version else []),
    ]
    ok = fits and bool(version) and not missing and not broken
    lines = [f"Python {found['python']}: {python}"]
    if ok:
        lines.append(f"Ready: PyTorch {version} and everything else that jobs need is installed.")
    if device and version:
        lines.append(_deviceSentence(device, gpu, memory))
    return Facts(
        python=python,
        pythonVersion=found["python"],
        torch=version,
        device=device if version else "",
        gpu=gpu,
        memoryGb=round(memory / 1e9, 1),
        missing=missing,
        broken=broken,
        old=old,
        installed=found["installed"],
        cards=tuple(found["cards"]),
        packages=found.get("packages", ""),
        writable=found.get("writable", True),
        ok=ok,
        warnings=tuple(warnings),
        sentences=(*warnings, *lines),
    )


def _device(found: dict[str, Any], torch: dict[str, Any]) -> tuple[str, str, int]:
    """Kind, name and memory (bytes) of what jobs would compute on."""
    devices = torch.get("devices") or []
    if devices:
        best = max(devices, key=lambda each: (each["kind"] == "cuda", each["memory"]))
        return best["kind"], best["name"], int(best["memory"])
    return "cpu", "", int(found["memory"])


def _deviceSentence(device: str, gpu: str, memory: int) -> str:
    if device == "cuda":
        return f"Jobs run on the graphics card {gpu} with {size(memory)} of memory."
    if device == "mps":
        return (
            f"Jobs run on the graphics processor of this Mac ({gpu}), which shares {size(memory)} of memory."
        )
    return (
        f"Jobs run on the processor, with {size(memory)} of memory."
        if memory
        else "Jobs run on the processor."
    )


def _deviceWarnings(found: dict[str, Any], torch: dict[str, Any], device: str) -> list[str]:
    """What somebody who expects a fast card must know; there is no silent processor."""
    if device == "cuda":
        small = max(each["memory"] for each in torch["devices"] if each["kind"] == "cuda") < _LITTLE
        return ["This graphics card has little memory: choose the preset tiny."] if small else []
    if device == "mps":
        return []
    slow = "training runs on the processor and takes much longer"
    if not found["cards"]:
        return [f"No GPU was found: {slow}."]
    card = found["cards"][0]
    if not torch.get("cuda_build"):
        return [
            f"This machine has a graphics card ({card}), but this PyTorch was built without support for it: {slow}. "
            "Install PyTorch again: in Slicer's own Python by the extension PyTorch, elsewhere as pytorch.org says."
        ]
    reason = torch.get("device_error") or "its driver may be too old for it"
    return [f"This machine has a graphics card ({card}), but PyTorch cannot use it ({reason}): {slow}."]


def _packageWarnings(found: dict[str, Any]) -> list[str]:
    warnings = []
    for line, wrong in found["broken"].items():
        warnings.append(f"{_name(line)} is only half installed ({wrong}). The button Install repairs it.")
    if found["missing"]:
        names = ", ".join(_name(line) for line in found["missing"])
        warnings.append(f"Not installed yet: {names}. The button Install adds what is missing.")
    for item in found["old"]:
        warnings.append(f"{_name(item['line'])} {item['installed']} does not fit: {item['line']} is needed.")
    return warnings


def _wrongVersion(version: str) -> str:
    low, high = (".".join(map(str, pair)) for pair in (_OLDEST, _NEWEST))
    return f"Python {version} does not fit: jobs need {low} to {high}. Choose another Python for the jobs."


def _name(line: str) -> str:
    """The package that a line of requirements is about."""
    for place, letter in enumerate(line):
        if not (letter.isalnum() or letter in "-_."):
            return line[:place]
    return line
