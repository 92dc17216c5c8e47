"""Gemini: one request for one image, and the meaning of its answers and errors."""
