"""What Storage and its gateways answer in practice, and what each answer means for an order."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import AsyncIterator

import pytest

from tests.support.faults import FaultProxy, refusal
from tests.support.runs import SOURCES, Site, picture
from tests.support.wire import Asked, Wire, listening, reply
from worker.errors import (
    BadInput,
    GenerationError,
    Misconfigured,
    PhotoBucketMissing,
    PhotoUnreadable,
    QueueUnavailable,
    Transient,
)
from worker.jobs import GeneratedImage, Usage
from worker.log.secret import Secret
from worker.supabase.client import Project
from worker.supabase.storage import PhotoStore

IMAGE = GeneratedImage(b"bytes", "image/png", 1, 1, Usage(model="m"))
PAGE = b"<!DOCTYPE html><html><head><title>Attention Required!</title></head><body>blocked</body></html>"


def said(status: str, error: str, message: str, code: str = "") -> dict[str, str]:
    """The body of Storage's own errors; new versions add a code."""
    return {"statusCode": status, "error": error, "message": message} | ({"code": code} if code else {})


GONE: dict[str, tuple[str, object]] = {
    "object not found": ("400 Bad Request", said("404", "not_found", "Object not found")),
    "with a code": ("404 Not Found", said("404", "not_found", "Object not found", "NoSuchKey")),
    "by its code alone": ("404 Not Found", {"code": "NoSuchKey", "message": "The key does not exist"}),
}
"""Only this says that a photo is not there."""

NEVER_THERE: dict[str, tuple[str, object]] = {
    "invalid key": ("400 Bad Request", said("400", "InvalidKey", "Invalid key: u/ü.png", "InvalidKey")),
    "name too long for a gateway": ("414 Request-URI Too Large", b"<html><h1>414</h1></html>"),
    "name too long for Storage": ("431 Request Header Fields Too Large", b""),
}
"""No object can have such a name: the order cannot work either."""

NO_BUCKET = {
    "old": ("400 Bad Request", said("404", "Bucket not found", "Bucket not found")),
    "new": ("404 Not Found", said("404", "Bucket not found", "Bucket not found", "NoSuchBucket")),
}

OURS: dict[str, tuple[str, object, str]] = {
    "jwt": ("400 Bad Request", said("400", "InvalidJWT", "jwt malformed", "InvalidJWT"), "KEY"),
    "jwt expired": ("400 Bad Request", said("400", "invalid_jwt", "jwt expired"), "KEY"),
    "signature": ("400 Bad Request", said("400", "invalid signature", "invalid signature"), "KEY"),
    "compact jws": ("403 Forbidden", said("403", "Unauthorized", "Invalid Compact JWS"), "KEY"),
    "tenant": (
        "400 Bad Request",
        said("400", "Missing tenant config", "Missing tenant config for tenant x"),
        "URL",
    ),
    "tenant, new": (
        "400 Bad Request",
        said("400", "TenantNotFound", "Missing tenant config", "TenantNotFound"),
        "URL",
    ),
    "no api key": ("401 Unauthorized", {"message": "No API key found in request", "hint": "..."}, "KEY"),
    "invalid api key": ("401 Unauthorized", {"message": "Invalid API key", "hint": "..."}, "KEY"),
    "denied": ("403 Forbidden", said("403", "Unauthorized", "permission denied for table objects"), "KEY"),
    "quota": ("402 Payment Required", {"message": "exceed_egress_quota"}, "restricted"),
    "paused": ("540 Project Paused", PAGE, "paused"),
}
"""The project's trouble, and a word of what has to be fixed."""

NOT_STORAGES: dict[str, tuple[str, object, str]] = {
    "kong": ("404 Not Found", {"message": "no Route matched with those values"}, "URL"),
    "route": (
        "404 Not Found",
        {"message": "Route GET:/x not found", "error": "Not Found", "statusCode": 404},
        "URL",
    ),
    "plain text": ("404 Not Found", b"404 page not found\n", "URL"),
    "html 404": ("404 Not Found", PAGE, "URL"),
    "html 400": ("400 Bad Request", PAGE, "URL"),
    "html 403": ("403 Forbidden", PAGE, "KEY"),
    "moved": ("301 Moved Permanently", PAGE, "URL"),
    "firewall": ("403 Forbidden", {"statusCode": 403, "message": "Forbidden"}, "URL"),
    "no object": ("400 Bad Request", [], "URL"),
}
"""What stands before Storage, or in its place, says so: for one photo it may be due to that photo's name."""

