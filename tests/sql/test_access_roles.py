"""Access of roles without an API key: an app's own roles, and operators in an SQL session."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.queue_sql import Queue, refused

pytestmark = pytest.mark.usefixtures("as_installed")


@pytest.fixture
def moderator(queue: Queue) -> Iterator[None]:
    """A role of the app's own, which may do what users may."""
    queue.connection.execute("create role moderator in role authenticated")
    yield
    queue.connection.execute("reset role; drop role moderator")


def test_roles_of_an_apps_own(queue: Queue, moderator: None) -> None:
    """Such a role acts for itself only, like a user."""
    batch_id = queue.enqueue("user-1")["batchId"]
    queue.connection.execute("set role moderator")
    queue.connection.execute("""select set_config('request.jwt.claims', '{"sub": "user-2"}', false)""")
    with refused("400", "not_yours_to_set", "userId"):
        queue.enqueue("user-1")
    with refused("404", "no_such_batch"):
        queue.call("cancel_generation_batch", p_batch_id=batch_id)


@pytest.mark.parametrize("role", ["service_role", "postgres", "none"])
def test_operators_act_for_everybody(queue: Queue, role: str) -> None:
    """The service role, and an operator in an SQL session."""
    queue.connection.execute(f"set role {role}".encode())
    batch_id = queue.enqueue("user-1")["batchId"]
    assert queue.call("cancel_generation_batch", p_batch_id=batch_id)["status"] == "cancelled"
