"""The kinds of callers of the API, each making raw requests: status and error code, nothing interpreted."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest

from local.stack.stack import Stack
from tests.support.access_table import Answer, Scene
from tests.support.queue_sql import Queue


@dataclass(frozen=True, slots=True)
class Caller:
    """A caller with a key and possibly a token; `answer` keeps the last answer."""

    http: httpx.Client
    headers: dict[str, str]
    answers: list[httpx.Response] = field(default_factory=list)

    def ask(self, method: str, path: str, body: object = None, **headers: str) -> Answer:
        """The status of a request, and the code of its error if it is one."""
        content = {"content": body} if isinstance(body, bytes) else {"json": body}
        answer = self.http.request(method, path, headers={**self.headers, **headers}, **content)
        self.answers.append(answer)
        if answer.status_code < 400:
            return 200, None
        error = answer.json()
        return answer.status_code, str(error.get("statusCode") or error.get("code"))

    def call(self, function: str, arguments: object, **headers: str) -> Answer:
        """How a function of the API answers."""
        return self.ask("POST", f"/rest/v1/rpc/{function}", arguments, **headers)

    @property
    def read(self) -> Any:
        """The last answer's JSON."""
        return self.answers[-1].json()


@dataclass(frozen=True, slots=True)
class Callers:
    """All kinds of callers: anonymous, two users, the service role."""

    anon: Caller
    owner: Caller
    stranger: Caller
    service: Caller
    owner_id: str
    stranger_id: str

    def named(self) -> dict[str, Caller]:
        """Each by the name of its column in the table of access."""
        return {name: getattr(self, name) for name in ("anon", "owner", "stranger", "service")}


def token_headers(stack: Stack, token: str) -> dict[str, str]:
    """The headers of a signed-in user's front end."""
    return {"apikey": stack.publishable_key, "Authorization": f"Bearer {token}"}


@pytest.fixture(scope="session")
def everybody(stack: Stack) -> Iterator[Callers]:
    """Callers with real keys and real tokens of people who have signed up."""
    (owner_id, owner), (stranger_id, stranger) = stack.sign_up(), stack.sign_up()
    with httpx.Client(base_url=stack.url, timeout=30, trust_env=False) as http:
        yield Callers(
            Caller(http, {"apikey": stack.publishable_key}),
            Caller(http, token_headers(stack, owner)),
            Caller(http, token_headers(stack, stranger)),
            Caller(http, {"apikey": stack.secret_key, "Authorization": f"Bearer {stack.secret_key}"}),
            owner_id,
            stranger_id,
        )


@pytest.fixture
def callers(everybody: Callers, as_installed: None) -> Callers:
    """Everybody, at empty tables with the grants of a fresh installation."""
    return everybody


@pytest.fixture
def scene(queue: Queue, callers: Callers) -> Scene:
    """A batch, a job and a photo of each of two users; the owner's job is in progress."""
    for user_id in (callers.stranger_id, callers.owner_id):
        batch_id = queue.enqueue(user_id, images=2)["batchId"]
        run = queue.run()
        (job,) = run.claim()
        queue.record(job, 0)
    return Scene(callers.owner_id, batch_id, job["id"], job["userFolder"], job["fence"], str(run.id))
