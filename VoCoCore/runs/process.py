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
_HAS_PROC = os.path.exists("/proc/self/stat")  # Linux
_BOOT = Path("/proc/sys/kernel/random/boot_id")  # another one after each start of the machine


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
        if not _is_there(pid):
            return None
        if not _HAS_PROC:
            return _from_ps(pid)
        found = _from_proc(pid)
        # It may have ended between the two questions, and then the second one had no answer.
        return None if found == UNKNOWN and not _is_there(pid) else found

    def _is_there(pid: int) -> bool:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:  # alive, somebody else's
            pass
        return True


def descendants(pid: int) -> list[int]:
    """Return the processes that ``pid`` started and those that they started, outermost first (POSIX)."""
    parents = _parents()
    family = [pid]
    for member in family:  # grows while it is read
        family += [child for child, parent in parents.items() if parent == member]
    return family[1:]


def _parents() -> dict[int, int]:
    """Return every process's parent."""
    if _HAS_PROC:
        found = {int(e.name): _stat(int(e.name)) for e in os.scandir("/proc") if e.name.isdigit()}
        return {pid: int(fields[1]) for pid, fields in found.items() if fields}
    pairs = (line.split() for line in _ps("-A", "-o", "pid=,ppid=").splitlines())
    return {int(pid): int(parent) for pid, parent in pairs}


def _stat(pid: int) -> list[str]:
    """Return Linux's fields for a process from its state on; an empty list where it is gone or hidden."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return []
    return stat[stat.rindex(")") + 2 :].split()  # the name before may hold spaces and brackets


def _from_proc(pid: int) -> str | None:
    fields = _stat(pid)
    if not fields:
        return UNKNOWN
    if fields[0] in "ZX":  # a zombie holds nothing any more
        return None
    boot = _BOOT.read_text().strip() if _BOOT.exists() else ""
    return f"{boot}/{fields[19]}"


def _from_ps(pid: int) -> str | None:
    state, _, start = _ps("-o", "stat=,lstart=", "-p", str(pid)).strip().partition(" ")
    return None if not state or state.startswith("Z") else start.strip()


def _ps(*arguments: str) -> str:
    import subprocess  # slow to import, and Linux does not need it

    environment = {**os.environ, "LC_ALL": "C", "TZ": "UTC"}
    answer = subprocess.run(["ps", *arguments], env=environment, capture_output=True, text=True, check=False)
    return answer.stdout
