"""Signals: those that ask a command to stop, and the one by which a process goes with its parent."""

import ctypes
import signal

# Slurm sends SIGUSR1 some time before a job must end, if it is asked to.
STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
# `nohup`, and shells for what runs in the background, start a command with these ignored, so that it outlives them.
# That SIGUSR1 is ignored means less: batch scripts ignore it only until the command is ready for it.
MAY_BE_IGNORED = (signal.SIGHUP, signal.SIGINT)

# Of sys/prctl.h.
_PR_SET_PDEATHSIG = 1
# Found here, because between fork and exec nothing may be loaded.
_LIBC = ctypes.CDLL(None)


def die_with_parent() -> None:
    """Let the kernel kill this process when the one that started it ends, whatever this one is at then."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