PASSING: dict[str, tuple[str, object]] = {
    "timeout": (
        "400 Bad Request",
        said("544", "DatabaseTimeout", "The connection to the database timed out"),
    ),
    "slow down": ("429 Too Many Requests", said("429", "SlowDown", "Too many requests")),
    "locked": ("423 Locked", said("423", "ResourceLocked", "The resource is locked")),
    "internal": ("500 Internal Server Error", said("500", "internal", "Internal server error")),
    "gateway": ("502 Bad Gateway", PAGE),
    "kong upstream": ("503 Service Unavailable", {"message": "name resolution failed"}),
    "cloudflare": ("522 Connection Timed Out", PAGE),
    "transaction": (
        "409 Conflict",
        said("409", "TransactionError", "could not serialize", "TransactionError"),
    ),
}


@pytest.fixture
async def wire() -> AsyncIterator[Wire]:
    """A raw server in the place of Storage."""
    async with listening() as opened:
        yield opened


@pytest.fixture
async def store(wire: Wire) -> AsyncIterator[PhotoStore]:
    """The adapter before it."""
    project = Project(wire.url, Secret("sb_secret_of-a-test"))
    yield PhotoStore(project)
    await project.close()


async def failed(store: PhotoStore, call: str) -> GenerationError:
    """The error of reading a customer's photo, storing an image, or reading the bucket."""
    with pytest.raises(GenerationError) as caught:
        if call == "download":
            await store.download("uploads", "u/me.png", 1000)
        elif call == "bucket":
            await store.check(2.0)
        else:
            await store.put("u/b/1/0-0", IMAGE, 2.0)
    return caught.value


@pytest.mark.parametrize("name", GONE | NEVER_THERE)
async def test_a_photo_is_gone_only_if_storage_says_that_the_object_is(
    wire: Wire, store: PhotoStore, name: str
) -> None:
    """An order fails for a missing photo when Storage itself says that there is no such object."""
    wire.answer = reply(*(GONE | NEVER_THERE)[name])
    error = await failed(store, "download")
    assert (type(error), error.code) == (BadInput, "photo_missing")
    assert "me.png" in error.message


