"""`make demo REAL_GEMINI=1`: the local stack with Google's own Gemini, once somebody has agreed to pay."""

import sys
from collections.abc import Mapping, Sequence

from local.demo.orders import Order, images
from local.stack.errors import StackError
from worker.model import DEFAULT_MODEL, DOLLARS_PER_IMAGE, SUCCESSORS

AGREED = "yes-i-pay"
NETWORK = ("HTTPS_PROXY", "https_proxy", "NO_PROXY", "no_proxy", "SSL_CERT_FILE", "SSL_CERT_DIR")


def price(orders: Sequence[Order]) -> str:
    """What the orders cost in words, also under the default model's successor."""
    count, successor = images(orders), SUCCESSORS[DEFAULT_MODEL]
    each, later = DOLLARS_PER_IMAGE[DEFAULT_MODEL], DOLLARS_PER_IMAGE[successor]
    return (
        f"This asks Google for {count} images of {DEFAULT_MODEL}, ${each:.3f} each: "
        f"${count * each:.2f} in all, billed to GEMINI_API_KEY.\n"
        f"If Google has shut that model down, {successor} takes its place at ${count * later:.2f}. "
        "A call repeated after an error may be billed again."
    )


def real_gemini(dropped: Mapping[str, str], orders: Sequence[Order]) -> dict[str, str]:
    """The variables that let the function reach Google, after the price was named and agreed to.

    `dropped` is the environment as it was. `StackError` without a key or without consent.
    """
    key = dropped.get("GEMINI_API_KEY", "")
    if not key:
        raise StackError("REAL_GEMINI needs a key.", "Set GEMINI_API_KEY in the environment.")
    print(price(orders), flush=True)
    if dropped.get("REAL_GEMINI") != AGREED and not _agrees():
        raise StackError("Nothing was asked for.", f"Type yes, or set REAL_GEMINI={AGREED}, to agree.")
    network = {name: dropped[name] for name in NETWORK if name in dropped}
    return {**network, "GEMINI_API_KEY": key}


def _agrees() -> bool:
    if not sys.stdin.isatty():
        return False
    return input("Go on? Type yes: ").strip().lower() == "yes"
