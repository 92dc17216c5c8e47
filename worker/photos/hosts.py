"""Which hosts are allowed for photos, and which hosts a run skips because they timed out."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection

from worker.errors import BadInput, Transient
from worker.photos.address import PhotoUrl

MAX_TIMED_OUT_HOSTS = 8
"""After this many timed-out hosts of one user, only hosts that have answered are tried, because a customer
can name any number of hosts."""


class HostTimedOut(Transient):
    """A photo host timed out: name lookup, connection, first byte or transfer."""


class AllowedHosts:
    """The allowed hosts of `https://` photos: exact names, `*.cdn.example`, or `*` for all.

    `*.cdn.example` matches every name below `cdn.example`, but not `cdn.example` itself.
    """

    def __init__(self, names: Collection[str]) -> None:
        self._any = "*" in names
        self._exact = frozenset(names)
        self._endings = tuple(name[1:] for name in names if name.startswith("*."))

    def __contains__(self, host: str) -> bool:
        return self._any or host in self._exact or host.endswith(self._endings)


class RunHosts:
    """What one run knows about photo hosts.

    A host that timed out is skipped for the same user only; otherwise one customer could make a popular host
    unavailable to others.
    """

    def __init__(self, allowed: AllowedHosts) -> None:
        self._allowed = allowed
        self._timed_out: defaultdict[str, set[str]] = defaultdict(set)
        self._answered: defaultdict[str, set[str]] = defaultdict(set)

    def require(self, url: PhotoUrl) -> None:
        """Raise BadInput `photo_host_not_allowed` unless the host is allowed."""
        if url.host not in self._allowed:
            message = f"{url.shown}: photos from {url.host} are not allowed"
            raise BadInput("photo_host_not_allowed", message)

    def require_answering(self, url: PhotoUrl, user_folder: str) -> None:
        """Raise Transient for a host that timed out for this user, or if too many others did."""
        timed_out = self._timed_out[user_folder]
        if url.host in timed_out:
            message = "the host timed out earlier in this run"
        elif len(timed_out) >= MAX_TIMED_OUT_HOSTS and url.host not in self._answered[user_folder]:
            message = f"{len(timed_out)} other hosts of this user timed out in this run"
        else:
            return
        raise Transient("photo_host_unavailable", f"{url.shown}: {message}")

    def answered(self, url: PhotoUrl, user_folder: str) -> None:
        """Record that the host answered."""
        self._answered[user_folder].add(url.host)

    def timed_out(self, url: PhotoUrl, user_folder: str) -> None:
        """Record that the host timed out for this user."""
        self._timed_out[user_folder].add(url.host)
