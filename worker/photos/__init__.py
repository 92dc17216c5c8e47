"""Source photos: which URLs and Storage paths are allowed, and how their bytes are fetched."""
