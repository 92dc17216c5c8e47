"""Orders whose answer is lost on the way: each is enqueued once."""

from __future__ import annotations

from contextlib import nullcontext

import pytest

from tests.support.proxy import Proxy
from tests.support.runs import Site, fresh_order
from worker.errors import QueueUnavailable


@pytest.mark.parametrize(("key", "calls"), [("key-1", 2), (None, 1)])
async def test_an_order_whose_answer_is_lost_is_enqueued_once(
    site: Site, key: str | None, calls: int
) -> None:
    """Only an order with an idempotency key is sent again: without one, photos would be paid for twice."""
    order = {"userId": site.user, **fresh_order(("a",), 1, site.photo)}
    async with Proxy(site.stack.url) as proxy:
        proxy.lose_answer("/rpc/enqueue_generation_batch")
        queue = site.worker(SUPABASE_URL=proxy.url).queue
        with nullcontext() if key else pytest.raises(QueueUnavailable):
            await queue.enqueue(order, key)
        assert proxy.paths.count("/rest/v1/rpc/enqueue_generation_batch") == calls
    assert len(site.rows("select from photo_generation_batches")) == 1
