"""Installing what the jobs' Python lacks, by the real pip from wheels made here: planned, pinned, refused, repaired."""

from __future__ import annotations

import os
import sys
from dataclasses import replace

import pytest
from made_jobs import until
from made_python import TORCH, makePython, offline, site, unpack, versionIn, wheel

from VoCoCore.errors import EnvironmentFault, StopRequested
from VoCoSlicerLib import environment, packages, pythons
from VoCoSlicerLib.environment import Environment
from VoCoSlicerLib.packages import Change, Installer, Plan
from VoCoSlicerLib.scripts import probe
from VoCoSlicerLib.tasks import Task

SHIPPED = {"numpy": "2.1.0", "scipy": "1.15", "SimpleITK": "2.5", "shipped": "1.0"}


@pytest.fixture
def wheels(tmp_path, monkeypatch):
    folder = tmp_path / "räder"
    for name, version in (*SHIPPED.items(), ("shipped", "2.0"), ("numpy", "2.4")):
        wheel(folder, name, version)
    wheel(folder, "aaa", "2.5", "word = 'new'", ("bbb>=1",))
    wheel(folder, "bbb", "1.5")
    wheel(folder, "torch", "2.12.0", TORCH)
    offline(monkeypatch, folder)
    return folder


@pytest.fixture
def bare(tmp_path, wheels):
    """A Python with what Slicer ships."""
    python = makePython(tmp_path / "Python ä 1")
    for name, version in SHIPPED.items():
        unpack(wheels / f"{name}-{version}-py3-none-any.whl", python)
    return python


@pytest.fixture
def own(bare, monkeypatch):
    """That Python is Slicer's own."""
    monkeypatch.setattr(pythons, "pythonSlicer", lambda: str(bare))
    monkeypatch.delenv("VOCO_PYTHON", raising=False)
    return bare


class Bench:
    """The way of the button Install, step by step."""

    def __init__(self, tmp_path, store, requirements):
        file = tmp_path / "requirements.txt"
        file.write_text(requirements)
        self.environment = Environment(store, file)

    def look(self):
        task = self.environment.probe()
        task.run(60)
        self.facts = self.environment.facts(task)
        self.installer = Installer(self.environment, self.facts)
        return self.installer

    def plan(self):
        self.task = ended(self.installer.plan())
        return self.installer.read(self.task)

    def install(self):
        self.task = ended(self.installer.install())
        return self.installer.explain(self.task)


def ended(task):
    if task is not None:
        task.start()
        until(lambda: not task.poll().running, 120)
    return task


def test_an_external_python_gets_all_that_it_lacks(bare, wheels, tmp_path):
    bench = Bench(tmp_path, {"python": str(bare)}, "aaa>=2\n")
    assert bench.look().needed and not bench.installer.throughExtension
    plan = bench.plan()
    sizes = {
        name: os.path.getsize(wheels / f"{name}-py3-none-any.whl")
        for name in ("aaa-2.5", "bbb-1.5", "torch-2.12.0")
    }
    assert {(change.name, change.version, change.before, change.size) for change in plan.changes} == {
        ("aaa", "2.5", "", sizes["aaa-2.5"]),
        ("bbb", "1.5", "", sizes["bbb-1.5"]),
        ("torch", "2.12.0", "", sizes["torch-2.12.0"]),
    }
    assert plan.bytes == sum(sizes.values())
    assert versionIn(bare, "aaa") == "", "a plan changes nothing"
    assert bench.install() is None and versionIn(bare, "aaa") == "2.5"
    assert not bench.look().needed and bench.facts.ok
    assert "Successfully installed" in bench.task.log


def test_the_question_names_packages_versions_and_size():
    changes = (Change("aaa", "2.5", "", 3_400_000), Change("bbb", "1.5", "1.0", None))
    words = Plan(changes, False).words()
    assert "aaa 2.5, 3.4 MB" in words and "bbb 1.5 instead of 1.0" in words
    assert "About 3.4 MB and more will be downloaded." in words
    assert "3 GB" in Plan((), True).words() and "PyTorch" in Plan((), True).words()


