"""The section "Environment" by hand: facts and warnings, another Python, and Install with its question and progress."""

from __future__ import annotations

import pytest
from hand import Hand
from made_python import TORCH, makePython, offline, site, unpack, versionIn, wheel

from VoCoCore.errors import EnvironmentFault
from VoCoSlicerLib.packages import Installer
from VoCoSlicerLib.tasks import Task


@pytest.fixture
def python(tmp_path, monkeypatch):
    """A Python for the jobs that has all but aaa; wheels for what may be missing."""
    wheels = tmp_path / "wheels"
    offline(monkeypatch, wheels)
    made = makePython(tmp_path / "jobs' Python ä")
    for name, version, code in (
        ("numpy", "2.1.0", ""),
        ("scipy", "1.15", ""),
        ("SimpleITK", "2.5", ""),
        ("torch", "2.12.0", TORCH),
    ):
        unpack(wheel(wheels, name, version, code), made)
    wheel(wheels, "aaa", "2.5", "", ("bbb",))
    wheel(wheels, "bbb", "1.0")
    (tmp_path / "requirements.txt").write_text("aaa>=2\n")
    monkeypatch.setenv("VOCO_PYTHON", str(made))
    return made


@pytest.fixture
def hand(python, voco, host, tmp_path):
    voco.logic.environment.requirements = tmp_path / "requirements.txt"
    hand = Hand(voco.parent, host)
    hand.open("environmentSection")
    return hand


def text(hand, name):
    return hand.find(name).text


def looked(hand):
    hand.until(lambda: hand.find("checkPythonButton").isEnabled(), 60)
    return text(hand, "warningsLabel") + "\n" + text(hand, "factsLabel")


def test_opening_looks_at_the_python_in_the_background(hand, python, voco):
    assert not hand.find("checkPythonButton").isEnabled() and hand.find("installBar").isVisible()
    said = looked(hand)
    assert "Not installed yet: aaa" in said and "No GPU was found" in said
    assert "takes much longer" in text(hand, "warningsLabel"), "what to mind stands apart"
    assert str(python) in text(hand, "reasonLabel") and "VOCO_PYTHON" in text(hand, "reasonLabel")
    assert hand.find("installButton").isEnabled() and not hand.find("installBar").isVisible()
    assert voco.logic.facts.missing == ("aaa>=2",), "estimates judge the machine by the same facts"


def test_installing_asks_with_the_size_and_looks_again(hand, python, voco, host):
    looked(hand)
    host.answers.give("Escape")
    hand.click("installButton")
    looked(hand)
    asked = host.answers.texts()[-1]
    assert (
        "aaa 2.5" in asked
        and "bbb 1.0" in asked
        and "2.1 kB will be downloaded" in asked
        and str(python) in asked
    )
    assert versionIn(python, "aaa") == "" and "Nothing was installed" in text(hand, "installLabel")
    host.answers.give("Install")
    hand.click("installButton")
    said = looked(hand)
    hand.until(lambda: voco.panel("environment").facts.ok, 60)
    said = looked(hand)
    assert "Ready" in said and "Not installed" not in said and versionIn(python, "aaa") == "2.5"
    assert text(hand, "statusLabel") == "Installed: jobs can run now, with PyTorch 2.12.0+cpu."
    assert (
        not hand.find("installButton").isEnabled()
        and "Nothing is missing" in hand.find("installButton").toolTip
    )
    hand.click("installLogButton")
    log = hand.readWindow()[1]
    assert "Successfully installed" in log and '"version"' not in log, (
        "what pip says, not what we tell ourselves"
    )


def test_an_install_that_changes_nothing_is_said_and_not_asked_again(hand, voco, host, monkeypatch):
    looked(hand)
    nothing = ["-c", "print('all is well')"]
    monkeypatch.setattr(
        Installer, "install", lambda self: Task(nothing, self._environment.python, plain=True)
    )
    host.answers.give("Install")
    hand.click("installButton")
    hand.until(lambda: hand.find("errorFrame").isVisible(), 60)
    assert "missing still" in text(hand, "errorLabel") and len(host.answers.asked) == 1
    hand.click("showLogButton")
    assert "all is well" in hand.readWindow()[1]


@pytest.mark.parametrize("fault", [EnvironmentFault("the disk is full"), KeyError("the disk is full")])
def test_what_goes_wrong_between_question_and_installing_is_shown(hand, voco, host, monkeypatch, fault):
    def fails(self):
        raise fault

    looked(hand)
    monkeypatch.setattr(Installer, "install", fails)
    host.answers.give("Install")
    hand.click("installButton")
    hand.until(lambda: "the disk is full" in text(hand, "errorLabel"), 60)
    assert hand.find("installButton").isEnabled() and not hand.find("installBar").isVisible()


@pytest.mark.parametrize("rounds", [3, 1], ids=["the first round", "the last round"])
def test_after_a_cancelled_install_it_is_looked_what_there_is(
    hand, python, voco, host, monkeypatch, tmp_path, rounds
):
    monkeypatch.setattr("VoCoSlicerLib.panels.environment._ROUNDS", rounds)
    looked(hand)
    slow = ["-c", "import time; time.sleep(60)"]
    monkeypatch.setattr(Installer, "install", lambda self: Task(slow, self._environment.python, plain=True))
    host.answers.give("Install")
    hand.click("installButton")
    hand.until(lambda: text(hand, "installLabel") == "Installing...", 60)
    assert voco.logic.lostWithSlicer() == ["the installation of packages"]
    unpack(tmp_path / "wheels" / "aaa-2.5-py3-none-any.whl", python)
    (site(python) / "aaa" / "more.py").unlink()
    hand.click("cancelInstallButton")
    assert voco.logic.lostWithSlicer() == []
    assert "aaa is only half installed" in looked(hand)


