"""What several packages share: deadlines, retry delays, fair sharing, HTTP client, signals, isolation."""
