"""The guard on photo references: what leads inside, or to someone else's photos, is refused unseen."""

import ipaddress
from urllib.parse import urlsplit

import httpx
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tests.support.hostile import BUCKETS, UNSEEN_OR_LONG, URLS, USER, references
from worker.errors import BadInput
from worker.photos.address import (
    PhotoUrl,
    StorageReference,
    is_public,
    is_url,
    parse_photo_url,
    parse_storage_reference,
    show,
)

FINE = {
    "https://example.com": ("example.com", "/"),
    "https://example.com?x=1": ("example.com", "/?x=1"),
    "https://example.com/a.jpg#top": ("example.com", "/a.jpg"),
    "HTTPS://Example.COM:443/A.jpg": ("example.com", "/A.jpg"),
    "https://bücher.example/ü.jpg?q=é": ("xn--bcher-kva.example", "/%C3%BC.jpg?q=%C3%A9"),
    "https://例え.テスト/": ("xn--r8jz45g.xn--zckzah", "/"),
    "https://\uff45\uff58ample\uff0ecom/": ("example.com", "/"),
    "https://xn--bcher-kva.example/": ("xn--bcher-kva.example", "/"),
    "https://my_bucket.s3.eu-west-1.amazonaws.com/k": ("my_bucket.s3.eu-west-1.amazonaws.com", "/k"),
    "https://r3---sn-4g5e6n7s.example.com/v": ("r3---sn-4g5e6n7s.example.com", "/v"),
    "https://1.1.1.1/dns.png": ("1.1.1.1", "/dns.png"),
    "https://1.example.com/": ("1.example.com", "/"),
    "https://127.0.0.1.example.com/": ("127.0.0.1.example.com", "/"),
    "https://0x7f.example.com/": ("0x7f.example.com", "/"),
    "https://local.example.com/": ("local.example.com", "/"),
    "https://notlocalhost.com/": ("notlocalhost.com", "/"),
    "https://example.com/a@b:c/%2e%2E/d?X-Sig=a%2Bb%3D&e=1;3": (
        "example.com",
        "/a@b:c/%2e%2E/d?X-Sig=a%2Bb%3D&e=1;3",
    ),
    'https://example.com/"<a>`{b}^': ("example.com", "/%22%3Ca%3E%60%7Bb%7D%5E"),
    "https://example.com/?u=https://127.0.0.1/": ("example.com", "/?u=https://127.0.0.1/"),
}

SPECIAL = [
    *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12"),
    *("192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15"),
    *("198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4", "168.63.129.16/32", "::/128"),
    *("::1/128", "64:ff9b::/96", "64:ff9b:1::/48", "100::/64", "2001::/32", "2001:2::/48"),
    *("2001:10::/28", "2001:20::/28", "2001:db8::/32", "2002::/16", "3fff::/20", "5f00::/16", "fc00::/7"),
    *("fe80::/10", "fec0::/10", "ff00::/8", "400::/6", "e000::/4"),
]
PUBLIC = [
    *("1.1.1.1", "8.8.8.8", "9.255.255.255", "11.0.0.0", "93.184.216.34", "100.63.255.255"),
    *("100.128.0.0", "126.255.255.255", "128.0.0.1", "169.253.255.255", "172.15.255.255", "172.32.0.0"),
    *("192.88.98.1", "192.167.255.255", "198.17.255.255", "198.20.0.0", "223.255.255.255"),
    *("2606:4700:4700::1111", "2a00:1450:4001:81b::200e", "2001:4860:4860::8888", "2003::1"),
    *("2400:cb00::1", "::ffff:8.8.8.8", "::8.8.8.8"),
]

special_networks = st.sampled_from([ipaddress.ip_network(net) for net in SPECIAL])
special_addresses = special_networks.flatmap(lambda net: st.ip_addresses(network=net))


def refusal(url: str) -> BadInput:
    with pytest.raises(BadInput) as caught:
        parse_photo_url(url)
    return caught.value


@pytest.mark.parametrize(("code", "url"), [*URLS, *(("bad_url", url) for url in UNSEEN_OR_LONG)])
def test_a_url_to_an_internal_host_is_refused_however_it_is_written(code: str, url: str) -> None:
    """So is anything but plain https, and the error says why."""
    exc = refusal(url)
    assert exc.code == code
    assert exc.message.isprintable()
    assert len(exc.message) < 200


@pytest.mark.parametrize("url", FINE)
def test_an_https_url_to_a_public_host_is_accepted(url: str) -> None:
    """The host becomes ASCII, and the path stays as the server gets it."""
    parsed = parse_photo_url(url)
    host, target = FINE[url]
    assert parsed == PhotoUrl(host, 443, target, f"https://{host}{target}")


