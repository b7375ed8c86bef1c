#!/usr/bin/env python3
"""Set up VoCoCore and run its commands, with nothing but a Python 3.11, 3.12 or 3.13.

    python3 run.py demo    pre-train on made-up torsos for a few minutes and say where the report is
    python3 run.py test    linters, type checker and tests; with arguments, pytest alone with these arguments
    python3 run.py lint    the linters and the type checker alone
    python3 run.py bench   every Testing/benchmarks/bench_*.py; one table, bench.json and bench.png
    python3 run.py docs    build the documentation into site/

The first call makes .venv beside this file and installs into it; later calls find a stamp and start at once.
Anything after the command is handed to it, e.g. ``python3 run.py test -k crops``.

torch is installed by pip, so pip's own configuration decides which build it is; a torch that is already in
.venv and fits is kept, and VOCO_TORCH (e.g. ``torch==2.13.0``) asks for a particular one.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Sequence

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
PYTHON = VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
PINS = ROOT / "Testing" / "requirements.txt"
OLDEST, NEWEST = (3, 11), (3, 13)
TORCH = os.environ.get("VOCO_TORCH", "torch>=2.10,<2.14")
EXIT_USAGE, EXIT_ENVIRONMENT = 2, 4
MOST_PROCESSES = 4

PIP_INSTALL: list[str | Path] = [PYTHON, "-m", "pip", "install", "--disable-pip-version-check"]
CHECKS = {
    "ruff check": ["ruff", "check", "."],
    "ruff format": ["ruff", "format", "--check", "."],
    "mypy": ["mypy"],
    "codespell": ["codespell_lib"],
}


class Failure(Exception):
    """Ends run.py with one line on stderr; the second argument is the exit code."""


def main(argv: list[str]) -> int:
    commands = {"demo": demo, "test": test, "lint": lint, "bench": bench, "docs": docs}
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(__doc__)
        return 0 if argv else EXIT_USAGE
    try:
        if argv[0] not in commands:
            raise Failure(f"no command {argv[0]!r}; there are {', '.join(commands)}", EXIT_USAGE)
        check_python(sys.version_info[:2])
        check_machine(platform.system(), platform.machine())
        return commands[argv[0]](argv[1:])
    except Failure as failure:
        print(f"run.py: {failure.args[0]}", file=sys.stderr)
        return failure.args[1]


def demo(arguments: list[str]) -> int:
    ensure_environment("use")
    return call([PYTHON, "-m", "VoCoCore", "demo", *arguments])


def test(arguments: list[str]) -> int:
    """Linters first and pytest last, so that pytest's closing line is the last one printed."""
    ensure_environment("develop")
    # Small tensors: threads would wait for each other longer than they work, above all on a busy machine.
    threads = os.environ.get("OMP_NUM_THREADS", "1")
    if arguments:
        return call([PYTHON, "-m", "pytest", *arguments], OMP_NUM_THREADS=threads)
    failed = failing_checks()
    say("pytest" + (f" (failed before it: {', '.join(failed)})" if failed else ""))
    report = ["--durations=20", *shared_among(cores())]
    code = call([PYTHON, "-m", "pytest", *report], OMP_NUM_THREADS=threads)
    return code or int(bool(failed))


def shared_among(processors: int) -> list[str]:
    """pytest's words for several test processes, each with whole files in the order of their names.

    One more than there are cores, because tests of jobs wait for these a third of their time. More than four would want
    more memory than they save time; with one core there is nothing to share.
    """
    processes = min(processors + 1, MOST_PROCESSES) if processors > 1 else 1
    return ["-n", str(processes), "--dist", "loadfile", "--no-loadscope-reorder"] if processes > 1 else []


