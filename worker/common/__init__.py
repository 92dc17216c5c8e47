"""What several packages use and no rule is in: deadlines, fair sharing, HTTP client, signals, isolation."""