@settings(max_examples=300)
@given(
    st.one_of(
        st.text(max_size=60),
        st.from_regex(r"[a-zA-Z0-9.:@\[\]%_\\-]{1,30}(/[^ ]{0,20})?", fullmatch=True),
        st.builds(
            "{}.{}/{}".format, st.from_regex(r"[\w.-]{1,20}", fullmatch=True), st.just("com"), st.text()
        ),
    )
)
def test_accepted_urls_mean_the_same_to_others(rest: str) -> None:
    """Whatever is accepted reads the same again, and names the same host to other URL parsers."""
    try:
        parsed = parse_photo_url(f"https://{rest}")
    except BadInput:
        return
    assert parse_photo_url(parsed.url) == parsed
    assert urlsplit(parsed.url).hostname == parsed.host
    assert httpx.URL(parsed.url).raw_host == parsed.host.encode()
    assert httpx.URL(parsed.url).port is None
    assert not parsed.host.replace(".", "").isdigit() or is_public(parsed.host)


@given(special_addresses)
def test_special_addresses_are_never_public(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
    """No address of a special-purpose network is public, nor in IPv6 form."""
    assert not is_public(str(address))
    if isinstance(address, ipaddress.IPv4Address):
        assert not is_public(f"::ffff:{address}")
        assert not is_public(f"::{address}")
        assert not is_public(f"64:ff9b::{address}")


@given(st.ip_addresses(v=4))
def test_other_ipv4_addresses_are_public(address: ipaddress.IPv4Address) -> None:
    """Nothing else is refused: every IPv4 address outside the special networks is public."""
    assume(not any(address in net for net in map(ipaddress.ip_network, SPECIAL) if net.version == 4))
    assert is_public(str(address))


@pytest.mark.parametrize("ip", PUBLIC)
def test_addresses_next_to_special_networks_are_public(ip: str) -> None:
    """So are public addresses in IPv6 form."""
    assert is_public(ip)


@pytest.mark.parametrize(
    "ip",
    ["", "example.com", "1.1.1", "01.1.1.1", "1.1.1.1 ", "0x1010101", "16843009", "[::1]", "2606::1%eth0"],
)
def test_only_a_canonical_address_without_a_zone_is_public(ip: str) -> None:
    """Anything else is refused."""
    assert not is_public(ip)


def test_signed_urls_are_not_shown() -> None:
    """Neither `repr` nor `shown` nor a message contains query, fragment, user or password."""
    parsed = parse_photo_url("https://example.com/a/b/photo.jpg?token=SECRET#SECRET")
    assert parsed.shown == "example.com/…/photo.jpg"
    assert "SECRET" not in repr(parsed)
    for url in (
        "http://x.com/?SECRET",
        "https://SECRET:SECRET@x.com/a",
        "https://SECRET@x.com?SECRET@SECRET",
    ):
        assert "SECRET" not in refusal(url).message


@given(st.text())
def test_shown_is_short_and_printable(reference: str) -> None:
    """A message shows any reference in at most 80 printable characters."""
    assert len(show(reference)) <= 80
    assert show(reference).isprintable()


def test_url_or_storage_reference() -> None:
    """A reference with a scheme is a URL; any other is a path in a bucket."""
    assert all(map(is_url, ("https://example.com/a", "HTTP://x", "data:image/png;base64,")))
    assert not any(map(is_url, ("uploads/user/a.jpg", "//example.com/a", "")))


@pytest.mark.parametrize("name", ["a.jpg", "2026/my photo (1).jpg", "...jpg", "ü"])
def test_a_file_in_the_users_folder_of_a_listed_bucket_is_accepted(name: str) -> None:
    """The reference is not changed."""
    path = f"{USER}/{name}"
    assert parse_storage_reference(f"uploads/{path}", USER, BUCKETS) == StorageReference("uploads", path)


@pytest.mark.parametrize(("code", "reference"), references())
def test_a_reference_outside_the_users_folder_or_listed_buckets_is_refused(code: str, reference: str) -> None:
    """So is a path that a server might decode or normalize."""
    with pytest.raises(BadInput) as caught:
        parse_storage_reference(reference, USER, BUCKETS)
    assert caught.value.code == code
    assert caught.value.message.isprintable()


@pytest.mark.parametrize("user_id", ["", ".", "..", "a/b", "a%2fb"])
def test_strange_user_ids_open_no_door(user_id: str) -> None:
    """An empty or path-like user id never makes a reference acceptable."""
    with pytest.raises(BadInput):
        parse_storage_reference(f"uploads/{user_id}/a.jpg", user_id, BUCKETS)
