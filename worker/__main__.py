"""`python -m worker`: the command line; reports a Python that is too old, or missing packages.

This file must parse on old Pythons, so it uses nothing newer than Python 3.6.
"""

import sys

LEAST = (3, 11)
UNUSABLE = 2
INSTALL = "python3 -m venv .venv && .venv/bin/python -m pip install --require-hashes -r requirements.txt"


def start():  # type: ignore[no-untyped-def]
    """Run the command line and return the exit code."""
    if sys.version_info < LEAST:
        found = ".".join(map(str, sys.version_info[:3]))
        sys.stderr.write(
            "error: Python 3.11 or newer is required, but " + sys.executable + " is " + found + "\n"
        )
        return UNUSABLE
    try:
        from worker.cli.main import main

        return main()
    except ModuleNotFoundError as missing:
        name = missing.name or ""
        if name.split(".")[0] == "worker":
            raise
        where = sys.executable + ": no module " + name + "\n"
        sys.stderr.write("error: the packages are not installed for " + where)
        sys.stderr.write("hint: in the project's folder: " + INSTALL + "; then .venv/bin/python -m worker\n")
        return UNUSABLE


if __name__ == "__main__":
    sys.exit(start())  # type: ignore[no-untyped-call]