async def test_a_photo_that_is_too_large_is_refused_before_its_bytes_come(
    wire: Wire, store: PhotoStore
) -> None:
    """By the length that Storage states; here no byte of the photo would ever come."""

    def announce(_: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1001\r\n\r\n")
        writer.close()

    wire.answer = announce
    error = await failed(store, "download")
    assert (type(error), error.code) == (BadInput, "photo_too_large")


@pytest.mark.usefixtures("no_backoff")
@pytest.mark.parametrize(
    ("call", "name"),
    [(call, name) for call in ("upload", "bucket") for name in OURS | NOT_STORAGES]
    + [("download", name) for name in OURS],
)
async def test_a_key_or_gateway_problem_is_the_projects_trouble(
    wire: Wire, store: PhotoStore, call: str, name: str
) -> None:
    """No order fails because of the project's key, bucket or address, and the error says what to fix."""
    status, body, fix = (OURS | NOT_STORAGES)[name]
    wire.answer = reply(status, body)
    error = await failed(store, call)
    assert isinstance(error, Misconfigured), error
    assert fix in error.message
    assert "sb_secret" not in error.message and "<" not in error.message


@pytest.mark.parametrize("name", NOT_STORAGES)
async def test_what_only_one_photo_meets_is_trouble_of_its_order(
    wire: Wire, store: PhotoStore, name: str
) -> None:
    """A firewall that blocks a photo's name delays only that order; the operator sees it."""
    status, body, fix = NOT_STORAGES[name]
    wire.answer = reply(status, body)
    error = await failed(store, "download")
    assert (type(error), error.code) == (PhotoUnreadable, "photo_unreadable")
    assert "uploads" in error.message and fix in error.message and "me.png" not in error.message
    assert "me.png" in error.for_customers and "uploads" not in error.for_customers
    assert "<" not in error.message


@pytest.mark.parametrize("name", NO_BUCKET)
async def test_a_missing_bucket_is_the_projects_trouble(wire: Wire, store: PhotoStore, name: str) -> None:
    """Without the bucket of images nothing can be stored; without one of photos, only its orders wait."""
    wire.answer = reply(*NO_BUCKET[name])
    for call in ("upload", "bucket"):
        error = await failed(store, call)
        assert type(error) is Misconfigured and "bucket" in error.message
    error = await failed(store, "download")
    assert type(error) is PhotoBucketMissing
    assert "uploads" in error.message and "generation.photo_buckets" in error.message


@pytest.mark.usefixtures("no_backoff")
@pytest.mark.parametrize("call", ["download", "upload", "bucket"])
@pytest.mark.parametrize("name", PASSING)
async def test_an_outage_of_storage_is_worth_another_try(
    wire: Wire, store: PhotoStore, call: str, name: str
) -> None:
    """A temporary problem fails no order and needs no fix."""
    wire.answer = reply(*PASSING[name])
    error = await failed(store, call)
    assert type(error) is (Transient if call == "download" else QueueUnavailable), error


@pytest.mark.parametrize("body", [PAGE, [], "null", {}])
async def test_a_page_that_stands_where_the_bucket_should_is_told(
    wire: Wire, store: PhotoStore, body: object
) -> None:
    """Whatever answers 200 and does not describe the bucket is no Storage: nothing is paid for before it."""
    wire.answer = reply("200 OK", body)
    error = await failed(store, "bucket")
    assert type(error) is Misconfigured and "SUPABASE_URL" in error.message


@pytest.mark.parametrize(
    "body",
    [
        said("409", "Duplicate", "The resource already exists"),
        said("409", "Duplicate", "The resource already exists", "KeyAlreadyExists"),
    ],
)
async def test_an_image_that_is_stored_already_is_kept(wire: Wire, store: PhotoStore, body: object) -> None:
    """After a lost answer, the repeated upload hears that the object exists."""
    wire.answer = reply("400 Bad Request", body)
    await store.put("u/b/1/0-0", IMAGE, 2.0)


@pytest.mark.parametrize(
    ("status", "body", "fix"),
    [
        ("413 Payload Too Large", said("413", "Payload too large", "The object exceeded the limit"), "size"),
        ("400 Bad Request", said("415", "invalid_mime_type", "mime type image/png is not supported"), "type"),
        ("413 Request Entity Too Large", b"<html><h1>413</h1></html>", "size"),
    ],
)
async def test_limits_of_the_bucket_are_a_setting(
    wire: Wire, store: PhotoStore, status: str, body: object, fix: str
) -> None:
    """A bucket that takes no such size or type is misconfigured, and no try is repeated."""
    wire.answer = reply(status, body)
    error = await failed(store, "upload")
    assert type(error) is Misconfigured and fix in error.message
    assert len(wire.asked) == 1


async def test_photos_are_read_where_key_errors_are_told(wire: Wire, store: PhotoStore) -> None:
    """The route open to any token calls a wrong key a missing bucket: the one for known callers is asked."""
    wire.answer = reply("200 OK", b"bytes")
    assert await store.download("uploads", "u/mé.png", 1000) == b"bytes"
    assert wire.asked[0].line == "GET /storage/v1/object/authenticated/uploads/u/m%C3%A9.png HTTP/1.1"


async def test_a_photo_of_storage_is_never_unpacked(wire: Wire, store: PhotoStore) -> None:
    """Compression is declined, and a compressed answer is refused unread."""
    wire.answer = reply("200 OK", gzip.compress(b"bytes"), Content_Encoding="gzip")
    error = await failed(store, "download")
    assert (type(error), error.code) == (BadInput, "photo_refused")
    assert wire.asked[0].headers["accept-encoding"] == "identity"


async def test_an_odd_encoding_of_a_stored_photo_is_ignored(wire: Wire, store: PhotoStore) -> None:
    """Values that other clients' uploads leave in an object's metadata are no compression."""
    wire.answer = reply("200 OK", b"bytes", Content_Encoding="aws-chunked")
    assert await store.download("uploads", "u/me.png", 1000) == b"bytes"


async def test_the_local_storage_serves_that_route(site: Site) -> None:
    """The stack's own Storage serves it too: a photo, none, a missing bucket, a wrong key."""
    store = site.worker().store
    assert await store.download(SOURCES, f"{site.user}/me.png", 100_000)
    for bucket, path, kind in (
        (SOURCES, f"{site.user}/other.png", BadInput),
        ("no-such-bucket", f"{site.user}/me.png", PhotoBucketMissing),
    ):
        with pytest.raises(kind):
            await store.download(bucket, path, 100_000)
    wrong = site.worker(SUPABASE_SERVICE_ROLE_KEY="sb_secret_of-another-project").store
    with pytest.raises((Misconfigured, PhotoBucketMissing), match="KEY"):
        await wrong.download(SOURCES, f"{site.user}/me.png", 100_000)


async def test_a_wrong_key_at_storage_fails_no_order(site: Site) -> None:
    """While Storage refuses the key, orders go back unspent and the run says what to fix."""
    jobs = await site.order("a", "b", images=2)
    status, body, _ = OURS["jwt expired"]
    async with FaultProxy(site.stack.url) as proxy:
        proxy.inject(refusal(status, body), f"GET /storage/v1/object/.*{SOURCES}/", 1000)
        first = await site.run(SUPABASE_URL=proxy.url)
    assert (first["stopReason"], first["failed"]) == ("misconfigured", 0)
    assert "SUPABASE_SERVICE_ROLE_KEY" in first["problem"]
    assert {(site.job(job)["status"], site.job(job)["attempts"]) for job in jobs} == {("pending", 0)}
    assert site.calls() == []
    second = await site.run()
    assert second["completed"] == 2
    site.audit(first, second)


async def test_a_photo_that_a_firewall_dislikes_holds_up_nobody_else(site: Site) -> None:
    """Its order waits, and ends after its attempts with a reason for people; a neighbour's completes."""
    odd = await site.upload("union select.png", picture())
    (refused,) = await site.order("a", photo=odd, maxAttempts=2)
    (neighbour,) = await site.order("b")
    async with FaultProxy(site.stack.url) as proxy:
        proxy.inject(refusal("403 Forbidden", PAGE.decode()), "GET /storage/v1/object/.*union", 1000)
        first = await site.run(SUPABASE_URL=proxy.url)
        row = site.job(refused)
        assert (row["status"], row["attempts"], row["errorCode"]) == ("pending", 1, "photo_unreadable")
        assert row["due"] > 200 and site.job(neighbour)["status"] == "completed"
        assert (first["stopReason"], SOURCES in first["problem"]) == ("queue_empty", True)
        site.make_due()
        second = await site.run(SUPABASE_URL=proxy.url)
    row = site.job(refused)
    assert (row["status"], row["errorCode"]) == ("failed", "photo_unreadable")
    assert "union select.png" in row["errorMessage"] and "letters and digits" in row["errorMessage"]
    assert SOURCES not in row["errorMessage"] and not site.calls("a")
    site.audit(first, second)


async def test_a_photos_name_hides_no_other_problem(site: Site) -> None:
    """A problem that any customer can cause is reported after those that the operator has to fix."""
    site.rows("insert into generation.photo_buckets values ('no-such-bucket') returning bucket")
    odd = await site.upload("union all.png", picture())
    await site.order("a", photo=odd, priority=10)
    await site.order("b", photo=f"no-such-bucket/{site.user}/me.png")
    async with FaultProxy(site.stack.url) as proxy:
        proxy.inject(refusal("403 Forbidden", PAGE.decode()), "GET /storage/v1/object/.*union", 1000)
        summary = await site.run(SUPABASE_URL=proxy.url, JOBS_AT_A_TIME="1")
    assert "no-such-bucket" in summary["problem"]
    site.rows("delete from generation.photo_buckets where bucket = 'no-such-bucket' returning 1")


async def test_an_order_from_a_missing_bucket_holds_up_nobody_else(site: Site) -> None:
    """The job spends no attempt, the run names the bucket to create, and then the order completes."""
    site.rows("insert into generation.photo_buckets values ('no-such-bucket') returning bucket")
    (waits,) = await site.order("a", photo=f"no-such-bucket/{site.user}/me.png")
    (goes_on,) = await site.order("b")
    first = await site.run()
    row = site.job(waits)
    assert (row["status"], row["attempts"], row["errorCode"]) == ("pending", 0, "bucket_missing")
    assert row["due"] > 200
    assert (site.job(goes_on)["status"], first["stopReason"]) == ("completed", "queue_empty")
    assert "no-such-bucket" in first["problem"]
    bucket = site.service.storage
    await bucket.create_bucket("no-such-bucket")
    await bucket.from_("no-such-bucket").upload(f"{site.user}/me.png", picture())
    site.make_due()
    second = await site.run()
    assert (second["completed"], "problem" in second) == (1, False)
    site.audit(first, second)
    await bucket.empty_bucket("no-such-bucket")
    await bucket.delete_bucket("no-such-bucket")
