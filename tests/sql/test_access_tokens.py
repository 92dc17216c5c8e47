"""Access by token: who is not who the token says gets nothing, at the API and at generate_images alike."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import httpx
import pytest

from local.demo.function import Function
from local.simulator.gemini import Simulator
from local.stack.folder import Folder
from local.stack.stack import Stack
from tests.sql.test_access_api import contents
from tests.support.access_table import FORBIDDEN, FUNCTIONS, OK, Scene
from tests.support.callers import Caller, Callers, token_headers
from tests.support.queue_sql import Queue
from tests.support.runs import fresh_order, process_environment
from tests.support.tokens import LEFT_OUT, WRONG_KEY, Signer

ORDER = fresh_order(("a",), 1, "https://photos.example.com/a.jpg")
ENQUEUE = "enqueue_generation_batch"
RAISED = {"role": "service_role"}


def _true(signer: Signer, user_id: str) -> str:
    return signer.sign(sub=user_id)


# Tokens of somebody, or of a higher role, that the project has not signed or that hold no more.
FORGERIES: dict[str, Callable[[Signer, str], str]] = {
    "signed with another key": lambda s, u: s.sign(WRONG_KEY, sub=u),
    "role raised, signed with another key": lambda s, u: s.sign(WRONG_KEY, sub=u, **RAISED),
    "signed with the public key": lambda s, u: s.sign(s.stack.publishable_key, sub=u, **RAISED),
    "role raised under the old signature": lambda s, u: s.altered(_true(s, u), sub=u, **RAISED),
    "subject changed under the old signature": lambda s, u: s.altered(_true(s, "x"), sub=u),
    "alg none": lambda s, u: s.unsigned(sub=u),
    "alg none, role raised": lambda s, u: s.unsigned(sub=u, **RAISED),
    "alg none under a signature": lambda s, u: s.unsigned(_true(s, u).split(".")[2], sub=u, **RAISED),
    "another key and algorithm": lambda s, u: s.sign(WRONG_KEY * 2, "HS512", sub=u, **RAISED),
    "expired": lambda s, u: s.sign(sub=u, exp=1),
    "not valid yet": lambda s, u: s.sign(sub=u, nbf=4_000_000_000),
    "signature cut short": lambda s, u: _true(s, u)[:-4],
    "no claims": lambda s, u: ".".join([_true(s, u).split(".")[0], "", _true(s, u).split(".")[2]]),
    "no role": lambda s, u: s.sign(sub=u, role=LEFT_OUT),
    "role of nobody signed in": lambda s, u: s.sign(sub=u, role="anon"),
}

# Subjects that the project would sign for if Auth or a third party let somebody be called so.
SUBJECTS: dict[str, tuple[object, str]] = {
    "missing": (LEFT_OUT, "missing"),
    "null": (None, "missing"),
    "empty": ("", "bad_id"),
    "blank": (" ", "bad_id"),
    "the folder above": ("../", "bad_id"),
    "two dots": ("..", "bad_id"),
    "one dot": (".", "bad_id"),
    "a path": ("a/b", "bad_id"),
    "a way into another folder": ("x/../victim", "bad_id"),
    "very long": ("a" * 5000, "bad_id"),
    "SQL": ("' or '1'='1", "bad_id"),
    "line breaks": ("a\r\nb", "bad_id"),
    "a pattern": ("%", "bad_id"),
    "an object": ({"sub": "x"}, "bad_id"),
    "a list": (["x"], "bad_id"),
    "beyond ASCII": ("jürgen", "bad_id"),
}


@pytest.fixture(scope="module")
def orders(
    stack: Stack, simulator: Simulator, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Function]:
    """`generate_images`, in its own process."""
    folder = Folder(tmp_path_factory.mktemp("orders"))
    with Function("generate_images", folder, process_environment(stack, simulator)) as function:
        yield function


def place(orders: Function, token: str) -> tuple[int, str]:
    """Status and code of the answer to an order with this token."""
    headers = {"Authorization": f"Bearer {token}"}
    answer = httpx.post(orders.url, json=ORDER, headers=headers, timeout=30, trust_env=False)
    return answer.status_code, answer.json().get("error", {}).get("code", "")


def bearer(callers: Callers, stack: Stack, token: str) -> Caller:
    """The caller with this token."""
    return Caller(callers.anon.http, token_headers(stack, token))


@pytest.mark.parametrize("forgery", FORGERIES)
def test_an_invalid_token_is_401_everywhere(
    queue: Queue, scene: Scene, callers: Callers, signer: Signer, orders: Function, forgery: str
) -> None:
    """Unsigned, altered, expired, or without a user."""
    token, before = FORGERIES[forgery](signer, scene.user_id), contents(queue)
    forger = bearer(callers, signer.stack, token)
    assert forger.ask("GET", "/rest/v1/photo_generation_queue")[0] == 401
    for name, function in FUNCTIONS.items():
        assert forger.call(name, function.arguments(scene))[0] == 401, name
    assert place(orders, token) == (401, "not_signed_in")
    assert contents(queue) == before


def test_the_signer_signs_well(
    queue: Queue, scene: Scene, callers: Callers, signer: Signer, orders: Function
) -> None:
    """The same tokens without anything forged about them are accepted: the refusals are no accident."""
    token = _true(signer, scene.user_id)
    owner = bearer(callers, signer.stack, token)
    assert owner.ask("GET", "/rest/v1/photo_generation_queue") == OK
    assert [row["id"] for row in owner.read] == [scene.job_id]
    assert place(orders, token) == (202, "")


@pytest.mark.parametrize("subject", SUBJECTS)
def test_a_token_with_an_odd_subject_orders_and_sees_nothing(
    queue: Queue, scene: Scene, callers: Callers, signer: Signer, orders: Function, subject: str
) -> None:
    """An empty or missing subject included."""
    value, reason = SUBJECTS[subject]
    token, before = signer.sign(sub=value), contents(queue)
    odd = bearer(callers, signer.stack, token)
    for table in ("batches", "queue", "photos"):
        assert odd.ask("GET", f"/rest/v1/photo_generation_{table}") == OK
        assert odd.read == []
    assert odd.call(ENQUEUE, {"p_request": ORDER}) == (400, "PT400")
    assert odd.read["details"] == reason
    for name in ("get_generation_batch", "cancel_generation_batch"):
        assert odd.call(name, {"p_batch_id": scene.batch_id}) == (404, "PT404")
    assert odd.call("generation_gate", {}) == FORBIDDEN
    assert place(orders, token) == (400, reason)
    assert contents(queue) == before


def test_a_subject_with_a_nul(
    queue: Queue, scene: Scene, callers: Callers, signer: Signer, orders: Function
) -> None:
    """PostgreSQL cannot store it: it is refused as the caller's mistake, and nothing changes."""
    token, before = signer.sign(sub="a\0b"), contents(queue)
    odd = bearer(callers, signer.stack, token)
    assert odd.ask("GET", "/rest/v1/photo_generation_queue")[0] == 400
    assert place(orders, token)[0] == 400
    assert contents(queue) == before


@pytest.mark.parametrize("owner", ["", "../", "a/b"])
def test_rows_of_odd_owners(queue: Queue, callers: Callers, signer: Signer, owner: str) -> None:
    """Rows of an old table that belong to a user without a name are not everybody's without a name."""
    queue.connection.execute('insert into photo_generation_batches ("userId") values (%s)', [owner])
    for value in (LEFT_OUT, None, "somebody"):
        odd = bearer(callers, signer.stack, signer.sign(sub=value))
        assert odd.ask("GET", "/rest/v1/photo_generation_batches") == OK
        assert odd.read == []
