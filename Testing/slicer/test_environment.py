"""What the probe finds in a Python, and what is said of it: no package that is half there, and no silent processor."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from made_jobs import until
from made_python import TORCH, makePython, site, unpack, wheel
from packaging.requirements import Requirement

from VoCoCore.errors import EnvironmentFault
from VoCoCore.settings import PRESETS
from VoCoSlicerLib import environment
from VoCoSlicerLib.environment import Environment, readFacts
from VoCoSlicerLib.scripts import probe

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def bare(tmp_path, monkeypatch):
    """A Python with numpy, scipy and SimpleITK by name, in a folder of other letters."""
    monkeypatch.delenv("PYTHONPATH", raising=False)
    python = makePython(tmp_path / "Python für Tests", pip=False)
    for name, version in (("numpy", "2.1.0"), ("scipy", "1.15"), ("SimpleITK", "2.5")):
        unpack(wheel(tmp_path / "wheels", name, version), python)
    return python


@pytest.fixture
def looked(bare, tmp_path):
    """Facts about that Python with the requirement aaa>=2."""
    (tmp_path / "requirements.txt").write_text("# words\naaa>=2,<3  # more\n\n")
    place = Environment({"python": str(bare)}, tmp_path / "requirements.txt")

    def look():
        task = place.probe()
        task.run(60)
        return place.facts(task)

    return look


def add(bare, tmp_path, name, version, code=""):
    unpack(wheel(tmp_path / "wheels", name, version, code), bare)


def test_a_python_without_packages(looked, bare):
    facts = looked()
    assert not facts.ok and facts.device == "" and facts.torch == ""
    assert facts.pythonVersion == ".".join(map(str, sys.version_info[:3])) and facts.python == str(bare)
    assert set(facts.missing) == {"aaa>=2,<3", environment.TORCH} and not facts.broken
    assert facts.installed["numpy"] == "2.1.0"
    assert any("torch" in warning and "Install" in warning for warning in facts.warnings)


def test_all_is_there_but_no_card(looked, bare, tmp_path):
    add(bare, tmp_path, "torch", "2.12.0", TORCH)
    add(bare, tmp_path, "aaa", "2.5.1")
    facts = looked()
    assert facts.ok and not facts.missing and facts.torch == "2.12.0+cpu" and facts.device == "cpu"
    assert "No GPU was found: training runs on the processor and takes much longer." in facts.warnings
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 0
    assert memory == 0 or abs(facts.memoryGb - memory / 1e9) < 0.1
    assert any(sentence.startswith("Ready") for sentence in facts.sentences)


def test_versions_that_do_not_fit_are_named(looked, bare, tmp_path):
    add(bare, tmp_path, "torch", "2.9.1", TORCH)
    add(bare, tmp_path, "aaa", "3.0")
    facts = looked()
    assert set(facts.old) == set(facts.missing) == {"aaa>=2,<3", environment.TORCH} and not facts.ok
    assert any("2.9.1" in warning and environment.TORCH in warning for warning in facts.warnings)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda place: (place / "torch" / "more.py").unlink(), "files is missing"),
        (lambda place: next(place.glob("torch-*")).joinpath("RECORD").unlink(), "list of files is missing"),
        (lambda place: (place / "torch" / "__init__.py").write_text("import nowhere"), "nowhere"),
        (
            lambda place: (place / "torch" / "__init__.py").write_text("raise OSError('DLL failed')"),
            "DLL failed",
        ),
        (lambda place: (place / "torch" / "__init__.py").write_text("1 +"), "SyntaxError"),
        (lambda place: shutil.rmtree(place / "torch"), "files are missing"),
    ],
)
def test_a_half_installed_torch_is_found(looked, bare, tmp_path, damage, words):
    add(bare, tmp_path, "torch", "2.12.0", TORCH)
    add(bare, tmp_path, "aaa", "2.5.1")
    damage(site(bare))
    facts = looked()
    assert not facts.ok and not facts.missing and words in facts.broken[environment.TORCH]
    assert any("half installed" in warning and "repairs" in warning for warning in facts.warnings)


def test_what_is_gone_is_missed_also_where_python_leaves_it_out(bare, tmp_path, monkeypatch):
    add(bare, tmp_path, "aaa", "2.5.1")
    (site(bare) / "aaa" / "more.py").unlink()
    (each,) = metadata.distributions(name="aaa", path=[str(site(bare))])
    there = [file for file in each.files if file.locate().exists()]
    monkeypatch.setattr(type(each), "files", property(lambda self: there))  # as from Python 3.12 on
    assert probe.damage(each) == "1 of its 5 files is missing"


def test_an_empty_folder_of_torch_is_no_torch(looked, bare, tmp_path):
    (site(bare) / "torch").mkdir()
    facts = looked()
    assert facts.torch == "" and environment.TORCH in facts.missing and not facts.ok


def test_torch_that_kills_its_python_is_said(looked, bare, tmp_path):
    add(bare, tmp_path, "torch", "2.12.0", "import os, signal; os.kill(os.getpid(), signal.SIGILL)")
    place = Environment({"python": str(bare)}, tmp_path / "requirements.txt")
    task = place.probe().start()
    until(lambda: not task.poll().running)
    facts = place.facts(task)
    assert not facts.ok and "SIGILL" in facts.sentences[0] and "another Python" in facts.sentences[1]


def test_what_is_no_python_is_said(tmp_path):
    script = tmp_path / "python"
    script.write_text("#!/bin/sh\necho hello\n")
    script.chmod(0o755)
    place = Environment({"python": str(script)})
    task = place.probe()
    task.run(60)
    assert "did not answer" in place.facts(task).sentences[0]


FOUND = {
    "python": "3.12.10",
    "memory": 64 * 10**9,
    "cards": [],
    "installed": {},
    "missing": [],
    "old": [],
    "broken": {},
    "torch": {"version": "2.12.0", "cuda_build": "12.8", "devices": []},
}
CARD = {"kind": "cuda", "name": "RTX 9", "memory": 24 * 10**9}


def facts(**changes):
    torch = FOUND["torch"] | changes.pop("torch", {})
    return readFacts("/p", {**FOUND, **changes, "torch": torch})


def test_a_card_is_named_with_its_memory():
    found = facts(torch={"devices": [{**CARD, "memory": 10**10, "name": "small"}, CARD]}, cards=["RTX 9"])
    assert (found.device, found.gpu, found.memoryGb, found.warnings) == ("cuda", "RTX 9", 24.0, ())
    assert any("RTX 9 with 24 GB" in sentence for sentence in found.sentences)
    little = facts(torch={"devices": [{**CARD, "memory": 4 * 10**9}]}).warnings[0]
    assert "little memory" in little
    assert little.partition("the preset ")[2].rstrip(".") in PRESETS
    mac = facts(torch={"devices": [{"kind": "mps", "name": "Apple arm64", "memory": 16 * 10**9}]})
    assert mac.device == "mps" and not mac.warnings


@pytest.mark.parametrize(
    ("torch", "words"),
    [
        ({"cuda_build": None}, "built without support"),
        ({"device_error": "no kernel image is available"}, "no kernel image is available"),
        ({}, "driver may be too old"),
    ],
)
def test_a_card_that_cannot_be_used_is_a_warning_with_the_reason(torch, words):
    found = facts(torch=torch, cards=["RTX 9"])
    assert found.device == "cpu" and "RTX 9" in found.warnings[0] and words in found.warnings[0]
    assert "takes much longer" in found.warnings[0]


@pytest.mark.parametrize(
    ("version", "fits"), [("3.10.9", False), ("3.11.0", True), ("3.13.2", True), ("3.14.0", False)]
)
def test_versions_of_python_that_fit(version, fits):
    found = facts(python=version)
    assert found.ok == fits and bool([line for line in found.warnings if version in line]) != fits


@pytest.mark.parametrize(
    ("version", "wanted", "fits"),
    [
        ("2.10.0", ">=2.9,<2.14", True),
        ("2.10", ">=2.10.0", True),
        ("2.14.0", ">=2.10,<2.14", False),
        ("2.13.1+cu128", ">=2.10,<2.14", True),
        ("2.9", ">=2.10", False),
        ("1.0", "==1", True),
        ("1.6.3", "~=1.6", True),
        ("2.0", "~=1.6", False),
        ("1.7.0", "~=1.6.2", False),
        ("1.0", "!=1.0.0", False),
        ("anything", "", True),
    ],
)
def test_versions_are_compared_as_numbers(version, wanted, fits):
    assert probe.satisfies(version, wanted) == fits


def test_the_choice_of_a_python_is_remembered_and_can_be_taken_back(monkeypatch):
    monkeypatch.setenv("VOCO_PYTHON", "/from/variable")
    store = {}
    place = Environment(store)
    assert (place.python, place.chosen, place.external) == ("/from/variable", "", True)
    assert "VOCO_PYTHON" in place.reason
    place.choose("  /by/hand ")
    assert store == {"python": "/by/hand"} and Environment(store).python == "/by/hand"
    place.choose("")
    assert store == {} and place.python == "/from/variable"
    monkeypatch.delenv("VOCO_PYTHON")
    assert place.reason == "Slicer's own" and not place.external


def test_the_folder_of_a_virtual_environment_is_as_good_as_its_python(tmp_path):
    python = makePython(tmp_path / "of its own", pip=False)
    place = Environment({"python": str(tmp_path / "of its own")})
    assert Path(place.python) == python and place.external
    assert Environment({"python": str(tmp_path)}).python == str(tmp_path), (
        "no Python in it: the probe says so"
    )


@pytest.mark.parametrize("path", ["~nobody-is-called-so/venv", f"/{'long' * 80}/venv"])
def test_a_path_that_the_system_refuses_is_a_python_that_does_not_start(path):
    place = Environment({"python": path})
    assert Path(place.python).name == "venv" and place.reason == "chosen here" and place.external
    with pytest.raises(EnvironmentFault, match="could not be started"):
        place.probe().start()


def test_a_program_that_does_not_start_is_named_once():
    for reason in ("/p could not be started: Permission denied", "it said nothing"):
        (said, hint) = environment.unusable("/p", reason).sentences
        assert said.count("/p") == 1 and said.endswith(".") and "another Python" in hint


def test_what_is_asked_of_a_python_is_what_the_trainer_needs():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = {re.sub(r"\s", "", line) for line in project["dependencies"]}
    lines = environment.REQUIREMENTS.read_text(encoding="utf-8").splitlines()
    ours = {line.strip() for line in lines if line.strip() and not line.startswith("#")}
    assert ours | {environment.TORCH, *environment.SHIPPED} == wanted
    low, high = re.findall(r"3\.(\d+)", project["requires-python"])
    assert ((3, int(low)), (3, int(high) - 1)) == (environment._OLDEST, environment._NEWEST)


@pytest.mark.parametrize(
    "pins",
    [
        {"numpy": "2.0.2", "scipy": "1.13.1", "simpleitk": "2.5.2"},  # Slicer 5.10.0
        {"numpy": "2.4.6", "scipy": "1.17.1", "simpleitk": "2.5.5"},  # 5.12.3
    ],
)
def test_what_slicer_ships_is_new_enough(pins):
    """Slicer's own packages are pinned while ours are installed: one that is too old could never be mended."""
    wanted = [Requirement(line) for line in environment.SHIPPED]
    assert {one.name.lower() for one in wanted} == pins.keys()
    assert [one.name for one in wanted if pins[one.name.lower()] not in one.specifier] == []


def test_this_very_python_is_looked_at_as_it_is():
    place = Environment({"python": sys.executable})
    task = place.probe()
    found = json.loads(task.run(120))
    assert found["torch"]["version"] and place.facts(task).torch == found["torch"]["version"]
    assert "numpy" in found["installed"]


def test_a_slicer_without_a_python_of_its_own_is_said_by_name(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "executable", "")  # as in an application that embeds Python
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("VOCO_PYTHON", raising=False)
    task = Environment({}).probe()
    with pytest.raises(EnvironmentFault, match=r"PythonSlicer could not be started"):
        task.run(20)
