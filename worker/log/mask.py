"""Masks secrets in log records: those of this process, and every text that looks like a token or key.

The worker itself logs no secrets. The mask is for libraries' texts, such as errors that quote a response.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from urllib.parse import quote

SECRET_VARIABLES = (
    "SUPABASE_SERVICE_ROLE_KEY",
    "SUPABASE_ANON_KEY",
    "GEMINI_API_KEY",
    "WORKER_SECRET",
    "OPERATOR_SECRET",
)
MASKED = "***"

_SHORTEST = 8  # a shorter value is not a secret, and masking it would make the log unreadable

# JWTs (a user's access token, Google's ID token, an older Supabase key), Supabase's and Google's API keys.
_SHAPES = r"eyJ[\w-]{6,}\.[\w-]{6,}\.[\w-]*|sb_(?:secret|publishable)_[\w-]{8,}|AIza[\w-]{20,}"


class Mask:
    """Replaces the secrets of an environment with `***`, also as spelled in JSON, `repr` or a URL."""

    def __init__(self, env: Mapping[str, str]) -> None:
        values = {env.get(name, "").strip() for name in SECRET_VARIABLES}
        written = {way for value in values if len(value) >= _SHORTEST for way in _ways(value)}
        # The longest first, since one secret may be a prefix of another.
        known = [re.escape(way) for way in sorted(written, key=len, reverse=True)]
        self._pattern = re.compile("|".join([*known, _SHAPES]), re.ASCII)

    def __call__(self, text: str) -> str:
        """The text with its secrets masked."""
        return self._pattern.sub(MASKED, text)


def _ways(secret: str) -> set[str]:
    """The spellings of a secret: plain, `repr` and URL, and each of them inside JSON."""
    plain = {secret, repr(secret)[1:-1], quote(secret), quote(secret, safe="")}
    return plain | {json.dumps(way)[1:-1] for way in plain}
