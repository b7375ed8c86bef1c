"""A Python of its own for the tests of what is installed: bare, with pip, and packages from wheels made here."""

from __future__ import annotations

import base64
import hashlib
import os
import subprocess
import venv
import zipfile
from pathlib import Path

# What the probe asks of torch, on a machine without a card.
TORCH = """
__version__ = "2.12.0+cpu"
class version: cuda = None
class cuda: is_available = staticmethod(lambda: False)
class backends: mps = None
"""


def makePython(folder: Path, pip: bool = True) -> Path:
    """A virtual environment without packages; returns its Python. pip is lent from this one, and never copied."""
    venv.create(folder, with_pip=False, symlinks=os.name != "nt")
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    if pip:
        import pip as lent

        lender = folder / "pip lent"
        lender.mkdir()
        os.symlink(Path(lent.__file__).parent, lender / "pip")
        (site(python) / "lent.pth").write_text(f"{lender}\n")
    return python


def site(python: Path) -> Path:
    """Where its packages lie."""
    asked = "import sysconfig; print(sysconfig.get_path('purelib'))"
    return Path(
        subprocess.run([python, "-c", asked], capture_output=True, text=True, check=True).stdout.strip()
    )


def wheel(
    folder: Path, name: str, version: str, code: str = "", needs: tuple[str, ...] = (), main: str = ""
) -> Path:
    """Write a wheel with one module in a package of that name; ``main``: what it does as a program."""
    folder.mkdir(parents=True, exist_ok=True)
    info = f"{name}-{version}.dist-info"
    texts = {
        f"{name}/__init__.py": code,
        f"{name}/more.py": "",
        **({f"{name}/__main__.py": main} if main else {}),
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        + "".join(f"Requires-Dist: {need}\n" for need in needs),
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{path},{_hash(text)},{len(text.encode())}\n" for path, text in texts.items())
    path = folder / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as file:
        for inside, text in texts.items():
            file.writestr(inside, text)
        file.writestr(f"{info}/RECORD", record + f"{info}/RECORD,,\n")
    return path


def unpack(path: Path, python: Path) -> None:
    """Put a wheel's content in place as pip would, in no time."""
    with zipfile.ZipFile(path) as file:
        file.extractall(site(python))


def versionIn(python: Path, name: str) -> str:
    """The installed version, "" for none."""
    asked = f"from importlib.metadata import version; print(version('{name}'))"
    return subprocess.run([python, "-c", asked], capture_output=True, text=True, check=False).stdout.strip()


def offline(monkeypatch, wheels: Path) -> None:
    """pip sees the wheels in a folder and nothing else."""
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", wheels.as_uri())
    monkeypatch.delenv("PYTHONPATH", raising=False)


def _hash(text: str) -> str:
    digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
    return f"sha256={digest}"
