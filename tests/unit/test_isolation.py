"""Code that is executed in a decoder reads nothing of the worker and reaches nobody else."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

UNPRIVILEGED = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"] if os.geteuid() == 0 else []
"""Root may read every process; the worker is not root where it is deployed."""

SPY = """
import ctypes, os

SEIZE, worker, found = 0x4206, os.getppid(), []
for name in ("environ", "mem"):
    try:
        with open(f"/proc/{worker}/{name}", "rb"):
            found.append(name)
    except PermissionError:
        pass
if ctypes.CDLL(None).ptrace(SEIZE, worker, 0, 0) == 0:
    found.append("ptrace")
print(*found)
"""
"""What a child of the worker can read of it."""

STARTS = {
    "functions": "import main",
    "command line": "import contextlib, worker.cli.main as cli\n"
    "with contextlib.suppress(SystemExit): cli.main(['check', '--help'])",
    "decoder": "import worker.photos.decoder_main as decoder; decoder.main()",
}
"""How each process begins that has secrets, or a customer's photo."""

REST = f"""
import json, os, subprocess, sys
from pathlib import Path
spied = subprocess.run([sys.executable, "-c", {SPY!r}], capture_output=True, text=True, check=True)
own = [name for name in ("statm", "status") if Path("/proc/self", name).read_text()]
own += os.listdir("/proc/self/fd")[:1]
sys.stderr.write(json.dumps([spied.stdout.split(), len(own)]))
"""
"""What the spy found, and how many of the files about itself the process still can read."""


CALLER = """
import socket, sys
import worker.photos.decoder_main as decoder
decoder.main()
try:
    socket.create_connection(("127.0.0.1", int(sys.argv[1])), 5)
except OSError:
    raise SystemExit("no network")
"""
"""A decoder that connects to a port of this machine."""


def spied(start: str) -> tuple[list[str], int]:
    """What a child finds of a process that begins so, and what the process reads of itself."""
    done = subprocess.run(
        [*UNPRIVILEGED, sys.executable, "-c", start + REST], cwd=ROOT,
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=True,
    )  # fmt: skip
    found, own = json.loads(done.stderr)
    return found, own


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has it")
@pytest.mark.parametrize("start", STARTS)
def test_a_child_reads_neither_memory_nor_environment_of_the_worker(start: str) -> None:
    """The worker itself can still read its entries in /proc, and start processes."""
    assert spied(STARTS[start]) == ([], 3)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has it")
def test_a_decoder_has_no_network() -> None:
    """A decoder can neither ask a cloud's metadata server for a token nor send a photo anywhere."""
    if subprocess.run([*UNPRIVILEGED, "unshare", "-Un", "true"], check=False, capture_output=True).returncode:
        pytest.skip("this kernel gives an unprivileged process no namespace of its own")
    with socket.create_server(("127.0.0.1", 0)) as server:
        done = subprocess.run(
            [*UNPRIVILEGED, sys.executable, "-c", CALLER, str(server.getsockname()[1])], cwd=ROOT,
            stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
        )  # fmt: skip
    assert done.stderr.strip() == "no network"


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has it")
def test_without_protection_a_child_would_read_the_environment() -> None:
    """Else the test before would show nothing."""
    found, _ = spied("")
    assert "environ" in found
