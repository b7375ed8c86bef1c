"""Find the command, run it, and turn every error into one line and an exit code."""

from __future__ import annotations

import argparse
import importlib
import itertools
import os
import re
import sys
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from VoCoCore import __version__
from VoCoCore.cli import streams
from VoCoCore.cli.interrupts import end_tidily
from VoCoCore.errors import SettingsError, StopRequested, VocoError, nearest, of_the_machine

COMMANDS = {
    "demo": "make a small synthetic cohort, pre-train on it and show what came out (minutes on a laptop)",
    "data": "index, check, prepare and show cases",
    "pretrain": "pre-train an encoder on volumes without labels",
    "finetune": "train a segmentation or a classification on labelled cases, from pre-trained weights or none",
    "predict": "segment or classify cases with a fine-tuned network",
    "evaluate": "score segmentations against references, by label and case",
    "compare": "say whether one run's scores differ from another's, case by case",
    "crops": "draw base crops, random crops and their position labels on a volume",
    "weights": "look into files of weights, convert and export them",
    "jobs": "list, show, follow, stop, kill, resume, forget and export runs, and free space",
    "doctor": "say what this machine can do",
}


class Parser(argparse.ArgumentParser):
    """An ArgumentParser that raises SettingsError, takes no abbreviations and names the nearest option."""

    def __init__(self, prog: str, description: str) -> None:
        super().__init__(prog=prog, description=description, allow_abbrev=False)
        # argparse takes "-3" for a value and "-175,250" for an option.
        self._negative_number_matcher = re.compile(r"-\.?[0-9]|-(inf|nan)\b")
        self._words: list[str] = []

    def error(self, message: str) -> NoReturn:
        """Raise instead of printing the whole usage."""
        raise SettingsError(message, self._taken(message) or f"{self.prog} --help lists all options")

    def _taken(self, message: str) -> str:
        """Which option that also stands alone has taken the path behind it, where one is missing; or nothing."""
        inputs = [str(one.metavar or one.dest) for one in self._actions if not one.option_strings]
        if not {*inputs} & {*message.partition("are required: ")[2].split(", ")}:
            return ""
        lone = {word for action in self._actions if action.nargs == "?" for word in action.option_strings}
        found = (
            f"'{word}' was taken for the value of {option}: put {option} at the end"
            for option, word in itertools.pairwise(self._words)
            if option in lone and os.path.lexists(at_home(word))
        )
        return next(found, "")

    def parse_args(self, args=None, namespace=None):
        """Parse everything; an unknown option is answered with the one it may have meant, and a ~ is followed."""
        self._words = list(args or ())
        found, rest = self.parse_known_args(args, namespace)
        if rest:
            known = [word for action in self._actions for word in action.option_strings]
            self.error(f"unknown argument '{rest[0]}'.{nearest(rest[0].partition('=')[0], known)}")
        for name, value in vars(found).items():
            setattr(found, name, at_home(value))
            if name in _PLACES and isinstance(value, str) and not value.strip():
                self.error(f"--{name} is empty")  # such as a variable of a script that is not set
        return found


# Options to which an empty text would be the current folder.
_PLACES = ("output", "predictions", "references")


# Not ~name: on Windows that would make a folder of any word that begins so.
_HOME = re.compile(r"~([/\\]|$)")


def at_home(value: Any) -> Any:
    """A value, or a list of them, in which a ~ at the beginning is the user's folder.

    A shell does so for a word of its own, but not for ``--model=~/x``, and nobody does it in a file of settings.
    """
    if isinstance(value, list):
        return [at_home(each) for each in value]
    follows = isinstance(value, str) and _HOME.match(value)
    return os.path.expanduser(value) if follows else value


def choose_action(program: str, actions: Mapping[str, str], words: Sequence[str]) -> str:
    """The action that ``voco data`` and its like were asked for; empty after printing what there is.

    Raises SettingsError, with the nearest name, for one that does not exist.
    """
    if not words or words[0] in ("-h", "--help"):
        print(f"usage: {program} ACTION ...     ({program} ACTION --help says more)\n")
        print("\n".join(f"  {name:<9}{text}" for name, text in actions.items()))
        return ""
    if words[0] not in actions:
        message = f"there is no '{program} {words[0]}'.{nearest(words[0], actions)}"
        raise SettingsError(message, f"{program} --help lists all")
    return words[0]


def usage() -> str:
    """What `voco --help` prints."""
    lines = [f"  {name:<10}{text}" for name, text in COMMANDS.items()]
    return "\n".join(
        [
            f"VoCo {__version__}: teach a 3D network anatomy from volumes without labels.",
            "",
            "usage: voco COMMAND ...     (voco COMMAND --help says more)",
            "",
            *lines,
            "",
            "exit codes: 0 done, 2 usage or settings, 3 data, 4 device, package or disk,",
            "            5 stopped on request, 1 a defect of ours",
        ]
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line; returns the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    if argv is None:
        end_tidily()
        if not sys.warnoptions:
            # Libraries speak to programmers; what users must know is said in our words.
            warnings.simplefilter("ignore")
    streams.prepare()
    _let_threads_sleep()
    try:
        return streams.finish(_guarded(words))
    except SystemExit:  # argparse's --help
        if code := streams.finish(0):
            return code
        raise


def _guarded(words: list[str]) -> int:
    try:
        if not words or words[0] in ("-h", "--help", "help"):
            print(usage())
            return 0
        if words[0] in ("-V", "--version"):
            print(__version__)
            return 0
        if any("\0" in word for word in words):
            raise SettingsError("an argument holds a character 0", "no name of a file or a setting has one")
        if words[0] not in COMMANDS:
            raise SettingsError(
                f"there is no command '{words[0]}'.{nearest(words[0], COMMANDS)}", "voco --help lists all"
            )
        return importlib.import_module(f"VoCoCore.cli.{words[0]}").run(words[1:]) or 0
    except VocoError as error:
        word = "stopped" if isinstance(error, StopRequested) else "error"
        streams.complain(f"voco: {word}: {error}")
        return error.exit_code
    except KeyboardInterrupt:
        streams.complain("voco: stopped: interrupted  (run the same command again)")
        return StopRequested.exit_code
    except BrokenPipeError:
        streams.abandon(sys.stdout)
        return 0
    except Exception as error:
        if os.environ.get("VOCO_DEBUG"):
            raise
        if fault := of_the_machine(error):
            streams.complain(f"voco: error: {fault}")
            return fault.exit_code
        streams.complain(
            f"voco: defect: {type(error).__name__}: {' '.join(str(error).split())}  "
            "(this is ours to mend: please report it to those you have VoCo from, with the trace that is shown with "
            "VOCO_DEBUG=1 in the environment)"
        )
        return 1


# Rounds that a thread of PyTorch's waits awake for the others, some 30 us; GNU's OpenMP has 300 000 unless told.
AWAKE = "10000"


def _let_threads_sleep() -> None:
    """Before PyTorch is imported: its threads shall sleep soon where they wait for one that has no core.

    Awake they take the core from that one. With nothing else at work steps take as long; beside other programs, such as
    a Slicer that is in use, they take half the time or less.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", AWAKE)
