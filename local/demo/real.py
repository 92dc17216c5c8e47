"""`make demo REAL_GEMINI=1`: the local stack with Google's own Gemini, once somebody agrees to pay."""

import sys
from collections.abc import Mapping, Sequence

from local.demo.orders import Order, images
from local.stack.errors import StackError
from worker.gemini.models import DEFAULT_MODEL, KnownModels

AGREED = "yes-i-pay"
NETWORK = ("HTTPS_PROXY", "https_proxy", "NO_PROXY", "no_proxy", "SSL_CERT_FILE", "SSL_CERT_DIR")


def price(orders: Sequence[Order], known: KnownModels) -> str:
    """The price of the orders in words, also under the default model's successors."""
    count, dollars = images(orders), {model: float(row["dollars"]) for model, row in known.rows.items()}
    each = dollars[DEFAULT_MODEL]
    later = " or ".join(
        f"{model} at ${count * dollars[model]:.2f}" for model in known.successors(DEFAULT_MODEL)
    )
    return (
        f"This asks Google for {count} images of {DEFAULT_MODEL}, ${each:.3f} each: "
        f"${count * each:.2f} in all, billed to GEMINI_API_KEY.\n"
        f"If Google has shut that model down, its place is taken by {later}. "
        "A call repeated after an error may be billed again."
    )


def real_gemini(dropped: Mapping[str, str], orders: Sequence[Order], known: KnownModels) -> dict[str, str]:
    """The variables that let the function reach Google, after the price was named and agreed to.

    `dropped` is the environment as it was. `StackError` without a key or without consent.
    """
    key = dropped.get("GEMINI_API_KEY", "")
    if not key:
        raise StackError("REAL_GEMINI needs a key.", "Set GEMINI_API_KEY in the environment.")
    print(price(orders, known), flush=True)
    if dropped.get("REAL_GEMINI") != AGREED and not _agrees():
        raise StackError("Nothing was asked for.", f"Type yes, or set REAL_GEMINI={AGREED}, to agree.")
    network = {name: dropped[name] for name in NETWORK if name in dropped}
    return {**network, "GEMINI_API_KEY": key}


def _agrees() -> bool:
    if not sys.stdin.isatty():
        return False
    return input("Go on? Type yes: ").strip().lower() == "yes"
