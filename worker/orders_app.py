"""The composition root of `generate_images`: acts for its callers with their own tokens, and holds no secret.

A person's token travels with the publishable key, never with the secret one: where Supabase's gateway does
not take the token for one, it acts as the role of the key beside it.
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
    """Puts orders into the queue; belongs to one event loop."""

    def __init__(self, settings: OrderSettings) -> None:
        self._key = settings.supabase_publishable_key
        self._queue = Queue(Project(settings.supabase_url, self._key, "SUPABASE_ANON_KEY"), "orders")

    async def enqueue(
        self, request: Mapping[str, Any], idempotency_key: str | None, access_token: str
    ) -> Mapping[str, Any]:
        """Enqueue an order as the user whom the token names. Raises QueueRefused, QueueUnavailable
        and Misconfigured.
        """
        return await self._queue.enqueue(request, idempotency_key, access_token, self._key.reveal())


_functions: dict[asyncio.AbstractEventLoop, OrderFunction] = {}


def order_function() -> OrderFunction:
    """The function of the running event loop, built at the first call. Raises InvalidSettings."""
    loop = asyncio.get_running_loop()
    if loop not in _functions:
        log.set_up(os.environ)
        settings = OrderSettings.from_env(os.environ)
        _functions.clear()
        _functions[loop] = OrderFunction(Orders(settings), settings.cors_allowed_origins)
    return _functions[loop]
