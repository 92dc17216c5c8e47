"""The HTTP client for Supabase and Gemini.

httpx reads proxies and certificate authorities from the environment: `HTTPS_PROXY`, `ALL_PROXY`, `NO_PROXY`,
`SSL_CERT_FILE`, `SSL_CERT_DIR`. Connections to localhost and over plain http bypass the proxy: over http it
could read the key.
Photo hosts do not use this client: a proxy would resolve the host again after `worker.photos.download` has
checked its addresses.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from worker.errors import Misconfigured

if TYPE_CHECKING:
    import ssl

    import httpx

DIRECT = ("http://", "all://localhost", "all://127.0.0.1", "all://[::1]")


def certificates() -> ssl.SSLContext:
    """The TLS context with the trusted certificates. Raises Misconfigured if they cannot be read."""
    import httpx

    try:
        return httpx.create_ssl_context()
    except OSError as exc:
        text = "The certificates in SSL_CERT_FILE or SSL_CERT_DIR cannot be read: fix the path or unset it"
        raise Misconfigured("certificates", f"{text} ({type(exc).__name__}).") from None


def http_client(trusted: ssl.SSLContext | None = None, **options: Any) -> httpx.AsyncClient:
    """Build a client with httpx's `options`. Raises Misconfigured for an invalid proxy setting."""
    import httpx

    verify = trusted or certificates()
    try:
        return httpx.AsyncClient(verify=verify, mounts=dict.fromkeys(DIRECT), **options)
    except (ValueError, ImportError, httpx.InvalidURL) as exc:
        raise Misconfigured(
            "proxy",
            "The proxy setting is invalid: set HTTPS_PROXY, HTTP_PROXY and ALL_PROXY to a URL like "
            f"http://proxy.example.com:3128, or unset them ({type(exc).__name__}).",
        ) from None
