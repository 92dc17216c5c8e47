"""Randomised runs against a Supabase that stalls; for `bench/deadlines.py`."""
