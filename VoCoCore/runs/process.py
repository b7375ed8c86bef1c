"""Which process on which machine: a process number alone is used again sooner or later.

A process is named by host, number and start time. The start time is an opaque text that is only ever compared
with another one taken on the same host; it does not move when somebody sets the clock.
"""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

UNKNOWN = ""  # alive, but this system does not say since when


def host_name() -> str:
    """Return this machine's name."""
    return socket.gethostname()


def process_start(pid: int) -> str | None:
    """Return the start time of process ``pid`` of this machine, None if it is gone, or UNKNOWN."""
    if pid <= 0:
        return None
    return _start(pid)


def is_gone(pid: int, start: str) -> bool:
    """Whether the process that had number ``pid`` and start time ``start`` on this machine has ended."""
    now = process_start(pid)
    return now is None or (now != start and UNKNOWN not in (now, start))


def is_same(pid: int, start: str) -> bool:
    """Whether ``pid`` is certainly still the process that started at ``start``."""
    return start != UNKNOWN and process_start(pid) == start


if sys.platform == "win32":
    import ctypes
    from ctypes import wintypes

    _QUERY, _STILL_ACTIVE, _ACCESS_DENIED = 0x1000, 259, 5
    _kernel = ctypes.WinDLL("kernel32", use_last_error=True)
    _kernel.OpenProcess.restype = wintypes.HANDLE

    def _start(pid: int) -> str | None:
        handle = wintypes.HANDLE(_kernel.OpenProcess(_QUERY, False, pid))
        if not handle:
            return UNKNOWN if ctypes.get_last_error() == _ACCESS_DENIED else None
        code, created, other = wintypes.DWORD(), wintypes.FILETIME(), wintypes.FILETIME()
        try:
            _kernel.GetExitCodeProcess(handle, ctypes.byref(code))
            times = [ctypes.byref(each) for each in (created, other, other, other)]
            known = _kernel.GetProcessTimes(handle, *times)
        finally:
            _kernel.CloseHandle(handle)
        if code.value != _STILL_ACTIVE:
            return None
        return f"{created.dwHighDateTime:08x}{created.dwLowDateTime:08x}" if known else UNKNOWN

else:

    def _start(pid: int) -> str | None:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return None
        except PermissionError:  # alive, somebody else's
            pass
        return _from_proc(pid) if sys.platform == "linux" else _from_ps(pid)


def _from_proc(pid: int) -> str | None:
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return UNKNOWN
    fields = stat[stat.rindex(b")") + 2 :].split()  # the name before may hold spaces and brackets
    ended = fields[0] in (b"Z", b"X")  # a zombie holds nothing any more
    return None if ended else f"{boot}/{fields[19].decode()}"


def _from_ps(pid: int) -> str | None:
    import subprocess  # slow to import, and Linux does not need it

    environment = {**os.environ, "LC_ALL": "C", "TZ": "UTC"}
    command = ["ps", "-o", "stat=,lstart=", "-p", str(pid)]
    try:
        answer = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return UNKNOWN
    state, _, start = answer.stdout.strip().partition(" ")
    return None if not state or state.startswith("Z") else start.strip()
