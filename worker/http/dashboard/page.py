"""Serves the operator's page, which contains no data: it asks for the secret and then loads the data."""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from pathlib import Path

from starlette.responses import Response

from worker.http.response import SECURITY_HEADERS

FOLDER = Path(__file__).parent
ASKED = ' data-secret="asked"'
SCRIPTS = ("elements.js", "parts.js", "page.js")


def dashboard(photo_origin: str, asks_secret: bool) -> Response:
    """The page. Its policy allows only its own script, style and host, and images of `photo_origin`."""
    page, policy = _page()
    return Response(
        page if asks_secret else page.replace(ASKED, "", 1),
        media_type="text/html",
        headers={
            **SECURITY_HEADERS,
            "Content-Security-Policy": f"{policy}; img-src data: {photo_origin}",
            "Referrer-Policy": "no-referrer",
        },
    )


@cache
def _page() -> tuple[str, str]:
    """The page, and its content security policy without `img-src`."""
    style = (FOLDER / "page.css").read_text("utf-8")
    script = "\n".join((FOLDER / name).read_text("utf-8") for name in SCRIPTS)
    page = (FOLDER / "index.html").read_text("utf-8")
    page = page.replace("<style></style>", f"<style>{style}</style>")
    page = page.replace("<script></script>", f"<script>{script}</script>")
    return page, (
        f"default-src 'none'; script-src '{_hash(script)}'; style-src '{_hash(style)}'; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
