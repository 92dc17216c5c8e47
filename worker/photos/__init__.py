"""Source photos: which references are allowed, how their files are fetched, and what Gemini gets of them."""
