"""Runs another program that ends with its owner and, if started by root, runs as `nobody`.

Run as a script, because no code may run between fork and exec of a process with threads.
"""

import ctypes
import os
import pwd
import sys

PR_SET_PDEATHSIG, PR_SET_KEEPCAPS, PR_SET_SECUREBITS, PR_CAP_AMBIENT = 1, 8, 28, 47  # <linux/prctl.h>
PR_CAP_AMBIENT_RAISE = 2
SECBIT_NO_SETUID_FIXUP = 1 << 2  # <linux/securebits.h>
CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH = 1, 2  # <linux/capability.h>
CAPABILITY_VERSION_3 = 0x20080522
NOT_LAUNCHED = 126


def _capabilities(libc: ctypes.CDLL) -> int:
    """The permitted capabilities of this process as bits; 0 where they cannot be read."""
    header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION_3, 0)
    sets = (ctypes.c_uint32 * 6)()
    return 0 if libc.capget(header, sets) else int(sets[1])


def _keep_only(libc: ctypes.CDLL, capability: int) -> None:
    """Keeps one capability through the next exec, and no other."""
    header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION_3, 0)
    bit = 1 << capability
    if libc.capset(header, (ctypes.c_uint32 * 6)(bit, bit, bit, 0, 0, 0)) == 0:
        libc.prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, capability, 0, 0)


def become(user: str) -> None:
    """Becomes `user`, still able to pass folders closed to them (a clone below /root, a private folder).

    Reading everything (CAP_DAC_READ_SEARCH) is enough; containers often have only CAP_DAC_OVERRIDE. With
    neither, or away from Linux, the user's own rights must do. The secure bit is for access(2), by which
    PostgreSQL checks its own programs: without it, access(2) leaves capabilities out of account.
    """
    entry = pwd.getpwnam(user)
    linux = sys.platform == "linux"
    libc = ctypes.CDLL(None, use_errno=True)
    if linux:
        libc.prctl(PR_SET_SECUREBITS, SECBIT_NO_SETUID_FIXUP, 0, 0, 0)
        libc.prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0)  # the same for setuid, should the secure bit be refused
    os.setgroups([])
    os.setgid(entry.pw_gid)
    os.setuid(entry.pw_uid)
    if not linux:
        return
    permitted = _capabilities(libc)
    for capability in (CAP_DAC_READ_SEARCH, CAP_DAC_OVERRIDE):
        if permitted & 1 << capability:
            _keep_only(libc, capability)
            return


def end_with(owner: int, signal_number: int) -> None:
    """Lets the kernel send the signal when the owner ends, however it ends; 0 omits it (Linux only)."""
    if not signal_number:
        return
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal_number, 0, 0, 0)  # after setuid, which clears it
    if os.getppid() != owner:
        sys.exit(NOT_LAUNCHED)  # it ended before the kernel was told


def main(owner: str, signal_number: str, user: str, folder: str, *command: str) -> None:
    """Changes user (none if empty) and folder, ties itself to the owner, and becomes the command."""
    try:
        if user:
            become(user)
    except OSError as error:
        sys.exit(f"Cannot become the user {user}: {error.strerror}. Run as a user other than root.")
    os.umask(0o077)  # nobody else reads what it writes
    end_with(int(owner), int(signal_number))
    for path, step in ((folder, os.chdir), (command[0], os.stat)):
        try:
            step(path)
        except OSError as error:
            fix = (
                "Keep the clone where every user may go, or run it as a user other than root." if user else ""
            )
            sys.exit(f"{user or 'this user'} cannot reach {path}: {error.strerror}. {fix}")
    os.execv(command[0], command)


if __name__ == "__main__":
    main(*sys.argv[1:])
