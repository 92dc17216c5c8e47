"""What customers read about a job says nothing about the installation, whatever the problem is."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import pytest

from tests.support import faults
from tests.support.command_line import CommandLine
from tests.support.fault_calls import OBJECT, rpc
from tests.support.faults import Fault, FaultProxy, refusal
from tests.support.runs import KEY, SOURCES, Site
from worker.errors import OPERATORS_MATTER
from worker.supabase import storage
from worker.supabase.storage import BUCKET

INSIDES = (
    "SUPABASE_", "GEMINI_", "GOOGLE_", "WORKER_", BUCKET, SOURCES, "elsewhere", "generation.",
    "storage.objects", "sql/", "psql", "PGRST", "42501", "127.0.0.1", "http://", "https://", "python -m",
    "dashboard", "API key", "billing", "gateway", "firewall", "403", "402", "540", KEY,
)  # fmt: skip
"""Settings, buckets, hosts, schemas, commands, vendors' codes: none of a customer's business."""

PAGE = "<!DOCTYPE html><html><body>blocked by the firewall</body></html>"
BAD_KEY = {"statusCode": "400", "error": "invalid_jwt", "message": "jwt expired"}
NO_BUCKET = {"statusCode": "404", "error": "Bucket not found", "message": "Bucket not found"}
TOO_LARGE = {"statusCode": "413", "error": "Payload too large", "message": "The object exceeded the maximum"}
NO_FUNCTION = {"code": "PGRST202", "message": "Could not find the function public.x", "details": None}
DENIED = {"code": "42501", "message": "permission denied for function x", "details": None}
BROKEN = {"code": "23514", "message": 'new row for relation "photos" violates check', "details": None}


@dataclass(frozen=True)
class Trouble:
    """A fault of a call, and Gemini's settings; `matter` if the operator has to act."""

    request: str = "never"
    fault: Fault = faults.nothing
    gemini: Mapping[str, object] = field(default_factory=dict)
    photo: str = ""
    settings: Mapping[str, str] = field(default_factory=dict)
    matter: bool = True


PHOTO = f"GET {OBJECT}/authenticated/"
UPLOAD = f"POST {OBJECT}/{BUCKET}/"
RECORD = rpc("record_generated_photo")
TROUBLES: dict[str, Trouble] = {
    "key": Trouble(PHOTO, refusal("400 Bad Request", BAD_KEY)),
    "no api key": Trouble(PHOTO, refusal("401 Unauthorized", {"message": "Invalid API key"})),
    "restricted": Trouble(PHOTO, refusal("402 Payment Required", {"message": "exceed_egress_quota"})),
    "paused": Trouble(PHOTO, refusal("540 Project Paused", PAGE)),
    "source bucket": Trouble(photo="elsewhere"),
    "photo refused": Trouble(PHOTO, refusal("403 Forbidden", PAGE), matter=False),
    "photo outage": Trouble(PHOTO, faults.unavailable, matter=False),
    "bucket": Trouble(f"GET /storage/v1/bucket/{BUCKET}$", refusal("400 Bad Request", NO_BUCKET)),
    "upload refused": Trouble(UPLOAD, refusal("413 Payload Too Large", TOO_LARGE)),
    "upload page": Trouble(UPLOAD, refusal("403 Forbidden", PAGE)),
    "upload outage": Trouble(UPLOAD, faults.bad_gateway, matter=False),
    "record missing": Trouble(RECORD, refusal("404 Not Found", NO_FUNCTION)),
    "record denied": Trouble(RECORD, refusal("403 Forbidden", DENIED)),
    "record broken": Trouble(RECORD, refusal("500 Internal Server Error", BROKEN)),
    "record outage": Trouble(RECORD, faults.reset, matter=False),
    "slots missing": Trouble(rpc("take_start_slots"), refusal("404 Not Found", NO_FUNCTION)),
    "gemini key": Trouble(gemini={"invalid_keys": [KEY]}),
    "gemini denies": Trouble(gemini={"rules": [{"answer": {"kind": "error", "code": 403}}]}),
    "no quota": Trouble(gemini={"rules": [{"answer": {"kind": "quota", "limit": 0}}]}),
    "model gone": Trouble(
        gemini={"retired": ["gemini-2.5-flash-image"]}, settings={"GEMINI_MODEL_FALLBACK": "off"}
    ),
}


QUICK = (
    "key",
    "source bucket",
    "photo refused",
    "upload refused",
    "record denied",
    "slots missing",
    "no quota",
)
"""One trouble for each place; `make test` has these, for each takes two runs and a command."""


@pytest.fixture(autouse=True)
def _few_tries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "STORE_TRIES", 2)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in TROUBLES]
)
async def test_a_job_tells_its_customer_nothing_of_the_installation(
    site: Site, name: str, caplog: pytest.LogCaptureFixture, cli: CommandLine
) -> None:
    """While the job waits, and once its attempts are used up; the operator is led to the cause."""
    caplog.set_level(logging.INFO, logger="worker")
    trouble, texts = TROUBLES[name], []
    site.gemini.configure(**trouble.gemini)
    site.rows("insert into generation.photo_buckets values ('elsewhere') on conflict do nothing returning 1")
    photo = f"{trouble.photo}/{site.user}/me.png" if trouble.photo else ""
    (job,) = await site.order("a", photo=photo, maxAttempts=1)
    async with FaultProxy(site.stack.url) as proxy:
        proxy.inject(trouble.fault, trouble.request, 1000)
        summary = await site.run(SUPABASE_URL=proxy.url, **trouble.settings)
        texts.append(site.job(job)["errorMessage"])
        shown = (await cli.call("show", str(job))).out
        site.make_due()
        await site.run(SUPABASE_URL=proxy.url, **trouble.settings)
        texts.append(site.job(job)["errorMessage"])
        host = urlsplit(proxy.url).netloc
    site.rows("delete from generation.photo_buckets where bucket = 'elsewhere' returning 1")
    for text in texts:
        assert text and not [inside for inside in (*INSIDES, host) if inside in text], text
    logged = [record.__dict__.get("reason") for record in caplog.records]
    assert summary.get("problem") or any(logged) or "Storage" in texts[0], "the operator learns the cause"
    assert (OPERATORS_MATTER in texts[0]) == trouble.matter, texts
    assert ("worker status" in shown) == trouble.matter
