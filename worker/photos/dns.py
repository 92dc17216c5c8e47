"""Resolves photo hosts in the background and refuses a host unless all its addresses are public.

`getaddrinfo` cannot be cancelled and blocks until the DNS server answers. So it runs in separate daemon
threads: not in the event loop's thread pool, and the process does not wait for them at exit.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import ipaddress
import socket
import threading
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from worker.errors import BadInput, PhotoDelayed, Transient
from worker.photos.address import HTTPS_PORT, is_public
from worker.photos.hosts import HostTimedOut

Resolver = Callable[[str], Awaitable[Sequence[str]]]
"""Resolves a host to all its IP addresses, none if the name does not exist; raises Transient."""

LOOKUP_SECONDS = 5.0
REMEMBERED_SECONDS = 60.0
MAX_LOOKUPS = 64
MAX_LOOKUPS_OF_USER = 4
MAX_ADDRESSES = 64
"""Addresses per host; a DNS server may list thousands, and further ones are ignored."""

_NO_SUCH_NAME = {socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME)}


async def resolve(host: str) -> list[str]:
    """All addresses that the system's resolver returns for a host, none if the name does not exist.

    Raises Transient if the lookup fails.
    """
    try:
        ipaddress.ip_address(host)
    except ValueError:
        pass
    else:
        return [host]
    try:
        found = await _getaddrinfo(host)
    except (socket.gaierror, RuntimeError) as exc:  # RuntimeError: no more threads can be started
        if isinstance(exc, socket.gaierror) and exc.errno in _NO_SUCH_NAME:
            return []
        raise Transient("photo_host_unavailable", f"the host name {host[:80]} could not be resolved") from exc
    return [str(sockaddr[0]) for *_, sockaddr in found]


class Lookups:
    """Resolves each host once a minute; refuses a host unless all its addresses are public.

    A caller waits at most 5 s. The lookup continues and counts against its user's limit until its thread
    ends, so that a user with a silent DNS server uses only a few threads.
    """

    def __init__(self, resolver: Resolver) -> None:
        self._resolver = resolver
        self._under_way: dict[str, asyncio.Task[Sequence[str]]] = {}
        self._of_user: Counter[str] = Counter()
        self._known: dict[str, tuple[float, Sequence[str]]] = {}

    async def addresses(self, host: str, user_folder: str) -> Sequence[str]:
        """The host's addresses, all public; raises BadInput or Transient.

        An unknown name and an internal one get the same error, so that customers cannot discover the names of
        the internal network.
        """
        try:
            async with asyncio.timeout(LOOKUP_SECONDS):
                addresses = await self._found(host, user_folder)
        except TimeoutError as exc:
            message = f"the host name {host[:80]} could not be resolved within {LOOKUP_SECONDS:g} s"
            if host in self._under_way:
                raise HostTimedOut("photo_host_unavailable", message) from exc
            own_fault = self._of_user[user_folder] >= MAX_LOOKUPS_OF_USER
            delayed = Transient if own_fault else PhotoDelayed  # by other lookups
            raise delayed("photo_host_unavailable", message) from exc
        if not addresses:
            raise BadInput("photo_host_unknown", f"the host {host[:80]} was not found on the public internet")
        return addresses

    async def close(self) -> None:
        """Cancel the pending lookups; their threads end when `getaddrinfo` returns."""
        tasks = list(self._under_way.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _found(self, host: str, user_folder: str) -> Sequence[str]:
        while True:
            now = asyncio.get_running_loop().time()
            known = self._known.get(host)
            if known and known[0] > now:
                return known[1]
            task = self._under_way.get(host)
            if task is None and self._has_room(user_folder):
                task = self._start(host, user_folder)
            if task is not None:
                await asyncio.wait([task])
                return task.result()
            await asyncio.wait(self._under_way.values(), return_when=asyncio.FIRST_COMPLETED)

    def _has_room(self, user_folder: str) -> bool:
        return len(self._under_way) < MAX_LOOKUPS and self._of_user[user_folder] < MAX_LOOKUPS_OF_USER

    def _start(self, host: str, user_folder: str) -> asyncio.Task[Sequence[str]]:
        task = self._under_way[host] = asyncio.create_task(self._look_up(host))
        self._of_user[user_folder] += 1
        task.add_done_callback(lambda _: self._end(host, user_folder))
        return task

    async def _look_up(self, host: str) -> Sequence[str]:
        found = list(dict.fromkeys(await self._resolver(host)))[:MAX_ADDRESSES]
        public = found if all(is_public(address) for address in found) else []
        now = asyncio.get_running_loop().time()
        self._known = {name: known for name, known in self._known.items() if known[0] > now}
        self._known[host] = (now + REMEMBERED_SECONDS, public)
        return public

    def _end(self, host: str, user_folder: str) -> None:
        task = self._under_way.pop(host)
        self._of_user[user_folder] -= 1
        if not self._of_user[user_folder]:
            del self._of_user[user_folder]
        if not task.cancelled():
            task.exception()  # marks it as retrieved, in case no caller is left


def _getaddrinfo(host: str) -> asyncio.Future[list[Any]]:
    """Run `socket.getaddrinfo` in a daemon thread, which does not block the process's exit."""
    found: concurrent.futures.Future[list[Any]] = concurrent.futures.Future()
    found.set_running_or_notify_cancel()  # not cancellable, because the thread is not

    def run() -> None:
        try:
            found.set_result(socket.getaddrinfo(host, HTTPS_PORT, type=socket.SOCK_STREAM))
        except (OSError, ValueError) as exc:
            found.set_exception(exc)

    threading.Thread(target=run, name="photo-host-lookup", daemon=True).start()
    return asyncio.wrap_future(found)