def test_a_half_install_is_said_and_repaired(hand, python, voco, host, tmp_path):
    unpack(tmp_path / "wheels" / "aaa-2.5-py3-none-any.whl", python)
    (site(python) / "aaa" / "__init__.py").unlink()
    looked(hand)
    hand.click("checkPythonButton")
    assert "aaa is only half installed" in looked(hand)
    host.answers.give("Install")
    hand.click("installButton")
    hand.until(lambda: voco.panel("environment").facts.ok, 60)
    assert "Ready" in looked(hand)


def test_what_pip_cannot_do_is_shown_as_one_line_with_its_log(hand, voco, tmp_path, monkeypatch):
    looked(hand)
    (tmp_path / "wheels" / "bbb-1.0-py3-none-any.whl").unlink()
    hand.click("installButton")
    hand.until(lambda: hand.find("errorFrame").isVisible(), 60)
    assert "pip failed" in text(hand, "errorLabel") and "bbb" in text(hand, "errorLabel")
    hand.click("showLogButton")
    assert "No matching distribution found for bbb" in hand.readWindow()[1]
    assert hand.find("installButton").isEnabled()


def test_without_the_extension_slicers_own_python_says_what_to_do(hand, python, voco, monkeypatch):
    looked(hand)
    monkeypatch.delenv("VOCO_PYTHON")
    monkeypatch.setattr("VoCoSlicerLib.pythons.pythonSlicer", lambda: str(python))
    (site(python) / "torch" / "more.py").unlink()
    hand.click("checkPythonButton")
    assert "torch is only half installed" in looked(hand)
    hand.click("installButton")
    assert "Extensions Manager" in text(hand, "hintLabel") and "Slicer's own" in text(hand, "reasonLabel")


def test_another_python_is_chosen_by_hand_remembered_and_taken_back(hand, python, voco, host, tmp_path):
    looked(hand)
    other = makePython(tmp_path / "other", pip=False)
    hand.type("pythonEdit", str(other))
    assert "torch" in looked(hand) and str(other) in text(hand, "factsLabel") + text(hand, "warningsLabel")
    assert "chosen here" in text(hand, "reasonLabel") and voco.logic.store["python"] == str(other)
    hand.type("pythonEdit", str(tmp_path / "nowhere"))
    hand.until(lambda: hand.find("errorFrame").isVisible())
    assert "could not be started" in text(hand, "errorLabel") and not hand.find("installButton").isEnabled()
    hand.type("pythonEdit", "")
    assert not hand.find("errorFrame").isVisible(), "that was another Python"
    assert "python" not in voco.logic.store and "aaa" in looked(hand)
    host.answers.give(str(other))
    hand.click("browseButton")
    looked(hand)
    assert voco.logic.environment.python == str(other)


@pytest.mark.parametrize("path", ["~nobody-is-called-so/venv", f"/{'long' * 80}/venv"])
def test_a_path_that_the_system_refuses_can_be_put_right_in_the_next_session(python, voco, host, path):
    voco.logic.store["python"] = path
    hand = Hand(voco.parent, host)
    hand.open("environmentSection")
    assert "could not be started" in looked(hand) and "venv (chosen here)" in text(hand, "reasonLabel")
    hand.type("pythonEdit", str(python))
    assert str(python) in text(hand, "reasonLabel") and "Not installed yet" in looked(hand)


def test_looking_can_be_cancelled_and_leaving_ends_it(hand, voco, host):
    hand.click("cancelInstallButton")
    assert hand.find("checkPythonButton").isEnabled() and "Not looked at yet" in text(hand, "factsLabel")
    hand.click("checkPythonButton")
    task = voco.panel("environment")._task
    voco.cleanup()
    assert task.cancelled


def test_a_path_that_is_being_typed_is_left_alone_by_what_ends_meanwhile(hand, python, voco, tmp_path):
    assert not hand.find("checkPythonButton").isEnabled()
    hand.insert("pythonEdit", "/opt/my", 0)
    looked(hand)
    assert text(hand, "pythonEdit") == "/opt/my"
    voco.panel("environment").choose(str(python))
    assert text(hand, "pythonEdit") == str(python)
    looked(hand)
    voco.panel("environment").choose("")
    looked(hand)
    assert text(hand, "pythonEdit") == "" and not voco.logic.environment.chosen


@pytest.mark.parametrize("what", ["half", "gone"])
def test_what_a_package_needs_is_mended_too(hand, python, host, tmp_path, what):
    wheels = tmp_path / "wheels"
    unpack(wheel(wheels, "aaa", "2.5", "import bbb.more", ("bbb", "ccc; extra == 'all'")), python)
    if what == "half":
        unpack(wheels / "bbb-1.0-py3-none-any.whl", python)
        (site(python) / "bbb" / "more.py").unlink()
        wheel(wheels, "bbb", "1.5")
    looked(hand)
    hand.click("checkPythonButton")
    said = looked(hand)
    assert "Ready" not in said and "ccc" not in said
    assert ("bbb is only half installed" if what == "half" else "Not installed yet: bbb") in said
    host.answers.give("Install")
    hand.click("installButton")
    assert "Ready" in looked(hand) and versionIn(python, "bbb") == "1.0"
    assert (site(python) / "bbb" / "more.py").exists()
