"""How a quota is used, by workers and by others, and who waits for it; for `bench/gate.py`."""
