"""Which hosts photos may come from, and which of them one run does not wait for again."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection

from worker.errors import BadInput, Transient
from worker.photos.address import PhotoUrl

MAX_TIMED_OUT_HOSTS = 8
"""After as many silent hosts of one user, only hosts that have answered are waited for: names are free."""


class HostTimedOut(Transient):
    """A photo host kept us waiting: for its name, its connection, its first byte or the rest."""


class AllowedHosts:
    """The hosts that `https://` photos may come from: exact names, `*.cdn.example`, or `*` for all.

    `*.cdn.example` is every name below `cdn.example`, not that name itself.
    """

    def __init__(self, names: Collection[str]) -> None:
        self._any = "*" in names
        self._exact = frozenset(names)
        self._endings = tuple(name[1:] for name in names if name.startswith("*."))

    def __contains__(self, host: str) -> bool:
        return self._any or host in self._exact or host.endswith(self._endings)


class RunHosts:
    """What one run knows about photo hosts.

    A host that timed out is not waited for again, for the same user: else one customer could make a
    popular host unavailable to the others.
    """

    def __init__(self, allowed: AllowedHosts) -> None:
        self._allowed = allowed
        self._timed_out: defaultdict[str, set[str]] = defaultdict(set)
        self._answered: defaultdict[str, set[str]] = defaultdict(set)

    def require(self, url: PhotoUrl) -> None:
        """Raise BadInput `photo_host_not_allowed` unless photos may come from this host."""
        if url.host not in self._allowed:
            said = f"{url.shown}: photos may not be taken from {url.host}"
            raise BadInput("photo_host_not_allowed", said)

    def require_answering(self, url: PhotoUrl, user_folder: str) -> None:
        """Raise Transient for a host that timed out for this user before, or if too many others did."""
        timed_out = self._timed_out[user_folder]
        if url.host in timed_out:
            said = "the host did not answer in time before, in the same run"
        elif len(timed_out) >= MAX_TIMED_OUT_HOSTS and url.host not in self._answered[user_folder]:
            said = f"{len(timed_out)} other hosts did not answer in time, in the same run"
        else:
            return
        raise Transient("photo_host_unavailable", f"{url.shown}: {said}")

    def answered(self, url: PhotoUrl, user_folder: str) -> None:
        """Note that the host sent what it was asked for."""
        self._answered[user_folder].add(url.host)

    def timed_out(self, url: PhotoUrl, user_folder: str) -> None:
        """Note that the host kept this user's photo waiting."""
        self._timed_out[user_folder].add(url.host)
