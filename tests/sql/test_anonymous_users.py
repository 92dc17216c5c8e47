"""Users of Supabase's anonymous sign-ins order nothing, unless the operator allows it."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from local.demo.function import Function
from local.stack.stack import Stack
from tests.sql.test_access_tokens import orders  # noqa: F401  (a fixture)
from tests.support.access_table import OK, Answer
from tests.support.callers import Caller, token_headers
from tests.support.command_line import CommandLine
from tests.support.queue_sql import Queue, refused
from tests.support.runs import fresh_order
from tests.support.tokens import Signer

pytestmark = pytest.mark.usefixtures("as_installed")

ANONYMOUS: dict[str, Any] = {"sub": "visitor", "is_anonymous": True}
ORDER = fresh_order(("a",), 1, "https://photos.example.com/a.jpg")
REFUSED: Answer = (403, "PT403")


def order(stack: Stack, token: str) -> Answer:
    """How the API answers an order with this token."""
    with httpx.Client(base_url=stack.url, timeout=30, trust_env=False) as http:
        caller = Caller(http, token_headers(stack, token))
        return caller.call("enqueue_generation_batch", {"p_request": ORDER})


def test_an_anonymous_user_is_refused_and_told_why(orders: Function, signer: Signer) -> None:  # noqa: F811
    """At generate_images the refusal is 403 with the setting that would allow it."""
    headers = {"Authorization": f"Bearer {signer.sign(**ANONYMOUS)}"}
    answer = httpx.post(orders.url, json=ORDER, headers=headers, timeout=30, trust_env=False)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (403, "anonymous_user")
    assert "gate set --allow-anonymous yes" in error["hint"]


@pytest.mark.parametrize("claim", [True, "true"])
def test_an_anonymous_user_orders_nothing(stack: Stack, queue: Queue, signer: Signer, claim: object) -> None:
    """The database refuses, since anybody can repeat an anonymous sign-in."""
    assert order(stack, signer.sign(**ANONYMOUS | {"is_anonymous": claim})) == REFUSED
    assert set(queue.written().values()) == {0}


@pytest.mark.parametrize("claims", [{"is_anonymous": False}, {}])
def test_a_user_with_an_account_orders(stack: Stack, signer: Signer, claims: dict[str, Any]) -> None:
    """A user who signed up is not anonymous, whether the token says so or says nothing."""
    assert order(stack, signer.sign(sub="member", **claims)) == OK


async def test_the_operator_allows_and_forbids_it(stack: Stack, cli: CommandLine, signer: Signer) -> None:
    """One command allows orders of anonymous users, another forbids them, and `gate show` shows which."""
    token = signer.sign(**ANONYMOUS)
    assert "anonymous users may not order" in (await cli.call("gate", "show")).out
    assert "anonymous users may order" in (await cli.call("gate", "set", "--allow-anonymous", "yes")).out
    assert order(stack, token) == OK
    await cli.call("gate", "set", "--max-runs", "5")
    assert order(stack, token) == OK
    await cli.call("gate", "set", "--allow-anonymous", "no")
    assert order(stack, token) == REFUSED


def test_only_yes_or_no(queue: Queue) -> None:
    """A misspelled setting is refused rather than guessed."""
    with refused("400", "wrong_type", "allowAnonymous"):
        queue.call("set_generation_limits", p_limits={"allowAnonymous": "yes"})
