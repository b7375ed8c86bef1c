"""Run by the Python of the jobs: say what installing would change, or install. Standard library only; never imported.

    python install.py plan|install|torch order.json

``order.json``: requirements (lines to satisfy), broken (lines to install anew), constraints (lines name==version).
``plan`` prints JSON: for each package its name, version, address and, where a server says it, size in bytes.
``torch`` takes away what the order's ``remove`` names and lets light-the-torch, which Slicer's extension PyTorch uses
too, install the requirements in the build for this machine's graphics card.
"""

from __future__ import annotations

import importlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path

LIGHT_THE_TORCH = "light-the-torch>=0.5"
_PIP = [sys.executable, "-m", "pip", "install", "--disable-pip-version-check", "--no-input"]


def normal(name: str) -> str:
    """A package's name as pip compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def name_of(line: str) -> str:
    """The package that a line of requirements is about."""
    return normal(re.match(r"\s*[A-Za-z0-9._-]+", line).group().strip())


def pip(words: list[str], order: dict, folder: Path) -> None:
    """Run pip with what it prints going to stderr; end with its exit code where it fails."""
    constraints = folder / "constraints.txt"
    constraints.write_text("".join(f"{line}\n" for line in order["constraints"]), encoding="utf-8")
    done = subprocess.run([*_PIP, "-c", str(constraints), *words], stdout=sys.stderr, check=False)
    if done.returncode:
        sys.exit(done.returncode)


def steps(order: dict) -> list[list[str]]:
    """The words of each call of pip: first what is broken, as it is, then what is missing with all that it needs."""
    found = []
    if order["broken"]:
        found.append(["--force-reinstall", "--no-deps", *order["broken"]])
    if order["requirements"] or order["broken"]:
        found.append([*order["requirements"], *order["broken"]])
    return found


def clear(order: dict) -> None:
    """Remove the metadata of broken packages that pip could not uninstall, because their list of files is gone."""
    names = {name_of(line) for line in order["broken"]}
    for each in list(metadata.distributions()):
        path = getattr(each, "_path", None)
        known = each.metadata["Name"] if each.metadata is not None else None
        name = normal(known) if known else normal(Path(path).name.split("-")[0]) if path else ""
        if name in names and each.files is None and path and Path(path).name.endswith(".dist-info"):
            print(f"removing what is left of {name}: {path}", file=sys.stderr, flush=True)
            shutil.rmtree(path)


def torch(order: dict, folder: Path) -> None:
    """Install PyTorch; end with the exit code of what fails."""
    if order["remove"]:
        words = [sys.executable, "-m", "pip", "uninstall", "--yes", *order["remove"]]
        subprocess.run(words, stdout=sys.stderr, check=False)  # what is not there need not go
    pip([LIGHT_THE_TORCH], order, folder)
    words = [sys.executable, "-m", "light_the_torch", "install", *order["requirements"]]
    environ = {**os.environ, "PIP_CONSTRAINT": str(folder / "constraints.txt")}
    done = subprocess.run(words, stdout=sys.stderr, env=environ, check=False)
    # It ends with 0, whatever pip says.
    if done.returncode or not set(map(name_of, order["requirements"])) <= installed():
        sys.exit(done.returncode or 1)


def installed() -> set[str]:
    """The names of all packages that are there now."""
    importlib.invalidate_caches()
    return {normal(each.metadata["Name"]) for each in metadata.distributions() if each.metadata["Name"]}


def plan(order: dict, folder: Path) -> list[dict]:
    """What pip would install."""
    found: dict[str, dict] = {}
    for number, words in enumerate(steps(order)):
        report = folder / f"report-{number}.json"
        pip(["--dry-run", "--report", str(report), *words], order, folder)
        for item in json.loads(report.read_text(encoding="utf-8"))["install"]:
            facts = item["metadata"]
            address = item.get("download_info", {}).get("url", "")
            name = normal(facts["name"])
            found[name] = {"name": name, "version": facts["version"], "url": address}
    with ThreadPoolExecutor(8) as pool:
        sizes = pool.map(size_of, [item["url"] for item in found.values()])
    return [{**item, "size": size} for item, size in zip(found.values(), sizes, strict=True)]


def size_of(address: str) -> int | None:
    """Bytes behind an address; None where nobody says."""
    if address.startswith("file:"):
        path = urllib.request.url2pathname(address[len("file://") :])
        return os.path.getsize(path) if os.path.isfile(path) else None
    try:
        asked = urllib.request.Request(address, method="HEAD")
        with urllib.request.urlopen(asked, timeout=10) as answer:
            return int(answer.headers["Content-Length"])
    except (OSError, ValueError, TypeError):
        return None


def main(what: str, path: str) -> int:
    """Plan or install."""
    order = json.loads(Path(path).read_text(encoding="utf-8"))
    os.unlink(path)
    folder = Path(tempfile.mkdtemp(prefix="voco-pip-"))
    try:
        if what == "plan":
            print(json.dumps(plan(order, folder)))
            return 0
        clear(order)
        if what == "torch":
            torch(order, folder)
            return 0
        for words in steps(order):
            pip(words, order, folder)
        return 0
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
