"""A small app in the browser, on the local stack, with the functions that docs/app.md shows."""

from __future__ import annotations

import json
import re
import threading
import urllib.request
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Self

from local.stack.supabase import DIRECT, NODE_MODULES

FOLDER = Path(__file__).with_name("app")
PAGE = Path(__file__).resolve().parent.parent.parent / "docs" / "app.md"
LIBRARY = NODE_MODULES / "@supabase" / "supabase-js" / "dist" / "umd" / "supabase.js"
TYPES = {".html": "text/html; charset=utf-8", ".js": "text/javascript", ".json": "application/json"}
RUN_SECONDS = 120.0


def block(kind: str) -> str:
    """The block of docs/app.md of this kind."""
    found = re.search(rf"^```{kind}\n((?:.*\n)*?)```$", PAGE.read_text(), re.MULTILINE)
    assert found, kind
    return found[1]


LOOPBACK = frozenset({"127.0.0.1", "localhost", "[::1]"})


class AppSite:
    """A server on loopback; a context manager. `settings` go to the browser, the secret does not.

    The settings contain a password, so it answers only requests for a loopback host: it refuses a web page
    whose name resolves to this machine, and requests that another page posts.
    """

    def __init__(self, port: int, settings: Mapping[str, str], worker_url: str, secret: str) -> None:
        self._files = {
            "/": (FOLDER / "index.html").read_bytes(),
            "/app.js": (FOLDER / "app.js").read_bytes(),
            "/batch.js": block("js app").encode(),
            "/supabase.js": LIBRARY.read_bytes(),
            "/settings.json": json.dumps(dict(settings)).encode(),
        }
        self._worker = urllib.request.Request(worker_url, b"", {"X-Worker-Secret": secret})
        self._server = ThreadingHTTPServer(("127.0.0.1", port), self._handler())
        self.url = f"http://127.0.0.1:{self._server.server_port}/"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, name="app", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        site = self

        class Handler(BaseHTTPRequestHandler):
            def parse_request(self) -> bool:
                """Read the head of a request; what did not come from this page ends here."""
                if not super().parse_request():
                    return False
                host = self.headers.get("Host", "")
                origin = self.headers.get("Origin", f"http://{host}")
                if host.rpartition(":")[0] in LOOPBACK and origin == f"http://{host}":
                    return True
                self._answer(403, b"", TYPES[".json"])
                return False

            def do_GET(self) -> None:
                """A file of the page."""
                body = site._files.get(self.path)
                kind = TYPES.get(Path(self.path).suffix, TYPES[".html"])
                self._answer(404 if body is None else 200, body or b"", kind)

            def do_POST(self) -> None:
                """The kick: starts a run of the worker without waiting for its end."""
                if self.path == "/kick":
                    threading.Thread(target=site._kick, daemon=True).start()
                self._answer(202 if self.path == "/kick" else 404, b"", TYPES[".json"])

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the library's name
                """Say nothing: the guide is what is to be read."""

            def _answer(self, status: int, body: bytes, kind: str) -> None:
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.send_header("Cache-Control", "no-store")
                self.end_headers()
                self.wfile.write(body)

        return Handler

    def _kick(self) -> None:
        try:
            DIRECT.open(self._worker, timeout=RUN_SECONDS).close()
        except OSError:
            return  # its log says why; the next order kicks again
