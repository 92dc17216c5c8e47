"""Which photo references are allowed: public https URLs, and files in the user's folder of an allowed bucket.

Resolves no host. `is_public` checks the IP addresses of a host when connecting.
"""

from __future__ import annotations

import ipaddress
import re
import unicodedata
from collections.abc import Collection
from dataclasses import dataclass, field
from urllib.parse import quote

import idna

from worker.errors import BadInput

MAX_URL_CHARACTERS = 2048
MAX_REFERENCE_CHARACTERS = 1024
HTTPS_PORT = 443

# IANA special-purpose registries (RFC 6890 and successors), and addresses reserved by cloud platforms.
_SPECIAL_IPV4 = [
    ipaddress.IPv4Network(net)
    for net in (
        *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12"),
        *("192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15"),
        *("198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4"),
        "168.63.129.16/32",  # Azure's platform endpoint in every virtual machine
    )
]
_GLOBAL_IPV6 = ipaddress.IPv6Network("2000::/3")  # the only block that IANA has allocated as global unicast
_SPECIAL_IPV6 = [
    ipaddress.IPv6Network(net)
    for net in (
        "2001::/23",  # IETF protocols, including Teredo
        "2001:db8::/32",
        "2002::/16",  # 6to4
        "3fff::/20",
    )
]
_COMPATIBLE_IPV6 = ipaddress.IPv6Network("::/96")

# Names of internal hosts: RFC 6761, 6762 (appendix G), 8375, and the clouds' metadata servers.
_INSIDE_NAMES = (
    *(
        "localhost",
        "localdomain",
        "local",
        "internal",
        "intranet",
        "private",
        "corp",
        "home",
        "lan",
        "home.arpa",
    ),
    *("metadata.goog", "metadata.tencentyun.com"),
)
_HOST_LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*:", re.IGNORECASE)
_PLAIN_CHARACTERS = "%/?:@!$&'()*+,;=-._~[]|"


@dataclass(frozen=True, slots=True)
class PhotoUrl:
    """An https URL that may be fetched if its IP addresses are public; `host` is lower-case ASCII.

    Path and query are not in `repr`, because in a signed URL they are a credential. Messages use `shown`.
    """

    host: str
    port: int
    path_and_query: str = field(repr=False)
    url: str = field(repr=False)

    @property
    def shown(self) -> str:
        """Host and last path segment, at most 80 characters."""
        return show(self.url)


@dataclass(frozen=True, slots=True)
class StorageReference:
    """A file in Supabase Storage; the first folder of `path` is the user's folder."""

    bucket: str
    path: str

    @property
    def shown(self) -> str:
        """Bucket and file name, at most 80 characters."""
        return show(f"{self.bucket}/{self.path}")


def show(reference: str) -> str:
    """The part of a reference that is safe to show: host or bucket and last segment, at most 80 characters.

    Query, fragment and user name are left out, because they may be credentials.
    """
    bare = re.split(r"[?#]", reference, maxsplit=1)[0]
    scheme = _SCHEME.match(bare)
    first, *rest = bare[scheme.end() if scheme else 0 :].lstrip("/\\").split("/")
    place = first.rpartition("@")[2]
    place = place if place.startswith("[") else place.partition(":")[0]
    text = "/".join([place, "…", rest[-1]] if len(rest) > 1 else [place, *rest])
    text = "".join(char for char in text if char.isprintable())
    return text if len(text) <= 80 else f"{text[:79]}…"


def is_url(reference: str) -> bool:
    """Whether a photo reference is a URL (of any scheme) rather than `bucket/path`."""
    return _SCHEME.match(reference) is not None


def parse_photo_url(url: str) -> PhotoUrl:
    """Accept an https URL with a public host name or public IPv4 address on port 443.

    Raises BadInput: `bad_url` for an invalid URL, `forbidden_address` for an internal host or address.
    """
    if len(url) > MAX_URL_CHARACTERS:
        raise _bad_url(url, f"is longer than {MAX_URL_CHARACTERS} characters")
    if "\\" in url or _has_invisible(url) or " " in url:
        raise _bad_url(url, "contains spaces, backslashes or control characters; percent-encode them")
    if not url.lower().startswith("https://"):
        raise _bad_url(url, "does not begin with https://")
    authority = re.split(r"[/?#]", url[8:], maxsplit=1)[0]
    rest = url[8 + len(authority) :].partition("#")[0]
    host = _checked_host(url, _without_port(url, authority))
    target = quote(rest if rest.startswith("/") else f"/{rest}", safe=_PLAIN_CHARACTERS)
    if len(target) > MAX_URL_CHARACTERS - len(f"https://{host}"):
        raise _bad_url(url, f"is longer than {MAX_URL_CHARACTERS} characters after encoding")
    return PhotoUrl(host, HTTPS_PORT, target, f"https://{host}{target}")


