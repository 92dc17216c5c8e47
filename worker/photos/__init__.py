"""Source photos: which addresses are allowed, and how their bytes are fetched."""
