"""`python -m local demo` and `python -m local up`: what `make demo` and `make up` do."""

import argparse
import signal
import sys
from types import FrameType

import httpx
import psycopg

from local.demo.demo import demo
from local.demo.environment import forget_the_rest
from local.demo.up import up
from local.stack.errors import StackError
from local.stack.stack import DATA


def main() -> int:
    """Reads the command, forgets the environment, runs; the exit status is 130 after Ctrl-C or SIGTERM."""
    parser = argparse.ArgumentParser(prog="python -m local")
    commands = parser.add_subparsers(dest="command", required=True)
    demo_parser = commands.add_parser("demo", help="generate photos end to end on the local stack")
    demo_parser.add_argument("--fast", action="store_true", help="a faster Gemini, as the tests use it")
    commands.add_parser("up", help="keep the local stack running, to work against it")
    options = parser.parse_args()
    dropped = forget_the_rest()
    _end_in_order()
    try:
        return demo(options.fast, dropped) if options.command == "demo" else up()
    except StackError as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    except (OSError, httpx.HTTPError, psycopg.Error) as error:
        print(f"\nThe local stack failed: {error!r}. Its logs are below {DATA}.", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _end_in_order() -> None:
    """Lets SIGTERM do what Ctrl-C does, also where a shell's `&` has made Ctrl-C do nothing."""
    signal.signal(signal.SIGINT, signal.default_int_handler)

    def terminate(_number: int, _frame: FrameType | None) -> None:
        signal.raise_signal(signal.SIGINT)

    signal.signal(signal.SIGTERM, terminate)


if __name__ == "__main__":
    sys.exit(main())
