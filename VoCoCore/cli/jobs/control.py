"""`voco jobs follow|stop|kill|resume|forget`: what somebody may do with a job from outside."""

from __future__ import annotations

import time
from importlib import import_module

from VoCoCore.cli.jobs.words import parser_of_run, under_way
from VoCoCore.errors import EnvironmentFault, SettingsError, StopRequested
from VoCoCore.runs.directory import RunDirectory
from VoCoCore.runs.narrate import shell_word
from VoCoCore.runs.status import ACTIVE

GRACE = 30.0  # seconds
TIDYING = 20.0  # seconds that a job which has said its last word may need for its report


def follow_(words: list[str]) -> int:
    """Print events until the run ends, and end as the run's own command would have: the same code and line."""
    run = RunDirectory.open(parser_of_run("follow").parse_args(words).run)
    try:
        return _follow(run)
    except KeyboardInterrupt:
        raise StopRequested(
            f"no longer following {run.path}; its job goes on",
            f"voco jobs stop {shell_word(run.path)} ends it",
        ) from None


def _follow(run: RunDirectory) -> int:
    from VoCoCore.runs.describe import checkpoint_words, failure
    from VoCoCore.runs.follow import Follower
    from VoCoCore.runs.lines import PlainLines

    follower = Follower(run)
    speak = PlainLines(lambda line: print(line, flush=True), every=2.0)
    state = follower.until_ended(speak, pause=0.5)
    speak.flush()
    if state == "finished":
        print("the run is finished")
        return 0
    if state == "stopped":
        hint = f"voco jobs resume {shell_word(run.path)} goes on: {checkpoint_words(run)}"
        raise StopRequested(f"the run {run.path} stopped at step {follower.summary().step}", hint)
    raise failure(follower)


def stop_(words: list[str]) -> int:
    """Ask; with ``--wait`` go on to ending and killing the job."""
    parser = parser_of_run("stop")
    parser.add_argument(
        "--wait",
        action="store_true",
        help="wait for the end; a job that does not react is ended, then killed",
    )
    parser.add_argument(
        "--grace",
        type=float,
        metavar="S",
        help=f"seconds between these three steps, default {GRACE:.0f}; means --wait",
    )
    asked = parser.parse_args(words)
    if asked.grace is not None and not 0 <= asked.grace < 1e6:
        raise SettingsError(f"--grace cannot be {asked.grace}", "give seconds, such as 60")
    run = under_way(asked.run)
    if not asked.wait and asked.grace is None:
        run.request_stop()
        what = "case" if run.state() == "finished" else "step"
        print(f"asked to stop after the {what} it is in; 'voco jobs show' says when it has")
        return 0
    from VoCoCore.runs.launch import stop

    state = stop(run, GRACE if asked.grace is None else asked.grace)
    _print_end(run, state)
    return 0


def kill_(words: list[str]) -> int:
    """End a job at once, with all its processes."""
    run = under_way(parser_of_run("kill").parse_args(words).run)
    from VoCoCore.runs.launch import kill

    _print_end(run, kill(run))
    return 0


def _print_end(run: RunDirectory, state: str) -> None:
    from VoCoCore.runs.describe import CUT, checkpoint_words, end_is_missing
    from VoCoCore.runs.privacy import error_in_full

    status = run.read_status()
    why = f": {error_in_full(run, status.message, '')[0]}" if status and status.message else ""
    print(f"{run.path} is {state}{why}")
    if end_is_missing(run):
        print(f"{CUT}; voco jobs resume {shell_word(run.path)} makes up for it")
    if state != "finished":
        print(f"{checkpoint_words(run)}; voco jobs resume {shell_word(run.path)} goes on")


def resume_(words: list[str]) -> int:
    """Start the job of a run again, in the background unless asked otherwise."""
    parser = parser_of_run("resume")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--detach", action="store_true", help="in the background; this is what happens anyway")
    where.add_argument("--foreground", action="store_true", help="in this terminal, until it ends")
    asked = parser.parse_args(words)
    run = RunDirectory.open(asked.run)
    _check_resumable(run)
    from VoCoCore.runs.describe import checkpoint_words, command_of

    arguments = [command_of(run), "--run", str(run.path), "--resume"]
    if asked.foreground:
        return import_module(f"VoCoCore.cli.{arguments[0]}").run(arguments[1:])
    from VoCoCore.runs.launch import launch

    start = checkpoint_words(run)
    launch(run.path, arguments)
    print(f"{start}; the run goes on in the background")
    print(f"voco jobs follow {shell_word(run.path)} shows it, voco jobs stop {shell_word(run.path)} stops it")
    return 0


def _check_resumable(run: RunDirectory) -> None:
    from VoCoCore.runs.launch import check_resumable

    give_up = time.monotonic() + TIDYING
    while run.state() not in (*ACTIVE, "finished") and run.is_locked() and time.monotonic() < give_up:
        time.sleep(0.1)
    check_resumable(run)
    status = run.read_status()
    if status is not None and run.state() in ACTIVE:
        print(f"{status.host} was the last to work here: watching for a minute whether it still does")


def forget_(words: list[str]) -> int:
    """Take a run off the list of those known."""
    parser = parser_of_run("forget")
    path = RunDirectory(parser.parse_args(words).run).path
    from VoCoCore.runs import known

    if path not in known.remembered():
        raise SettingsError(f"{path} is not among the runs known here", "voco jobs list names them")
    if not known.forget(path):
        hint = f"look at the permissions of {known.config_folder()}"
        raise EnvironmentFault("the list of known runs could not be written", hint)
    print(f"{path} is off the list; its folder stays")
    return 0
