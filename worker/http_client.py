"""The HTTP client for what a worker calls by name: Supabase and Gemini are reached the same way.

Proxies and certificate authorities are the environment's, as httpx reads them: `HTTPS_PROXY`, `ALL_PROXY`,
`NO_PROXY`, `SSL_CERT_FILE`, `SSL_CERT_DIR`. This machine is always reached without a proxy, and so is a
server that is called over http: the proxy would read its key.
Photo hosts are not called through here: a proxy would look the host up again, after `worker.photos.download`
has checked its addresses.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from worker.errors import Misconfigured

if TYPE_CHECKING:
    import ssl

    import httpx

DIRECT = ("http://", "all://localhost", "all://127.0.0.1", "all://[::1]")


def certificates() -> ssl.SSLContext:
    """Whom to trust in TLS. Raises Misconfigured if the environment names what cannot be read."""
    import httpx

    try:
        return httpx.create_ssl_context()
    except OSError as exc:
        text = "SSL_CERT_FILE or SSL_CERT_DIR names certificates that cannot be read"
        raise Misconfigured("certificates", f"{text} ({type(exc).__name__}).") from None


def http_client(trusted: ssl.SSLContext | None = None, **options: Any) -> httpx.AsyncClient:
    """Build a client; `options` are httpx's. Raises Misconfigured for a proxy that cannot be used."""
    import httpx

    verify = trusted or certificates()
    try:
        return httpx.AsyncClient(verify=verify, mounts=dict.fromkeys(DIRECT), **options)
    except (ValueError, ImportError, httpx.InvalidURL) as exc:
        raise Misconfigured(
            "proxy",
            "The proxy of this environment cannot be used: HTTPS_PROXY, HTTP_PROXY and ALL_PROXY must be "
            f"like http://proxy.example.com:3128, or not set ({type(exc).__name__}).",
        ) from None
