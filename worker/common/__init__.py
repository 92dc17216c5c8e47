"""What several packages use and no business rule is in: deadlines, fair sharing, HTTP client, signals, isolation."""
