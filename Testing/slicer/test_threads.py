"""Threads get on although the window's thread keeps Python's lock between events, as it does in Slicer."""

from __future__ import annotations

import ctypes
import sys
import threading
import time

import pytest
from preview_scene import chosen, torso

from VoCoSlicerLib import preview_step, threads
from VoCoSlicerLib.preview import CropPreview
from VoCoSlicerLib.threads import begin, giveTurn, giveTurns

SECTION = "volumes"  # any
STEPS = 60  # of a thread's work, each of which asks for the lock anew
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="usleep is POSIX")


def events(milliseconds=20):
    """What waiting for events in C++ is for Python: time goes by, and the lock is not given away."""
    ctypes.PyDLL(None).usleep(milliseconds * 1000)


def slowly(*_):
    for _step in range(STEPS):
        time.sleep(0.00005)


def test_without_a_turn_the_events_hold_a_thread_back():
    """The test's own ground: this is what `giveTurn` is for."""
    thread = threading.Thread(target=slowly, daemon=True)
    thread.start()
    for _ in range(STEPS // 4):
        events()
    assert thread.is_alive()
    rounds = 0
    while thread.is_alive() and rounds < STEPS:
        events()
        giveTurn(thread)
        rounds += 1
    assert rounds < STEPS // 2


def test_the_windows_own_turns_bring_a_thread_on_in_half_the_time():
    """Sixteen times the work of a poll's turn, between events of 8 ms: what the window's timer leaves."""
    thread = begin(lambda: [slowly() for _ in range(16)], "test")
    rounds = 0
    while giveTurns():
        events(8)
        rounds += 1
    assert not thread.is_alive() and not giveTurns()
    assert rounds < 16 * STEPS / 8


def test_the_window_gives_turns_while_a_thread_is_at_work_and_never_else(voco, hand):
    active = voco.turns._timer.isActive
    hand.until(lambda: not active())
    go_on = threading.Event()
    thread = threads.begin(go_on.wait, "test")
    assert active()
    hand.until(lambda: True)
    assert active() and thread.is_alive()
    go_on.set()
    hand.until(lambda: not active())
    assert not thread.is_alive()


def test_the_preview_comes_up_between_events(scene, monkeypatch):
    real = preview_step.planOf
    monkeypatch.setattr(preview_step, "planOf", lambda request: slowly() or real(request))
    preview = CropPreview(scene)
    preview.setVolume(torso(scene))
    preview.setSettings(chosen())
    preview.show()
    looks = 0
    while preview.poll() and looks < 4 * STEPS:
        events()
        looks += 1
    assert preview.ready and looks < STEPS // 2, looks
    preview.cleanup()
