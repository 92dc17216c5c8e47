"""The demo's output while it runs: lines, and on a terminal a progress bar below them."""

import json
import sys
from collections.abc import Mapping
from typing import Any, TextIO

WIDTH = 36


class Progress:
    """Lines on a stream. On a terminal the bar is redrawn in place; elsewhere it is omitted."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stdout
        self._drawn = False
        self.draws = self._stream.isatty()

    def say(self, line: str = "") -> None:
        """Writes a line, above the bar."""
        self._erase()
        print(line, file=self._stream, flush=True)

    def result(self, result: Mapping[str, Any]) -> None:
        """Writes the result as one line of JSON, for programs: a terminal does not get it."""
        if not self.draws:
            self.say(json.dumps(result))

    def bar(self, done: int, total: int, words: str) -> None:
        """Draws how far it is."""
        if not self.draws:
            return
        self._erase()
        filled = WIDTH * done // max(total, 1)
        print(
            f"  {'█' * filled}{'░' * (WIDTH - filled)} {done} of {total}  {words}",
            end="",
            file=self._stream,
            flush=True,
        )
        self._drawn = True

    def _erase(self) -> None:
        if self._drawn:
            print("\r\x1b[K", end="", file=self._stream)
            self._drawn = False
