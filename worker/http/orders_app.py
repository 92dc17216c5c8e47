"""The composition root of `generate_images`: calls Supabase with its callers' tokens and has no secret.

A user's token is sent with the publishable key, never with the secret key: if Supabase's gateway does not
accept the token, it uses the role of the key.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from typing import Any

from worker import log
from worker.http.orders import OrderFunction
from worker.settings import OrderSettings
from worker.supabase.client import Project
from worker.supabase.queue import Queue


class Orders:
    """Enqueues orders; belongs to one event loop."""

    def __init__(self, settings: OrderSettings) -> None:
        self._key = settings.supabase_publishable_key
        self._queue = Queue(Project(settings.supabase_url, self._key, "SUPABASE_ANON_KEY"), "orders")

    async def enqueue(
        self, request: Mapping[str, Any], idempotency_key: str | None, access_token: str
    ) -> Mapping[str, Any]:
        """Enqueue an order as the token's user. Raises QueueRefused, QueueUnavailable and Misconfigured."""
        return await self._queue.enqueue(request, idempotency_key, access_token, self._key.reveal())


_functions: dict[asyncio.AbstractEventLoop, OrderFunction] = {}


def order_function() -> OrderFunction:
    """The function of the running event loop, built on first use. Raises InvalidSettings."""
    loop = asyncio.get_running_loop()
    if loop not in _functions:
        log.set_up(os.environ)
        settings = OrderSettings.from_env(os.environ)
        _functions.clear()
        _functions[loop] = OrderFunction(Orders(settings), settings.cors_allowed_origins)
    return _functions[loop]
