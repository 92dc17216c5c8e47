"""`generate_images` opened with what it needs and no more: the project's address and its publishable key."""

from __future__ import annotations

from pathlib import Path

import httpx
import psycopg
import pytest
from psycopg.rows import DictRow

from local.demo.function import Function
from local.simulator.gemini import Simulator
from local.stack.folder import Folder
from local.stack.stack import Stack
from tests.support.runs import fresh_order, process_environment
from worker.settings import InvalidSettings, OrderSettings

ENOUGH = {"SUPABASE_URL": "https://abc.supabase.co", "SUPABASE_ANON_KEY": "sb_publishable_canary"}
SECRETS = ("SUPABASE_SERVICE_ROLE_KEY", "GEMINI_API_KEY", "WORKER_SECRET")


def test_an_order_needs_no_secret(
    db: psycopg.Connection[DictRow], stack: Stack, simulator: Simulator, tmp_path: Path
) -> None:
    """The public service acts as its caller, and has no secret that could be stolen."""
    environment = process_environment(stack, simulator)
    environment = {name: value for name, value in environment.items() if name not in SECRETS}
    user_id, token = stack.sign_up()
    order = fresh_order(("a",), 1, "https://photos.example.com/a.jpg")
    with Function("generate_images", Folder(tmp_path), environment) as function:
        answer = httpx.post(
            function.url, json=order, headers={"Authorization": f"Bearer {token}"}, timeout=30
        )
    assert (answer.status_code, answer.json().get("jobsEnqueued")) == (202, 1), answer.text
    [row] = db.execute('select "userId"::text as owner from photo_generation_queue').fetchall()
    assert row["owner"] == user_id


def test_orders_need_only_an_address_and_a_key() -> None:
    """Any page may call unless origins are named; the key is never shown."""
    settings = OrderSettings.from_env(ENOUGH)
    assert settings.cors_allowed_origins == ("*",)
    assert "canary" not in repr(settings)
    named = OrderSettings.from_env(ENOUGH | {"CORS_ALLOWED_ORIGINS": "https://a.example, https://b.example"})
    assert named.cors_allowed_origins == ("https://a.example", "https://b.example")


def test_timeouts_of_runs_are_no_matter_of_orders() -> None:
    """A service that takes orders may have a request timeout too short for a run."""
    assert OrderSettings.from_env(ENOUGH | {"CLOUD_RUN_TIMEOUT_SECONDS": "60"})


def test_all_problems_of_orders_are_told_at_once() -> None:
    """All missing or invalid settings are reported together."""
    with pytest.raises(InvalidSettings) as caught:
        OrderSettings.from_env({"LOG_LEVEL": "loud"})
    told = "\n".join(caught.value.problems)
    for name in ("SUPABASE_URL", "SUPABASE_ANON_KEY", "LOG_LEVEL"):
        assert name in told
