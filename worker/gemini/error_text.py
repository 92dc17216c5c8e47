"""Google errors that only their text identifies; no other module decides by an error's text.

Only the beginning is compared, because the rest may quote the request. The text is never shown or logged.
"""

from __future__ import annotations

from typing import Literal

from worker.gemini.rpc_status import RpcStatus

KnownText = Literal["no_credit", "spending_cap", "input_image"]

_BEGINNINGS: tuple[tuple[int, str, KnownText], ...] = (
    # JeffOtano/roni#336, dyad-sh/dyad#3626: no details at all
    (429, "your prepayment credits are depleted", "no_credit"),
    # Gemini API, "Billing", project spend caps: no details at all
    (429, "your project has exceeded its monthly spending cap", "spending_cap"),
    # google-gemini/gemini-cli#5064: INVALID_ARGUMENT without details, as for any bad request
    (400, "unable to process input image", "input_image"),
)


def known_text(status_code: int, status: RpcStatus) -> KnownText | None:
    """Identify an error by its text, if it is one of those listed here."""
    begin = " ".join(status.text[:200].split()).lower()
    for code, beginning, meaning in _BEGINNINGS:
        if code == status_code and begin.startswith(beginning):
            return meaning
    return None
