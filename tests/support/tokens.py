"""Access tokens made here: signed with the project's key and odd inside, or not signed with it at all."""

from __future__ import annotations

import base64
import json
import time
from dataclasses import dataclass
from typing import Any

import jwt
import pytest

from local.stack.stack import Stack

WRONG_KEY = "a-key-that-is-not-the-project's-0123456789"
LEFT_OUT = object()


def encoded(part: object) -> str:
    """One part of a token."""
    return base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode()


@dataclass(frozen=True, slots=True)
class Signer:
    """Makes tokens like those of the stack's sign-up, with claims replaced or, as LEFT_OUT, missing."""

    stack: Stack

    def claims(self, **changes: object) -> dict[str, Any]:
        """The claims of a signed-in user for the next hour."""
        now = int(time.time())
        usual = {
            "sub": "somebody",
            "aud": "authenticated",
            "role": "authenticated",
            "iat": now,
            "exp": now + 3600,
        }
        return {name: value for name, value in {**usual, **changes}.items() if value is not LEFT_OUT}

    def sign(self, key: str = "", algorithm: str = "HS256", **changes: object) -> str:
        """A token signed with the project's key, or another."""
        # Not jwt.encode, which has opinions about claims: odd ones are wanted here.
        content = json.dumps(self.claims(**changes)).encode()
        return jwt.api_jws.encode(content, key or self.stack.jwt_secret, algorithm)

    def unsigned(self, signature: str = "", **changes: object) -> str:
        """A token that says it needs no signature."""
        return f"{encoded({'alg': 'none', 'typ': 'JWT'})}.{encoded(self.claims(**changes))}.{signature}"

    def altered(self, token: str, **changes: object) -> str:
        """The token with other claims under its old signature."""
        head, _, signature = token.split(".")
        return f"{head}.{encoded(self.claims(**changes))}.{signature}"


@pytest.fixture(scope="session")
def signer(stack: Stack) -> Signer:
    """The project's signing key, which nobody else has."""
    return Signer(stack)
