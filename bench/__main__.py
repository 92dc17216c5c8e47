"""`python -m bench PART`: reads the arguments, clears the environment and measures; 1 if it fails."""

import argparse
import signal
import sys
from types import FrameType

from bench import all as all_parts
from bench import (
    claims,
    cold,
    crash,
    crowd,
    deadlines,
    fairness,
    gate,
    hostile_hosts,
    kick,
    memory,
    photos,
    roundtrips,
    stats,
    wall,
)
from local.demo.environment import forget_the_rest
from local.stack.errors import StackError

PARTS = (
    all_parts,
    gate,
    crowd,
    claims,
    wall,
    roundtrips,
    cold,
    memory,
    photos,
    kick,
    stats,
    fairness,
    hostile_hosts,
    deadlines,
    crash,
)


def main() -> int:
    """Measure one part; the exit status is 130 after Ctrl-C or SIGTERM."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parts = parser.add_subparsers(dest="part", required=True)
    for part in PARTS:
        name = part.__name__.rpartition(".")[2]
        part.add_arguments(parts.add_parser(name, help=part.PURPOSE, description=part.__doc__))
    options = parser.parse_args()
    forget_the_rest()
    _end_in_order()
    try:
        options.measure(options)
    except StackError as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def _end_in_order() -> None:
    """Make SIGTERM act like Ctrl-C, so that everything started here ends too."""

    def terminate(_number: int, _frame: FrameType | None) -> None:
        signal.raise_signal(signal.SIGINT)

    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, terminate)


if __name__ == "__main__":
    sys.exit(main())