def cores() -> int:
    """How many processor cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def lint(_: list[str]) -> int:
    ensure_environment("develop")
    return int(bool(failing_checks()))


def failing_checks() -> list[str]:
    failed = []
    for name, command in CHECKS.items():
        say(name)
        if call([PYTHON, "-m", *command]):
            failed.append(name)
    return failed


def bench(arguments: list[str]) -> int:
    """Every benchmark in its short form, or with ``--full`` in the sizes of the goals."""
    ensure_environment("develop")
    return call([PYTHON, ROOT / "Testing" / "benchmarks" / "together.py", *arguments])


def docs(arguments: list[str]) -> int:
    ensure_environment("develop")
    return call([PYTHON, "-m", "mkdocs", "build", "--strict", *arguments])


def ensure_environment(kind: str) -> None:
    """Make .venv ready: ``use`` = what runs VoCoCore, ``develop`` = the pinned set that tests it."""
    wanted = fingerprint()
    stamps = [VENV / "voco-develop.stamp", VENV / f"voco-{kind}.stamp"]
    if PYTHON.exists() and any(stamp.is_file() and stamp.read_text() == wanted for stamp in stamps):
        return
    make_venv()
    for stamp in VENV.glob("voco-*.stamp"):
        stamp.unlink()
    if kind == "develop":
        say("installing the tested versions (Testing/requirements.txt)")
        install("--no-deps", "--require-hashes", "-r", str(PINS))
    say(f"installing {TORCH} (the large one)")
    install(TORCH, uv=False)
    say("installing VoCoCore")
    install("--editable", *((".", "--no-deps") if kind == "develop" else (".[fast]",)))
    stamps[-1].write_text(wanted)
    say("ready")


def make_venv() -> None:
    if PYTHON.exists() and quiet([PYTHON, "-m", "pip", "--version"]):
        return
    say(f"making {VENV} with Python {platform.python_version()}")
    if call([sys.executable, "-m", "venv", "--clear", VENV]):
        raise Failure(
            "could not make .venv (on Debian and Ubuntu: install the package python3-venv; "
            "elsewhere: is the disk full or the folder read-only?)",
            EXIT_ENVIRONMENT,
        )


def install(*arguments: str, uv: bool = True) -> None:
    """Install with uv where that works (several times quicker), else with pip."""
    if uv and have_uv():
        if call([PYTHON, "-m", "uv", "pip", "install", *arguments], UV_PYTHON=str(PYTHON)) == 0:
            return
        say("uv could not; trying pip")
    calm = [] if sys.stdout.isatty() else ["--quiet"]
    if call([*PIP_INSTALL, *calm, *arguments]):
        raise Failure(
            f"could not install {' '.join(arguments)}; the lines above say why "
            "(often: no network, or a full disk)",
            EXIT_ENVIRONMENT,
        )


def have_uv() -> bool:
    return quiet([PYTHON, "-m", "uv", "--version"]) or quiet(
        [*PIP_INSTALL, "--only-binary", ":all:", "uv>=0.5"]
    )


def fingerprint() -> str:
    """Changes when what must be installed changes."""
    parts = [(ROOT / "pyproject.toml").read_bytes(), PINS.read_bytes(), TORCH.encode(), str(ROOT).encode()]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()


def check_python(version: tuple[int, ...]) -> None:
    """VoCoCore needs a Python that torch and MONAI have packages for."""
    if OLDEST <= version <= NEWEST:
        return
    others = [f"python{major}.{minor}" for major, minor in ((3, 13), (3, 12), (3, 11))]
    found = next((name for name in others if shutil.which(name)), None)
    advice = f"you have {found}: use it in place of python3" if found else "install one of them"
    have = ".".join(map(str, version))
    raise Failure(f"this is Python {have}, and VoCoCore needs 3.11, 3.12 or 3.13; {advice}", EXIT_ENVIRONMENT)


def check_machine(system: str, processor: str) -> None:
    if (system, processor) == ("Darwin", "x86_64"):
        raise Failure(
            "torch has no packages for Intel Macs any more; on an Apple-silicon Mac install a Python "
            "for arm64, on an Intel Mac use another computer",
            EXIT_ENVIRONMENT,
        )


def environment(**extra: str) -> dict[str, str]:
    """The caller's environment less what would mix another Python into ours; text is UTF-8 everywhere."""
    kept = {k: v for k, v in os.environ.items() if k not in ("PYTHONHOME", "PYTHONPATH", "VIRTUAL_ENV")}
    return {**kept, "PYTHONUTF8": "1", "NO_MKDOCS_2_WARNING": "1", **extra}


def call(command: Sequence[str | Path], **extra: str) -> int:
    """Run a command in the project's folder, output shown. It gets the same Ctrl-C and ends by itself."""
    child = subprocess.Popen([str(part) for part in command], cwd=ROOT, env=environment(**extra))
    while True:
        try:
            return child.wait()
        except KeyboardInterrupt:
            continue


def quiet(command: Sequence[str | Path]) -> bool:
    """Run a command unseen; True where it went well."""
    done = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, check=False)
    return done.returncode == 0


def say(text: str) -> None:
    print(f"== {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
