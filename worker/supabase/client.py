"""The connection to the Supabase project: one async client, built on first use and reused by all runs."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from worker.common.http_client import http_client
from worker.log.secret import Secret
from worker.supabase.rpc_errors import REFUSAL_STATUSES, SERVICE_KEY, project_error

if TYPE_CHECKING:
    import httpx
    from postgrest import AsyncPostgrestClient
    from storage3 import AsyncStorageClient
    from supabase import AsyncClient

# Keeps httpx from importing its command line and rich, which would take a tenth of a cold start.
sys.modules.setdefault("httpx._main", None)  # type: ignore[arg-type]

CONNECT_SECONDS = 5.0
REPLY_SECONDS = 20.0
"""Read timeout of one call; each caller has its own deadline in addition."""


class Project:
    """Supabase's client over our HTTP client. One instance belongs to one event loop.

    Any answer about the project itself (key refused, paused, restricted) is raised as Misconfigured,
    regardless of the service. `key_name` is the variable that the error names for an invalid key.
    """

    def __init__(self, url: str, key: Secret, key_name: str = SERVICE_KEY) -> None:
        self.url = url
        self._key = key
        self._key_name = key_name
        self._http: httpx.AsyncClient | None = None
        self._rest: AsyncPostgrestClient | None = None
        self._client: AsyncClient | None = None

    @property
    def photo_host(self) -> str | None:
        """The host in `https://` URLs of this project's Storage; None if they are not valid photo URLs."""
        parts = urlsplit(self.url)
        return parts.hostname if parts.scheme == "https" and parts.port in (None, 443) else None

    @property
    def http(self) -> httpx.AsyncClient:
        """The HTTP client for all calls to this project."""
        if self._http is None:
            import httpx

            self._http = http_client(
                timeout=httpx.Timeout(REPLY_SECONDS, connect=CONNECT_SECONDS),
                limits=httpx.Limits(max_connections=64, max_keepalive_connections=32),
                event_hooks={"response": [self._raise_project_error]},
            )
        return self._http

    @property
    def rest(self) -> AsyncPostgrestClient:
        """Supabase's RPC client, with the service key."""
        if self._rest is None:
            from postgrest import AsyncPostgrestClient
            from postgrest.constants import DEFAULT_POSTGREST_CLIENT_HEADERS

            headers = DEFAULT_POSTGREST_CLIENT_HEADERS | self.headers()
            self._rest = AsyncPostgrestClient(f"{self.url}/rest/v1", headers=headers, http_client=self.http)
        return self._rest

    @property
    def storage(self) -> AsyncStorageClient:
        """The Storage client of Supabase's client, which has the service key and refreshes no token.

        Separate from `rest`, because an idle run does not need it, and all of `supabase` takes 0.2 s of
        processor time to import.
        """
        if self._client is None:
            from supabase import AsyncClient, AsyncClientOptions

            options = AsyncClientOptions(
                httpx_client=self.http, auto_refresh_token=False, persist_session=False
            )
            self._client = AsyncClient(self.url, self._key.reveal(), options)
        return self._client.storage

    def headers(self) -> dict[str, str]:
        """The headers with the service key, for requests made without the client."""
        key = self._key.reveal()
        return {"apikey": key, "Authorization": f"Bearer {key}"}

    async def close(self) -> None:
        """Close the connections; a later use opens new ones."""
        http, self._http, self._rest, self._client = self._http, None, None, None
        if http is not None:
            await http.aclose()

    async def _raise_project_error(self, response: httpx.Response) -> None:
        if response.status_code in REFUSAL_STATUSES:
            error = project_error(response.status_code, await response.aread(), self._key_name)
            if error is not None:
                raise error