def test_the_question_fits_on_a_screen_whatever_is_to_come():
    many = [Change(f"part{number}", "1.0", "", number * 1000) for number in range(40)]
    words = Plan((*many, Change("aaa", "2.0", "1.0", 5)), False).words().splitlines()
    assert len(words) < 16 and words[0] == "aaa 2.0 instead of 1.0, 5 B", words
    assert words[1].startswith("part39 1.0") and words[-2] == "and 29 packages more"
    assert words[-1] == "About 780 kB will be downloaded."


def test_a_python_that_may_not_be_changed_is_said_before_anything_is_downloaded(bare, tmp_path):
    bench = Bench(tmp_path, {"python": str(bare)}, "aaa>=2\n")
    bench.look()
    assert bench.facts.writable and bench.facts.packages == str(site(bare))
    bench.installer = Installer(bench.environment, replace(bench.facts, writable=False))
    with pytest.raises(EnvironmentFault, match="may not write into this Python") as raised:
        bench.installer.plan()
    assert str(site(bare)) in raised.value.message and "virtual environment" in raised.value.hint


def test_write_access_is_asked_of_the_folder_or_its_nearest_parent(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(probe.os, "access", lambda folder, how: asked.append(folder) or False)
    monkeypatch.setattr(probe.site, "ENABLE_USER_SITE", False)
    assert not probe.writable(str(tmp_path / "not" / "there")) and asked == [str(tmp_path)]
    monkeypatch.setattr(probe.site, "ENABLE_USER_SITE", True)
    assert probe.writable(str(tmp_path)), "pip installs for the user alone then"


def test_what_pip_says_of_write_access_is_said_in_words(bare, tmp_path):
    words = "ERROR: Could not install packages due to an OSError: [Errno 13] Permission denied: 'aaa'"
    script = f"import sys; print({words!r}, file=sys.stderr); sys.exit(1)"
    task = ended(Task(["-c", script], str(bare), plain=True))
    bench = Bench(tmp_path, {"python": str(bare)}, "aaa>=2\n")
    assert "may not write" in bench.look().explain(task).message


def test_what_slicer_ships_is_pinned_and_a_conflict_is_said_in_words(own, wheels, tmp_path):
    unpack(wheel(wheels, "torch", "2.12.0", TORCH), own)
    wheel(wheels, "ccc", "1.0", needs=("shipped>=2",))
    bench = Bench(tmp_path, {}, "ccc\n")
    bench.look()
    with pytest.raises(EnvironmentFault, match="does not go together"):
        bench.plan()
    assert versionIn(own, "shipped") == "1.0" and versionIn(own, "ccc") == ""
    assert "ResolutionImpossible" in bench.task.log or "conflict" in bench.task.log


def test_without_pins_the_same_would_have_changed_it(bare, wheels, tmp_path):
    wheel(wheels, "ccc", "1.0", needs=("shipped>=2",))
    bench = Bench(tmp_path, {"python": str(bare)}, "ccc\n")
    bench.look()
    assert ("shipped", "2.0", "1.0") in [(c.name, c.version, c.before) for c in bench.plan().changes]


def test_a_plan_that_would_change_a_shipped_package_is_refused(own, wheels, tmp_path, monkeypatch):
    unpack(wheel(wheels, "torch", "2.12.0", TORCH), own)
    wheel(wheels, "ccc", "1.0", needs=("shipped>=2",))
    bench = Bench(tmp_path, {}, "ccc\n")
    bench.look()
    monkeypatch.setattr(Installer, "_constraints", lambda self: [])
    with pytest.raises(EnvironmentFault, match=r"would change shipped 1\.0.*nothing was changed"):
        bench.plan()


def test_numpy_is_slicers_whatever_the_jobs_want(own, wheels, tmp_path, monkeypatch):
    monkeypatch.setattr(environment, "SHIPPED", ("numpy>=2.3", *environment.SHIPPED[1:]))
    unpack(wheel(wheels, "torch", "2.12.0", TORCH), own)
    bench = Bench(tmp_path, {}, "aaa\n")
    bench.look()
    assert "numpy>=2.3" in bench.facts.old
    with pytest.raises(EnvironmentFault, match="does not go together"):
        bench.plan()


def test_what_is_too_old_and_ours_is_replaced(own, wheels, tmp_path):
    unpack(wheel(wheels, "torch", "2.12.0", TORCH), own)
    unpack(wheel(tmp_path / "old", "aaa", "1.0"), own)
    bench = Bench(tmp_path, {}, "aaa>=2\n")
    bench.look()
    assert ("aaa", "2.5", "1.0") in [(c.name, c.version, c.before) for c in bench.plan().changes]
    assert bench.install() is None and bench.look().needed is False and versionIn(own, "aaa") == "2.5"


def breakFiles(place):
    (place / "aaa" / "__init__.py").unlink()


def breakBoth(place):
    breakFiles(place)
    next(place.glob("aaa-*")).joinpath("RECORD").unlink()


@pytest.mark.parametrize(("damage", "version"), [(breakFiles, "2.5"), (breakBoth, "2.0")])
def test_a_half_install_is_repaired(own, wheels, tmp_path, damage, version):
    unpack(wheel(wheels, "torch", "2.12.0", TORCH), own)
    wheel(wheels, "aaa", "2.0", "word = 'old'", ("bbb>=1",))
    unpack(wheels / f"aaa-{version}-py3-none-any.whl", own)
    damage(site(own))
    bench = Bench(tmp_path, {}, "aaa>=2\n")
    bench.look()
    assert list(bench.facts.broken) == ["aaa>=2"] and not bench.facts.missing
    plan = bench.plan()
    assert {change.name for change in plan.changes} == {"aaa", "bbb"}, "with what it needs"
    assert bench.install() is None
    bench.look()
    assert bench.facts.ok and versionIn(own, "aaa") == "2.5"
    assert len(list(site(own).glob("aaa-*.dist-info"))) == 1 and versionIn(own, "shipped") == "1.0"


def test_a_failing_network_is_said_in_words(own, wheels, tmp_path, monkeypatch):
    unpack(wheel(wheels, "torch", "2.12.0", TORCH), own)
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "1")
    bench = Bench(tmp_path, {}, "nothing-like-it>=1\n")
    bench.look()
    with pytest.raises(EnvironmentFault, match="index cannot be reached") as raised:
        bench.plan()
    assert "network" in raised.value.hint


