"""Errors of libraries that a user's machine can cause, in our words; everything else stays as it is."""

from __future__ import annotations

import gc
import traceback
from collections.abc import Callable

from VoCoCore.data.loading import worker_killed
from VoCoCore.devices import is_out_of_memory
from VoCoCore.errors import EnvironmentFault, VocoError
from VoCoCore.models.compiling import cannot_compile

# How the libraries below torch.distributed say that a peer is gone.
_PEER_GONE = (
    "connection closed by peer",
    "connection reset by peer",
    "connection was likely closed",
    "failed to recv",
    "broken pipe",
    "socket closed",
    "nccl",
    "gloo",
    "store_based_barrier",
    "tcpstore",
    "timed out waiting",
)


def explained(
    error: BaseException, ranks: int, out_of_memory: Callable[[], EnvironmentFault], stopping: bool = False
) -> BaseException:
    """``error`` itself, or what it means to the user. ``out_of_memory`` makes the error with what to change.

    ``stopping``: a job that compiles was told to stop, and its compiler perhaps with it.
    """
    if isinstance(error, VocoError):
        return error
    if killed := worker_killed(error):
        return killed
    if is_out_of_memory(error):
        # What the failed step holds is let go first: to find settings that fit takes a little memory.
        traceback.clear_frames(error.__traceback__)
        gc.collect()
        return out_of_memory()
    if stopping:
        # A compiler that a signal to the whole process group has ended says so in many ways.
        return KeyboardInterrupt()
    if compiler := cannot_compile(error):
        return compiler
    if ranks > 1 and isinstance(error, RuntimeError) and any(w in str(error).lower() for w in _PEER_GONE):
        return EnvironmentFault(
            f"another of the {ranks} ranks has ended, so this one cannot go on",
            "its own message says why; then go on with --resume from the last checkpoint",
        )
    return error
