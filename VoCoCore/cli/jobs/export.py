"""`voco jobs export`: a run as a folder for a SLURM cluster."""

from __future__ import annotations

from VoCoCore.cli.jobs.words import parser_of_run
from VoCoCore.errors import SettingsError
from VoCoCore.runs.export import Cluster, export_run


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
    done = export_run(asked.run, asked.output, cluster, [_pair(word) for word in asked.data_root])
    moved = f", {done.translated} of {done.paths} paths translated" if asked.data_root else ""
    print(
        f"{done.folder}: settings, {done.cases} cases{moved}, job.sbatch and README.txt, which says how to go on"
    )
    print("index.json names files, and so perhaps patients: pass it on only to those who may know them")
    return 0


def _pair(word: str) -> tuple[str, str]:
    old, equals, new = word.partition("=")
    if not (old and equals and new):
        raise SettingsError(
            f"--data-root needs OLD=NEW, not '{word}'", "for example --data-root /data=/scratch/me"
        )
    return old, new
