"""A run as a folder that a SLURM cluster can work on: settings, cases with the cluster's paths, and a batch script.

The folder is written beside its place and renamed, so there is never half an export.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from VoCoCore.errors import SettingsError
from VoCoCore.runs import files, known
from VoCoCore.runs.describe import command_of
from VoCoCore.runs.directory import RunDirectory, check_usable
from VoCoCore.runs.translate import translated_index

MARKER = "vococore-export.json"
MARK = {"what": "VoCoCore export for SLURM", "v": 1}
INIT = "init.weights"
FILES = (MARKER, "settings.json", "index.json", "job.sbatch", "README.txt", INIT)
_TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True)
class Cluster:
    """What to ask of the cluster. ``gpus``: cards a node, each with a process of its own (0: processors alone);
    ``cpus``: processors a process; ``time`` as in SLURM, such as 24:00:00 or 2-00:00:00; ``mem``: a node's
    memory; ``more``: other options of sbatch, such as --partition=gpu.
    """

    nodes: int = 1
    gpus: int = 1
    cpus: int = 8
    time: str = "24:00:00"
    mem: str = "64G"
    more: tuple[str, ...] = ()

    @property
    def ranks(self) -> int:
        """How many processes train together."""
        return self.nodes * max(1, self.gpus)

    def check(self, settings: Mapping[str, Any]) -> None:
        """Raise SettingsError for what SLURM or the run's settings would refuse, before anybody waits in a queue."""
        for name, least in (("nodes", 1), ("gpus", 0), ("cpus", 1)):
            if getattr(self, name) < least:
                raise SettingsError(f"--{name} cannot be {getattr(self, name)}", f"at least {least}")
        if not re.fullmatch(r"\d+|(\d+-)?\d+(:\d+){0,2}", self.time):
            raise SettingsError(f"--time cannot be '{self.time}'", "write 24:00:00 or 2-00:00:00")
        if not re.fullmatch(r"\d+[KMGT]?", self.mem):
            raise SettingsError(f"--mem cannot be '{self.mem}'", "write 64G, or 0 for all of a node")
        for line in self.more:
            if not re.fullmatch(r"--?\w[^\n\r]*", line):
                raise SettingsError(f"--sbatch cannot be '{line}'", "write --sbatch=--partition=gpu")
        optim = settings.get("optim")
        batch = optim.get("batch") if isinstance(optim, dict) else None
        if isinstance(batch, int) and batch % self.ranks:
            raise SettingsError(
                f"the run's optim.batch {batch} cannot be divided among {self.ranks} processes",
                "choose other --nodes or --gpus: each card has a process",
            )


@dataclass(frozen=True)
class Exported:
    """What `export_run` made: the folder, how many cases its index names, how many paths were translated."""

    folder: Path
    cases: int
    translated: int
    paths: int


def export_run(
    path: str | Path,
    target: str | Path,
    cluster: Cluster | None = None,
    roots: Sequence[tuple[str, str]] = (),
    init: Path | None = None,
) -> Exported:
    """Write the folder ``target`` for the run ``path``; ``roots`` are (folder here, folder on the cluster).

    ``init``: the file of weights that the run starts from, which goes with it.
    Raises SettingsError where there is no such run, it has no list of cases yet, the target is not empty or the
    cluster cannot be asked for that; EnvironmentFault where it cannot be written.
    """
    run, cluster = RunDirectory.open(path), cluster or Cluster()
    folder = Path(os.path.abspath(os.path.expanduser(target)))
    check_usable(folder, begun=False)
    settings = _without_places(run.read_settings())
    cluster.check(settings)
    index = _read_index(run)
    index, translated, paths = translated_index(index, str(run.private), roots)
    words = {**_words(run.name, len(index["cases"]), cluster), "COMMAND": command_of(run)}
    draft = folder.with_name(f".{folder.name}.export.tmp")
    with files.writing(folder):
        shutil.rmtree(draft, ignore_errors=True)  # of an export that was killed
        draft.mkdir(parents=True)
        try:
            if init is not None:
                shutil.copyfile(init, draft / INIT)
                settings = {**settings, "init": INIT}  # the script works in its own folder
            files.write_json(draft / "settings.json", settings)
            files.write_json(draft / "index.json", index)
            for name in ("job.sbatch", "README.txt"):
                (draft / name).write_text(_filled(name, words), encoding="utf-8", newline="\n")
            files.write_json(draft / MARKER, {**MARK, "run": run.name})
            _move(draft, folder)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
    known.remember(folder, known.EXPORTS)
    return Exported(folder, len(index["cases"]), translated, paths)


def is_export(path: Path) -> bool:
    """Whether ``path`` is a folder that `export_run` made."""
    mark = files.read_json(path / MARKER)
    return isinstance(mark, dict) and mark.get("what") == MARK["what"]


def _move(draft: Path, folder: Path) -> None:
    # Empty but for what a file manager leaves; Windows renames onto nothing that is there.
    if folder.exists():
        shutil.rmtree(folder)
    files.patiently(lambda: os.rename(draft, folder))


def _without_places(settings: dict[str, Any]) -> dict[str, Any]:
    """A run's settings name no path of this machine; one that was edited by hand might."""
    data = settings.get("data")
    return {**settings, "data": {**data, "source": "", "store": None}} if isinstance(data, dict) else settings


def _read_index(run: RunDirectory) -> dict[str, Any]:
    path = run.private / "index.json"
    index = files.read_json(path)
    if not isinstance(index, dict) or not isinstance(index.get("cases"), list):
        what = "is damaged" if path.exists() else "is missing"
        raise SettingsError(
            f"{path} {what}: it lists the cases of the run",
            "start the run once, it may stop after its first step",
        )
    return index


def _words(name: str, cases: int, cluster: Cluster) -> dict[str, str]:
    safe = re.sub(r"[^A-Za-z0-9._-]+", "-", name)[:60].strip("-") or "voco"
    return {
        "NAME": safe,
        "LINE": "=" * (len(safe) + 32),
        "CASES": str(cases),
        "NODES": str(cluster.nodes),
        "TASKS": str(max(1, cluster.gpus)),
        "GPUS": f"#SBATCH --gres=gpu:{cluster.gpus}" if cluster.gpus else "# no cards",
        "CPUS": str(cluster.cpus),
        "MEM": cluster.mem,
        "TIME": cluster.time,
        "MORE": "\n".join(f"#SBATCH {line}" for line in cluster.more) or "#",
        "DEVICE": f"--device {'cuda' if cluster.gpus else 'cpu'}",
    }


def _filled(template: str, words: Mapping[str, str]) -> str:
    text = (_TEMPLATES / template).read_text(encoding="utf-8")
    for name, value in words.items():
        text = text.replace(f"@{name}@", value)
    return text