def parse_storage_reference(reference: str, user_folder: str, buckets: Collection[str]) -> StorageReference:
    """Accept `bucket/path` in an allowed bucket if the first folder is exactly the user's folder.

    The file is read with the service key, so characters that a server might decode or normalize are refused.
    Raises BadInput: `bad_reference`, `forbidden_bucket` or `foreign_photo`.
    """
    shown = show(reference)
    bucket, *segments = reference.split("/")
    if len(reference) > MAX_REFERENCE_CHARACTERS:
        raise BadInput("bad_reference", f"{shown}: longer than {MAX_REFERENCE_CHARACTERS} characters")
    if any(char in "\\%?#" for char in reference) or _has_invisible(reference):
        raise BadInput("bad_reference", f"{shown}: contains one of \\ % ? # or a control character")
    if len(segments) < 2 or any(part.strip() in ("", ".", "..") for part in (bucket, *segments)):
        raise BadInput("bad_reference", f"{shown}: must be bucket/user/file, without empty, . or .. folders")
    if bucket not in buckets:
        raise BadInput("forbidden_bucket", f"{shown}: photos from this bucket are not allowed")
    if segments[0] != user_folder:
        raise BadInput("foreign_photo", f"{shown}: is not in your own folder")
    return StorageReference(bucket, "/".join(segments))


def is_public(ip: str) -> bool:
    """Whether an IP address is on the public internet; False for an invalid address or one with a zone.

    IPv4-mapped and IPv4-compatible IPv6 addresses are checked by their IPv4 address. Tunnels and translations
    (6to4, Teredo, NAT64) are always refused, because their destination depends on a gateway.
    """
    try:
        address = ipaddress.ip_address(ip)
    except ValueError:
        return False
    if isinstance(address, ipaddress.IPv4Address):
        return address.is_global and not any(address in net for net in _SPECIAL_IPV4)
    if address.scope_id is not None:
        return False
    if address.ipv4_mapped is not None:
        return is_public(str(address.ipv4_mapped))
    if address in _COMPATIBLE_IPV6:
        return is_public(str(ipaddress.IPv4Address(int(address))))
    return address in _GLOBAL_IPV6 and not any(address in net for net in _SPECIAL_IPV6)


def _without_port(url: str, authority: str) -> str:
    if "@" in authority:
        raise _bad_url(url, "contains a user name or password")
    if "[" in authority or authority.count(":") > 1:
        raise _forbidden(url, "has an IPv6 address; use the host name")
    host, colon, port = authority.partition(":")
    if colon and port != str(HTTPS_PORT):
        raise _forbidden(url, "has a port; only the default, 443, is allowed")
    return host


def _checked_host(url: str, raw: str) -> str:
    """Check the host in the form that is resolved: after Unicode normalization and IDNA."""
    host = _ascii_host(url, raw)
    labels = host.split(".")
    if _NUMBER.fullmatch(labels[-1]):
        # URL parsers treat a host that ends in a number as IPv4, in any notation (WHATWG URL, 3.5).
        if not _is_dotted_quad(host) or not is_public(host):
            raise _forbidden(url, "has an IP address that is not on the public internet")
        return host
    if len(host) > 253 or not all(_HOST_LABEL.fullmatch(label) for label in labels):
        raise _bad_url(url, "has no valid host name")
    if len(labels) == 1 or any(host == name or host.endswith(f".{name}") for name in _INSIDE_NAMES):
        raise _forbidden(url, "has a host that is not on the public internet")
    return host


def _ascii_host(url: str, raw: str) -> str:
    host = unicodedata.normalize("NFKC", raw).lower()
    if not host:
        raise _bad_url(url, "has no host name")
    if host.isascii():
        return host
    try:
        return idna.encode(host, uts46=True, std3_rules=True).decode("ascii")
    except UnicodeError as exc:
        raise _bad_url(url, "has no valid host name") from exc


def _is_dotted_quad(host: str) -> bool:
    try:
        return str(ipaddress.IPv4Address(host)) == host
    except ValueError:
        return False


def _has_invisible(text: str) -> bool:
    """Whether a text has control or format characters, lone surrogates, or spaces other than U+0020."""
    return any(
        unicodedata.category(char) in ("Cc", "Cf", "Cs", "Zs", "Zl", "Zp") and char != " " for char in text
    )


def _bad_url(url: str, reason: str) -> BadInput:
    return BadInput("bad_url", f"the photo URL {show(url)} {reason}")


def _forbidden(url: str, reason: str) -> BadInput:
    return BadInput("forbidden_address", f"the photo URL {show(url)} {reason}")
