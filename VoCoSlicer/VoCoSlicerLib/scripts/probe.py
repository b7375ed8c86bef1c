"""Run by the Python of the jobs: print as JSON what it is and has. Standard library only; never imported by the module.

    python probe.py requirements.txt [REQUIREMENT ...]

A package is ``broken`` where its metadata is there but files that it lists are not, or where importing it fails. What
the requirements need in turn counts as they do, but for its version.
"""

from __future__ import annotations

import csv
import json
import os
import platform
import re
import shutil
import site
import subprocess
import sys
import sysconfig
from importlib import metadata
from pathlib import Path

_NAME = re.compile(r"\s*([A-Za-z0-9][A-Za-z0-9._-]*)(?:\[[^\]]*\])?\s*([^;#]*)")
_OPERATION = re.compile(r"(>=|<=|==|!=|~=|>|<)\s*([0-9][^\s,]*)")


def normal(name: str) -> str:
    """A package's name as pip compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def numbers(version: str) -> tuple[int, ...]:
    """The release of a version: ``2.10.0+cu128`` -> (2, 10); trailing zeros do not count."""
    found = re.match(r"\d+(?:\.\d+)*", version)
    parts = [int(part) for part in found.group().split(".")] if found else []
    while parts and parts[-1] == 0:
        parts.pop()
    return tuple(parts)


def satisfies(version: str, wanted: str) -> bool:
    """Whether ``version`` is within ``>=2.10,<2.14`` and the like."""
    have = numbers(version)
    for sign, other in _OPERATION.findall(wanted):
        limit = numbers(other)
        fine = {
            ">=": have >= limit,
            "<=": have <= limit,
            "==": have == limit,
            "!=": have != limit,
            ">": have > limit,
            "<": have < limit,
            "~=": have >= limit and have[: other.count(".")] == limit[: other.count(".")],
        }
        if not fine[sign]:
            return False
    return True


def required(lines: list[str]) -> dict[str, tuple[str, str]]:
    """Line and versions by name, of lines of requirements."""
    found = {}
    for line in lines:
        if match := _NAME.match(line.partition("#")[0]):
            found[normal(match[1])] = (line.partition("#")[0].strip(), match[2].strip())
    return found


def installed() -> dict[str, metadata.Distribution]:
    """What is installed, by name; of a name that is there twice the one that would be imported."""
    found: dict[str, metadata.Distribution] = {}
    for each in metadata.distributions():
        name = each.metadata["Name"] if each.metadata is not None else None
        if name:
            found.setdefault(normal(name), each)
    return found


def needs(each: metadata.Distribution) -> dict[str, tuple[str, str]]:
    """What a package needs on every machine; what it needs on a condition nobody but pip can judge."""
    return required([line for line in each.requires or [] if ";" not in line])


def listed(each: metadata.Distribution) -> list[Path] | None:
    """The files that a package's own list names, there or not, relative to where it lies; None without a list.

    From Python 3.12 on ``each.files`` leaves out those that are not there: nothing would ever be missing.
    """
    record = each.read_text("RECORD")
    if not record:
        return None if each.files is None else [Path(file) for file in each.files]
    return [Path(row[0]) for row in csv.reader(record.splitlines()) if row]


def damage(each: metadata.Distribution) -> str:
    """What is wrong with an installed package by its own list of files; "" where nothing is."""
    files = listed(each)
    if files is None:
        return "its list of files is missing"
    # Compiled files come and go, and scripts lie outside.
    wanted = [file for file in files if file.suffix != ".pyc" and ".." not in file.parts]
    gone = [file for file in wanted if not os.path.exists(each.locate_file(file))]
    verb = "is" if len(gone) == 1 else "are"
    return f"{len(gone)} of its {len(wanted)} files {verb} missing" if gone else ""


def torch_facts() -> dict:
    """Version and devices of torch, or why it cannot be imported."""
    try:
        import torch

        if getattr(torch, "__file__", None) is None:
            return {"error": "only an empty folder of it is left"}
        facts = {"version": torch.__version__, "cuda_build": torch.version.cuda, "devices": []}
    except Exception as error:  # whatever a half-installed package does
        return {"error": f"{type(error).__name__}: {' '.join(str(error).split())}"}
    try:
        facts["devices"] = devices(torch)
    except Exception as error:
        facts["device_error"] = " ".join(str(error).split())
    return facts


def devices(torch) -> list[dict]:
    """The cards that torch can compute on, memory in bytes; each is tried."""
    found, failed = [], None
    if torch.cuda.is_available():
        for number in range(torch.cuda.device_count()):
            facts = torch.cuda.get_device_properties(number)
            try:
                float((torch.ones(2, device=f"cuda:{number}") + 1).sum())
            except Exception as error:  # an old card beside a good one, say
                failed = error
                continue
            found.append({"kind": "cuda", "name": facts.name, "memory": facts.total_memory})
    if failed is not None and not found:
        raise failed
    mps = getattr(torch.backends, "mps", None)
    if mps is not None and mps.is_available():
        found.append({"kind": "mps", "name": "Apple " + platform.machine(), "memory": memory()})
    return found


def cards() -> list[str]:
    """NVIDIA cards by name, whether or not torch can use them."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    command = [program, "--query-gpu=name", "--format=csv,noheader"]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return []
    return [line.strip() for line in done.stdout.splitlines() if line.strip()] if done.returncode == 0 else []


def memory() -> int:
    """Bytes of the machine's memory, 0 where the system does not say."""
    if sys.platform == "win32":
        import ctypes

        class Status(ctypes.Structure):
            _fields_ = [("length", ctypes.c_ulong), ("load", ctypes.c_ulong)] + [
                (name, ctypes.c_ulonglong) for name in ("total", "b", "c", "d", "e", "f", "g")
            ]

        status = Status(ctypes.sizeof(Status))
        return status.total if ctypes.windll.kernel32.GlobalMemoryStatusEx(ctypes.byref(status)) else 0
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        return 0


def writable(folder: str) -> bool:
    """Whether pip can install: into ``folder``, or, where this Python looks there too, into the user's own."""
    there = folder
    while not os.path.exists(there):
        there = os.path.dirname(there)
    return os.access(there, os.W_OK) or bool(site.ENABLE_USER_SITE)


def main(requirements: str, *more: str) -> int:
    """Print the facts."""
    lines = [*more, *Path(requirements).read_text(encoding="utf-8").splitlines()]
    present = installed()
    folder = sysconfig.get_path("purelib")
    facts = {
        "python": platform.python_version(),
        "executable": sys.executable,
        "system": platform.system(),
        "packages": folder,
        "writable": writable(folder),
        "memory": memory(),
        "cards": cards(),
        "installed": {name: each.version or "" for name, each in present.items()},
        "missing": [],
        "old": [],
        "broken": {},
        "torch": torch_facts(),
    }
    asked = required(lines)
    wanted, names = dict(asked), list(asked)
    for name in names:  # grows while it is read
        line, versions = wanted[name]
        if name not in present:
            facts["missing"].append(line)
            continue
        version = present[name].version or ""
        if wrong := damage(present[name]):
            # Of what came along, others may need this very version.
            facts["broken"][line if name in asked else f"{name}=={version}"] = wrong
            continue
        if name in asked and not satisfies(version, versions):
            facts["old"].append({"line": line, "installed": version})
        elif name == "torch" and "error" in facts["torch"]:
            facts["broken"][line] = facts["torch"]["error"]
        for other, how in needs(present[name]).items():
            if other not in wanted:
                wanted[other] = how
                names.append(other)
    print(json.dumps(facts))
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
