"""Workers that are killed while customers order, and the audit afterwards; for `bench/crash.py`."""
