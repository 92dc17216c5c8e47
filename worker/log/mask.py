"""The last line before a secret gets into a log: this process's own secrets, and whatever looks like one.

Nothing of ours writes them; this is for the texts of others, such as an exception that quotes an answer.
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

_SHORTEST = 8  # what is shorter is no secret, and masking it would make a log unreadable

# A JWT (a person's access token, Google's ID token, an older Supabase key), Supabase's and Google's API keys.
_SHAPES = r"eyJ[\w-]{6,}\.[\w-]{6,}\.[\w-]*|sb_(?:secret|publishable)_[\w-]{8,}|AIza[\w-]{20,}"


class Mask:
    """Puts `***` in the place of the secrets of an environment, also as JSON, `repr` or a URL writes them."""

    def __init__(self, env: Mapping[str, str]) -> None:
        values = {env.get(name, "").strip() for name in SECRET_VARIABLES}
        written = {way for value in values if len(value) >= _SHORTEST for way in _ways(value)}
        # The longest first: one secret may begin as another does.
        known = [re.escape(way) for way in sorted(written, key=len, reverse=True)]
        self._pattern = re.compile("|".join([*known, _SHAPES]), re.ASCII)

    def __call__(self, text: str) -> str:
        """The text without them."""
        return self._pattern.sub(MASKED, text)


def _ways(secret: str) -> set[str]:
    """How a text may write a secret, and how JSON writes that text."""
    plain = {secret, repr(secret)[1:-1], quote(secret), quote(secret, safe="")}
    return plain | {json.dumps(way)[1:-1] for way in plain}
