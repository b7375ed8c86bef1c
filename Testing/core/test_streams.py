"""A command whose input or output is closed, full, or read by nobody ends with its own code and without a trace."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from VoCoCore.data.store import Store

HELP, MISTAKE = ["--help"], ["jobs", "show", "no-such-run"]
only_posix = pytest.mark.skipif(os.name == "nt", reason="descriptors are closed by a shell of POSIX")


@pytest.fixture
def voco(tmp_path):
    """Run `voco` in a folder of its own, its output held back as Python does for files and pipes."""
    here = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    here |= {"VOCO_CONFIG_HOME": str(tmp_path), "PYTHONPATH": str(Path(__file__).parents[2])}

    def run(words, closed="", **streams):
        command = [sys.executable, "-m", "VoCoCore", *words]
        if closed:
            command = ["sh", "-c", f'exec "$@" {closed}', "sh", *command]
        return subprocess.run(command, cwd=tmp_path, env=here, timeout=120, check=False, **streams)

    return run


@pytest.fixture
def unread_pipe():
    """The end to write into of a pipe from which nobody will read."""
    read, write = os.pipe()
    os.close(read)
    yield write
    os.close(write)


@only_posix
@pytest.mark.parametrize(("words", "code"), [(HELP, 0), (["jobs", "list"], 0), (["data", "check", "-h"], 0)])
def test_nobody_reads_the_output(voco, unread_pipe, words, code):
    done = voco(words, stdout=unread_pipe, stderr=subprocess.PIPE)
    assert (done.returncode, done.stderr) == (code, b"")


@only_posix
def test_nobody_reads_what_is_wrong(voco, unread_pipe):
    assert voco(MISTAKE, stdout=subprocess.PIPE, stderr=unread_pipe).returncode == 2


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full here")
@pytest.mark.parametrize(("words", "code"), [(HELP, 4), (["data", "check", "-h"], 4), (MISTAKE, 2)])
def test_there_is_no_room_for_the_output(voco, words, code):
    with open("/dev/full", "wb") as full:
        done = voco(words, stdout=full, stderr=subprocess.PIPE)
    assert done.returncode == code and done.stderr.count(b"\n") == 1
    assert code != 4 or b"No space left" in done.stderr


@only_posix
@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_streams_that_the_caller_has_closed(voco, closed, tmp_path):
    (tmp_path / "volumes").mkdir()
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    assert voco(["data", "check", "volumes"], closed, **streams).returncode == 3
    assert voco(["jobs", "list"], closed, **streams).returncode == 0


@only_posix
def test_a_question_that_nobody_can_answer(voco, tmp_path):
    Store(tmp_path / "store").create()
    done = voco(["jobs", "space", "--delete", "store"], "<&-", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert done.returncode == 2 and b"nobody to ask" in done.stderr
