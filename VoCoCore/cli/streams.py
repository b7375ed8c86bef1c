"""A command's input and output: there whatever the caller closed, and written whole before the command ends."""

from __future__ import annotations

import os
import sys
from typing import TextIO

from VoCoCore.errors import EnvironmentFault


def prepare() -> None:
    """Have all three streams, and such that print any name of a file."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            # Closed by the caller (`<&-`, pythonw.exe). Else the next file that is opened would take its number.
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115 - for good
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")


def finish(code: int) -> int:
    """Write what is still held back; the exit code ``code``, or that of a disk with no room for the output.

    Left to the interpreter, such an error would be told in its words, with code 120.
    """
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        abandon(sys.stdout)
    except OSError as error:
        abandon(sys.stdout)
        if not code:
            fault = EnvironmentFault(f"the output cannot be written: {error.strerror}", "check the disk")
            complain(f"voco: error: {fault}")
            return fault.exit_code
    return code


def complain(line: str) -> None:
    """Print a line to standard error, if anybody is there."""
    try:
        print(line, file=sys.stderr, flush=True)
    except OSError:
        abandon(sys.stderr)


def abandon(stream: TextIO) -> None:
    """Nobody reads ``stream`` any more (head, less): what it holds back goes nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
