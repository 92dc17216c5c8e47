"""The claim and settle rates of this queue, of a bare one, and of other queues; for `bench/claims.py`."""