def test_a_python_without_pip_is_said(wheels, tmp_path):
    bench = Bench(tmp_path, {"python": str(makePython(tmp_path / "no pip", pip=False))}, "aaa\n")
    bench.look()
    with pytest.raises(EnvironmentFault, match="no pip"):
        bench.plan()


def test_without_the_extension_the_way_is_told(own, tmp_path, monkeypatch):
    monkeypatch.setattr(packages.importlib.util, "find_spec", lambda name: None)
    bench = Bench(tmp_path, {}, "aaa\n")
    assert bench.look().throughExtension
    with pytest.raises(EnvironmentFault) as raised:
        bench.installer.plan()
    assert "Extensions Manager" in raised.value.hint and "another Python" in raised.value.hint


LIGHT = """
import os, subprocess, sys
assert sys.argv[1] == "install"
with open(os.environ["PIP_CONSTRAINT"], encoding="utf-8") as file, open(os.environ["HEARD"], "w") as heard:
    heard.write("\\n".join([" ".join(sys.argv[2:]), *file.read().split()]))
if os.environ.get("FAILS"):
    print(os.environ["FAILS"], file=sys.stderr)
else:
    subprocess.call([sys.executable, "-m", "pip", *sys.argv[1:]])
sys.exit(0)  # as the real one does, whatever pip says
"""


@pytest.fixture
def heard(wheels, tmp_path, monkeypatch):
    """What light-the-torch is asked for, and the pins; the extension that brings it is there."""
    wheel(wheels, "light_the_torch", "0.8", main=LIGHT)
    monkeypatch.setattr(packages.importlib.util, "find_spec", lambda name: name == "PyTorchUtils" or None)
    monkeypatch.setenv("HEARD", str(tmp_path / "heard"))
    return lambda: (tmp_path / "heard").read_text().splitlines()


