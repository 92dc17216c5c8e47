"""Gemini on loopback: its wire format, quotas and failures, and a ledger of every call."""
