"""The addresses of photo hosts, looked up beside everything else and public without exception.

`getaddrinfo` cannot be cancelled and waits as long as a DNS server stays silent. So it runs in threads of
its own, neither the event loop's shared ones nor any that the process waits for when it ends.
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

from worker.errors import BadInput, Transient
from worker.photos.address import HTTPS_PORT, is_public
from worker.photos.hosts import HostTimedOut

Resolver = Callable[[str], Awaitable[Sequence[str]]]
"""Looks a host up: all its IP addresses, none if there is no such name; or Transient."""

LOOKUP_SECONDS = 5.0
REMEMBERED_SECONDS = 60.0
MAX_LOOKUPS = 64
MAX_LOOKUPS_OF_USER = 4
MAX_ADDRESSES = 64
"""Of a host; what a DNS server lists beyond, which may be thousands, is neither checked nor connected to."""

_NO_SUCH_NAME = {socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME)}


async def resolve(host: str) -> list[str]:
    """Every address the system's resolver gives for a host, none if it knows no such name.

    Raises Transient if it cannot say.
    """
    try:
        ipaddress.ip_address(host)
    except ValueError:
        pass
    else:
        return [host]
    try:
        found = await _getaddrinfo(host)
    except (socket.gaierror, RuntimeError) as exc:  # RuntimeError: the process may start no more threads
        if isinstance(exc, socket.gaierror) and exc.errno in _NO_SUCH_NAME:
            return []
        raise Transient(
            "photo_host_unavailable", f"the host name {host[:80]} could not be looked up"
        ) from exc
    return [str(sockaddr[0]) for *_, sockaddr in found]


class Lookups:
    """Looks hosts up, each once a minute; refuses a host unless every address is public.

    A caller waits 5 s at most. The lookup goes on without it and counts until its thread ends, so that a
    user whose DNS server is silent has a few threads and never all of them.
    """

    def __init__(self, resolver: Resolver) -> None:
        self._resolver = resolver
        self._under_way: dict[str, asyncio.Task[Sequence[str]]] = {}
        self._of_user: Counter[str] = Counter()
        self._known: dict[str, tuple[float, Sequence[str]]] = {}

    async def addresses(self, host: str, user_folder: str) -> Sequence[str]:
        """The host's addresses, all of them public; raises BadInput or Transient.

        A name that does not exist and one that leads inside are told alike: whoever orders a photo must
        not learn the names of the network around us.
        """
        try:
            async with asyncio.timeout(LOOKUP_SECONDS):
                addresses = await self._found(host, user_folder)
        except TimeoutError as exc:
            said = f"the host name {host[:80]} could not be looked up within {LOOKUP_SECONDS:g} s"
            if host in self._under_way:
                raise HostTimedOut("photo_host_unavailable", said) from exc
            raise Transient("photo_host_unavailable", said) from exc  # others' names kept it waiting
        if not addresses:
            raise BadInput("photo_host_unknown", f"there is no host {host[:80]} on the public internet")
        return addresses

    async def close(self) -> None:
        """Forget the lookups under way; their threads end when they do."""
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
            task.exception()  # taken note of, also where nobody waits any more


def _getaddrinfo(host: str) -> asyncio.Future[list[Any]]:
    """`socket.getaddrinfo` in a daemon thread, which a process can end without."""
    found: concurrent.futures.Future[list[Any]] = concurrent.futures.Future()
    found.set_running_or_notify_cancel()  # from here on it cannot be cancelled, as the thread cannot

    def run() -> None:
        try:
            found.set_result(socket.getaddrinfo(host, HTTPS_PORT, type=socket.SOCK_STREAM))
        except (OSError, ValueError) as exc:
            found.set_exception(exc)

    threading.Thread(target=run, name="photo-host-lookup", daemon=True).start()
    return asyncio.wrap_future(found)
