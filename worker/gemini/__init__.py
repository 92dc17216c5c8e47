"""Gemini: one call for one image, and what its answers and errors mean."""
