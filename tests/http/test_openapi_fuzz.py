"""schemathesis asks both running functions what their OpenAPI descriptions allow, and what they forbid."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import schemathesis
from schemathesis import Case
from schemathesis.config import SchemathesisConfig

from local.demo.function import Function
from local.stack.stack import Stack
from tests.support.served import OPERATOR_SECRET, SECRET

# The plugin costs half a second and so is off for every other module (pyproject.toml).
pytest_plugins = ("schemathesis.pytest.plugin",)
pytestmark = pytest.mark.slow

DESCRIPTIONS = Path(__file__).resolve().parents[2] / "docs" / "openapi"
# `allow-x00` is left on: a NUL in a body has to be refused like any other bad character.
CONFIG: dict[str, object] = {"seed": 1, "generation": {"deterministic": True, "max-examples": 20}}
# A photo that is well described may still be somebody else's or of no public host, a key may have been used.
REFUSABLE: dict[str, object] = {
    "checks": {"positive_data_acceptance": {"expected-statuses": ["2xx", 400, 401, 409]}}
}


def described(name: str, changes: dict[str, object]) -> schemathesis.BaseSchema:
    """A function's description, with what makes the requests the same in every run."""
    config = SchemathesisConfig.from_dict(CONFIG | changes)
    return schemathesis.openapi.from_path(DESCRIPTIONS / f"{name}.yaml", config=config)


QUEUE = described("process_generation_queue", {})
ORDERS = described("generate_images", REFUSABLE)


@pytest.fixture(scope="module")
def token(stack: Stack) -> str:
    """A customer's access token."""
    return stack.sign_up()[1]


@QUEUE.parametrize()
def test_every_answer_of_process_generation_queue_is_described(
    case: Case[Any], served_queue: Function
) -> None:
    """With its body and headers; a request that is not allowed is refused."""
    both = {"X-Worker-Secret": SECRET, "X-Operator-Secret": OPERATOR_SECRET}
    case.call_and_validate(base_url=served_queue.url, headers=both)


@ORDERS.parametrize()
def test_every_answer_of_generate_images_is_described(
    case: Case[Any], served_orders: Function, token: str
) -> None:
    """With its body and headers; a request that is not allowed is refused."""
    case.call_and_validate(base_url=served_orders.url, headers={"Authorization": f"Bearer {token}"})
