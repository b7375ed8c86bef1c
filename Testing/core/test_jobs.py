"""`voco jobs`: listing, showing, following, stopping, killing and resuming runs, also runs whose files are rubbish."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from faults import check_line, meet
from made_runs import make_run, started, train, val

from VoCoCore.cli import main
from VoCoCore.runs import files, known, process
from VoCoCore.runs.directory import RunDirectory

pytestmark = pytest.mark.usefixtures("own_config")
ROOT = Path(__file__).resolve().parents[2]

JOB = """
import sys, time
from VoCoCore.runs.directory import RunDirectory
run = RunDirectory(sys.argv[1])
with run.lock(), run.heartbeat(0.2):
    run.clear_stop()
    run.next_attempt()
    run.events.emit("started", attempt=1, step=0, device="CPU")
    looking = "looking" in sys.argv[2]
    run.write_status("finished" if looking else "running", 3, 10)
    while "deaf" in sys.argv[2] or not run.stop_requested():
        time.sleep(0.02)
    if not looking:
        run.events.emit("finished", state="stopped", step=4)
        run.write_status("stopped", 4)
"""


def say(capsys, *words: object) -> str:
    """What a command prints that must go well."""
    capsys.readouterr()
    assert main(["jobs", *map(str, words)]) == 0
    return capsys.readouterr().out


def status(run: Path, **changes: object) -> None:
    files.write_json(run / "status.json", {**files.read_json(run / "status.json"), **changes})


def checkpoint(run: Path, step: int) -> None:
    folder = run / "checkpoints" / f"step-{step:08d}"
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text(json.dumps({"v": 1, "step": step}))


def lost_run(folder: Path, **changes: object) -> Path:
    run = make_run(folder, "running", 250, [started(), train(250)])
    gone = {"host": process.host_name(), "pid": 2**22 + 7, "process_start": "long ago"}
    status(run, **{**gone, "heartbeat": time.time() - 3 * 3600, **changes})
    return run


@pytest.fixture
def job(tmp_path: Path):
    """Starts a small real job on a new run; ends it after the test."""
    children = []

    def start(how: str = "") -> RunDirectory:
        run = RunDirectory.create(tmp_path / "live", {}, {})
        children.append(subprocess.Popen([sys.executable, "-c", JOB, str(run.path), how], cwd=ROOT))
        give_up = time.monotonic() + 20
        while run.state() not in ("running", "finished"):
            assert time.monotonic() < give_up
            time.sleep(0.02)
        return run

    yield start
    for child in children:
        child.kill()
        child.wait()


# Looking


def test_the_list_is_a_table_that_tells_how_far_and_how_silent(tmp_path: Path, capsys) -> None:
    make_run(tmp_path / "done", "finished", 1000)
    lost_run(tmp_path / "gone")
    head, *rows = say(capsys, "list", tmp_path).splitlines()
    assert head.split() == ["RUN", "STATE", "STEP", "DONE", "LAST", "HEARD", "OF", "FOLDER"]
    assert rows[0].split() == ["done", "finished", "1000/1000", "100", "%", str(tmp_path / "done")]
    assert rows[1].split()[:5] == ["gone", "lost", "250/1000", "25", "%"] and "3 h ago" in rows[1]
    assert {row.index("/", 40) for row in rows} == {head.index("FOLDER")}
    listed = json.loads(say(capsys, "list", tmp_path, "--json"))
    assert [(row["state"], row["step"]) for row in listed] == [("finished", 1000), ("lost", 250)]
    assert "no runs known" in say(capsys, "list")


def test_a_hundred_runs_are_listed_without_torch(tmp_path: Path) -> None:
    for number in range(100):
        lost_run(tmp_path / f"run{number:03}")
        known.remember(tmp_path / f"run{number:03}")
    code = "import sys; from VoCoCore.cli.main import main; main(sys.argv[1:]); print('torch' in sys.modules)"
    for folder in ([], [str(tmp_path)]):
        command = [sys.executable, "-c", code, "jobs", "list", *folder]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        *listed, torch = done.stdout.splitlines()
        assert len(listed) == 101 and torch == "False"


def test_show_tells_what_went_wrong_and_what_to_do(tmp_path: Path, capsys) -> None:
    error = {"type": "error", "kind": "DataError", "message": "a.nii is cut", "hint": "copy it again"}
    failed = make_run(
        tmp_path / "failed", "failed", 40, [started(), train(40), val(40), error], message="a.nii is cut"
    )
    checkpoint(failed, 20)
    checkpoint(failed, 40)
    (failed / "checkpoints" / "step-00000060").mkdir()  # without a manifest there is no checkpoint
    said = say(capsys, "show", failed)
    for words in (
        "failed, step 40 of 1000",
        "last checkpoint: step 40",
        "CPU, 2 threads",
        "attempt 1",
        "a.nii is cut",
    ):
        assert words in said
    assert f"copy it again; then voco jobs resume {failed}" in said
    assert "held-out:" in said and "position_accuracy 0.62" in said
    lost = say(capsys, "show", lost_run(tmp_path / "lost"))
    for words in ("lost, step 250", "want of memory", "shut down", "voco jobs resume", "none yet", "3 h ago"):
        assert words in lost
    told = json.loads(say(capsys, "show", failed, "--json"))
    assert (told["state"], told["checkpoint"], told["hint"][:13]) == ("failed", 40, "copy it again")
    assert told["device"] == "CPU, 2 threads" and told["train"]["loss"] > 0


@pytest.mark.skipif(os.name == "nt", reason="shlex reads words as POSIX shells do")
def test_a_command_that_is_advised_can_be_pasted(tmp_path: Path, capsys) -> None:
    run = lost_run(tmp_path / "two words, it's é")
    said = say(capsys, "show", run)
    line = next(line for line in said.splitlines() if "voco jobs resume" in line)
    words = shlex.split(line[line.index("voco jobs resume") :])
    assert words[:4] == ["voco", "jobs", "resume", str(run)]


def test_an_error_of_an_earlier_attempt_is_not_that_of_this_one(tmp_path: Path, capsys) -> None:
    error = {"type": "error", "kind": "DataError", "message": "old", "hint": "old advice"}
    run = make_run(
        tmp_path / "run", "failed", 4, [started(), error, started(attempt=2)], message="the disk is full"
    )
    said = say(capsys, "show", run)
    assert "the disk is full" in said and "old" not in said


RUBBISH = [
    b"\x00\xff\xfe\x80" * 100 + b"\n",
    b'{"type":"metrics","step":1,"split":"train","values":{"loss":' + b"9" * 400 + b"}}\n",
    b'{"type":"metrics","step":"x","split":"val","values":[1]}\n{"type":"metrics","split":["train"],"values":{"a":{}}}\n',
    b'{"type":"started","data":[1],"device":{"a":"\\u001b[31mred"},"step":' + b"1" * 400 + b"}\n",
    b'{"type":"progress","step":null,"total":{},"eta_s":"nan","rate":[]}\n{"type":"progress","eta_s":Infinity}\n',
    b'{"type":"stage","done":[],"total":1,"name":"\\n\\u0007"}\n{"type":"error","message":{},"hint":7,"kind":[]}\n',
    b'{"type":"image"}\n{"type":"checkpoint","step":-1}\n{"type":"warning"}\n{"type":"finished","step":{}}\n{"type":""}\n',
    b'{"type":"stage","name":"' + b"long" * 3_000_000 + b'"}\n',
    b'{"type":"metrics","values":{"\xff":1}}\n' + b"[" * 100_000 + b"\n" + b'{"type":"torn',
]


@pytest.mark.parametrize("rubbish", RUBBISH, ids=range(len(RUBBISH)))
def test_rubbish_in_the_events_stops_nobody(tmp_path: Path, capsys, rubbish: bytes) -> None:
    run = make_run(tmp_path / "run", "finished", 9, [started(), train(9)])
    with open(run / "events.jsonl", "ab") as file:
        file.write(rubbish)
    assert "finished" in say(capsys, "list", tmp_path)
    assert json.loads(say(capsys, "show", run, "--json"))["state"] == "finished"
    for action in ("show", "follow"):
        said = say(capsys, action, run)
        assert "finished" in said and all(char.isprintable() or char == "\n" for char in said)
        assert max(map(len, said.splitlines())) < 5000
    status(run, state="failed", message="")
    meet(capsys, "following a run with rubbish in it", 1, ["jobs", "follow", run], ["failed", run])
    say(capsys, "show", run)


BAD_STATUS = [
    b"",
    b"\x80\xff\x00",
    b'{"state": "runn',
    b"[]",
    b'{"state": ["running"]}',
    b'{"state": "running", "step": "many", "heartbeat": {}}',
    b'{"state": "running", "step": -5, "total": 0, "heartbeat": Infinity, "host": 7, "pid": -1}',
    b'{"state": "finished", "step": ' + b"9" * 400 + b', "total": 3, "message": "\\u001b[2J\\nx"}',
    b'{"state": "failed", "step": NaN}',
    b"[" * 100_000,
]


@pytest.mark.parametrize("content", BAD_STATUS, ids=range(len(BAD_STATUS)))
def test_rubbish_in_the_status_stops_nobody(tmp_path: Path, capsys, content: bytes, monkeypatch) -> None:
    run = make_run(tmp_path / "run", "finished", 9, [started(), train(9)])
    (run / "status.json").write_bytes(content)
    monkeypatch.setattr("VoCoCore.runs.status.LOST_AFTER", 0.0)
    assert str(run) in say(capsys, "list", tmp_path)
    json.loads(say(capsys, "list", tmp_path, "--json"))
    json.loads(say(capsys, "show", run, "--json"))
    said = say(capsys, "show", run)
    assert all(char.isprintable() or char == "\n" for char in said)
    assert main(["jobs", "follow", str(run)]) in (0, 1, 4)


# Following


def test_following_ends_as_the_run_did(tmp_path: Path, capsys) -> None:
    said = say(capsys, "follow", make_run(tmp_path / "a", "finished", 9, [started(), train(9), val(9)]))
    assert "started on CPU" in said and "held-out position accuracy" in said and "is finished" in said
    stopped = make_run(tmp_path / "b", "stopped", 9)
    meet(
        capsys,
        "following a run that was stopped",
        5,
        ["jobs", "follow", stopped],
        ["stopped at step 9", "resume", stopped],
    )
    kinds = (("SettingsError", 2), ("DataError", 3), ("EnvironmentFault", 4), ("RuntimeError", 1))
    for kind, code in kinds:
        error = {"type": "error", "kind": kind, "message": f"bad {kind}", "hint": "mend it"}
        run = make_run(tmp_path / kind, "failed", 9, [error], message=f"bad {kind}")
        meet(
            capsys,
            f"following a run that failed with {kind}",
            code,
            ["jobs", "follow", run],
            [f"bad {kind}", "mend it", run],
        )
    lost = lost_run(tmp_path / "lost")
    meet(
        capsys,
        "following a lost run",
        4,
        ["jobs", "follow", lost],
        ["is lost", "memory", "jobs resume", lost],
    )
    meet(capsys, "following what is no run", 2, ["jobs", "follow", tmp_path], ["not a run", tmp_path])


@pytest.mark.skipif(os.name != "posix", reason="sends a signal")
def test_ctrl_c_ends_following_and_not_the_job(job) -> None:
    run = job()
    command = [sys.executable, "-u", "-m", "VoCoCore", "jobs", "follow", str(run.path)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    follower = subprocess.Popen(command, cwd=ROOT, text=True, **pipes)
    assert follower.stdout is not None
    assert "started on CPU" in follower.stdout.readline()
    follower.send_signal(signal.SIGINT)
    _, said = follower.communicate(timeout=10)
    check_line("no longer following", follower.returncode, 5, said, ["goes on", "jobs stop"])
    assert run.state() == "running"


def test_a_follower_sees_a_live_run_to_its_end(job, capsys) -> None:
    run = job()
    run.request_stop()
    meet(
        capsys, "following a run until it is stopped", 5, ["jobs", "follow", run.path], ["stopped at step 4"]
    )


# Stopping, killing, going on


def test_stop_asks_and_stop_wait_waits(job, capsys) -> None:
    run = job()
    assert "asked to stop" in say(capsys, "stop", run.path)
    said = say(capsys, "stop", run.path, "--wait") if run.state() != "stopped" else "is stopped"
    assert "is stopped" in said
    words = ["is stopped", "jobs resume", run.path]
    meet(capsys, "stopping a run that is stopped", 2, ["jobs", "stop", run.path], words)
    meet(capsys, "killing a run that is stopped", 2, ["jobs", "kill", run.path], words)
    meet(capsys, "a grace of less than nothing", 2, ["jobs", "stop", run.path, "--grace", "-1"], ["--grace"])


@pytest.mark.skipif(os.name != "posix", reason="ends processes as POSIX does")
@pytest.mark.parametrize("words", [["kill"], ["stop", "--grace", "0.2"]], ids=" ".join)
def test_a_job_that_does_not_listen_is_ended(job, capsys, words: list[str]) -> None:
    run = job("deaf")
    checkpoint(run.path, 2)
    said = say(capsys, words[0], run.path, *words[1:])
    assert "is stopped" in said and "checkpoint is of step 2" in said and "jobs resume" in said
    assert run.state() == "stopped" and not run.is_locked()


@pytest.mark.skipif(os.name != "posix", reason="ends processes as POSIX does")
@pytest.mark.parametrize(
    ("how", "words"),
    [("looking", ["stop", "--wait"]), ("looking, deaf", ["stop", "--grace", "0.2"]), ("looking", ["kill"])],
)
def test_a_finished_job_is_stopped_and_killed_in_its_last_look(
    job, capsys, how: str, words: list[str]
) -> None:
    run = job(how)
    checkpoint(run.path, 2)
    for left in (run.weights / "model.safetensors", run.log_file):
        left.touch()
    said = say(capsys, words[0], run.path, *words[1:])
    assert "is finished" in said and "last look" in said and f"jobs resume {run.path} makes up" in said
    assert run.state() == "finished" and not run.is_locked()
    assert main(["jobs", "kill", str(run.path)]) == 2


def test_a_job_on_another_machine_is_out_of_reach(tmp_path: Path, capsys) -> None:
    run = lost_run(tmp_path / "run", host="ward7", heartbeat=time.time())
    meet(capsys, "killing a job of another machine", 2, ["jobs", "kill", run], ["runs on ward7", run])
    meet(
        capsys,
        "stopping a job of another machine",
        2,
        ["jobs", "stop", run, "--grace", "0.1"],
        ["runs on ward7", run],
    )
    assert RunDirectory(run).stop_requested()
    assert "stopping" in say(capsys, "show", run)
    status(run, heartbeat=time.time() - 600)
    said = say(capsys, "show", run) + say(capsys, "list", tmp_path)
    assert said.count("10 min ago") == 2 and "ward7" in said


def test_resume_refuses_what_runs_or_is_done(job, tmp_path: Path, capsys) -> None:
    done = make_run(tmp_path / "done", "finished", 1000)
    meet(capsys, "resuming a finished run", 2, ["jobs", "resume", done], ["is finished", done])
    run = job()
    meet(capsys, "resuming a run under way", 2, ["jobs", "resume", run.path], ["a job is running", run.path])
    words = ["jobs", "resume", done, "--detach", "--foreground"]
    meet(capsys, "resuming both ways", 2, words, ["--foreground"])


@pytest.mark.slow
def test_resume_goes_on_in_the_background_and_in_front(small_cohort, tmp_path: Path, capsys) -> None:
    from VoCoCore.training.pretrain import pretrain

    run = tmp_path / "run"
    seen: list[str] = []
    stop = {
        "listeners": [lambda event: seen.append(event["type"])],
        "should_stop": lambda: "checkpoint" in seen,
    }
    pretrain(small_cohort.settings(), run, **stop)
    assert RunDirectory(run).state() == "stopped"
    private = run / "private" / "places.json"
    assert Path(files.read_json(private)["data.source"]) == small_cohort.source
    said = say(capsys, "resume", run)
    assert (
        "in the background" in said and "checkpoint is of step" in said and f"voco jobs follow {run}" in said
    )
    assert "is finished" in say(capsys, "follow", run)
    wait = time.monotonic() + 120
    while RunDirectory(run).is_locked():  # it says so before it has left everything
        assert time.monotonic() < wait
        time.sleep(0.02)
    status(run, state="stopped")
    assert "weights:" in say(capsys, "resume", run, "--foreground")


def test_forget_takes_a_run_off_the_list(tmp_path: Path, capsys) -> None:
    run = make_run(tmp_path / "run")
    meet(
        capsys, "forgetting a run nobody knows", 2, ["jobs", "forget", run], ["not among the runs known", run]
    )
    known.remember(run)
    assert str(run) in say(capsys, "list")
    assert "its folder stays" in say(capsys, "forget", run)
    assert "no runs known" in say(capsys, "list") and run.is_dir()
