"""Keeps a process's memory and environment from other processes of the same account."""

from __future__ import annotations

import ctypes
import sys

_PR_SET_DUMPABLE = 4  # linux/prctl.h


def hide_memory() -> None:
    """Refuse /proc/PID/environ, /proc/PID/mem and ptrace of this process to others, and dump no core.

    A photo's decoder runs as the worker's account, and a hostile photo may execute code in it. Only on Linux.
    Forked processes inherit this, started programs do not. Root with CAP_SYS_PTRACE still reads everything.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
