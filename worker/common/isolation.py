"""Separates processes of the same account: the worker, which has secrets, from the decoders of photos.

A photo's decoder runs as the worker's account, and a hostile photo may execute code in it. Only on Linux.
"""

from __future__ import annotations

import ctypes
import sys

_PR_SET_DUMPABLE = 4  # linux/prctl.h
_CLONE_NEWUSER, _CLONE_NEWNET = 0x10000000, 0x40000000  # linux/sched.h


def hide_memory() -> None:
    """Refuse /proc/PID/environ, /proc/PID/mem and ptrace of this process to others, and dump no core.

    Forked processes inherit this, started programs do not. Root with CAP_SYS_PTRACE still reads everything.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


def leave_network() -> None:
    """Move this process into a network without any interface, if the kernel lets it.

    Call this before threads start. Docker's default profile and systemd's RestrictNamespaces refuse it; then
    the process keeps its network.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).unshare(_CLONE_NEWUSER | _CLONE_NEWNET)