def test_torch_comes_first_in_the_way_of_the_extension_and_then_the_rest(own, wheels, tmp_path, heard):
    bench = Bench(tmp_path, {}, "aaa>=2\n")
    assert bench.look().throughExtension
    plan = bench.plan()
    assert bench.task is None and plan.throughExtension and plan.changes == ()
    assert bench.installer.install() is None and versionIn(own, "light_the_torch") == "", (
        "consent comes first"
    )
    known = set(sys.modules)
    task = ended(bench.installer.installTorch())
    assert bench.installer.explain(task) is None, task.log
    asked, *pinned = heard()
    assert asked == environment.TORCH, "no torchvision where there was none"
    assert {"numpy==2.1.0", "scipy==1.15", "simpleitk==2.5", "shipped==1.0"} <= set(pinned)
    assert "torch" not in set(sys.modules) - known, "Slicer itself does not load it"
    assert not bench.look().throughExtension and bench.installer.needed
    assert {change.name for change in bench.plan().changes} == {"aaa", "bbb"}
    assert bench.install() is None
    bench.look()
    assert bench.facts.ok


def test_what_light_the_torch_complains_of_is_in_the_log(own, tmp_path, heard, monkeypatch):
    bench = Bench(tmp_path, {}, "aaa\n")
    bench.look()
    monkeypatch.setenv("FAILS", "ERROR: no wheel for this driver")
    task = ended(bench.installer.installTorch())
    assert bench.installer.explain(task) is not None and "no wheel for this driver" in task.log
    assert bench.look().throughExtension, "nothing was installed, and it can be tried again"


def test_a_blocked_index_of_torch_is_said_in_words(own, tmp_path, heard, monkeypatch):
    bench = Bench(tmp_path, {}, "aaa\n")
    bench.look()
    # light-the-torch 0.8.1 with the pip 25.1.1 of Slicer 5.10, PyPI open, download.pytorch.org not
    said = (
        "WARNING: Retrying after connection broken by 'NewConnectionError(...)': /whl/cpu/torch/\n"
        "TypeError: build_source() missing 1 required keyword-only argument: 'project_name'"
    )
    monkeypatch.setenv("FAILS", said)
    task = ended(bench.installer.installTorch())
    assert "index cannot be reached" in bench.installer.explain(task).message


def test_an_index_of_torch_that_cannot_be_reached_is_no_conflict(own, tmp_path, heard, monkeypatch):
    bench = Bench(tmp_path, {}, "aaa\n")
    bench.look()
    said = (
        "connection broken by 'NewConnectionError(...)': /whl/cpu/filelock/\nERROR: ResolutionImpossible: see"
    )
    monkeypatch.setenv("FAILS", said)
    task = ended(bench.installer.installTorch())
    assert "index cannot be reached" in bench.installer.explain(task).message


def test_a_broken_torch_is_taken_out_before_it_is_installed_anew(own, wheels, tmp_path, heard, monkeypatch):
    unpack(wheel(wheels, "torch", "2.12.0", "import nowhere"), own)
    unpack(wheel(wheels, "torchvision", "0.20"), own)
    wheel(wheels, "torch", "2.12.0", TORCH)
    bench = Bench(tmp_path, {}, "bbb\n")
    installer = bench.look()
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(EnvironmentFault, match="another extension has loaded PyTorch") as raised:
        installer.installTorch()
    assert "restart Slicer" in raised.value.hint
    monkeypatch.delitem(sys.modules, "torch")
    task = ended(installer.installTorch())
    assert installer.explain(task) is None, task.log
    asked, *pinned = heard()
    assert asked == f"{environment.TORCH} torchvision", "what another extension may use comes back"
    assert not any(pin.startswith(("torch==", "torchvision==")) for pin in pinned)
    bench.look()
    assert bench.facts.torch == "2.12.0+cpu" and versionIn(own, "torchvision") == "0.20"


def test_cancelling_leaves_what_can_be_repaired(own, wheels, tmp_path):
    unpack(wheel(wheels, "torch", "2.12.0", TORCH), own)
    bench = Bench(tmp_path, {}, "aaa>=2\n")
    bench.look()
    task = bench.installer.install().start()
    task.cancel()
    until(lambda: not task.poll().running)
    assert isinstance(task.error(), StopRequested)
    bench.look()
    if bench.installer.needed:
        bench.plan()
        assert bench.install() is None
    bench.look()
    assert bench.facts.ok
