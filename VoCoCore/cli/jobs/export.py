"""`voco jobs export`: a run as a folder for a SLURM cluster."""

from __future__ import annotations

from pathlib import Path

from VoCoCore.cli.jobs.words import parser_of_run
from VoCoCore.errors import DataError, SettingsError, counted
from VoCoCore.runs.directory import RunDirectory
from VoCoCore.runs.export import Cluster, export_run
from VoCoCore.runs.files import read_json
from VoCoCore.settings import SCRATCH


def export_(words: list[str]) -> int:
    """Write the folder and say what to do with it."""
    usual = Cluster()
    parser = parser_of_run("export")
    parser.add_argument("-o", "--output", required=True, metavar="FOLDER", help="a new or an empty folder")
    parser.add_argument(
        "--data-root",
        action="append",
        default=[],
        metavar="OLD=NEW",
        help="files below OLD here lie below NEW on the cluster; repeatable",
    )
    for name, text in (
        ("nodes", "machines"),
        ("gpus", "cards a machine, 0: processors alone"),
        ("cpus", "processors a card"),
    ):
        default = getattr(usual, name)
        parser.add_argument(
            f"--{name}", type=int, default=default, metavar="N", help=f"{text}; default {default}"
        )
    parser.add_argument(
        "--time", default=usual.time, metavar="T", help=f"as SLURM writes it; default {usual.time}"
    )
    parser.add_argument("--mem", default=usual.mem, help=f"memory of a machine; default {usual.mem}")
    parser.add_argument(
        "--sbatch",
        action="append",
        default=[],
        metavar="OPTION",
        help="another option of sbatch, such as --sbatch=--partition=gpu; repeatable",
    )
    asked = parser.parse_args(words)
    cluster = Cluster(asked.nodes, asked.gpus, asked.cpus, asked.time, asked.mem, tuple(asked.sbatch))
    roots = [_pair(word) for word in asked.data_root]
    done = export_run(asked.run, asked.output, cluster, roots, _init_of(RunDirectory.open(asked.run)))
    moved = f", {done.translated} of {counted(done.paths, 'path')} translated" if asked.data_root else ""
    print(
        f"{done.folder}: settings, {counted(done.cases, 'case')}{moved}, job.sbatch and README.txt, "
        "which says how to go on"
    )
    print("index.json names files, and so perhaps patients: pass it on only to those who may know them")
    return 0


def _init_of(run: RunDirectory) -> Path | None:
    """The file of weights that a run starts from; DataError where it is not there any more."""
    places = read_json(run.private / "places.json")
    init = places.get("init") if isinstance(places, dict) else None
    if init in (None, SCRATCH):
        return None
    from VoCoCore.runs.weights import weights_file

    found = weights_file(str(init))
    if not found.is_file():
        raise DataError(
            f"the weights that {run.path} starts from, {found}, are not there",
            "put them back to export the run",
        )
    return found


def _pair(word: str) -> tuple[str, str]:
    old, equals, new = word.partition("=")
    if not (old and equals and new):
        raise SettingsError(
            f"--data-root needs OLD=NEW, not '{word}'", "for example --data-root /data=/scratch/me"
        )
    return old, new
